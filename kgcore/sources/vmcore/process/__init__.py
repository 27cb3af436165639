# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read what needs both a task's structures and its memory: mapped and open files, summaries, estimates."""
