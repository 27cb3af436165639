# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a task_struct, its mm_struct and the CPUs say of a process; no user memory is read."""
