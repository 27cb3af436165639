# SPDX-License-Identifier: LGPL-2.1-or-later
"""Define what an architecture contributes to cores, and the notes that differ between architectures only in widths.

Structures: include/linux/elfcore.h, include/linux/elfcore-compat.h; how they are filled: fill_prstatus, fill_psinfo,
fill_auxv_note, fill_files_note in fs/binfmt_elf.c (the same from 5.10 to 7.2).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, NamedTuple

from kgcore.cstruct import COMPAT, LP64, S8, U8, U16, U32, CStruct, CType, ULong, chars
from kgcore.elf.layout import ElfClass
from kgcore.model import siginfo
from kgcore.model.dying import Dying
from kgcore.model.process import ProcessImage, PsInfo, Thread

__all__ = (
    "Arch",
    "ProcessNote",
    "RegSet",
    "auxv_note",
    "file_note",
    "prpsinfo_note",
    "prstatus_note",
    "siginfo_note",
)

_ABIS = {8: LP64, 4: COMPAT}


@dataclass(frozen=True, slots=True)
class RegSet:
    """A row of ``struct user_regset_view``: one kind of note per thread.

    :ivar owner: the note's name: ``CORE`` for NT_PRFPREG, ``LINUX`` for all others.
    :ivar type: NT_*.
    :ivar build: the description; None if this thread lacks these registers.
    :ivar active: whether a description that ptrace(2) gave is in the kernel's own cores: ptrace gives some register
        sets also of threads that do not use them.
    """

    owner: bytes
    type: int
    build: Callable[[ProcessImage, Thread], bytes | None]
    active: Callable[[bytes], bool] = bool


@dataclass(frozen=True, slots=True)
class ProcessNote:
    """A note at the very end, once per process (``elf_coredump_extra_notes_write``)."""

    owner: bytes
    type: int
    build: Callable[[ProcessImage], bytes | None]


def _no_remarks(image: ProcessImage, thread: Thread) -> tuple[str, ...]:
    return ()


def _no_thread_pointer(thread: Thread) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Arch:
    """An architecture as the dumping task sees it: a ``struct user_regset_view`` and the widths of its ABI.

    :ivar machine: ``e_machine``.
    :ivar greg_size: bytes of a register in ``pr_reg``; with the class it gives ``struct elf_prstatus``.
    :ivar greg_names: the registers of ``pr_reg``, in order, as :class:`kgcore.model.process.RegisterSet` names them.
    :ivar gregs: a thread's registers as ``pr_reg`` has them, in order.
    :ivar uid_size: bytes of ``__kernel_uid_t`` in ``struct elf_prpsinfo``.
    :ivar regsets: the view's rows behind NT_PRSTATUS.
    :ivar remarks: what the notes lack of a thread's registers, as sentences.
    :ivar ip: the name of the instruction pointer among a thread's registers, and ``sp`` that of the stack pointer.
    :ivar pr_reg_size: bytes of ``pr_reg`` if the structure has room for more registers than the view; else 0.
    :ivar red_zone: bytes below the stack pointer that are a function's too.
    :ivar gate: the address of the gate VMA, [vsyscall]; 0: programs have no page like that.
    :ivar unwound: drgn unwinds its cores.
    :ivar thread_pointer: the address by which a thread finds its thread-local storage, which lies around it; 0: not
        known.
    """

    name: str
    elf_class: ElfClass
    machine: int
    greg_size: int
    greg_names: tuple[str, ...]
    gregs: Callable[[Thread], tuple[int, ...]]
    uid_size: int
    regsets: tuple[RegSet, ...]
    ip: str
    sp: str
    extra: tuple[ProcessNote, ...] = ()
    remarks: Callable[[ProcessImage, Thread], tuple[str, ...]] = _no_remarks
    pr_reg_size: int = 0
    red_zone: int = 0
    gate: int = 0
    unwound: bool = False
    thread_pointer: Callable[[Thread], int] = _no_thread_pointer

    @property
    def word_size(self) -> int:
        """Bytes of a ``long`` of the process."""
        return self.elf_class // 8


class Prstatus(NamedTuple):
    """``struct elf_prstatus``, ``struct compat_elf_prstatus``."""

    si_signo: U32
    si_code: U32
    si_errno: U32
    pr_cursig: U16
    pr_sigpend: ULong
    pr_sighold: ULong
    pr_pid: U32
    pr_ppid: U32
    pr_pgrp: U32
    pr_sid: U32
    utime_sec: ULong  # pr_utime.tv_sec, and so on
    utime_usec: ULong
    stime_sec: ULong
    stime_usec: ULong
    cutime_sec: ULong
    cutime_usec: ULong
    cstime_sec: ULong
    cstime_usec: ULong
    pr_reg: Annotated[bytes, "elf_gregset_t"]
    pr_fpvalid: U32


class Prpsinfo(NamedTuple):
    """``struct elf_prpsinfo``, ``struct compat_elf_prpsinfo``."""

    pr_state: U8
    pr_sname: U8
    pr_zomb: U8
    pr_nice: S8
    pr_flag: ULong
    pr_uid: Annotated[int, "__kernel_uid_t"]
    pr_gid: Annotated[int, "__kernel_uid_t"]
    pr_pid: U32
    pr_ppid: U32
    pr_pgrp: U32
    pr_sid: U32
    pr_fname: Annotated[bytes, chars(16)]
    pr_psargs: Annotated[bytes, chars(80)]


@cache
def prstatus_struct(word_size: int, greg_size: int, gregs_size: int) -> CStruct[Prstatus]:
    return CStruct(Prstatus, {**_ABIS[word_size], "elf_gregset_t": CType(f"{gregs_size}s", greg_size)})


@cache
def prpsinfo_struct(word_size: int, uid_size: int) -> CStruct[Prpsinfo]:
    return CStruct(Prpsinfo, {**_ABIS[word_size], "__kernel_uid_t": CType("I" if uid_size == 4 else "H", uid_size)})


assert prstatus_struct(8, 8, 27 * 8).size == 336
assert prstatus_struct(4, 4, 17 * 4).size == 144
assert prstatus_struct(4, 8, 27 * 8).size == 296  # x32
assert prpsinfo_struct(8, 4).size == 136
assert prpsinfo_struct(4, 2).size == 124

_PID = 0xFFFFFFFF  # pid_t is signed; a damaged dump may hold anything
_SECOND = 1_000_000_000  # ns


def prstatus_note(arch: Arch, thread: Thread, fpvalid: bool, signal: int = 0) -> bytes:
    """Build NT_PRSTATUS.

    :param signal: the signal that the process was dying of, for ``si_signo`` and ``pr_cursig``; 0: nothing.
    """
    word = (1 << 8 * arch.word_size) - 1
    gregs, ids, times = arch.gregs(thread), thread.ids, thread.times
    pr_reg = struct.pack(f"<{len(gregs)}{'Q' if arch.greg_size == 8 else 'I'}", *gregs).ljust(arch.pr_reg_size, b"\0")
    return prstatus_struct(arch.word_size, arch.greg_size, len(pr_reg)).pack(
        Prstatus(
            si_signo=signal,
            si_code=0,
            si_errno=0,
            pr_cursig=signal,
            pr_sigpend=thread.sigpend & word,
            pr_sighold=thread.sighold & word,
            pr_pid=ids.pid & _PID,
            pr_ppid=ids.ppid & _PID,
            pr_pgrp=ids.pgrp & _PID,
            pr_sid=ids.sid & _PID,
            # ns_to_kernel_old_timeval()
            utime_sec=times.utime // _SECOND & word,
            utime_usec=times.utime % _SECOND // 1000,
            stime_sec=times.stime // _SECOND & word,
            stime_usec=times.stime % _SECOND // 1000,
            cutime_sec=times.cutime // _SECOND & word,
            cutime_usec=times.cutime % _SECOND // 1000,
            cstime_sec=times.cstime // _SECOND & word,
            cstime_usec=times.cstime % _SECOND // 1000,
            pr_reg=pr_reg,
            pr_fpvalid=fpvalid,
        )
    )


def prpsinfo_note(arch: Arch, info: PsInfo) -> bytes:
    """Build NT_PRPSINFO."""
    state = (info.state & -info.state).bit_length()  # 1 + the lowest bit set; 0: running
    sname = b"RSDTZW"[state] if state <= 5 else ord(".")
    uid_mask = (1 << 8 * arch.uid_size) - 1

    def kernel_id(value: int) -> int:
        # SET_UID: what has no 16-bit form becomes overflowuid (kernel/sys.c: high2lowuid)
        return value if value <= uid_mask else 65534

    return prpsinfo_struct(arch.word_size, arch.uid_size).pack(
        Prpsinfo(
            pr_state=state,
            pr_sname=sname,
            pr_zomb=sname == ord("Z"),
            pr_nice=max(-128, min(127, info.nice)),
            pr_flag=info.flags & 0xFFFFFFFF,
            pr_uid=kernel_id(info.uid),
            pr_gid=kernel_id(info.gid),
            pr_pid=info.ids.pid & _PID,
            pr_ppid=info.ids.ppid & _PID,
            pr_pgrp=info.ids.pgrp & _PID,
            pr_sid=info.ids.sid & _PID,
            pr_fname=info.comm[:15],
            pr_psargs=(info.psargs or b"")[:79].replace(b"\0", b" "),
        )
    )


def siginfo_note(arch: Arch, dying: Dying | None) -> bytes:
    """Build NT_SIGINFO; without a fatal signal it is 128 zero bytes, as CRIU writes it too."""
    if dying is None:
        return bytes(siginfo.SIZE)
    return siginfo.note(dying.info or siginfo.unsent(dying.signal, arch.word_size), arch.word_size)


def auxv_note(arch: Arch, auxv: tuple[tuple[int, int], ...]) -> bytes:
    """Build NT_AUXV: pairs of words."""
    mask = (1 << 8 * arch.word_size) - 1
    return _words(arch, [value & mask for pair in auxv for value in pair])


def file_note(arch: Arch, image: ProcessImage) -> bytes:
    """Build NT_FILE: one entry per VMA whose file has a name; several VMAs of a file are several entries, the parts of
    one VMA that a filter split are one.

    The kernel drops the note beyond 4 MiB (``core_file_note_size_limit``). kgcore keeps it: debuggers need it. A name
    cannot contain a NUL.
    """
    named: list[tuple[int, int, int, bytes]] = []
    for vma in image.vmas:
        path = None if vma.file is None else vma.file.path
        if path is None or b"\0" in path:
            continue
        if vma.continued and named and named[-1][1] == vma.start and named[-1][3] == path:
            named[-1] = (named[-1][0], vma.end, *named[-1][2:])
        else:
            named.append((vma.start, vma.end, vma.pgoff, path))
    mask = (1 << 8 * arch.word_size) - 1
    words = [len(named), image.page_size]
    for start, end, pgoff, _ in named:
        words += (start & mask, end & mask, pgoff & mask)
    return _words(arch, words) + b"".join(path + b"\0" for *_, path in named)


def _words(arch: Arch, words: list[int]) -> bytes:
    return struct.pack(f"<{len(words)}{'Q' if arch.word_size == 8 else 'I'}", *words)
