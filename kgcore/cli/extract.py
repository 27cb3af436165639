# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write the requested cores, process by process, for ``kgcore`` and ``%gcore``."""

import json
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from kgcore._version import __version__
from kgcore.binaries.sysroot import SysrootReport
from kgcore.cli import render
from kgcore.cli.console import Console, OutputLost, Status, reason
from kgcore.cli.progress import Subject, json_lines
from kgcore.cli.request import Channel, DumpRequest
from kgcore.cli.selection import described, select
from kgcore.coredump.limits import Limits
from kgcore.coredump.pipeline import Options, Prepared
from kgcore.coredump.report import Report
from kgcore.coredump.writer import Progress
from kgcore.errors import KgcoreError, LimitReached
from kgcore.saving import CoreWriter
from kgcore.sinks import STDOUT
from kgcore.sinks.outputs import output
from kgcore.sources.base import Source, TaskRef
from kgcore.text import first_names, human_size

__all__ = ("Failure", "Outcome", "extract")

REPORT_VERSION = 1
_MOST_INDENTED = 10_000  # mappings
_NAMES = 10  # that stand in one line


class Failure(NamedTuple):
    """A process that could not be dumped, as the user named it."""

    task: str
    reason: str


@dataclass
class Outcome:
    """The results of a request.

    :ivar sysroots: the results for programs and libraries, by index of the process's report.
    """

    reports: list[Report] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    sysroots: dict[int, SysrootReport] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The exit status. A failed process counts more than an incomplete one."""
        if self.failures:
            return Status.FAILED
        complete = all(report.complete for report in self.reports)
        complete = complete and all(sysroot.complete for sysroot in self.sysroots.values())
        return Status.COMPLETE if complete else Status.INCOMPLETE

    def to_json(self) -> dict[str, object]:
        """Return the value for ``--report``."""
        return {
            "version": REPORT_VERSION,
            "kgcore": __version__,
            "status": self.status,
            "processes": [self._process(index) for index in range(len(self.reports))],
            "failures": [failure._asdict() for failure in self.failures],
        }

    def _process(self, index: int) -> dict[str, object]:
        sysroot = self.sysroots.get(index)
        return self.reports[index].to_json() | ({} if sysroot is None else {"sysroot": sysroot.to_json()})


def extract(source: Source, request: DumpRequest, console: Console, limits: Limits | None = None) -> Outcome:
    """Write the named processes in their order, then the selected ones. A failure is recorded; the rest continue.

    :param limits: those of the request, if their time is running already.
    :raises OutputError: the JSON report cannot be written.
    """
    extraction = _Extraction(source, request, console, limits or _limits_of(request))
    extraction.run()
    if request.report:
        _write_report(request.report, extraction.outcome, request.force)
    return extraction.outcome


def _limits_of(request: DumpRequest) -> Limits:
    """The limits of a request. Their time runs from now on."""
    return Limits(request.max_size, request.max_time, rule=request.limit)


@dataclass(frozen=True, slots=True)
class _Turn:
    """The position of a process in the run: ``index`` of ``count``, from 1."""

    index: int
    count: int


class _Extraction:
    """
    :ivar outcome: so far.
    """

    def __init__(self, source: Source, request: DumpRequest, console: Console, limits: Limits) -> None:
        self.outcome = Outcome()
        self._source = source
        self._request = request
        self._console = console
        self._limits = limits
        self._writer = CoreWriter(
            Options(
                mask=request.mask,
                dontdump=request.dontdump,
                dax=request.dax,
                missing=request.missing,
                vendor_note=request.note,
                state=request.state,
                share_zeros=request.share_zeros,
                rules=request.rules,
                profile=request.profile,
            ),
            directory=request.directory,
            output=request.output,
            opened=output,
            force=request.force,
            compress=request.compress,
            sysroot=request.sysroot,
            jobs=request.jobs,
            limits=limits,
        )
        self._seen: set[int] = set()  # thread group ids
        self._skipped: list[tuple[str, str]] = []  # why not, and the process

    def run(self) -> None:
        named, chosen = self._request.tasks, self._chosen() if self._request.select else []
        for number, ref in enumerate(named, 1):
            self._process(ref, _Turn(number, len(named) + len(chosen)))
        chosen = [ref for ref in chosen if ref.pid not in self._seen]
        for number, ref in enumerate(chosen, len(named) + 1):
            self._process(ref, _Turn(number, len(named) + len(chosen)))
        for why, skipped in groupby(self._skipped, key=lambda item: item[0]):
            names = [name for _, name in skipped]
            self._console.fail(f"not written: {first_names(names, _NAMES)}: {why}")

    def _chosen(self) -> list[TaskRef]:
        """Return the selected processes. If the list breaks off, say so and continue with those before."""
        select_, found = self._request.select, dict[int | None, TaskRef]()
        named = {ref.pid for ref in self._request.tasks}
        whole = True
        try:
            for ref in select(self._source.processes(), select_):
                found.setdefault(ref.pid, ref)
        except Exception as error:  # noqa: BLE001  (as with each process)
            whole = False
            self._fail(described(select_), error)
        if not found and whole:
            hint = "kgcore ps lists the processes in the dump"
            self._fail(described(select_), KgcoreError(f"no process matches {described(select_)}", hint=hint))
        chosen = [ref for pid, ref in found.items() if pid not in named]
        if self._request.output and len(chosen) > 1:
            names = first_names(chosen, _NAMES, lambda ref: ref.text, number=False)
            self._fail(
                described(select_),
                KgcoreError(
                    f"-o takes one process, but {len(chosen)} match {described(select_)}: {names}",
                    hint="use -D DIR to write several, each as core.<tgid>",
                ),
            )
            return []
        return chosen

    def _process(self, ref: TaskRef, turn: _Turn) -> None:
        request = self._request
        try:
            if not request.dry_run and (why := self._limits.reached()):
                raise LimitReached(why)
            with self._writer.prepare(self._source, ref) as prepared:
                self._seen.add(prepared.image.tgid)
                if request.dry_run:
                    render.show_plan(prepared.plan, self._console.out)
                    return
                self.outcome.reports.append(self._save(prepared, turn))
                self._save_files(prepared)
        except LimitReached as error:
            self._skip(ref, error.message)
        except OutputLost:
            raise
        except Exception as error:  # noqa: BLE001  (a defect, ours or drgn's, must not cost the user the other processes)
            self._fail(ref.text, error)

    def _skip(self, ref: TaskRef, why: str) -> None:
        """Collect names for one line at the end: there may be many."""
        self._skipped.append((why, ref.text))
        self.outcome.failures.append(Failure(ref.text, f"not written: {why}"))

    def _fail(self, what: str, error: Exception) -> None:
        text = reason(error)
        if not isinstance(error, KgcoreError):  # which names the process itself
            text = f"{what}: {text}"
            if self._request.show & Channel.LIBRARY:
                traceback.print_exception(error, file=self._console.err)
        self.outcome.failures.append(Failure(what, text))
        self._console.fail(text)

    def _save(self, prepared: Prepared, turn: _Turn) -> Report:
        """Write one core and say so."""
        request, console, name = self._request, self._console, self._writer.name(prepared)
        with self._progress(prepared, name, turn) as progress:
            report = self._writer.write(prepared, progress)
        if STDOUT in (request.output, request.report):
            print(f"Saved {name}", file=console.err, flush=True)
        else:
            console.say(f"Saved {name}")
        if not report.complete:
            for line in report.lines(sys.maxsize if request.show & Channel.FAULTS else 0):
                console.remark(line)
        elif report.dying is not None:  # what one came for, perhaps
            console.remark(f"process {report.tgid}: {report.dying.words()}")
        if report.undecided:
            size = human_size(report.undecided)
            console.remark(
                f"process {report.tgid}: {size} of memory are kept since the core does not say what they are "
                "(--exclude leaves out what it names; kgcore map shows which)"
            )
        if report.complete and report.freeze is not None and report.freeze.why:
            console.remark(f"process {report.tgid} {report.freeze.words()}")
        return report

    def _progress(self, prepared: Prepared, name: str, turn: _Turn) -> AbstractContextManager[Progress | None]:
        request, err, total = self._request, self._console.err, prepared.plan.data
        if request.progress == "json":
            psinfo = prepared.image.psinfo
            return json_lines(Subject(prepared.image.tgid, psinfo.comm, turn.index, turn.count, total), err)
        if request.progress == "never" or not request.show & Channel.PROGRESS or not err.isatty():
            return nullcontext()
        return render.progress(name if turn.count == 1 else f"{name} ({turn.index} of {turn.count})", err, total)

    def _save_files(self, prepared: Prepared) -> None:
        found = self._writer.write_files(prepared)
        if found is None:
            return
        self.outcome.sysroots[len(self.outcome.reports) - 1] = found
        for line in found.lines(bool(self._request.show & Channel.FAULTS)):
            self._console.remark(line)
        found.raise_problems()


def _write_report(path: str, outcome: Outcome, force: bool) -> None:
    """Write the report as cores are written: private, complete or not at all, and over no other file."""
    with output(path, force=force) as sink:
        # json indents in Python, and takes several times as long. So many lines nobody reads.
        indent = 2 if sum(len(report.vmas) for report in outcome.reports) <= _MOST_INDENTED else None
        sink.write(json.dumps(outcome.to_json(), indent=indent).encode() + b"\n")
        sink.commit()
