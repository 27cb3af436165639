# SPDX-License-Identifier: LGPL-2.1-or-later
"""Works through what a user asked for, process by process: the part that ``kgcore`` and ``%gcore`` share."""

import json
import os
import sys
import traceback
from dataclasses import dataclass, field
from typing import NamedTuple

from kgcore import __version__, render
from kgcore.console import Console, Status, reason
from kgcore.errors import KgcoreError
from kgcore.pipeline import Options, Prepared, prepare, write
from kgcore.report import Report
from kgcore.request import STDOUT, DumpRequest, Show
from kgcore.sinks import FileSink, Sink, StreamSink
from kgcore.sources.base import Source
from kgcore.sysroot import Sysroot, SysrootReport

__all__ = ("Failure", "Outcome", "extract")

REPORT_VERSION = 1
_MOST_INDENTED = 10_000  # mappings


class Failure(NamedTuple):
    """A process that could not be dumped at all, as the user named it."""

    task: str
    reason: str


@dataclass
class Outcome:
    """What became of a request.

    :ivar sysroots: what became of the programs and libraries, by index of the process's report.
    """

    reports: list[Report] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    sysroots: dict[int, SysrootReport] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The exit status; a process that failed weighs more than one that is incomplete."""
        if self.failures:
            return Status.FAILED
        complete = all(report.complete for report in self.reports)
        complete = complete and all(sysroot.complete for sysroot in self.sysroots.values())
        return Status.COMPLETE if complete else Status.INCOMPLETE

    def to_json(self) -> dict[str, object]:
        """For ``--report``."""
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


def extract(source: Source, request: DumpRequest, console: Console) -> Outcome:
    """Write the processes in the order given. One that fails is remembered with its reason; the rest go on.

    :raises OutputError: the JSON report cannot be written.
    """
    outcome = Outcome()
    options = Options(request.mask, request.dontdump, request.dax, request.missing, request.note)
    own_files: set[str] = set()
    sysroot = Sysroot(request.sysroot, force=request.force) if request.sysroot else None
    for ref in request.tasks:
        try:
            prepared = prepare(source, ref, options)
            if request.dry_run:
                render.show_plan(prepared.plan, console.out)
                continue
            outcome.reports.append(_save(prepared, request, console, own_files))
            if sysroot is not None:
                found = sysroot.add(source, prepared.image, prepared.memory)
                outcome.sysroots[len(outcome.reports) - 1] = found
                for line in found.lines(bool(request.show & Show.FAULTS)):
                    console.remark(line)
                found.raise_problems()
        except Exception as error:  # noqa: BLE001  (a defect, ours or drgn's, must not cost the user the other processes)
            text = reason(error)
            if not isinstance(error, KgcoreError):  # which names the process itself
                text = f"{ref.text}: {text}"
                if request.show & Show.LIBRARY:
                    traceback.print_exc(file=console.err)
            failure = Failure(ref.text, text)
            outcome.failures.append(failure)
            console.fail(failure.reason)
    if request.report:
        _write_report(request.report, outcome, request.force)
    return outcome


def _save(prepared: Prepared, request: DumpRequest, console: Console, own_files: set[str]) -> Report:
    """Write one core and say so. A file that this run wrote may be overwritten: one process was named twice."""
    name = f"core.{prepared.image.tgid}"
    path = request.output or os.path.join(request.directory, name)
    sink: Sink
    if path == STDOUT:
        sink = StreamSink(sys.stdout.buffer)
    else:
        sink = FileSink(path, force=request.force or path in own_files)
    with render.progress(name, console.err, bool(request.show & Show.PROGRESS)) as progress:
        report = write(prepared, sink, progress)
    own_files.add(path)
    print(f"Saved {name}", file=console.err if path == STDOUT else console.out, flush=True)
    if not report.complete:
        for line in report.lines(sys.maxsize if request.show & Show.FAULTS else 0):
            console.remark(line)
    return report


def _write_report(path: str, outcome: Outcome, force: bool) -> None:
    """Like a core: private, whole or not at all, and not over somebody's file."""
    with FileSink(path, force=force) as sink:
        # json indents in Python, and takes several times as long. So many lines nobody reads.
        indent = 2 if sum(len(report.vmas) for report in outcome.reports) <= _MOST_INDENTED else None
        sink.write(json.dumps(outcome.to_json(), indent=indent).encode() + b"\n")
        sink.commit()
