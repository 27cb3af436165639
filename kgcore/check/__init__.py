# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads finished cores and sysroots back. Shares no code with what wrote them."""
