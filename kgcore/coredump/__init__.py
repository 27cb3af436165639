# SPDX-License-Identifier: LGPL-2.1-or-later
"""Turn a process into its core: notes, plan, writer, limits, report."""
