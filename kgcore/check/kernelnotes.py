# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's notes of a core: threads, auxiliary vector and mapped files."""

import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kgcore.check.findings import Findings
from kgcore.check.kgcorenote import KgcoreNote
from kgcore.check.notes import AUXV, FILE, PRFPREG, PRPSINFO, PRSTATUS, SIGINFO, CoreNote
from kgcore.check.segments import Headers
from kgcore.check.spans import merged
from kgcore.text import counted

__all__ = ("check_kernel_notes",)


class _Sizes(NamedTuple):
    """Of the structures of an ABI.

    :ivar pid: offset of ``pr_pid`` in ``struct elf_prstatus``.
    :ivar fpvalid: offset of ``pr_fpvalid``.
    """

    prstatus: int
    prpsinfo: int
    pid: int
    fpvalid: int


_SIZES = {
    ("EM_X86_64", 64): _Sizes(336, 136, pid=32, fpvalid=328),
    ("EM_386", 32): _Sizes(144, 124, pid=24, fpvalid=140),
    ("EM_X86_64", 32): _Sizes(296, 124, pid=24, fpvalid=288),
    ("EM_386", 64): _Sizes(336, 136, pid=32, fpvalid=328),
}
_SIGINFO_SIZE = 128
_SHARED_ORDER = (PRPSINFO, SIGINFO, AUXV, FILE)
_AT_PHDR, _AT_PAGESZ = 3, 6
_PAGE_SIZES = tuple(1 << shift for shift in range(12, 21))  # of all architectures, the usual one first


def check_kernel_notes(
    notes: Sequence[CoreNote], headers: Headers, told: KgcoreNote | None, findings: Findings
) -> None:
    """Check them all.

    :param notes: without the KGCORE note.
    :param told: what that says.
    """
    covered = _Covered(headers, told, findings)
    _check_threads(notes, _SIZES[headers.machine, headers.elf_class], told, findings)
    _check_auxv(notes, headers.word_size, covered, findings)
    _check_files(notes, headers.word_size, covered, findings)
    if told is not None:
        _check_pages(headers, _page_size(notes, headers.word_size), findings)


def _check_threads(notes: Sequence[CoreNote], sizes: _Sizes, told: KgcoreNote | None, findings: Findings) -> None:
    if notes and notes[0].kind != PRSTATUS:
        findings.problem("the first note is not NT_PRSTATUS")
    tids = [tid for own in _by_thread(notes) if (tid := _check_thread(own, sizes, findings)) is not None]
    findings.facts["threads"] = tids
    if not tids:
        findings.problem("the core has no threads")
    if len(set(tids) - {0}) != len([tid for tid in tids if tid]):
        findings.problem("two threads have the same id")
    if told is not None and told.threads != len(tids):
        findings.problem(f"the KGCORE note names {told.threads} threads, the core has {len(tids)}")
    shared = [note.kind for note in notes if note.kind in _SHARED_ORDER]
    if shared not in (list(_SHARED_ORDER), list(_SHARED_ORDER[:3])):
        findings.problem("PRPSINFO, SIGINFO, AUXV and FILE must exist once each, in this order")


def _by_thread(notes: Sequence[CoreNote]) -> Iterator[list[CoreNote]]:
    """The notes from each NT_PRSTATUS up to the next one; what stands before the first comes first."""
    own: list[CoreNote] = []
    for note in notes:
        if note.kind == PRSTATUS and own:
            yield own
            own = []
        own.append(note)
    if own:
        yield own


def _check_thread(notes: Sequence[CoreNote], sizes: _Sizes, findings: Findings) -> int | None:
    """Check the notes of a thread, among which those of the process may stand.

    :return: its id; None: there is no NT_PRSTATUS, or one of another size.
    """
    kind, size, prstatus = notes[0]
    is_thread = kind == PRSTATUS and len(prstatus) == sizes.prstatus
    if kind == PRSTATUS and not is_thread:
        findings.problem(f"an NT_PRSTATUS has {size} bytes, not {sizes.prstatus}")
    for kind, size, _ in notes:
        if kind == PRPSINFO and size != sizes.prpsinfo:
            findings.problem(f"NT_PRPSINFO has {size} bytes, not {sizes.prpsinfo}")
        elif kind == SIGINFO and size != _SIGINFO_SIZE:
            findings.problem(f"NT_SIGINFO has {size} bytes, not {_SIGINFO_SIZE}")
    if not is_thread:
        return None
    (tid,), (fpvalid,) = (struct.unpack_from("<i", prstatus, at) for at in (sizes.pid, sizes.fpvalid))
    has_fp = any(note.kind == PRFPREG for note in notes)
    if bool(fpvalid) != has_fp:
        findings.problem(f"thread {tid}: fpvalid is {int(bool(fpvalid))}, PRFPREG notes: {int(has_fp)}")
    return int(tid)


def _check_auxv(notes: Sequence[CoreNote], word_size: int, covered: "_Covered", findings: Findings) -> None:
    desc = next((note.desc for note in notes if note.kind == AUXV), b"")
    words = _words(desc, word_size)
    auxv = dict(zip(words[::2], words[1::2], strict=False))
    if words and not (len(words) > 1 and words[-2] == 0):
        findings.problem("NT_AUXV does not end with AT_NULL")
    if _AT_PHDR in auxv and not covered.has(auxv[_AT_PHDR], auxv[_AT_PHDR] + 1):
        covered.lacks(f"AT_PHDR {auxv[_AT_PHDR]:#x} lies in no segment", in_a_mapping=covered.maps(auxv[_AT_PHDR]))


def _check_files(notes: Sequence[CoreNote], word_size: int, covered: "_Covered", findings: Findings) -> None:
    desc = next((note.desc for note in notes if note.kind == FILE), None)
    if desc is None:
        return
    words = _words(desc[: 2 * word_size], word_size)
    if len(words) < 2 or (2 + 3 * words[0]) * word_size > len(desc):
        findings.problem("NT_FILE ends within its table")
        return
    count = words[0]
    findings.facts["files"] = count
    table = _words(desc[2 * word_size : (2 + 3 * count) * word_size], word_size)
    if desc.count(b"\0", (2 + 3 * count) * word_size) != count:
        findings.problem("NT_FILE has fewer or more names than entries")
    for start, end in zip(table[::3], table[1::3], strict=True):
        if not covered.has(start, end):
            covered.lacks(f"a mapped file at {start:#x}-{end:#x} lies in no segment")


def _check_pages(headers: Headers, page: int, findings: Findings) -> None:
    """Segments by kgcore are whole pages, in memory and in the file."""
    broken = [load for load in headers.loads if (load.start | load.end | load.offset | load.filesz) % page]
    if broken:
        findings.problem(
            f"{len(broken)} of {counted(len(headers.loads), 'PT_LOAD')} are not made of whole pages of {page} bytes, "
            f"the first of them at {broken[0].start:#x}"
        )


def _page_size(notes: Sequence[CoreNote], word_size: int) -> int:
    """What NT_FILE counts offsets in (in gdb's cores that is 1 byte), else AT_PAGESZ, else the usual one."""
    file, auxv = (
        next((_words(note.desc[:limit], word_size) for note in notes if note.kind == kind), array("Q"))
        for kind, limit in ((FILE, 2 * word_size), (AUXV, None))
    )
    told = [*file[1:], *(value for key, value in zip(auxv[::2], auxv[1::2], strict=False) if key == _AT_PAGESZ)]
    return next((size for size in told if size in _PAGE_SIZES), _PAGE_SIZES[0])


def _words(data: bytes, size: int) -> "array[int]":
    words = array("Q" if size == 8 else "I", data[: len(data) // size * size])
    if sys.byteorder != "little":
        words.byteswap()
    return words


class _Covered:
    """The addresses that lie in segments or missing ranges."""

    def __init__(self, headers: Headers, told: KgcoreNote | None, findings: Findings) -> None:
        self._told = told
        self._findings = findings
        missing = told.missing if told is not None else ()
        self._known = merged([*((load.start, load.end) for load in headers.loads), *missing])

    def has(self, start: int, end: int) -> bool:
        index = bisect_right(self._known, start, key=lambda span: span[0]) - 1
        return index >= 0 and end <= self._known[index][1]

    def maps(self, address: int) -> bool:
        """Whether the KGCORE note has a mapping there."""
        return self._told is not None and any(start <= address < end for start, end in self._told.mapped)

    def lacks(self, text: str, *, in_a_mapping: bool = True) -> None:
        """Find ranges without a segment. A core by kgcore lists them; in another one they are what it lacks.

        :param in_a_mapping: of the note. A range in no mapping may belong to a lost mapping, which a warning names.
        """
        expected = self._told is None or (self._told.warned and not in_a_mapping)
        (self._findings.lacks if expected else self._findings.problems).append(text)
