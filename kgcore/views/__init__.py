# SPDX-License-Identifier: LGPL-2.1-or-later
"""Show processes without writing a core: maps, backtraces, open files, debugger sessions."""
