# SPDX-License-Identifier: LGPL-2.1-or-later
"""Layouts of kernel structures, and their readers."""
