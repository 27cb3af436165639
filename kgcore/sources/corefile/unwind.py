# SPDX-License-Identifier: LGPL-2.1-or-later
"""Unwind the threads of a finished core with drgn.

No object of drgn leaves this module. It ignores what the core and its files say about other files of this machine: it
finds those only by build id, among the debug information of this machine or on the user's debuginfod servers.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from drgn import Module, ModuleFileStatus, Program, StackFrame

from kgcore.errors import KgcoreError
from kgcore.model.traces import Frame
from kgcore.sources.plugins import without_plugins

__all__ = ("MAX_FRAMES", "CoreThreads", "ProgramFile", "Unwound")

_WORD = 8
MAX_FRAMES = 1024
"""drgn's limit of frames. Inlined functions come on top."""


class ProgramFile(NamedTuple):
    """A mapped program or library, as far as the dump holds it.

    :ivar start: address of its first mapping.
    :ivar end: the address after its last mapping.
    :ivar path: of its copy.
    :ivar build_id: as hexadecimal digits; None if it has none or that is missing.
    :ivar whole: nothing is missing.
    """

    start: int
    end: int
    path: str
    build_id: str | None
    whole: bool


class Unwound(NamedTuple):
    """The result of unwinding a thread.

    :ivar frames: without the mappings' names.
    :ivar pointers: the stack pointer of each frame; None: unknown.
    :ivar guesses: indexes of frames that drgn may have found only by the frame pointer, without unwind information for
        the frame before; in code without frame pointers that skips calls.
    :ivar slot: the address at which the unwinder found no return address; None: it had no address.
    :ivar failure: drgn's message, if it gave up.
    """

    frames: tuple[Frame, ...]
    pointers: tuple[int | None, ...]
    guesses: frozenset[int]
    slot: int | None
    failure: str = ""


class CoreThreads:
    """The threads of a core.

    :param descriptor: of the core; it stays open as long as this is used.
    :param files: the programs and libraries of the process.
    :raises KgcoreError: drgn cannot read it.
    """

    def __init__(self, descriptor: int, files: Sequence[ProgramFile]) -> None:
        self._prog = Program()
        try:
            with without_plugins():
                self._prog.set_core_dump(os.dup(descriptor))  # drgn closes what it is given, whenever that may be
            self._load(files)
        except Exception as error:  # drgn raises what elfutils said as Exception, ValueError and others
            raise KgcoreError(f"drgn cannot read the process's core: {error}") from error

    def _load(self, files: Sequence[ProgramFile]) -> None:
        prog, options = self._prog, self._prog.debug_info_options
        options.try_module_name = options.try_debug_link = options.try_procfs = False
        # What has holes is taken only where nothing better is found.
        prog.register_debug_info_finder("kgcore-whole", self._finder(files, True), enable_index=0)
        prog.register_debug_info_finder("kgcore-partial", self._finder(files, False), enable_index=-1)
        # drgn finds libraries by the dynamic linker's list, which lies in the heap, and need not be in the core.
        prog.create_loaded_modules()
        for file in files:
            if self._module(file.start) is None:
                module = prog.extra_module(file.path, file.start, create=True)
                module = module[0] if isinstance(module, tuple) else module
                module.address_range = file.start, file.end
                module.build_id = None if file.build_id is None else bytes.fromhex(file.build_id)
        prog.load_module_debug_info(*prog.modules())

    def _finder(self, files: Sequence[ProgramFile], whole: bool) -> Callable[[Iterable[Module]], None]:
        """Give drgn the complete files, or the incomplete ones."""
        given = {file.start: file for file in files if file.whole == whole}

        def find(modules: Iterable[Module]) -> None:
            for module in modules:
                if not (module.address_range and (module.wants_loaded_file() or module.wants_debug_file())):
                    continue
                file = given.get(module.address_range[0])
                if file is None:
                    continue
                had = module.debug_file_status
                # That it is the file drgn sees by the sections, whose headers may be missing.
                same = file.build_id is not None and file.build_id == _build_id(module)
                module.try_file(file.path, force=not whole and same)
                # The further file that its debug information is in would be looked for under a name of its choice.
                if ModuleFileStatus.WANT_SUPPLEMENTARY == module.debug_file_status != had:
                    module.debug_file_status = ModuleFileStatus.WANT

        return find

    def unwound(self, tid: int) -> Unwound:
        """Unwind the stack of a thread.

        :param tid: as its note in the core has it.
        """
        frames: list[Frame] = []
        pointers: list[int | None] = []
        guesses: set[int] = set()
        slot, failure = None, ""
        bp: int | None = None
        try:
            for frame in self._prog.thread(tid).stack_trace():
                ip, sp = _register(frame, "rip"), _register(frame, "rsp")
                if ip is None:
                    slot = None if sp is None else sp - _WORD
                    break
                if sp is not None and bp is not None and sp == bp + 2 * _WORD:
                    guesses.add(len(frames))
                frames.append(self._frame(frame, ip))
                pointers.append(sp)
                bp = _register(frame, "rbp")
        except Exception as error:  # noqa: BLE001  (what drgn makes of damaged unwind information is not foreseeable)
            failure = str(error) or type(error).__name__
        return Unwound(tuple(frames), tuple(pointers), frozenset(guesses), slot, failure)

    def has_file(self, ip: int) -> bool:
        """Say whether drgn uses the file at an address: it rejects files that lack too much."""
        module = self._module(ip)
        return module is not None and module.loaded_file_status == ModuleFileStatus.HAVE

    def _frame(self, frame: StackFrame, ip: int) -> Frame:
        function, offset, source = frame.function_name, None, None
        with contextlib.suppress(LookupError):
            symbol = frame.symbol()
            function = function or symbol.name
            offset = None if frame.is_inline else ip - symbol.address
        with contextlib.suppress(LookupError):
            place = frame.source()
            source = (place.filename, place.line) if place.filename else None
        module = self._module(ip)
        start = module.address_range[0] if module is not None and module.address_range else None
        return Frame(
            ip,
            function=function,
            offset=offset,
            source=source,
            module_offset=None if start is None else ip - start,
            build_id=None if module is None else _build_id(module),
            inline=frame.is_inline,
        )

    def _module(self, ip: int) -> Module | None:
        with contextlib.suppress(LookupError):
            return self._prog.module(ip)
        return None


def _build_id(module: Module) -> str | None:
    return None if module.build_id is None else module.build_id.hex()


def _register(frame: StackFrame, name: str) -> int | None:
    try:
        return int(frame.register(name))
    except LookupError:
        return None
