# SPDX-License-Identifier: LGPL-2.1-or-later
"""x86 in 64 and in 32 bits: views of tasks, kernels' page tables, notes about CPUs, places in memory."""
