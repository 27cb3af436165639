# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decide which memory a core keeps, and why."""
