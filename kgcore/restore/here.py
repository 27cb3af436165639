# SPDX-License-Identifier: LGPL-2.1-or-later
"""What this machine offers a process that goes on: its vdso, its CPU, what this program may do, ids that are free."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from kgcore.sources.live.image import architecture_here
from kgcore.sources.live.procfs import mappings, read

__all__ = ("Here", "Special", "here", "ids_taken", "special_mappings", "timens_offsets")

_CAP_SYS_ADMIN, _CAP_SYS_RESOURCE, _CAP_CHECKPOINT_RESTORE = 21, 24, 40
_SECOND = 1_000_000_000  # ns
_SPECIAL = (b"[vvar]", b"[vvar_vclock]", b"[vdso]")


@dataclass(frozen=True, slots=True)
class Special:
    """A mapping that the kernel makes in each program: ``[vdso]``, and the data beside it."""

    name: bytes
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """This machine.

    :ivar architecture: name of that of its kernel.
    :ivar vdso: the bytes of its vdso; empty: it has none.
    :ivar special: sizes of its special mappings, from the first to the vdso: offset from the vdso, and bytes.
    :ivar page_size: bytes of a page.
    :ivar clocks: this program may make a time namespace.
    :ivar ids: it may choose the ids of processes.
    :ivar limits: it may raise limits.
    :ivar monotonic, boottime: what these clocks show to this program.
    """

    architecture: str
    vdso: bytes
    special: tuple[tuple[int, int], ...]
    page_size: int
    clocks: bool
    ids: bool
    limits: bool
    monotonic: int
    boottime: int


def here() -> Here:
    """Return what this machine offers now.

    :raises TargetError: kgcore does not support it.
    """
    capabilities = _capabilities()
    found = special_mappings(os.getpid())
    vdso = next((one for one in found if one.name == b"[vdso]"), None)
    content, shape = b"", []
    if vdso is not None:
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            content = os.pread(memory.fileno(), vdso.end - vdso.start, vdso.start)
        shape = [(one.start - vdso.start, one.end - one.start) for one in found]
    return Here(
        architecture=architecture_here().name,
        vdso=content,
        special=tuple(shape),
        page_size=os.sysconf("SC_PAGESIZE"),
        clocks=capabilities >> _CAP_SYS_ADMIN & 1 == 1 and os.path.exists("/proc/self/ns/time"),
        ids=bool(capabilities & (1 << _CAP_SYS_ADMIN | 1 << _CAP_CHECKPOINT_RESTORE)),
        limits=capabilities >> _CAP_SYS_RESOURCE & 1 == 1,
        monotonic=time.clock_gettime_ns(time.CLOCK_MONOTONIC),
        boottime=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    )


def _capabilities() -> int:
    for line in read("/proc/self/status").splitlines():
        name, _, value = line.partition(b":")
        if name == b"CapEff":
            return int(value, 16)
    return 0


def special_mappings(pid: int) -> tuple[Special, ...]:
    """Return the special mappings of a process that the kernel has made beside one another, by address.

    :raises OSError: it has ended.
    """
    lines = mappings(read(f"/proc/{pid}/maps"))
    return tuple(Special(line.name, line.start, line.end) for line in lines if line.name in _SPECIAL)


def ids_taken(ids: Iterable[int]) -> list[int]:
    """Return those of some ids that a process, a thread, a group or a session has."""
    taken = []
    for number in ids:
        with suppress(ProcessLookupError):
            with suppress(PermissionError):
                os.kill(number, 0)
            taken.append(number)
            continue
        with suppress(ProcessLookupError):
            with suppress(PermissionError):
                os.killpg(number, 0)
            taken.append(number)
    return taken


def timens_offsets() -> tuple[int, int]:
    """Return what this program's time namespace adds to CLOCK_MONOTONIC and CLOCK_BOOTTIME, in nanoseconds."""
    try:
        lines = [line.split() for line in read("/proc/self/timens_offsets").splitlines()]
    except FileNotFoundError:
        return 0, 0
    found = {name: int(seconds) * _SECOND + int(part) for name, seconds, part in lines}
    return found.get(b"monotonic", 0), found.get(b"boottime", 0)
