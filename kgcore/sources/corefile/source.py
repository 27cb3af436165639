# SPDX-License-Identifier: LGPL-2.1-or-later
"""A finished core, or one that comes as a stream, as :class:`kgcore.sources.base.Source` offers processes."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace

from kgcore.errors import BadTask, NoSuchTask, TargetError
from kgcore.model.lost import Lost
from kgcore.model.memory import Memory
from kgcore.model.process import OpenFile, ProcessImage, Vma
from kgcore.model.state import ProcessState
from kgcore.model.summary import ProcessSummary
from kgcore.sources.base import (
    Contents,
    CoreLayout,
    FileContents,
    HasMappedFiles,
    HasOpenFiles,
    HasState,
    IsCore,
    OpenFiles,
    Process,
    Source,
    TaskRef,
)
from kgcore.sources.corefile.asitis import layout_of
from kgcore.sources.corefile.head import Head, Load, read_head
from kgcore.sources.corefile.image import CoreReader
from kgcore.sources.corefile.inputs import Input, Stream
from kgcore.sources.corefile.memory import CoreMemory
from kgcore.sources.corefile.openfiles import contents_of, open_files
from kgcore.sources.corefile.programs import mapped_programs

__all__ = ("CoreSource",)

_STATES = "RSDTZ"
_AS_A_FILE = "give it as a file, and not compressed"


class CoreSource(Source):
    """The one process of a core.

    :param core: its bytes.
    :param name: of the core, for messages.
    :param root: directory with the programs and libraries that it was made of.
    :raises TargetError: it is no core of a process, or damaged.
    """

    def __init__(self, core: Input, name: str, root: str = "/") -> None:
        self._core = core
        self._root = root
        self._head: Head = read_head(core, name)
        self._reader = CoreReader(self._head, name, forward=core.forward)
        self._layout = layout_of(core, self._head, self._reader.own)
        if isinstance(core, Stream):
            core.go_on()
        self._image = self._reader.image()
        if core.forward and not _in_order(self._image.vmas, self._head.loads):
            raise TargetError(f"{name}: its memory is not in the order of addresses", hint=_AS_A_FILE)

    def describe(self) -> dict[str, str]:
        """See :meth:`kgcore.sources.base.Source.describe`. What kgcore made is described as what it was made of."""
        own = self._reader.own
        return {"format": "core"} if own is None else {**own.source}

    def processes(self) -> Iterator[ProcessSummary]:
        """See :meth:`kgcore.sources.base.Source.processes`."""
        image = self._image
        info = image.psinfo
        held = sum(load.filesz for load in self._head.loads)
        number = info.state.bit_length() - 1
        yield ProcessSummary(
            pid=image.tgid,
            ppid=info.ids.ppid,
            uid=info.uid,
            threads=len(image.threads),
            rss=held,
            state=("R" if number < 0 else _STATES[number] if number < len(_STATES) else "?"),
            comm=info.comm,
            args=None if info.psargs is None else info.psargs.replace(b" ", b"\0"),
            kernel_thread=False,
            task=0,
            size=sum(vma.end - vma.start for vma in image.vmas),
            core=held,
            held=held,
            dying=image.dying,
        )

    def process(self, ref: TaskRef | int | str) -> "CoreProcess":
        """See :meth:`kgcore.sources.base.Source.process`. The current one is the only one."""
        found, image = TaskRef.of(ref), self._image
        if found.is_current:
            return self._process(image)
        if found.pid is None:
            raise BadTask(f"{found.text} is an address: a core knows its threads by their ids")
        if found.pid != image.tgid and all(found.pid not in (one.tid, one.ids.pid) for one in image.threads):
            raise NoSuchTask(
                f"no thread has the id {found.text}: this is the core of process {image.tgid}",
                hint="leave it out: a core has one process",
            )
        first = [one for one in image.threads if found.pid in (one.tid, one.ids.pid)]
        others = [one for one in image.threads if one not in first[:1]]
        image = replace(image, threads=(*first[:1], *others))
        return self._process(image)

    def _process(self, image: ProcessImage) -> "CoreProcess":
        own = self._reader.own
        memory = CoreMemory(self._core, self._head.loads, () if own is None else own.missing, image.page_size)
        if own is None or own.state is None:
            return CoreProcess(image, memory, self._layout, self._root)
        return StatefulCoreProcess(image, memory, self._layout, self._root, own.state)


def _in_order(vmas: Sequence[Vma], loads: Sequence[Load]) -> bool:
    """Whether the core has one mapping behind the other, and each by address."""
    places = {vma.start: vma.place for vma in vmas}
    starts = sorted(places)

    def place(load: Load) -> tuple[int, int]:
        return places[starts[bisect_right(starts, load.start) - 1]], load.start

    end = 0
    for load in sorted((load for load in loads if load.filesz), key=place):
        if load.offset < end:
            return False
        end = load.offset + load.filesz
    return True


class CoreProcess(Process, HasMappedFiles, IsCore):
    """The process of a core."""

    def __init__(self, image: ProcessImage, memory: CoreMemory, layout: CoreLayout | None, root: str) -> None:
        self._root = root
        self._image = image
        self._memory = memory
        self._layout = layout

    @property
    def image(self) -> ProcessImage:
        """See :attr:`kgcore.sources.base.Process.image`."""
        return self._image

    @property
    def memory(self) -> Memory:
        """See :attr:`kgcore.sources.base.Process.memory`."""
        return self._memory

    def layout(self) -> CoreLayout | None:
        """See :meth:`kgcore.sources.base.IsCore.layout`."""
        return self._layout

    def files(self) -> Iterator[FileContents | Lost]:
        """See :meth:`kgcore.sources.base.HasMappedFiles.files`: those of this machine with the same build ids."""
        yield from mapped_programs(self._image, self._memory, self._root)


class StatefulCoreProcess(CoreProcess, HasState, HasOpenFiles):
    """The process of a core whose KGCORE note says what it had of its kernel."""

    def __init__(
        self, image: ProcessImage, memory: CoreMemory, layout: CoreLayout | None, root: str, state: ProcessState
    ) -> None:
        super().__init__(image, memory, layout, root)
        self._state = state

    def state(self) -> ProcessState:
        """See :meth:`kgcore.sources.base.HasState.state`."""
        return self._state

    def open_files(self) -> OpenFiles:
        """See :meth:`kgcore.sources.base.HasOpenFiles.open_files`."""
        return open_files(self._image.tgid, self._state)

    def contents(self, file: OpenFile) -> Contents:
        """See :meth:`kgcore.sources.base.HasOpenFiles.contents`."""
        return contents_of(file)
