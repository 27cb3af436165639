# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read processes from dumps and other sources."""
