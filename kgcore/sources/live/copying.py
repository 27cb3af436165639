# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a copy of a process (fork) lacks of it, and why one may be wrong."""

import errno
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from kgcore.model.memory import Memory, Piece, Run, joined
from kgcore.model.process import VM_HUGETLB, VM_MAYSHARE, Vma
from kgcore.sources.live.procfs import mappings, read

__all__ = ("Captured", "no_copy_words", "not_copied", "why_no_copy")

# VmFlags of smaps
_USERFAULTFD = frozenset((b"um", b"uw", b"ui"))  # its owner is told of a fork, and the kernel waits for the answer
_NOT_COPIED = frozenset((b"dc", b"wf"))  # MADV_DONTFORK, MADV_WIPEONFORK
_FREE = 2  # at most so much of the free memory, one part in this many, is taken for what a copy lacks


Forking = Sequence[tuple[int, int, frozenset[bytes]]]
"""The mappings that fork(2) treats in its own way: start, end, and their VmFlags that say so; ascending."""


def why_no_copy(vmas: Iterable[Vma], forking: Forking) -> str:
    """Say why a copy of a process would be wrong, or harm it; "": it would not."""
    if any(words & _USERFAULTFD for _, _, words in forking):
        return "userfaultfd(2) watches its memory"
    for vma in vmas:
        if vma.flags & VM_HUGETLB and not vma.flags & VM_MAYSHARE:
            return "it has private huge pages (hugetlb), of which there may be no more"
    return ""


def no_copy_words(error: OSError) -> str:
    """Say why the kernel made no copy."""
    if error.errno == errno.ENOTSUP:
        return str(error.filename)
    if error.errno == errno.EAGAIN:
        return "it may have no further processes (pids.max, RLIMIT_NPROC)"
    if error.errno == errno.ENOMEM:
        return "the kernel has no memory for a copy"
    return f"{error.filename} failed: {error.strerror}"


def not_copied(
    wanted: Sequence[tuple[Vma, int]], forking: Forking, copy: int, *, shared: bool
) -> list[tuple[Vma, int]]:
    """Choose what a copy lacks, of which memory is wanted.

    :param wanted: mappings or parts of them (rules may have cut them), and how many bytes of each.
    :param copy: the id of the copy.
    :param shared: also shared memory, which the process goes on to change.
    :raises OSError: the copy has ended.
    """
    copied = [(line.start, line.end) for line in mappings(read(f"/proc/{copy}/maps"))]
    left_out = [(start, end) for start, end, words in forking if words & _NOT_COPIED]
    return [
        (vma, length)
        for vma, length in wanted
        if length
        and not vma.name
        and ((shared and vma.flags & VM_MAYSHARE) or _lies_in(left_out, vma) or not _lies_in(copied, vma))
    ]


def _lies_in(ranges: Sequence[tuple[int, int]], vma: Vma) -> bool:
    at = bisect_right(ranges, vma.start, key=lambda found: found[0]) - 1
    return at >= 0 and vma.end <= ranges[at][1]


class Captured(Memory):
    """A copy's memory, together with what it lacks, which is read now.

    :param memory: of the copy.
    :param whole: of the process, while it stands still.
    :param lacking: mappings, and how many bytes of each.
    :raises MemoryError: there is too much of it.
    :raises OSError, KgcoreError: as reading does.
    """

    parallel = True

    def __init__(self, memory: Memory, whole: Memory, lacking: Sequence[tuple[Vma, int]]) -> None:
        self.page_size = memory.page_size
        self._memory = memory
        size = sum(
            run.length
            for vma, length in lacking
            for run in whole.runs(vma, vma.start, vma.start + length)
            if run.provenance.stored
        )
        if size > _available() // _FREE:
            raise MemoryError
        self._parts: list[tuple[int, int, tuple[Piece, ...]]] = sorted(
            (
                (vma.start, vma.start + length, tuple(whole.read(vma, vma.start, vma.start + length)))
                for vma, length in lacking
            ),
            key=lambda part: part[0],
        )

    def runs(self, vma: Vma, start: int, end: int) -> Iterator[Run]:
        """See :meth:`kgcore.model.memory.Memory.runs`."""
        part = self._part(start, end)
        if part is None:
            yield from self._memory.runs(vma, start, end)
        else:
            yield from joined(run for run, _ in _cut(part, start, end))

    def read(self, vma: Vma, start: int, end: int) -> Iterator[Piece]:
        """See :meth:`kgcore.model.memory.Memory.read`."""
        part = self._part(start, end)
        yield from self._memory.read(vma, start, end) if part is None else _cut(part, start, end)

    def _part(self, start: int, end: int) -> tuple[Piece, ...] | None:
        at = bisect_right(self._parts, start, key=lambda part: part[0]) - 1
        if at < 0 or end > self._parts[at][1]:
            return None
        return self._parts[at][2]


def _cut(pieces: Sequence[Piece], start: int, end: int) -> Iterator[Piece]:
    """The part of some pieces that lies in a range."""
    at = bisect_right(pieces, start, key=lambda piece: piece.run.end)
    for run, data in pieces[at:]:
        low, high = max(run.address, start), min(run.end, end)
        if low >= high:
            return
        yield Piece(run._replace(address=low, length=high - low), data[low - run.address : high - run.address])


def _available() -> int:
    """Bytes of memory that are free, or nearly so."""
    try:
        for line in read("/proc/meminfo").splitlines():
            if line.startswith(b"MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGESIZE")
