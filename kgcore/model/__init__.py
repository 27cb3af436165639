# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plain values that cross borders: a process, its memory, the account of it, stack traces, signals."""
