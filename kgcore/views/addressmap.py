# SPDX-License-Identifier: LGPL-2.1-or-later
"""Show the address space of a process: a row for each mapping, with what a core would hold of it.

The numbers are those of the report. A map adds names as in /proc/PID/maps, the threads' stacks, and the ranges of
memory for pictures. docs/map.md and map.schema.json in kgcore/schemas describe its JSON.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import NamedTuple

from kgcore.arch import ARCHES
from kgcore.coredump.pipeline import Options, prepare
from kgcore.coredump.plan import CorePlan
from kgcore.coredump.report import Report, VmaAccount, make_report
from kgcore.model.account import Account, Gaps, amounts
from kgcore.model.memory import Memory, Provenance, Run
from kgcore.model.process import VM_EXEC, VM_MAYSHARE, VM_READ, VM_WRITE, Vma
from kgcore.sources.base import Source, TaskRef
from kgcore.text import first_names, human_size, plain, printable

__all__ = (
    "AddressMap",
    "Area",
    "Kind",
    "StackPointer",
    "address_map",
    "address_range",
    "by_kind",
    "make_map",
    "ranges",
    "shares",
)

MAP_VERSION = 1

_STEPS = 4096  # runs that are looked at to draw one mapping
_STACKS = 3  # named of one mapping


class Kind(Enum):
    """The kinds of memory that a picture shows. The values are the keys of an account."""

    PRESENT = "present"
    RECOVERED = "recovered"
    ZERO = "zero"
    REDACTED = "redacted"
    MISSING = "missing"
    FILTERED = "filtered"

    @classmethod
    def of(cls, provenance: Provenance) -> "Kind":
        if provenance.missing:
            return cls.MISSING
        if provenance.recovered:
            return cls.RECOVERED
        if provenance.stored:
            return cls.PRESENT
        return cls.REDACTED if provenance is Provenance.REDACTED else cls.ZERO


class StackPointer(NamedTuple):
    """Where the stack of a thread ends.

    :ivar tid: id of the thread in the initial pid namespace.
    :ivar sp: user virtual address.
    """

    tid: int
    sp: int


class Area(NamedTuple):
    """A mapping of the address space.

    :ivar vma: its account: what a core would hold of it.
    :ivar name: as in /proc/PID/maps: its file, ``[heap]``, ``[stack]``, ``[vdso]`` ..., or empty: anonymous memory.
    :ivar permissions: as there, ``rw-p``; ``rw-?`` if it is not known whether it is shared.
    :ivar offset: as there, in the file.
    :ivar kept: what the filter decided: ``whole``, ``first-page`` or ``nothing``; ``vma.reason`` says why.
    :ivar stacks: the threads whose stack pointers are in it.
    """

    vma: VmaAccount
    name: bytes
    permissions: str
    offset: int
    kept: str
    stacks: tuple[StackPointer, ...]

    @property
    def size(self) -> int:
        """Bytes from its start to its end."""
        return self.vma.end - self.vma.start

    def title(self) -> str:
        """Return its name for people, printable."""
        name = printable(self.name)
        if not self.stacks:
            return name or "anon"
        threads = first_names(self.stacks, _STACKS, lambda stack: str(stack.tid))
        whose = f"of thread{'s' if len(self.stacks) > 1 else ''} {threads}"
        if name == "[stack]":
            return f"{name} {whose}"
        return f"{name} (stack {whose})" if name else f"stack {whose}"

    def to_json(self) -> dict[str, object]:
        """Give it for ``json.dumps``."""
        return self.vma.to_json() | {
            "name": plain(self.name),
            "permissions": self.permissions,
            "offset": self.offset,
            "kept": self.kept,
            "stack_of": [stack._asdict() for stack in self.stacks],
        }


@dataclass(frozen=True, slots=True)
class AddressMap:
    """What ``kgcore map`` shows of a process.

    :ivar report: the report of the core that would be written.
    :ivar areas: the mappings, in the image's order.
    :ivar source: the source of the process (:meth:`kgcore.sources.base.Source.describe`).
    :ivar filter: the settings of the filter.
    """

    report: Report
    areas: tuple[Area, ...]
    source: Mapping[str, str]
    filter: Mapping[str, int | bool | str]

    def to_json(self) -> dict[str, object]:
        """Return the value for ``json.dumps``: the process as in the report, with more on its mappings."""
        return self.report.to_json() | {
            "version": MAP_VERSION,
            "source": {key: plain(value) for key, value in self.source.items()},
            "filter": dict(self.filter),
            "vmas": [area.to_json() for area in self.areas],
        }

    def lines(self) -> list[str]:
        """Return a summary for people, safe for a terminal."""
        left_out: dict[str, int] = {}
        for area in self.areas:
            if area.vma.filtered:
                left_out[area.vma.reason] = left_out.get(area.vma.reason, 0) + area.vma.filtered
        lines = self.report.summary()
        if left_out:
            lines.append(f"left out by the filter: {human_size(sum(left_out.values()))} ({amounts(left_out)})")
        return lines + self.report.doubts()


def address_map(source: Source, ref: TaskRef | int | str, options: Options | None = None) -> AddressMap:
    """Show the address space of a process: a row for each mapping, with what a core would hold of it.

    :param source: where processes come from, such as :func:`kgcore.open_vmcore` gives.
    :param ref: the process: id of any of its threads in the initial pid namespace, or address of its
        ``struct task_struct``, as a number or as text; or a :class:`kgcore.TaskRef`.
    :param options: what a core would have; None: what ``kgcore`` writes without options.
    :return: what ``kgcore map`` shows.
    :raises KgcoreError: there is no such process, or it has no memory.
    :raises TypeError, ValueError: ``ref`` names no process.
    """
    with prepare(source, ref, options) as prepared:
        return make_map(prepared.plan, source.describe())


def make_map(plan: CorePlan, source: Mapping[str, str] | None = None) -> AddressMap:
    """Return the map of a plan."""
    image, report = plan.image, make_report(plan)
    stacks: dict[int, list[StackPointer]] = {}
    sp = ARCHES[image.arch].sp
    for thread in image.threads:
        if sp not in thread.regs.unknown:
            pointer = StackPointer(thread.tid, thread.regs.values[sp])
            vma = image.vma_at(pointer.sp)
            if vma is not None:
                stacks.setdefault(vma.start, []).append(pointer)
    areas = tuple(
        Area(
            told,
            image.name_of(vma),
            _permissions(vma),
            vma.pgoff * image.page_size if vma.file is not None else 0,
            _kept(vma, planned.keep.length),
            tuple(stacks.get(vma.start, ())),
        )
        for vma, planned, told in zip(image.vmas, plan.vmas, report.vmas, strict=True)
    )
    return AddressMap(report, areas, source or {}, plan.filter_settings)


def _permissions(vma: Vma) -> str:
    """As in /proc/PID/maps; with ``?`` in the end if it may be private or shared."""
    flags = vma.flags
    bits = ((VM_READ, "r"), (VM_WRITE, "w"), (VM_EXEC, "x"))
    shared = {(flags | kind.flags) & VM_MAYSHARE for kind in vma.kinds} or {flags & VM_MAYSHARE}
    letters = "".join(letter if flags & bit else "-" for bit, letter in bits)
    return letters + ("?" if len(shared) > 1 else "s" if shared.pop() else "p")


def _kept(vma: Vma, length: int) -> str:
    return "nothing" if not length else "whole" if length == vma.end - vma.start else "first-page"


def address_range(start: int, end: int) -> str:
    """Return an address range for people."""
    return f"{start:012x}-{end:012x}"


def by_kind(account: Account) -> dict[Kind, int]:
    """Return the bytes of each kind, without empty ones."""
    sizes = dict.fromkeys(Kind, 0)
    for provenance, size in account.parts.items():
        sizes[Kind.of(provenance)] += size
    sizes[Kind.FILTERED] += account.filtered
    return {kind: size for kind, size in sizes.items() if size}


def shares(sizes: Mapping[Kind, int], width: int) -> dict[Kind, int]:
    """Return how many of ``width`` characters show each kind: in proportion, but at least one if there is room."""
    total = sum(sizes.values())
    least = 1 if len(sizes) <= width else 0
    free = width - least * len(sizes)
    cells: dict[Kind, int] = {}
    done = drawn = 0
    for kind, size in sizes.items():
        done += size
        end = (2 * free * done + total) // (2 * total)  # rounded
        cells[kind] = least + end - drawn
        drawn = end
    return cells


def ranges(plan: CorePlan, memory: Memory, index: int, most: int) -> tuple[Run, ...]:
    """Return the ranges of the kept part of a mapping; nothing if there are more than ``most``.

    :param index: of the mapping.
    """
    vma, planned = plan.image.vmas[index], plan.vmas[index]
    length, parts = planned.keep.length, planned.account.parts
    if len(parts) == 1 and not planned.missing:  # nothing to look up
        return (Run(vma.start, length, next(iter(parts))),)
    if not length or len(planned.missing) > most:
        return ()
    return _ranges(memory.runs(vma, vma.start, vma.start + length), most)


def _ranges(runs: Iterator[Run], most: int) -> tuple[Run, ...]:
    found = Gaps()
    for run in islice(runs, _STEPS):
        found.add(run)
        if len(found.runs) > most:
            return ()
    return () if next(runs, None) is not None else tuple(found.runs)
