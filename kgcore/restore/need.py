# SPDX-License-Identifier: LGPL-2.1-or-later
"""Say what a process had, from its core and the KGCORE note in it: a :class:`Need`. All of it is checked here."""

import json
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from kgcore.arch import ARCHES, RESUMING, Arch
from kgcore.arch.fromnotes import Summary, status_of, summary_of
from kgcore.elf.layout import MACHINES
from kgcore.errors import TargetError
from kgcore.model.process import VM_MAYSHARE
from kgcore.model.state import ProcessState, ThreadState
from kgcore.model.statejson import from_json
from kgcore.restore.corefile import CoreNote, FinishedCore
from kgcore.sources.live.image import architecture_here

__all__ = ("Mapped", "Need", "NeededThread", "need_of")

_PRSTATUS, _PRFPREG, _PRPSINFO, _AUXV, _SIGINFO, _FILE = 1, 2, 3, 6, 0x53494749, 0x46494C45
_KGCORE = 0x4B474352
_SHSTK = 0x204
_MOST_THREADS = 1 << 15  # /proc/sys/kernel/pid_max where nobody raised it
_MOST_MAPPINGS = 1 << 16
_MOST_PATH = 4096
_HINT = "kgcore live PID and kgcore PID write one that has it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """A mapping.

    :ivar start: its first address, and ``end`` the one behind its last.
    :ivar flags: VM_*.
    :ivar reason: the filter's decision about it (:class:`kgcore.filters.base.Keep`).
    :ivar path: of its file, as /proc/PID/maps has it; None: it has none.
    :ivar offset: bytes in the file.
    """

    start: int
    end: int
    flags: int
    reason: str
    path: bytes | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NeededThread:
    """A thread.

    :ivar tid: its id in its own pid namespace.
    :ivar registers: by their names in the view.
    :ivar blocked: the signals that it blocked at that moment.
    :ivar floating: NT_PRFPREG, and ``vector`` the register set with its vector registers; None: the core has it not.
    :ivar fpu: what the note says of both: ``saved``, ``stale``, ``none``.
    :ivar unknown: names of registers that are not known.
    :ivar state: what else it had.
    """

    tid: int
    registers: Mapping[str, int]
    blocked: int
    floating: bytes | None
    vector: bytes | None
    fpu: str
    unknown: tuple[str, ...]
    state: ThreadState


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a process had.

    :ivar view: of :mod:`kgcore.arch`.
    :ivar pid: its id in its own pid namespace.
    :ivar summary: what NT_PRPSINFO says.
    :ivar threads: its first thread, the leader, first.
    :ivar mappings: by address; special ones above all memory of programs are left out.
    :ivar auxv: as NT_AUXV has it.
    :ivar state: what it had of its kernel.
    :ivar anonymous: the filter kept all private memory that is not as in a file.
    :ivar missing: what the core lacks: start, end, why.
    :ivar dying: it was dying of a signal.
    :ivar shadow: a thread had a shadow stack.
    :ivar layout: NT_X86_XSAVE_LAYOUT; empty: the core has none.
    :ivar warnings: the note's.
    :ivar kernel: release of its kernel.
    :ivar source: what kind of thing the core was taken from.
    """

    view: str
    pid: int
    summary: Summary
    threads: tuple[NeededThread, ...]
    mappings: tuple[Mapped, ...]
    auxv: tuple[tuple[int, int], ...]
    state: ProcessState
    anonymous: bool
    missing: tuple[tuple[int, int, str], ...]
    dying: bool
    shadow: bool
    layout: bytes
    warnings: tuple[str, ...]
    kernel: str
    source: str

    @property
    def words(self) -> Mapping[int, int]:
        """The auxiliary vector by AT_*."""
        return dict(self.auxv)

    def mapping_at(self, address: int) -> Mapped | None:
        """Return the mapping that has an address; None: none has."""
        return next((one for one in self.mappings if one.start <= address < one.end), None)


def need_of(core: FinishedCore) -> Need:
    """Read it.

    :raises TargetError: the core has not what it takes, or contradicts itself.
    """
    try:
        return _need(core)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise TargetError(f"{core.path}: its notes are damaged: {error}") from error


def _need(core: FinishedCore) -> Need:
    view = next((name for name, each in ARCHES.items() if name in RESUMING and each.machine == core.machine), None)
    if view is None or view not in architecture_here().arches:
        machine = MACHINES.get(core.machine, f"machine {core.machine}")
        raise TargetError(f"{core.path} is of another machine ({machine}): it cannot go on here")
    arch, how = ARCHES[view], RESUMING[view]
    told = _told(core)
    by_kind = {(note.owner, note.kind): note.desc for note in reversed(core.notes)}
    for kind, name in ((_PRPSINFO, "NT_PRPSINFO"), (_AUXV, "NT_AUXV"), (_FILE, "NT_FILE")):
        if ("CORE", kind) not in by_kind:
            raise TargetError(f"{core.path} has no {name}", hint=_HINT)
    state = from_json(told["state"])
    _check(state)
    auxv = by_kind["CORE", _AUXV]
    pairs = tuple(struct.iter_unpack("<2Q", auxv[: len(auxv) // 16 * 16]))
    threads = tuple(_threads(core, arch, told, state, how.vector))
    mappings = tuple(_mappings(told["vmas"], _files(by_kind["CORE", _FILE]), how.top))
    settings = told["filter"]
    return Need(
        view=view,
        pid=threads[0].tid,
        summary=summary_of(arch, by_kind["CORE", _PRPSINFO]),
        threads=threads,
        mappings=mappings,
        auxv=tuple((int(kind), int(value)) for kind, value in pairs),
        state=state,
        anonymous=settings.get("name") == "coredump_filter" and bool(int(settings["mask"]) & 1),
        missing=tuple((_hex(row[0]), _hex(row[1]), _text(row[2])) for row in told["missing"]),
        dying=told.get("dying") is not None,
        shadow=("LINUX", _SHSTK) in by_kind,
        layout=by_kind.get(("LINUX", how.layout_note), b""),
        warnings=tuple(map(_text, told["warnings"])),
        kernel=_text(told["kernel"]),
        source=_text(told["source"].get("format", "")),
    )


def _check(value: object) -> None:
    """Check that all numbers fit into words, and no text has a NUL.

    :raises ValueError: one does not.
    """
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise ValueError(f"{value} is no number that a kernel has")
    if is_dataclass(value):
        for member in fields(value):
            if member.metadata.get("form") != "raw" and member.name != "affinity":
                _check(getattr(value, member.name))
    elif isinstance(value, tuple):
        for one in value:
            _check(one)
    elif isinstance(value, bytes) and b"\0" in value:
        raise ValueError("a name has a NUL in it")


def _told(core: FinishedCore) -> dict[str, Any]:
    desc = next((note.desc for note in core.notes if (note.owner, note.kind) == ("KGCORE", _KGCORE)), None)
    if desc is None:
        raise TargetError(f"{core.path} does not say what the process had of its kernel", hint=_HINT)
    told = json.loads(desc)
    if not isinstance(told, dict) or "state" not in told:
        raise TargetError(f"{core.path} was written with --no-state: it says nothing of descriptors and signals")
    return told


def _threads(
    core: FinishedCore, arch: Arch, told: Mapping[str, Any], state: ProcessState, vector: int
) -> Iterator[NeededThread]:
    sets = list(_by_thread(core.notes))
    rows, states = told["threads"], state.threads or ()
    if not 0 < len(sets) <= _MOST_THREADS or not len(sets) == len(rows) == len(states):
        raise ValueError("it names other threads than the core has")
    found = []
    for own, row, known in zip(sets, rows, states, strict=True):
        status = status_of(arch, own["CORE", _PRSTATUS])
        found.append(
            NeededThread(
                tid=status.ids.pid,
                registers=status.registers,
                blocked=status.sighold,
                floating=own.get(("CORE", _PRFPREG)),
                vector=own.get(("LINUX", vector)),
                fpu=_text(row["fpu"]),
                unknown=tuple(map(_text, row["unknown"])),
                state=known,
            )
        )
    tids = [thread.tid for thread in found]
    if len(set(tids)) != len(tids) or not all(0 < tid < 1 << 22 for tid in tids):
        raise ValueError("two threads have one id, or an id is out of range")
    # The leader: its id is the process's. The dumping thread may come first.
    leader = next((at for at, known in enumerate(states) if known.tid == told["tgid"]), None)
    if leader is None:
        raise ValueError("its first thread had ended")
    yield found.pop(leader)
    yield from found


def _by_thread(notes: Sequence[CoreNote]) -> Iterator[dict[tuple[str, int], bytes]]:
    own: dict[tuple[str, int], bytes] = {}
    for note in notes:
        if (note.owner, note.kind) == ("CORE", _PRSTATUS):
            if own:
                yield own
            own = {("CORE", _PRSTATUS): note.desc}
        elif own:
            own.setdefault((note.owner, note.kind), note.desc)
    if own:
        yield own


def _mappings(rows: Sequence[Any], files: Mapping[int, tuple[int, int, bytes]], top: int) -> Iterator[Mapped]:
    if len(rows) > _MOST_MAPPINGS:
        raise ValueError("it has more mappings than are possible")
    end = 0
    left = dict(files)
    for row in rows:
        start, stop, flags, reason = _hex(row[0]), _hex(row[1]), _hex(row[2]), _text(row[3])
        if not end <= start < stop or (start | stop) % mmap.PAGESIZE:
            raise ValueError(f"its mappings overlap or are no pages, at {start:#x}")
        end = stop
        if start >= top:
            continue  # [vsyscall]: each process has it
        if stop > top:
            raise ValueError(f"a mapping ends at {stop:#x}, where the kernel's memory is")
        if start in left:
            until, offset, path = left.pop(start)
            if until != stop:
                raise ValueError(f"NT_FILE and the note do not agree at {start:#x}")
            yield Mapped(start=start, end=stop, flags=flags, reason=reason, path=path, offset=offset)
        else:
            if flags & VM_MAYSHARE and reason != "special":
                raise ValueError(f"the shared mapping at {start:#x} is not in NT_FILE")
            yield Mapped(start=start, end=stop, flags=flags, reason=reason)
    if left:
        raise ValueError(f"NT_FILE has a mapping at {min(left):#x} that the note has not")


def _files(desc: bytes) -> dict[int, tuple[int, int, bytes]]:
    """Return what NT_FILE has, by start: end, offset in bytes, and path."""
    count, page = struct.unpack_from("<2Q", desc)
    table = struct.unpack_from(f"<{3 * count}Q", desc, 16) if count <= _MOST_MAPPINGS else ()
    names = desc[16 + 24 * count :].split(b"\0") if table else []
    if (count and not table) or len(names) < count or page not in (1, mmap.PAGESIZE):
        raise ValueError("NT_FILE is cut short")
    found = {}
    for number in range(count):
        start, end, offset = table[3 * number : 3 * number + 3]
        if len(names[number]) > _MOST_PATH or offset * page >= 1 << 63:
            raise ValueError("NT_FILE has a name or an offset that no file has")
        found[start] = (end, offset * page, names[number])
    return found


def _hex(value: Any) -> int:
    number = int(_text(value), 16)
    if not 0 <= number < 1 << 64:
        raise ValueError(f"{value} is no address")
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value
