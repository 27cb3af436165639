# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read finished cores and sysroots and check them. Shares no code with what wrote them."""
