# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an architecture says about its core files, and the notes that differ between architectures only in widths.

Structures: include/linux/elfcore.h, include/linux/elfcore-compat.h; how they are filled: fill_prstatus, fill_psinfo,
fill_auxv_note, fill_files_note in fs/binfmt_elf.c (the same from 5.10 to 7.2).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from construct import Array, Bytes, Int8sl, Int8ul, Int16ul, Int32ul, Int64ul, Padding
from construct import Struct as Layout

from kgcore.elf.layout import ElfClass
from kgcore.model import siginfo
from kgcore.model.dying import Dying
from kgcore.model.process import ProcessImage, PsInfo, TaskIds, Thread

__all__ = (
    "PAGE_SIZE",
    "Arch",
    "ProcessNote",
    "RegSet",
    "auxv_note",
    "file_note",
    "prpsinfo_note",
    "prstatus_note",
    "siginfo_note",
)

_CODES = {2: "H", 4: "I", 8: "Q"}
PAGE_SIZE = 4096  # what NT_FILE's offsets count in


@dataclass(frozen=True, slots=True)
class RegSet:
    """A row of ``struct user_regset_view``: one kind of note per thread.

    :ivar owner: the note's name: ``CORE`` for NT_PRFPREG, ``LINUX`` for all others.
    :ivar type: NT_*.
    :ivar build: the description; None if this thread has no such registers.
    """

    owner: bytes
    type: int
    build: Callable[[ProcessImage, Thread], bytes | None]


@dataclass(frozen=True, slots=True)
class ProcessNote:
    """A note that stands at the very end, once per process (``elf_coredump_extra_notes_write``)."""

    owner: bytes
    type: int
    build: Callable[[ProcessImage], bytes | None]


def _no_remarks(image: ProcessImage, thread: Thread) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Arch:
    """An architecture as the dumping task sees it: a ``struct user_regset_view`` and the widths of its ABI.

    :ivar machine: ``e_machine``.
    :ivar greg_size: bytes of a register in ``pr_reg``; with the class it gives ``struct elf_prstatus``.
    :ivar gregs: a thread's registers as ``pr_reg`` has them, in order.
    :ivar uid_size: bytes of ``__kernel_uid_t`` in ``struct elf_prpsinfo``.
    :ivar regsets: the view's rows behind NT_PRSTATUS.
    :ivar remarks: what of a thread's registers could not be put into a note, as sentences.
    :ivar pr_reg_size: bytes of ``pr_reg``, where the structure is made for more registers than the view has; else 0.
    """

    name: str
    elf_class: ElfClass
    machine: int
    greg_size: int
    gregs: Callable[[Thread], tuple[int, ...]]
    uid_size: int
    regsets: tuple[RegSet, ...]
    extra: tuple[ProcessNote, ...] = ()
    remarks: Callable[[ProcessImage, Thread], tuple[str, ...]] = _no_remarks
    pr_reg_size: int = 0

    @property
    def word_size(self) -> int:
        """Bytes of a ``long`` of the process."""
        return self.elf_class // 8


@cache
def _prstatus(word_size: int, gregs_size: int) -> Any:
    """``struct elf_prstatus``, ``struct compat_elf_prstatus``."""
    word = Int64ul if word_size == 8 else Int32ul
    used = (112 if word_size == 8 else 72) + gregs_size + 4
    # The structure is as aligned as its widest member, and an x32 task's registers have 8 bytes.
    align = 8 if word_size == 8 or gregs_size == 27 * 8 else 4
    return Layout(
        "si_signo" / Int32ul,
        "si_code" / Int32ul,
        "si_errno" / Int32ul,
        "pr_cursig" / Int16ul,
        Padding(2),
        "pr_sigpend" / word,
        "pr_sighold" / word,
        "pr_pid" / Int32ul,
        "pr_ppid" / Int32ul,
        "pr_pgrp" / Int32ul,
        "pr_sid" / Int32ul,
        "pr_times" / word[8],  # utime, stime, cutime, cstime: seconds and microseconds each
        "pr_reg" / Bytes(gregs_size),
        "pr_fpvalid" / Int32ul,
        Padding(-used % align),
    )


@cache
def _prpsinfo(word_size: int, uid_size: int) -> Any:
    """``struct elf_prpsinfo``, ``struct compat_elf_prpsinfo``."""
    uid = Int32ul if uid_size == 4 else Int16ul
    return Layout(
        "pr_state" / Int8ul,
        "pr_sname" / Int8ul,
        "pr_zomb" / Int8ul,
        "pr_nice" / Int8sl,
        Padding(word_size - 4),
        "pr_flag" / (Int64ul if word_size == 8 else Int32ul),
        "pr_uid" / uid,
        "pr_gid" / uid,
        "pr_pid" / Int32ul,
        "pr_ppid" / Int32ul,
        "pr_pgrp" / Int32ul,
        "pr_sid" / Int32ul,
        "pr_fname" / Bytes(16),
        "pr_psargs" / Bytes(80),
    )


@cache
def _prstatus_struct(word_size: int, gregs_size: int) -> struct.Struct:
    """The same for struct.pack(): there may be 20 000 threads, and construct takes its time with each."""
    codes = []
    for field in _prstatus(word_size, gregs_size).subcons:
        size = field.sizeof()
        if field.name is None:
            codes.append(f"{size}x")
        elif isinstance(field.subcon, Bytes):
            codes.append(f"{size}s")
        else:
            unit = field.subcon.subcon.sizeof() if isinstance(field.subcon, Array) else size
            codes.append(f"{size // unit}{_CODES[unit]}")
    return struct.Struct("<" + "".join(codes))


assert _prstatus(8, 27 * 8).sizeof() == 336
assert _prstatus(4, 17 * 4).sizeof() == 144
assert _prstatus(4, 27 * 8).sizeof() == 296  # x32
assert _prpsinfo(8, 4).sizeof() == 136
assert _prpsinfo(4, 2).sizeof() == 124


def _ids(ids: TaskIds) -> tuple[int, int, int, int]:
    """pr_pid, pr_ppid, pr_pgrp, pr_sid"""
    mask = 0xFFFFFFFF  # pid_t is signed; a damaged dump may hold anything
    return ids.pid & mask, ids.ppid & mask, ids.pgrp & mask, ids.sid & mask


def prstatus_note(arch: Arch, thread: Thread, fpvalid: bool, signal: int = 0) -> bytes:
    """NT_PRSTATUS.

    :param signal: what the process was dying of, for ``si_signo`` and ``pr_cursig``; 0: nothing.
    """
    word = (1 << 8 * arch.word_size) - 1
    gregs = arch.gregs(thread)
    pr_reg = struct.pack(f"<{len(gregs)}{'Q' if arch.greg_size == 8 else 'I'}", *gregs).ljust(arch.pr_reg_size, b"\0")
    times: list[int] = []
    for ns in (thread.times.utime, thread.times.stime, thread.times.cutime, thread.times.cstime):
        seconds, rest = divmod(ns, 1_000_000_000)  # ns_to_kernel_old_timeval()
        times += (seconds & word, rest // 1000)
    pack = _prstatus_struct(arch.word_size, len(pr_reg)).pack
    signals = thread.sigpend & word, thread.sighold & word
    return pack(signal, 0, 0, signal, *signals, *_ids(thread.ids), *times, pr_reg, int(fpvalid))


def prpsinfo_note(arch: Arch, info: PsInfo) -> bytes:
    """NT_PRPSINFO."""
    state = (info.state & -info.state).bit_length()  # 1 + the lowest bit set; 0: running
    sname = b"RSDTZW"[state] if state <= 5 else ord(".")
    uid_mask = (1 << 8 * arch.uid_size) - 1

    def kernel_id(value: int) -> int:
        # SET_UID: what has no 16-bit form becomes overflowuid (kernel/sys.c: high2lowuid)
        return value if value <= uid_mask else 65534

    return bytes(
        _prpsinfo(arch.word_size, arch.uid_size).build(
            {
                "pr_state": state,
                "pr_sname": sname,
                "pr_zomb": int(sname == ord("Z")),
                "pr_nice": max(-128, min(127, info.nice)),
                "pr_flag": info.flags & 0xFFFFFFFF,
                "pr_uid": kernel_id(info.uid),
                "pr_gid": kernel_id(info.gid),
                **dict(zip(("pr_pid", "pr_ppid", "pr_pgrp", "pr_sid"), _ids(info.ids), strict=True)),
                "pr_fname": info.comm[:15].ljust(16, b"\0"),
                "pr_psargs": (info.psargs or b"")[:79].replace(b"\0", b" ").ljust(80, b"\0"),
            }
        )
    )


def siginfo_note(arch: Arch, dying: Dying | None) -> bytes:
    """NT_SIGINFO; of a process that no signal was killing 128 zero bytes, as CRIU writes it too."""
    if dying is None:
        return bytes(siginfo.SIZE)
    return siginfo.note(dying.info or siginfo.unsent(dying.signal, arch.word_size), arch.word_size)


def auxv_note(arch: Arch, auxv: tuple[tuple[int, int], ...]) -> bytes:
    """NT_AUXV: pairs of words."""
    mask = (1 << 8 * arch.word_size) - 1
    return _words(arch, [value & mask for pair in auxv for value in pair])


def file_note(arch: Arch, image: ProcessImage) -> bytes:
    """NT_FILE: one entry per VMA whose file has a name; several VMAs of a file are several entries.

    The kernel drops the note beyond 4 MiB (``core_file_note_size_limit``). We do not: debuggers need it. A name with a
    NUL, which ends a name there, can be no file's.
    """
    files = [(vma, vma.file.path) for vma in image.vmas if vma.file is not None]
    named = [(vma, path) for vma, path in files if path is not None and b"\0" not in path]
    mask = (1 << 8 * arch.word_size) - 1
    words = [len(named), PAGE_SIZE]
    for vma, _ in named:
        words += (vma.start & mask, vma.end & mask, vma.pgoff & mask)
    return _words(arch, words) + b"".join(path + b"\0" for _, path in named)


def _words(arch: Arch, words: list[int]) -> bytes:
    return struct.pack(f"<{len(words)}{'Q' if arch.word_size == 8 else 'I'}", *words)
