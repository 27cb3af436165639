# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: what a user asked for, the work on it, and what is shown."""
