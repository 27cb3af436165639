# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the KGCORE note of a core says, if it fits the core."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kgcore.arch import SMALLEST_PAGE
from kgcore.model.kindwords import Told, told
from kgcore.model.memory import Provenance, Run
from kgcore.model.state import ProcessState
from kgcore.model.statejson import from_json
from kgcore.sources.corefile.head import Load

__all__ = ("FORMAT", "OWNER", "OwnNote", "Row", "read_own_note")

OWNER, TYPE, FORMAT = b"KGCORE", 0x4B474352, 1
_MOST = 1 << 26  # bytes of it
_MOST_VALUES = 1 << 22  # 70 000 mappings have 1.3 million
_ADDRESSES = 1 << 64


class Row(NamedTuple):
    """What it says of a mapping.

    :ivar flags: ``vm_flags``.
    :ivar kept: how many bytes from its start the filter kept.
    :ivar told: what else it is; None: not known.
    """

    start: int
    end: int
    flags: int
    kept: int
    told: Told | None


class ThreadRow(NamedTuple):
    """What it says of a thread."""

    tid: int
    registers: str
    unknown: frozenset[str]
    fpu: str
    cpu: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnNote:
    """The KGCORE note of a core.

    :ivar source: what the process came from.
    :ivar rows: one for each mapping, by address.
    :ivar exact: it says of each mapping what it is (``kinds``); the notes of early versions have only the flags.
    :ivar threads: in the order of the core.
    :ivar missing: what it lacks, by address.
    :ivar process: of ``process``, the addresses.
    :ivar dying: the stage of its death, or None.
    """

    source: Mapping[str, str]
    kernel: str
    tgid: int
    policy: str
    rows: tuple[Row, ...]
    exact: bool
    threads: tuple[ThreadRow, ...]
    missing: tuple[Run, ...]
    warnings: tuple[str, ...]
    process: Mapping[str, int]
    named: bool
    headers: tuple[str, ...] | None
    state: ProcessState | None
    has_state: bool
    dying: Mapping[str, Any] | None
    shared_zeros: int


def read_own_note(desc: bytes, loads: Sequence[Load], threads: int) -> OwnNote:
    """Read the note.

    :param loads: the core's PT_LOADs.
    :param threads: how many threads the core has.
    :raises ValueError: it cannot be read, or does not fit the rest of the core.
    """
    if len(desc) > _MOST or desc.count(b",") + desc.count(b"[") + desc.count(b"{") > _MOST_VALUES:
        raise ValueError("it is too large")
    try:
        found = _read(json.loads(desc))
    except (KeyError, TypeError, AttributeError, RecursionError, ValueError) as error:
        raise ValueError(f"it cannot be read ({type(error).__name__}: {error})") from error
    if len(found.threads) != threads:
        raise ValueError(f"it names {len(found.threads)} threads, and the core has {threads}")
    _fits(found, loads)
    return found


def _read(whole: Any) -> OwnNote:
    if whole["format"] != FORMAT:
        raise ValueError(f"format {whole['format']!r} is not known")
    words = whole.get("kinds")
    kinds = [None] * len(whole["vmas"]) if words is None else [told(_a(str, word)) for word in words]
    process = whole.get("process", {})
    return OwnNote(
        source={_a(str, key): _a(str, value) for key, value in whole["source"].items()},
        kernel=_a(str, whole["kernel"]),
        tgid=_a(int, whole["tgid"]),
        policy=_a(str, whole["missing_policy"]),
        rows=tuple(
            Row(*_span(start, end), _hex(flags), _a(int, kept), kind)
            for (start, end, flags, _, kept), kind in zip(whole["vmas"], kinds, strict=True)
        ),
        exact=words is not None,
        threads=tuple(map(_thread, whole["threads"])),
        missing=tuple(_missing(*row) for row in whole["missing"]),
        warnings=tuple(_a(str, text) for text in whole["warnings"]),
        process={name: _hex(process[name]) for name in ("start_brk", "brk", "start_stack") if name in process},
        named=_a(bool, process.get("named", False)),
        headers=tuple(map(str, process["headers"])) if "headers" in process else None,
        state=from_json(whole["state"]) if "state" in whole else None,
        has_state="state" in whole,
        dying=whole.get("dying"),
        shared_zeros=_a(int, whole.get("shared_zeros", 0)),
    )


def _thread(row: Any) -> ThreadRow:
    cpu = None if row["cpu"] is None else _a(int, row["cpu"])
    unknown = frozenset(_a(str, name) for name in row["unknown"])
    return ThreadRow(_a(int, row["tid"]), _a(str, row["registers"]), unknown, _a(str, row["fpu"]), cpu)


def _missing(start: str, end: str, why: str, detail: str) -> Run:
    low, high = _span(start, end)
    provenance = Provenance(why)
    if not provenance.missing:
        raise ValueError(f"{why} is no reason for which memory is missing")
    return Run(low, high - low, provenance, _a(str, detail))


def _span(start: str, end: str) -> tuple[int, int]:
    low, high = _hex(start), _hex(end)
    if not 0 <= low < high <= _ADDRESSES:
        raise ValueError(f"{start}-{end} is no range of addresses")
    return low, high


def _hex(value: Any) -> int:
    if not re.fullmatch("0x[0-9a-f]{1,17}", _a(str, value)):
        raise ValueError(f"{value!r} is not a number such as 0x7f00")
    return int(value, 16)


def _a(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{value!r} is not of type {kind.__name__}")
    return value


def _fits(note: OwnNote, loads: Sequence[Load]) -> None:
    """
    :raises ValueError: it says of the mappings what the headers do not.
    """
    end = 0
    for row in note.rows:
        if row.start < end or not 0 <= row.kept <= row.end - row.start:
            raise ValueError(f"its mappings are not in order, at {row.start:#x}")
        if (row.start | row.end | row.kept) % SMALLEST_PAGE:
            raise ValueError(f"its mapping at {row.start:#x} is not of whole pages")
        end = row.end
    at = 0
    for load in sorted(loads):
        while at < len(note.rows) and note.rows[at].end <= load.start:
            at += 1
        if at == len(note.rows) or note.rows[at].start > load.start or load.end > note.rows[at].end:
            raise ValueError(f"it does not have the segment at {load.start:#x}")
        if load.filesz and load.start + load.filesz > note.rows[at].start + note.rows[at].kept:
            raise ValueError(f"the segment at {load.start:#x} has more than it says")
    for before, run in _pairs(note.missing):
        if (run.address | run.end) % SMALLEST_PAGE or (before is not None and run.address < before.end):
            raise ValueError(f"what it says is missing at {run.address:#x} is not in order")


def _pairs(runs: Sequence[Run]) -> Iterator[tuple[Run | None, Run]]:
    last = None
    for run in runs:
        yield last, run
        last = run
