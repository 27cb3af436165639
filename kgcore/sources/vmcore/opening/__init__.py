# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a dump file to a drgn Program whose addresses, types and symbols are right."""
