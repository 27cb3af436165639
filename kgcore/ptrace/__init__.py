# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hold processes of this machine still by ptrace(2), and read their registers."""
