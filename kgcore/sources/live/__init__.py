# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes of this machine, while they run: /proc, and ptrace(2) for registers."""
