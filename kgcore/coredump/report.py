# SPDX-License-Identifier: LGPL-2.1-or-later
"""Report what a core holds, and what it lacks and why.

docs/report.md and report.schema.json in kgcore/schemas describe its JSON and say what readers may rely on. A key added
here must be added there.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from operator import attrgetter
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from kgcore._version import __version__
from kgcore.coredump.loads import Segment
from kgcore.coredump.notes import Remark
from kgcore.coredump.plan import CorePlan
from kgcore.model.account import Account, Accounted, Gaps, without
from kgcore.model.dying import Dying
from kgcore.model.freeze import Freeze
from kgcore.model.memory import Provenance, Run
from kgcore.text import counted, first_lines, human_size, plain, printable

__all__ = ("Gap", "Read", "Report", "VmaAccount", "make_report")

REPORT_VERSION = 1

_T = TypeVar("_T")


class Gap(NamedTuple):
    """Memory that the core should hold but lacks.

    :ivar start: user virtual address.
    :ivar end: the first address after it.
    :ivar reason: value of :class:`kgcore.model.memory.Provenance`.
    :ivar detail: further words, or "".
    :ivar name: what is mapped there (its file, ``[vdso]``), or empty.
    :ivar late: the read failed while the core was written: it is zeros in the file, for any policy.
    """

    start: int
    end: int
    reason: str
    detail: str
    name: bytes
    late: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VmaAccount(Accounted):
    """The account of a mapping.

    :ivar start: user virtual address.
    :ivar end: the first address after it.
    :ivar name: path of its file, or what the kernel calls it (``[vdso]``); raw.
    :ivar reason: why it was kept or left out (:class:`kgcore.filters.base.Keep`).
    :ivar account: of all its bytes.
    """

    start: int
    end: int
    name: bytes
    reason: str
    account: Account

    @property
    def missing(self) -> int:
        """Missing bytes."""
        return sum(self.account.missing.values())

    def to_json(self) -> dict[str, object]:
        """Return the value for ``json.dumps``."""
        return {
            "start": self.start,
            "end": self.end,
            "name": plain(self.name),
            "reason": self.reason,
            "data": self.data,
            "zero": self.zero,
            "missing": self.missing,
            "filtered": self.filtered,
            "account": self.account.to_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Report(Accounted):
    """The report on one core. Sizes are bytes. ``str()`` gives its :meth:`lines`, ``repr()`` two of them.

    :ivar tgid: the process.
    :ivar comm: its name, raw.
    :ivar path: the file written; None: a stream, or nothing was written yet (``--dry-run``).
    :ivar size: of the core file before compression.
    :ivar stored: bytes of it that the output received; the rest are holes. 0 for a plan.
    :ivar vmas: the account of each mapping, in the image's order.
    :ivar missing: memory that the core should hold but lacks.
    :ivar policy: ``omit``: missing memory is in no PT_LOAD; ``zero``: it is zeros.
    :ivar threads: how many threads the core has.
    :ivar remarks: remarks on the threads' registers.
    :ivar warnings: what could not be determined.
    :ivar limit: which limit it was cut short by; "": by none.
    :ivar shared_zeros: bytes of memory that have the same range of zeros in the file, or would have.
    :ivar dying: the signal that it was dying of, if it was.
    :ivar freeze: how it was held still, if it lives and was.
    """

    tgid: int
    comm: bytes
    path: str | None
    size: int
    stored: int
    vmas: tuple[VmaAccount, ...]
    missing: tuple[Gap, ...]
    policy: str
    threads: int
    remarks: tuple[Remark, ...] = ()
    warnings: tuple[str, ...] = ()
    limit: str = ""
    shared_zeros: int = 0
    dying: Dying | None = None
    freeze: Freeze | None = None

    @property
    def account(self) -> Account:
        """The account of all its memory."""
        return Account.sum(vma.account for vma in self.vmas)

    @property
    def missing_bytes(self) -> int:
        """Bytes of memory that the core should hold but lacks."""
        return sum(gap.end - gap.start for gap in self.missing)

    @property
    def undecided(self) -> int:
        """Bytes that were kept since it is not known what they are: the filter keeps some of what they may be."""
        return sum(vma.account.total - vma.filtered for vma in self.vmas if vma.reason == "undecided")

    @property
    def complete(self) -> bool:
        """Whether the core holds everything requested, and nothing in it is doubtful."""
        return not (self.missing or self.remarks or self.warnings or self.limit)

    @property
    def exit_status(self) -> int:
        """0, or 3: written, but incomplete."""
        return 0 if self.complete else 3

    def __repr__(self) -> str:
        """Return two lines for a Python prompt, even for a core with 70 000 mappings."""
        return "\n".join((self._headline(), *self.summary()[1:]))

    def _headline(self) -> str:
        path = "" if self.path is None else f", in {printable(self.path)}"
        return self.summary()[0] + path + ("" if self.complete else "; INCOMPLETE")

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        """The account as a table, for notebooks."""
        account = self.account
        parts = [("from page tables", account.present), *account.recovered.items(), ("zeros", account.zero)]
        parts += (("redacted", account.redacted), ("left out by the filter", account.filtered))
        parts += ((f"missing: {reason}", size) for reason, size in account.missing.items())
        rows = "".join(f"<tr><th>{escape(what)}</th><td>{human_size(size)}</td></tr>" for what, size in parts if size)
        notes = "".join(f"<li>{escape(line)}</li>" for line in self.doubts())
        table = f"<table><caption>{escape(self._headline())}</caption>{rows}</table>"
        return table + (f"<ul>{notes}</ul>" if notes else "")

    def to_json(self) -> dict[str, object]:
        """Return the value for ``json.dumps``. Names that are not UTF-8 have ``\\xNN``; addresses are numbers."""
        account = self.account
        return {
            "version": REPORT_VERSION,
            "kgcore": __version__,
            "tgid": self.tgid,
            "comm": plain(self.comm),
            "path": None if self.path is None else plain(self.path),
            "complete": self.complete,
            "size": self.size,
            "stored": self.stored,
            "limit": self.limit or None,
            "shared_zeros": self.shared_zeros,
            "data": account.data,
            "zero": account.zero,
            "filtered": account.filtered,
            "missing_bytes": self.missing_bytes,
            "account": account.to_json(),
            "missing_policy": self.policy,
            "missing": [
                {
                    "start": gap.start,
                    "end": gap.end,
                    "reason": gap.reason,
                    "detail": plain(gap.detail),
                    "name": plain(gap.name),
                    "late": gap.late,
                }
                for gap in self.missing
            ],
            "threads": self.threads,
            "dying": None if self.dying is None else self.dying.to_json(),
            "freeze": None if self.freeze is None else self.freeze.to_json(),
            "remarks": [{"tid": tid, "text": plain(text)} for tid, text in self.remarks],
            "warnings": [plain(text) for text in self.warnings],
            "vmas": [vma.to_json() for vma in self.vmas],
        }

    def lines(self, limit: int = 40) -> list[str]:
        """Return lines for people, safe for a terminal.

        :param limit: how many missing ranges, and how many remarks on threads, to list at most.
        """
        lines = self.summary()
        missing = self.missing
        if self.limit:  # one line for all that is behind the end
            missing = tuple(gap for gap in self.missing if gap.reason != Provenance.LIMIT.value)
            beyond = [gap.end - gap.start for gap in self.missing if gap.reason == Provenance.LIMIT.value]
            lines.append(
                f"CUT SHORT: {self.limit}: the file ends after {human_size(self.size)} and lacks "
                f"{human_size(sum(beyond))} of memory, {counted(len(beyond), 'range')}; debuggers cannot read them"
            )
        if missing:
            effect = "debuggers cannot read them" if self.policy == "omit" else "they are zeros in the core"
            where = ":" if limit else " (--report FILE lists them)"
            lines.append(f"MISSING from the core: {counted(len(missing), 'range')}; {effect}{where}")
            lines += _first(missing, limit, lambda gap: _gap_line(gap, self.policy))
        return lines + self.doubts(limit)

    def summary(self) -> list[str]:
        """Yield the sums, and the signal that it was dying of."""
        shared = f", {human_size(self.shared_zeros)} of zeros share one range" if self.shared_zeros else ""
        lines = [
            f"process {self.tgid} ({printable(self.comm)}), {counted(self.threads, 'thread')}: "
            f"core of {human_size(self.size)}{shared}",
            f"memory: {self.account.words()}",
        ]
        if self.dying is not None:
            lines.append(f"dying: {self.dying.words()}")
        if self.freeze is not None:
            lines.append(f"it {self.freeze.words()}")
        return lines

    def doubts(self, limit: int = 40) -> list[str]:
        """Return what is wrong besides missing memory.

        :param limit: how many remarks on threads to list at most.
        """
        lines = _first(self.remarks, limit, lambda remark: f"thread {remark.tid}: {printable(remark.text)}")
        if self.remarks and not limit:
            lines.append(f"threads: {counted(len(self.remarks), 'remark')} (--report FILE lists them)")
        lines += (f"warning: {printable(text)}" for text in self.warnings)
        return lines


@dataclass(slots=True)
class Read:
    """The result of reading a mapping, without ranges that the plan lists as missing.

    :ivar parts: bytes by provenance.
    :ivar late: ranges that turned out to be missing, if any.
    """

    parts: dict[Provenance, int] = field(default_factory=dict)
    late: Gaps | None = None

    def add(self, run: Run) -> None:
        self.parts[run.provenance] = self.parts.get(run.provenance, 0) + run.length
        if run.provenance.missing:
            self.late = self.late or Gaps()
            self.late.add(run)

    def as_planned(self, account: Account) -> bool:
        """Say whether everything was read as planned."""
        planned = {provenance: size for provenance, size in account.parts.items() if not provenance.missing}
        return self.late is None and self.parts == planned

    def join(self, other: "Read") -> None:
        """Add the result of the next part of the mapping."""
        for provenance, size in other.parts.items():
            self.parts[provenance] = self.parts.get(provenance, 0) + size
        for run in other.late.runs if other.late is not None else ():
            self.late = self.late or Gaps()
            self.late.add(run)


def make_report(
    plan: CorePlan,
    *,
    path: str | None = None,
    stored: int = 0,
    read: Mapping[int, Read] = MappingProxyType({}),
    unwritten: Iterable[Segment] = (),
    limit: str = "",
) -> Report:
    """Make the report of a plan, or of the core that was written from it.

    :param read: what was read of a mapping, by its index, if it differs from the plan.
    :param unwritten: (parts of) segments after the early end of the file.
    :param limit: why the file ends early.
    """
    accounts: list[VmaAccount] = []
    gaps: list[Gap] = []
    cut: dict[int, list[Run]] = {}
    size = plan.size - (len(plan.tail) if limit else 0)
    for segment in unwritten:
        size -= segment.filesz
        for piece in plan.sharing(segment):
            run = Run(piece.address, piece.filesz, Provenance.LIMIT, limit)
            cut.setdefault(piece.vma, []).append(run)
    for index, (vma, planned) in enumerate(zip(plan.image.vmas, plan.vmas, strict=True)):
        name = vma.mapped
        runs = [(run, False) for run in planned.missing]
        account = planned.account
        found, beyond = read.get(index), _joined(cut.get(index, []), planned.missing)
        if found is not None or beyond:
            found = found or Read()
            runs += [(run, True) for run in (found.late.runs if found.late is not None else [])]
            runs += [(run, False) for run in beyond]
            runs.sort(key=lambda run: run[0].address)
            lost = {provenance: size for provenance, size in account.parts.items() if provenance.missing}
            if beyond:
                lost[Provenance.LIMIT] = sum(run.length for run in beyond)
            account = Account.sum((Account(found.parts, account.filtered), Account(lost)))
        gaps += (Gap(run.address, run.end, run.provenance.value, run.detail, name, late) for run, late in runs)
        accounts.append(
            VmaAccount(start=vma.start, end=vma.end, name=name, reason=planned.keep.reason, account=account)
        )
    if not limit:  # what it forbids is left out already
        limit = next((gap.detail for gap in gaps if gap.reason == Provenance.LIMIT.value), "")
    return Report(
        tgid=plan.image.tgid,
        comm=plan.image.psinfo.comm,
        path=path,
        size=size,
        stored=stored,
        vmas=tuple(accounts),
        missing=tuple(gaps),
        policy=plan.policy,
        threads=len(plan.image.threads),
        remarks=plan.remarks,
        warnings=plan.warnings,
        limit=limit,
        shared_zeros=plan.shared_zeros,
        dying=plan.image.dying,
    )


def _joined(runs: Sequence[Run], planned: Sequence[Run]) -> list[Run]:
    """What a limit cost of a mapping, without ranges that are missing by plan. ``planned`` is ascending."""
    gaps = Gaps()
    for run in sorted(runs, key=attrgetter("address")):
        for part in without(run, planned):
            gaps.add(part)
    return gaps.runs


def _gap_line(gap: Gap, policy: str) -> str:
    reason = f"{gap.reason} ({printable(gap.detail)})" if gap.detail else gap.reason
    late = "; the read failed late: zeros in the core" if gap.late and policy == "omit" else ""
    name = f"  {printable(gap.name)}" if gap.name else ""
    return f"  {gap.start:012x}-{gap.end:012x}  {human_size(gap.end - gap.start):>8}  {reason}{late}{name}"


def _first(items: Sequence[_T], limit: int, line: Callable[[_T], str]) -> list[str]:
    """:param limit: 0: none of them, without a line on the rest."""
    if not limit:
        return []
    return list(first_lines(items, limit, line, "  ... and {} more: --report FILE lists all"))
