# SPDX-License-Identifier: LGPL-2.1-or-later
"""What to give to kgcore where a kernel says too little of itself, for hints."""

import re

from kgcore.sources.vmcore.symbols.btffile import HOW_TO_MAKE

__all__ = ("BTF_ONCE", "SYSTEM_MAP", "debug_package")

BTF_ONCE = f"BTF that was made of it once ({HOW_TO_MAKE})"
SYSTEM_MAP = "its System.map"

_PACKAGES = (  # release -> package; the first match counts
    (re.compile(r"\.(fc|el|amzn)\d"), "kernel-debuginfo-{}"),
    (re.compile(r"-(amd64|686|686-pae)$"), "linux-image-{}-dbg"),
    (re.compile(r"-(generic|lowlatency|oem|aws|azure|gcp|gke|ibm|kvm|oracle|nvidia)(-|$)"), "linux-image-{}-dbgsym"),
    (re.compile(r"-default$"), "kernel-default-debuginfo of {}"),
)


def debug_package(release: str) -> str:
    """Return the package's name in Debian, Ubuntu, Fedora, RHEL or SUSE; else a phrase that says what to look for."""
    for pattern, package in _PACKAGES:
        if pattern.search(release):
            return package.format(release)
    return f"the debuginfo package of kernel {release}"
