# SPDX-License-Identifier: LGPL-2.1-or-later
"""Let a process go on from its core: what it needs, how each is had again here, and doing it."""
