# SPDX-License-Identifier: LGPL-2.1-or-later
"""The line from a process to its core: notes, plan, writer, limits, report."""
