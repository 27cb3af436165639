# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process's memory: page tables, page cache, swap, files that the user has."""
