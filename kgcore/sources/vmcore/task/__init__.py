# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read what a task_struct, its mm_struct and the CPUs say about a process, without user memory."""
