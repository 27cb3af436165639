# SPDX-License-Identifier: LGPL-2.1-or-later
"""Turn a process of a source into a core, for the library, the command line and the drgn plugin.

::

    source -> image + memory -> filter -> plan -> writer -> sink
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self, get_args

from kgcore.coredump.fitting import beyond, fits
from kgcore.coredump.important import important
from kgcore.coredump.limits import Limits
from kgcore.coredump.loads import FileOrder
from kgcore.coredump.mappings import MissingPolicy
from kgcore.coredump.ownnotes import Note
from kgcore.coredump.passing import given_back
from kgcore.coredump.plan import CorePlan, make_plan
from kgcore.coredump.report import Report
from kgcore.coredump.writer import Progress, write_core
from kgcore.errors import KgcoreError, no_memory
from kgcore.filters.base import Filter
from kgcore.filters.coredump import CoredumpFilter, Dump
from kgcore.filters.held import HeldFilter
from kgcore.filters.ranges import KeptRange, only_ranges
from kgcore.filters.rules import Rule, RuledFilter, cut_at_rules, redactions
from kgcore.model.memory import Memory, Provenance, Run, Without, peek
from kgcore.model.process import DEFAULT_MASK, ProcessImage, Vma
from kgcore.sinks.base import Sink
from kgcore.sources.base import HasState, IsCore, Process, Source, StandsStill, TaskRef

__all__ = ("Options", "Prepared", "Profile", "dump", "prepare", "write")

Profile = Literal["full", "mini"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a core holds of a process.

    :ivar mask: sum of the ``coredump_filter`` bits; None: the process's own.
    :ivar dontdump: also MADV_DONTDUMP memory.
    :ivar dax: also DAX mappings, private and shared, for any ``mask``.
    :ivar missing: what to do with missing memory: omit it from the segments, or write zeros.
    :ivar vendor_note: write the KGCORE note.
    :ivar state: that note also says what the process had of its kernel: signal actions, timers, descriptors ...
    :ivar order: the order of the memory in the file, in case that ends early (see ``make_plan``).
    :ivar limit: what the KGCORE note says of the limits that the core is written under (see ``make_plan``).
    :ivar share_zeros: let long ranges of certain zeros share one range of the file (see ``make_plan``).
    :ivar rules: which memory to leave out, or to write as zeros, besides; the first that fits a mapping decides.
    :ivar profile: ``full``, or ``mini``: of all this only what debuggers need for backtraces.
    :ivar notes: further notes, behind the kernel's.
    """

    mask: int | None = DEFAULT_MASK
    dontdump: bool = False
    dax: bool = False
    missing: MissingPolicy = "omit"
    vendor_note: bool = True
    state: bool = True
    order: FileOrder = "address"
    limit: Mapping[str, object] | None = None
    share_zeros: bool = False
    rules: tuple[Rule, ...] = ()
    profile: Profile = "full"
    notes: tuple[Note, ...] = ()

    def __post_init__(self) -> None:
        """:raises ValueError: there is no such profile."""
        if self.profile not in get_args(Profile):
            raise ValueError(f"profile is {self.profile!r}: expected {' or '.join(map(repr, get_args(Profile)))}")


_AGAIN = 3  # a disk that fails more and more


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A process ready to write: nothing is on disk yet, and every size is known.

    It is a context manager, and :meth:`close` or the end of the ``with`` block lets the process go, after the last
    read. A process of a vmcore does not mind if it is left open.

    :ivar process: where its memory and its files come from.
    :ivar memory: its memory, without what the rules redact.
    :ivar plan: its core, except the memory.
    :ivar plan_again: makes the plan for different memory, and for what the note says of limits.
    """

    process: Process
    memory: Memory
    plan: CorePlan
    plan_again: Callable[[Memory, Mapping[str, object] | None], CorePlan]

    @property
    def image(self) -> ProcessImage:
        """The process as plain values, with all warnings that planning brought."""
        return self.plan.image

    def close(self) -> None:
        """Let the process go: it cannot be written any more."""
        self.process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prepare(source: Source, ref: TaskRef | int | str, options: Options | None = None) -> Prepared:
    """Find a process and plan its core, without writing anything.

    Use it in a ``with`` block: ``with prepare(source, 118) as prepared: write(prepared, FileSink("core"))``. Without
    one, a process of a vmcore is just as well; one that lives is held until it is closed.

    :param source: the source of processes, for example from :func:`kgcore.open_vmcore`.
    :param ref: the process: id of any of its threads in the initial pid namespace, or address of its
        ``struct task_struct``, as a number or as text; or a :class:`kgcore.TaskRef`.
    :param options: what to write of it; None: what ``kgcore`` writes without options.
    :return: the process, its memory, and a plan with the exact size of the core in bytes.
    :raises KgcoreError: the process does not exist, or has no memory.
    :raises TypeError, ValueError: ``ref`` does not name a process.
    """
    ref = TaskRef.of(ref)
    options = options or Options()
    options = replace(options, notes=tuple(note.now() for note in options.notes))  # before anything stands still
    with _enough_memory():
        process = source.process(ref)
        try:
            return _prepare(source, process, options)
        except BaseException:
            process.close()
            raise


def _nothing(vma: Vma, address: int, size: int) -> bytes | None:
    """Memory of which a filter knows nothing yet: it keeps more rather than less."""
    return None


def _prepare(source: Source, process: Process, options: Options) -> Prepared:
    image = process.image
    choose = _filter_of(image, options)
    state = process.state() if options.vendor_note and options.state and isinstance(process, HasState) else None
    redacted: tuple[Run, ...] = ()
    if options.rules:
        _check_names(image, options.rules)
        # What the user does not want others to see may be in a pipe as well, and no rule can name that.
        state = state and state.without_contents("rules say which memory the core has, and a pipe has no name")
        image = cut_at_rules(image, options.rules)
        choose = ruled = RuledFilter(choose, options.rules, image)
        redacted = tuple(redactions(ruled))

    def reading() -> Memory:
        return Without(process.memory, redacted) if options.rules else process.memory

    if options.profile == "mini":
        first = reading()
        if first.forward:
            raise KgcoreError(
                "--profile mini looks into memory before it writes, and this core can be read but once",
                hint="give the core as a file, and not compressed",
                pid=image.tgid,
            )
        image, choose = only_ranges(image, choose, partial(peek, first), _kept_ranges(image, first), "mini")
    if isinstance(process, StandsStill):
        process.capture([(vma, choose(vma, _nothing).length) for vma in image.vmas])
    memory = reading()

    def plan_of(memory: Memory, limit: Mapping[str, object] | None) -> CorePlan:
        plan = make_plan(
            image,
            choose,
            memory,
            missing=options.missing,
            source=source.describe(),
            note=options.vendor_note,
            remarks_of=process.remarks,
            order=options.order,
            share_zeros=options.share_zeros,
            state=state,
            limit=limit,
            notes=options.notes,
        )
        layout = process.layout() if isinstance(process, IsCore) and limit is None and not options.notes else None
        given = layout and given_back(plan, layout, note=options.vendor_note, state=options.state)
        return given or plan

    return Prepared(process=process, memory=memory, plan=plan_of(memory, options.limit), plan_again=plan_of)


def _check_names(image: ProcessImage, rules: Sequence[Rule]) -> None:
    """
    :raises KgcoreError: a rule is about names that are not known: it would fit nothing, without a word.
    """
    if image.named:
        return
    for rule in rules:
        if rule.may_name_memory:
            raise KgcoreError(
                f"--{rule.action} {rule.text}: the source does not say what the process calls its memory",
                hint="kgcore map shows what there is: name a file (file:GLOB), or addresses (addr:START-END)",
                pid=image.tgid,
            )


def _filter_of(image: ProcessImage, options: Options) -> Filter:
    mask = image.dump_filter if options.mask is None else options.mask
    if mask is None:
        return HeldFilter()
    if options.dax:
        mask |= Dump.DAX_PRIVATE | Dump.DAX_SHARED
    return CoredumpFilter(
        int(mask),
        options.dontdump,
        page_size=image.page_size,
        header_by_mode=image.dialect.header_by_mode,
        header_by_magic=image.dialect.header_by_magic,
    )


def _kept_ranges(image: ProcessImage, memory: Memory) -> Callable[[int, int], Sequence[KeptRange]]:
    ranges = important(image, memory, pointers=True)

    def within(start: int, end: int) -> Sequence[KeptRange]:
        return [KeptRange(low, high, group.why) for low, high, group in ranges.within(start, end)]

    return within


def write(
    prepared: Prepared, sink: Sink, progress: Progress | None = None, *, jobs: int = 1, limits: Limits | None = None
) -> Report:
    """Write a core and commit it; on an error, remove the output.

    :param prepared: from :func:`prepare`.
    :param sink: the output; each takes one core.
    :param progress: called at intervals with the bytes of memory written so far, and in all.
    :param jobs: how many worker processes to fork at most; fewer for little work, one if forking is not safe.
    :param limits: bytes and seconds that it may take; the file ends where a limit is reached. None: no limits.
    :return: what the core holds, and what is missing and why.
    :raises KgcoreError: OutputError if the sink fails, LimitReached if a limit forbids even the notes.
    """
    limits = limits or Limits()
    with _enough_memory(), sink:
        plan, memory = _fitted(prepared, sink, limits)
        report = write_core(plan, memory, sink, progress, jobs=jobs, limits=limits)
        for _ in range(_AGAIN):
            # Bytes that the plan promised cannot be read, and zeros stand for them, or a compressor made more of them
            # than there was room for. Now that it is known, the plan need not promise them.
            lost = _lost(plan, report, limits)
            used = sink.used
            if not lost or limits.late or memory.forward or not sink.restart():
                break
            limits.use(sink.used - used)
            memory = Without(memory, lost)
            plan = prepared.plan_again(memory, plan.limit)
            report = write_core(plan, memory, sink, progress, jobs=jobs, limits=limits)
        sink.commit()
    if isinstance(prepared.process, StandsStill):
        report = replace(report, freeze=prepared.process.freeze())
    return report


def _fitted(prepared: Prepared, sink: Sink, limits: Limits) -> tuple[CorePlan, Memory]:
    """Leave out what the limit of size certainly forbids, and let the note say what the limits are."""
    plan, memory = prepared.plan, prepared.memory
    if limits.any and plan.limit is None and not (fits(plan, sink, limits) and limits.timeless):
        plan = prepared.plan_again(memory, limits.describe())
    if cut := beyond(plan, memory, sink, limits):
        memory = Without(memory, cut)
        plan = prepared.plan_again(memory, plan.limit)
    return plan, memory


def _lost(plan: CorePlan, report: Report, limits: Limits) -> list[Run]:
    """What a core shows zeros for, or ends before, that could be left out of it; by address."""
    short = report.size < plan.size
    if short and (limits.rule == "truncate" or limits.late):
        return []
    gaps = [gap for gap in report.missing if gap.late or (short and gap.reason == Provenance.LIMIT.value)]
    return sorted(Run(gap.start, gap.end - gap.start, Provenance(gap.reason), gap.detail) for gap in gaps)


@contextmanager
def _enough_memory() -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise no_memory() from error


def dump(
    source: Source,
    ref: TaskRef | int | str,
    sink: Callable[[ProcessImage], Sink],
    options: Options | None = None,
    progress: Progress | None = None,
) -> Report:
    """Prepare and write a core.

    :param sink: makes the sink when the process is known (``lambda image: FileSink(f"core.{image.tgid}")``).
    :raises KgcoreError: see :func:`prepare` and :func:`write`.
    """
    with prepare(source, ref, options) as prepared:
        return write(prepared, sink(prepared.image), progress)
