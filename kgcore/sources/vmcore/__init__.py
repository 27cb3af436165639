# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read processes of a kernel crash dump, or of a running kernel, with drgn."""
