# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read and write the ELF file format."""
