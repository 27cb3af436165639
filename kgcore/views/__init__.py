# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is looked at without a core: maps, backtraces, open files, debugger sessions."""
