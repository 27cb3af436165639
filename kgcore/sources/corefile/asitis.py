# SPDX-License-Identifier: LGPL-2.1-or-later
"""A core as it stands in its file: what is given back if nothing of it is left out."""

from collections.abc import Sequence

from kgcore.elf.layout import PN_XNUM, pack_shdr0
from kgcore.sources.base import CoreLayout
from kgcore.sources.corefile.head import Head, Load
from kgcore.sources.corefile.inputs import Input
from kgcore.sources.corefile.ownnote import OwnNote

__all__ = ("layout_of",)

_MOST = 1 << 26  # bytes around the segments, besides headers and notes


def layout_of(core: Input, head: Head, own: OwnNote | None) -> CoreLayout | None:
    """Return a core as it stands in its file; None: its segments do not lie one behind the other, or it is cut off."""
    in_file = sorted((load for load in head.loads if load.filesz), key=lambda load: load.offset)
    if in_file:
        start, end = in_file[0].offset, in_file[-1].offset + in_file[-1].filesz
    else:  # without memory it ends where that would begin
        start = end = max((load.offset for load in head.loads), default=head.notes_end)
        if start < head.notes_end or (core.forward and not head.loads):
            return None
    if start < head.size or start - head.size > _MOST or not _adjacent(in_file):
        return None
    tail = _tail(core, head, end)
    before = core.read(0, start) if tail is not None else b""
    if tail is None or len(before) < start:
        return None
    return CoreLayout(
        head=before,
        segments=tuple((load.start, load.filesz, load.offset) for load in in_file),
        tail=tail,
        policy=None if own is None else own.policy,
        noted=own is not None,
        has_state=own is not None and own.has_state,
    )


def _adjacent(in_file: Sequence[Load]) -> bool:
    end = in_file[0].offset if in_file else 0
    for load in in_file:
        if load.offset != end:
            return False
        end += load.filesz
    return True


def _tail(core: Input, head: Head, end: int) -> bytes | None:
    """What stands behind the segments. Of a stream it must be known before it comes."""
    if core.size is not None:
        return core.read(end, core.size - end) if 0 <= core.size - end <= _MOST else None
    if head.shoff == 0:
        return b""
    return pack_shdr0(head.arch.elf_class, head.headers) if head.shoff == end and head.headers >= PN_XNUM else None
