# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which memory a core keeps, and why."""
