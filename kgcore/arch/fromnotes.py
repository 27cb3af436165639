# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the notes of a core back into values: the reverse of :mod:`kgcore.arch.base`."""

import struct
from collections.abc import Mapping
from typing import NamedTuple

from kgcore.arch.base import Arch, prpsinfo_struct, prstatus_struct
from kgcore.model.process import PsInfo, TaskIds, TaskTimes

__all__ = ("MappedRange", "Status", "Summary", "files_of", "pairs_of", "psinfo_of", "status_of", "summary_of")

_SECOND = 1_000_000_000  # ns


class Status(NamedTuple):
    """What NT_PRSTATUS says of a thread.

    :ivar signal: ``pr_cursig``.
    :ivar registers: by the names of ``struct pt_regs``.
    """

    ids: TaskIds
    times: TaskTimes
    signal: int
    sigpend: int
    sighold: int
    registers: Mapping[str, int]


class MappedRange(NamedTuple):
    """A row of NT_FILE: from ``start`` to ``end`` a file is mapped, ``pgoff`` pages behind its start."""

    start: int
    end: int
    pgoff: int
    path: bytes


def status_of(arch: Arch, desc: bytes) -> Status:
    """Read NT_PRSTATUS.

    :raises ValueError: it has another size.
    """
    gregs = len(arch.greg_names) * arch.greg_size
    structure = prstatus_struct(arch.word_size, arch.greg_size, max(gregs, arch.pr_reg_size))
    if len(desc) != structure.size:
        raise ValueError(f"NT_PRSTATUS has {len(desc)} bytes, not {structure.size}")
    found = structure.unpack(desc)
    values = struct.unpack_from(f"<{len(arch.greg_names)}{'Q' if arch.greg_size == 8 else 'I'}", found.pr_reg)

    def time(seconds: int, microseconds: int) -> int:
        return seconds * _SECOND + microseconds * 1000

    return Status(
        TaskIds(found.pr_pid, found.pr_ppid, found.pr_pgrp, found.pr_sid),
        TaskTimes(
            time(found.utime_sec, found.utime_usec),
            time(found.stime_sec, found.stime_usec),
            time(found.cutime_sec, found.cutime_usec),
            time(found.cstime_sec, found.cstime_usec),
        ),
        found.pr_cursig,
        found.pr_sigpend,
        found.pr_sighold,
        dict(zip(arch.greg_names, values, strict=True)),
    )


def psinfo_of(arch: Arch, desc: bytes) -> PsInfo:
    """Read NT_PRPSINFO.

    :raises ValueError: it has another size.
    """
    structure = prpsinfo_struct(arch.word_size, arch.uid_size)
    if len(desc) != structure.size:
        raise ValueError(f"NT_PRPSINFO has {len(desc)} bytes, not {structure.size}")
    found = structure.unpack(desc)
    return PsInfo(
        state=1 << found.pr_state - 1 if 0 < found.pr_state <= 32 else 0,
        nice=found.pr_nice,
        flags=found.pr_flag,
        uid=found.pr_uid,
        gid=found.pr_gid,
        ids=TaskIds(found.pr_pid, found.pr_ppid, found.pr_pgrp, found.pr_sid),
        comm=found.pr_fname.partition(b"\0")[0],
        psargs=found.pr_psargs.rstrip(b"\0"),
    )


class Summary(NamedTuple):
    """What NT_PRPSINFO says of a process.

    :ivar state: the letter of ps.
    :ivar uid: and ``gid``: its real ids, in its own user namespace.
    :ivar name: its first thread's.
    """

    state: str
    uid: int
    gid: int
    name: bytes


def summary_of(arch: Arch, desc: bytes) -> Summary:
    """Read NT_PRPSINFO.

    :raises ValueError: it has another size than processes of this view have.
    """
    layout = prpsinfo_struct(arch.word_size, arch.uid_size)
    if len(desc) != layout.size:
        raise ValueError(f"NT_PRPSINFO has {len(desc)} bytes, not {layout.size}")
    found = layout.unpack(desc)
    return Summary(chr(found.pr_sname), found.pr_uid, found.pr_gid, found.pr_fname.partition(b"\0")[0])


def pairs_of(arch: Arch, desc: bytes) -> tuple[tuple[int, int], ...]:
    """Read NT_AUXV: pairs of words; an incomplete one at its end is ignored."""
    pair = struct.Struct("<QQ" if arch.word_size == 8 else "<II")
    return tuple(pair.iter_unpack(desc[: len(desc) // pair.size * pair.size]))


def files_of(arch: Arch, desc: bytes) -> tuple[int, list[MappedRange]]:
    """Read NT_FILE: bytes of a page, and what is mapped.

    :raises ValueError: it is damaged.
    """
    word, code = arch.word_size, "Q" if arch.word_size == 8 else "I"
    if len(desc) < 2 * word:
        raise ValueError("NT_FILE is cut short")
    count, page = struct.unpack_from(f"<2{code}", desc)
    names_at = 2 * word + count * 3 * word
    if names_at > len(desc):
        raise ValueError(f"NT_FILE says that it has {count} rows, for which it is too short")
    names = desc[names_at:].split(b"\0", count)
    if len(names) != count + 1:
        raise ValueError("NT_FILE has fewer names than rows")
    rows = struct.iter_unpack(f"<3{code}", desc[2 * word : names_at])
    named = zip(rows, names, strict=False)
    return page, [MappedRange(start, end, pgoff, name) for (start, end, pgoff), name in named]
