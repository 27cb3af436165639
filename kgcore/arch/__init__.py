# SPDX-License-Identifier: LGPL-2.1-or-later
"""One file per architecture, one line per architecture here."""

from kgcore.arch.base import Arch
from kgcore.arch.x86_64 import X86_64

__all__ = ("ARCHES", "Arch")

ARCHES: dict[str, Arch] = {arch.name: arch for arch in (X86_64,)}
