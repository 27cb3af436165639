# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read files of /proc/PID, as values. Formats: proc(5), fs/proc/array.c, fs/proc/task_mmu.c."""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from kgcore.model import process as model

__all__ = ("Mapping", "Stat", "VmFlags", "mappings", "read", "stat_of", "status_of", "vm_flags_of")

_MOST = 1 << 28  # bytes of a file of /proc; maps of 100 000 mappings has some 10 MB
_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")  # ns

# Letters of ps to task->__state, include/linux/sched.h
_STATES = {"R": 0, "S": 1, "D": 2, "T": 4, "t": 8, "X": 16, "Z": 32, "P": 64, "I": 0x402}
# VmFlags of smaps (show_smap_vma_flags(), fs/proc/task_mmu.c) to VM_*, without those whose bits are not the same in
# all kernels
_VM_FLAGS = {
    b"rd": model.VM_READ,
    b"wr": model.VM_WRITE,
    b"ex": model.VM_EXEC,
    b"sh": model.VM_SHARED,
    b"mr": 0x10,  # VM_MAYREAD
    b"mw": model.VM_MAYWRITE,
    b"me": 0x40,  # VM_MAYEXEC
    b"ms": model.VM_MAYSHARE,
    b"gd": model.VM_GROWSDOWN,
    b"um": model.VM_UFFD_MISSING,
    b"pf": model.VM_PFNMAP,
    b"uw": model.VM_UFFD_WP,
    b"lo": model.VM_LOCKED,
    b"io": model.VM_IO,
    b"sr": model.VM_SEQ_READ,
    b"rr": model.VM_RAND_READ,
    b"dc": model.VM_DONTCOPY,
    b"de": 0x40000,  # VM_DONTEXPAND
    b"ac": 0x100000,  # VM_ACCOUNT
    b"nr": model.VM_NORESERVE,
    b"ht": model.VM_HUGETLB,
    b"sf": 0x800000,  # VM_SYNC
    b"wf": model.VM_WIPEONFORK,
    b"dd": model.VM_DONTDUMP,
    b"mm": model.VM_MIXEDMAP,
    b"hg": model.VM_HUGEPAGE,
    b"nh": model.VM_NOHUGEPAGE,
    b"mg": model.VM_MERGEABLE,
}
# Those that matter to fork(2): MADV_DONTFORK, MADV_WIPEONFORK, userfaultfd(2)
_FORKING = frozenset((b"dc", b"wf", b"um", b"uw", b"ui"))
_MAPPING = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) ([r-])([w-])([x-])([ps]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) ([0-9]+) *([^\n]*)$",
    re.MULTILINE,
)
_ESCAPE = b"\\012"  # seq_file_path() escapes newlines, and nothing else


class Stat(NamedTuple):
    """/proc/PID/stat, or a thread's own. Times are nanoseconds.

    :ivar state: ``task->__state``.
    :ivar letter: the state's letter, as in ps(1).
    :ivar flags: ``task->flags`` (PF_*).
    """

    comm: bytes
    letter: str
    state: int
    ppid: int
    flags: int
    utime: int
    stime: int
    cutime: int
    cstime: int
    nice: int
    threads: int
    start_stack: int
    start_brk: int
    priority: int
    policy: int
    arg_start: int
    arg_end: int

    @property
    def exited(self) -> bool:
        """Whether it is a zombie, or less."""
        return self.letter in "XZ"


class Mapping(NamedTuple):
    """A line of /proc/PID/maps.

    :ivar flags: VM_* as far as the line shows them.
    :ivar offset: bytes in the file.
    :ivar device: major and minor number of the file's device.
    :ivar inode: 0: no file is mapped.
    :ivar name: the last column, raw.
    """

    start: int
    end: int
    flags: int
    offset: int
    device: tuple[int, int]
    inode: int
    name: bytes


class VmFlags(NamedTuple):
    """What ``smaps`` says of a mapping.

    :ivar flags: VM_*.
    :ivar anon: pages of its own were made (``anon_vma``).
    :ivar forking: those of its VmFlags that matter to fork(2), as smaps has them.
    """

    flags: int
    anon: bool
    forking: frozenset[bytes]


def read(path: str) -> bytes:
    """Return the content of a file of /proc.

    :raises OSError: it cannot be read; the process may be gone.
    """
    with open(path, "rb") as file:
        return file.read(_MOST)


def stat_of(raw: bytes) -> Stat:
    """Parse ``stat``.

    :raises ValueError: it is no such file.
    """
    before, _, after = raw.rpartition(b") ")  # comm may hold anything
    words = after.split()
    if len(words) < 40:
        raise ValueError("stat is too short")
    number = [0, *(int(word) for word in words[1:])]  # the first word behind comm is field 3
    letter = words[0].decode("ascii", "replace")
    return Stat(
        comm=before.partition(b" (")[2],
        letter=letter,
        state=_STATES.get(letter, 0),
        ppid=number[4 - 3],
        flags=number[9 - 3],
        utime=number[14 - 3] * _TICK,
        stime=number[15 - 3] * _TICK,
        cutime=number[16 - 3] * _TICK,
        cstime=number[17 - 3] * _TICK,
        nice=number[19 - 3],
        threads=number[20 - 3],
        start_stack=number[28 - 3],
        start_brk=_word(number, 47),
        priority=_word(number, 40),
        policy=_word(number, 41),
        arg_start=_word(number, 48),
        arg_end=_word(number, 49),
    )


def _word(number: list[int], field: int) -> int:
    return number[field - 3] if len(number) > field - 3 else 0


def status_of(raw: bytes) -> dict[str, list[bytes]]:
    """Parse ``status``: each name to its words."""
    found = {}
    for line in raw.splitlines():
        name, _, rest = line.partition(b":")
        found[name.decode("ascii", "replace")] = rest.split()
    return found


def mappings(raw: bytes) -> Iterator[Mapping]:
    """Parse ``maps`` or ``smaps``."""
    for match in _MAPPING.finditer(raw):
        readable, writable, executable, shared = match.group(3, 4, 5, 6)
        flags = (
            (model.VM_READ if readable == b"r" else 0)
            | (model.VM_WRITE if writable == b"w" else 0)
            | (model.VM_EXEC if executable == b"x" else 0)
            | (model.VM_MAYSHARE if shared == b"s" else 0)
        )
        yield Mapping(
            start=int(match[1], 16),
            end=int(match[2], 16),
            flags=flags,
            offset=int(match[7], 16),
            device=(int(match[8], 16), int(match[9], 16)),
            inode=int(match[10]),
            name=match[11].replace(_ESCAPE, b"\n"),
        )


def vm_flags_of(raw: bytes) -> dict[int, VmFlags]:
    """Parse ``smaps``, by the start of each mapping.

    /proc does not show ``anon_vma``. Private pages, resident or swapped out, are nearly the same: a mapping whose
    private pages were all thrown away keeps its ``anon_vma``.
    """
    found: dict[int, VmFlags] = {}
    start, anon = None, False
    for line in raw.splitlines():
        if (match := _MAPPING.match(line)) is not None:
            start, anon = int(match[1], 16), False
        elif line.startswith((b"Anonymous:", b"Swap:")):
            anon = anon or line.split()[1] != b"0"
        elif line.startswith(b"VmFlags:") and start is not None:
            flags = 0
            words = line.split()[1:]
            for word in words:
                flags |= _VM_FLAGS.get(word, 0)
            found[start] = VmFlags(flags, anon, _FORKING.intersection(words))
    return found
