# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes of a kernel crash dump, or of a running kernel, read with drgn."""
