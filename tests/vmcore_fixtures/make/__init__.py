# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes the vmcore fixtures: boots Debian kernels in QEMU, dumps them, and brings back the kernel's own cores."""
