# SPDX-License-Identifier: LGPL-2.1-or-later
"""Put a :class:`kgcore.model.process.ProcessImage` together of the notes of a core."""

from collections.abc import Iterator, Mapping, Sequence

from kgcore.arch import SMALLEST_PAGE, Arch
from kgcore.arch.fromnotes import MappedRange, Status, files_of, pairs_of, psinfo_of, status_of
from kgcore.elf.layout import NT_AUXV, NT_FILE, NT_PRPSINFO, NT_PRSTATUS, NT_SIGINFO
from kgcore.errors import TargetError
from kgcore.model import siginfo
from kgcore.model.dying import Dying, Stage
from kgcore.model.process import (
    CoreDialect,
    FpuState,
    ProcessImage,
    PsInfo,
    RegisterNote,
    RegisterSet,
    RegisterSource,
    TaskIds,
    Thread,
)
from kgcore.sources.corefile.head import Head, RawNote
from kgcore.sources.corefile.mappings import Mapped, mappings_of
from kgcore.sources.corefile.ownnote import OWNER, OwnNote, read_own_note

__all__ = ("CoreReader",)

_CORE = b"CORE"
_LINUX = b"LINUX"
_OF_THE_PROCESS = frozenset((NT_PRPSINFO, NT_AUXV, NT_FILE, NT_SIGINFO))
_XSAVE_LAYOUT = 0x205
_AT_PAGESZ, _AT_RANDOM, _AT_SYSINFO_EHDR = 6, 25, 33
_LARGEST_PAGE = 1 << 16
_STAGES: Mapping[str, Stage] = {
    "dumping-core": "dumping-core",
    "exiting": "exiting",
    "pending": "pending",
    "core-written": "core-written",
}


class CoreReader:
    """Reads the notes of a core.

    :param name: of the core, for messages.
    :param forward: it can only be read in the order that it has.
    :raises TargetError: they are damaged.

    :ivar own: its KGCORE note; None: it has none that fits.
    """

    def __init__(self, head: Head, name: str, *, forward: bool) -> None:
        self._head = head
        self._forward = forward
        self.own: OwnNote | None = None
        self._warnings: list[str] = []
        try:
            self._read()
        except ValueError as error:
            raise TargetError(f"{name}: {error}", hint="is it a core, and whole?") from error

    def _read(self) -> None:
        arch, notes = self._head.arch, self._head.notes
        first: dict[int, bytes] = {}
        for note in notes:
            if note.owner == _CORE and note.type in _OF_THE_PROCESS:
                first.setdefault(note.type, note.desc)
        self._threads = list(_threads(arch, notes))
        desc = next((note.desc for note in notes if note.owner == OWNER), None)
        if desc is not None:
            try:
                self.own = read_own_note(desc, self._head.loads, len(self._threads))
            except ValueError as error:
                self._warnings.append(f"its KGCORE note was not used: {error}")
        self._auxv = pairs_of(arch, first.get(NT_AUXV, b""))
        self._psinfo = _psinfo(arch, first.get(NT_PRPSINFO), self._threads)
        rows: list[MappedRange] | None = None
        page = dict(self._auxv).get(_AT_PAGESZ, 0)
        if NT_FILE in first:
            page, rows = files_of(arch, first[NT_FILE])
        self.page_size = SMALLEST_PAGE
        if SMALLEST_PAGE <= page <= _LARGEST_PAGE and not page & page - 1:
            self.page_size = page
        self._mapped = Mapped(
            files=None if rows is None else sorted(rows),
            gate=arch.gate,
            vdso=dict(self._auxv).get(_AT_SYSINFO_EHDR, 0),
            page_size=self.page_size,
            as_kernels=self.own is None
            and rows is not None
            and NT_SIGINFO in first
            and all(load.filesz in (0, self.page_size, load.end - load.start) for load in self._head.loads),
        )
        self._siginfo = first.get(NT_SIGINFO, b"")

    def image(self) -> ProcessImage:
        """Return the process."""
        head, own = self._head, self.own
        auxv = dict(self._auxv)
        process = {} if own is None else own.process
        told = frozenset(f"thread {row.tid}: " for row in (own.threads if own is not None else ()))
        warnings = () if own is None else tuple(text for text in own.warnings if not text.startswith(tuple(told)))
        headers = None if own is None else own.headers
        threads = tuple(self._thread(number, *one) for number, one in enumerate(self._threads))
        return ProcessImage(
            tgid=self._psinfo.ids.pid if own is None else own.tgid,
            arch=head.arch.name,
            page_size=self.page_size,
            threads=threads,
            psinfo=self._psinfo,
            vmas=mappings_of(head.loads, own, self._mapped, forward=self._forward),
            auxv=self._auxv,
            dump_filter=None,
            dialect=CoreDialect(
                note_align=head.note_align,
                header_by_mode=headers is None or "mode" in headers,
                header_by_magic=headers is None or "magic" in headers,
            ),
            warnings=(*warnings, *self._warnings),
            kernel="" if own is None else own.kernel,
            start_brk=process.get("start_brk", 0),
            brk=process.get("brk", 0),
            # Random bytes for the program are at the upper end of the stack that it was started with.
            start_stack=process.get("start_stack", 0) or auxv.get(_AT_RANDOM, 0),
            dying=self._dying(threads),
            notes=tuple(note.raw for note in head.notes if note.owner != OWNER),
            named=own is not None and own.named,
        )

    def _thread(self, number: int, status: Status, regsets: Sequence[RegisterNote]) -> Thread:
        row = self.own.threads[number] if self.own is not None else None
        source, unknown = RegisterSource.CORE, frozenset[str]()
        if row is not None:
            known = {one.value: one for one in RegisterSource}
            source, unknown = known.get(row.registers, source), row.unknown & frozenset(self._head.arch.greg_names)
        stale = row is not None and row.fpu == "stale"
        return Thread(
            task=0,
            tid=status.ids.pid if row is None else row.tid,
            comm=self._psinfo.comm,
            state=0,
            flags=0,
            ids=status.ids,
            times=status.times,
            sigpend=status.sigpend,
            sighold=status.sighold,
            regs=RegisterSet(status.registers, source, unknown),
            fpu=FpuState(b"", stale=True) if stale else None,
            cpu=None if row is None else row.cpu,
            regsets=tuple(regsets),
        )

    def _dying(self, threads: Sequence[Thread]) -> Dying | None:
        """The signal that the core was written at."""
        info = siginfo.parse(self._siginfo, self._head.arch.word_size) if self._siginfo else None
        signal = info.signal if info is not None and info.signal > 0 else 0
        stage: Stage = "core-written"
        tid = threads[0].tid if threads else None
        if self.own is not None:
            if not isinstance(self.own.dying, dict):
                return None
            stage = _STAGES.get(str(self.own.dying.get("stage")), stage)
            found = self.own.dying.get("tid")
            tid = found if type(found) is int else None
        signal = signal or (self._threads[0][0].signal if self._threads else 0)
        if not 0 < signal <= siginfo.NSIG:
            return None
        return Dying(signal, stage, tid, info if info is not None and info.signal == signal else None)


def _threads(arch: Arch, notes: Sequence[RawNote]) -> Iterator[tuple[Status, list[RegisterNote]]]:
    """NT_PRSTATUS of each thread, and the register sets behind it."""
    status: Status | None = None
    regsets: list[RegisterNote] = []
    for note in notes:
        if note.owner == _CORE and note.type == NT_PRSTATUS:
            if status is not None:
                yield status, regsets
            status, regsets = status_of(arch, note.desc), []
        elif note.owner in (_CORE, _LINUX) and note.type not in (*_OF_THE_PROCESS, _XSAVE_LAYOUT):
            regsets.append(RegisterNote(note.type, note.owner, note.desc))
    if status is not None:
        yield status, regsets


def _psinfo(arch: Arch, desc: bytes | None, threads: Sequence[tuple[Status, list[RegisterNote]]]) -> PsInfo:
    """NT_PRPSINFO, or what is known without one."""
    if desc is not None:
        return psinfo_of(arch, desc)
    ids = threads[0][0].ids if threads else TaskIds(0, 0, 0, 0)
    return PsInfo(state=0, nice=0, flags=0, uid=0, gid=0, ids=ids, comm=b"", psargs=None)
