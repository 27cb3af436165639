# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write the program and libraries of a process: sysroots, link maps, contents of mapped files."""
