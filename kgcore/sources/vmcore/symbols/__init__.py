# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types and symbols of a kernel: BTF, kallsyms, VMCOREINFO, System.map."""
