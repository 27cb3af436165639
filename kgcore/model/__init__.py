# SPDX-License-Identifier: LGPL-2.1-or-later
"""Define the plain values that cross borders: a process, its memory and its account, stack traces, signals."""
