# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open a vmcore: from a file name to a :class:`drgn.Program` whose types and symbols work."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import Literal, Self
from weakref import finalize

from drgn import Program

from kgcore.errors import TargetError
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.damage import guarded
from kgcore.sources.vmcore.dumpfile import DumpFile, DumpNote, Frames, FrameState, KdumpDump, everything, open_dump
from kgcore.sources.vmcore.dumpfile.pagesize import usual_page_shift
from kgcore.sources.vmcore.opening import drgnmemory, program, whichkernel
from kgcore.sources.vmcore.opening.qemu import PausedGuest
from kgcore.sources.vmcore.opening.spaces import has_own_space, space_of
from kgcore.sources.vmcore.opening.whichkernel import KernelSeen
from kgcore.sources.vmcore.opening.withsymbols import ProgramOpener, vmcoreinfo_of, with_symbols
from kgcore.sources.vmcore.symbols import vmcoreinfo
from kgcore.sources.vmcore.symbols.debugfiles import given_name
from kgcore.text import human_size

__all__ = ("Target", "messages_of", "open_target", "opened")

_CAPTURE_KERNEL = "the kernel in it is a capture kernel, booted to save a dump; the one that crashed was not found"


class Target:
    """An opened kernel.

    :ivar dump: the dump file's tables; None for a running kernel, or if there is no file.
    :ivar prog: the drgn Program; types, objects, symbols and drgn's Linux helpers work on it.
    :ivar architecture: the kernel's.
    :ivar space: the kernel's memory.
    :ivar phys: reads physical memory by address and size, or raises FaultError.
    :ivar frames: which page frames the file holds.
    :ivar page_shift: a page has ``1 << page_shift`` bytes; ``page_size`` is that number.
    :ivar notes: the dump file's, in file order.
    :ivar vmcoreinfo: the kernel's VMCOREINFO.
    :ivar assembled: kgcore reads the file, and drgn reads memory through kgcore.
    :ivar live: a running kernel, or a guest that ran until kgcore paused it.
    :ivar messages: what the user should know about the dump before trusting its contents.
    :ivar ours: kgcore opened the Program; if not, nothing may be loaded into it.
    :ivar kernels: the kernels in the dump's memory, if kgcore searched it.
    :ivar debug_files: the files with debug information that the user named; drgn may have ignored some.
    """

    def __init__(
        self,
        prog: Program,
        dump: DumpFile | None,
        symbols_from: Literal["dwarf", "btf"],
        messages: tuple[str, ...] = (),
        btf_file: str | None = None,
        map_file: str | None = None,
    ) -> None:
        self.prog = prog
        self.dump = dump
        self.symbols_from = symbols_from
        self.messages = messages
        self._btf_file = btf_file
        self._map_file = map_file
        self.debug_files: tuple[str, ...] = ()
        self.kernels: tuple[KernelSeen, ...] = ()
        space = space_of(prog)
        self.space = space
        self.architecture = space.architecture
        self.assembled = drgnmemory.reader_of(prog) is not None or has_own_space(prog)
        self.ours = True
        self._kept = False
        self.live = program.is_live(prog) or isinstance(dump, PausedGuest)
        self.frames: Frames = dump.frames if dump else everything()
        self.notes: tuple[DumpNote, ...] = dump.notes if dump else ()
        self.vmcoreinfo = vmcoreinfo_of(prog)
        self.release = self.vmcoreinfo.get("OSRELEASE", "")
        told = vmcoreinfo.number(self.vmcoreinfo, "PAGESIZE")
        self.page_shift = dump.page_shift if dump else usual_page_shift(self.architecture.name, told)
        self.page_size = 1 << self.page_shift
        if told not in (None, self.page_size):
            self.messages += (
                f"VMCOREINFO says PAGESIZE={told}, which its machine does not have: kgcore reads pages of "
                f"{self.page_size} bytes",
            )
        # If drgn itself reads an ELF dump, it returns zeros for frames that are not STORED: check frames first.
        self.phys: Callable[[int, int], bytes] = space.physical
        # Probes are called very often. The caches belong to this object, so they are freed with it.
        self.symbol_address: Callable[[str], int | None] = cache(self._symbol_address)
        self.has_type: Callable[[str], bool] = cache(self._has_type)
        self.has_member: Callable[[str, str], bool] = cache(self._has_member)
        self.constant: Callable[[str], int | None] = cache(self._constant)

    def _symbol_address(self, name: str) -> int | None:
        """Return the address of a kernel symbol; None: unknown."""
        try:
            address: int = self.prog.symbol(name).address
        except LookupError:
            return None
        return address

    def _has_type(self, name: str) -> bool:
        """Tell whether the kernel has a type (``struct folio``)."""
        try:
            self.prog.type(name)
        except LookupError:
            return False
        return True

    def _has_member(self, type_name: str, member: str) -> bool:
        """Tell whether a structure or union exists and has a member, also in an unnamed structure or union of it."""
        try:
            has: bool = self.prog.type(type_name).has_member(member)
        except (LookupError, TypeError):
            return False
        return has

    def _constant(self, name: str) -> int | None:
        """Return the value of an enumerator, else of ``NUMBER(name)`` in VMCOREINFO; None if neither exists."""
        try:
            return int(self.prog.constant(name).value_())
        except LookupError:
            return vmcoreinfo.number(self.vmcoreinfo, f"NUMBER({name})")

    @property
    def types(self) -> str:
        """Where types and symbols come from, in words."""
        if self.symbols_from == "dwarf":
            with suppress(LookupError):
                path = self.prog.main_module().debug_file_path
                return f"DWARF in {path and given_name(self.prog, path)}"
            return "DWARF"
        if self._btf_file or self._map_file:
            btf = f"BTF in {self._btf_file}" if self._btf_file else "the kernel's own BTF"
            return f"{btf}, symbols from " + (self._map_file or "the kernel's kallsyms")
        return "the kernel's own BTF and kallsyms"

    def describe(self) -> dict[str, str]:
        """Describe the dump in words, independent of where the file is and where types and symbols come from."""
        words = {"kernel": self.release}
        dump = self.dump
        if dump is None:
            return {"format": "running kernel" if self.live else "unknown"} | words
        words["format"] = dump.format + (" (flattened)" if dump.flattened else "")
        words["compression"] = dump.compression
        if dump.dump_level is not None:
            words["dump_level"] = str(dump.dump_level)
        if dump.missing_bytes:
            words["cut_off_bytes"] = str(dump.missing_bytes)
        elif dump.incomplete:
            words["incomplete"] = "yes"
        return words

    def close(self) -> None:
        """Close the file, unless :meth:`keep` was called. drgn closes its own file when the Program is freed."""
        if self.dump and not self._kept:
            self.dump.close()

    def keep(self) -> None:
        """Close the file only when this object is freed."""
        self._kept = True
        if self.dump:
            finalize(self, self.dump.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@guarded("the dump cannot be opened")
def open_target(options: DumpLocation) -> Target:
    """Open a dump, the live kernel or a QEMU guest.

    :raises TargetError: it cannot be opened, or its kernel is not supported; the hint says what to try.
    """
    return opened(options, _given(options))


def _given(options: DumpLocation) -> bytes | int | None:
    """Return the argument of --vmcoreinfo: the text of a file, or an address; None if the option is missing."""
    if options.vmcoreinfo is None:
        return None
    if not re.fullmatch("0x[0-9a-fA-F]{1,16}", options.vmcoreinfo):
        return program.read_vmcoreinfo_file(options.vmcoreinfo)
    if options.core is None:
        raise TargetError("--vmcoreinfo ADDRESS works only with dumps", hint="for a running machine, give a file")
    return int(options.vmcoreinfo, 16)


def opened(
    options: DumpLocation, text: bytes | int | None, dump: DumpFile | None = None, through: Program | None = None
) -> Target:
    """Open what the options name.

    :param text: VMCOREINFO to use instead of the dump's own, or (only for a dump) the physical address of one.
    :param dump: the dump file, if it is already open.
    :param through: read memory through this Program, which stays unchanged.
    """
    if dump is not None:
        pass
    elif options.core is not None:
        dump = open_dump(options.core, *options.parts, architecture=options.architecture)
    elif options.qemu:
        dump = PausedGuest(options.qemu)
    try:
        with _quiet():
            if dump is not None and options.core is not None:
                return _of_dump(options, options.core, dump, text)
            assert not isinstance(text, int)
            open_: ProgramOpener = partial(_program, options, dump)
            if through is not None:
                open_ = partial(program.open_through, through)
            return _target(open_, open_(text), dump, options)
    except BaseException as error:
        if dump is not None:
            dump.close()
        if isinstance(error, TargetError) and (messages := messages_of(dump)):  # what they report is probably the cause
            raise TargetError("; ".join((*messages, error.message)), hint=error.hint) from error
        raise


def _of_dump(options: DumpLocation, path: str, dump: DumpFile, given: bytes | int | None) -> Target:
    program.refuse_others(path, dump, options.architecture)
    open_ = partial(program.open_core, path, dump, architecture=options.architecture)
    choice = whichkernel.choose(path, dump, open_, given)
    own = given is None and not choice.kernels  # it is from the header, and memory was not searched
    try:
        target = _target(open_, open_(choice.text), dump, options)
    except TargetError as error:
        lost = not whichkernel.has_symbols(open_, choice.text)
        better = whichkernel.search_again(dump, open_, choice.text, "is damaged") if own and lost else None
        if better is None:
            raise _explained(error, choice, lost=lost) from error
        choice = better
        target = _target(open_, open_(choice.text), dump, options)
    if given is None and whichkernel.is_capture_kernel(target.prog):
        better = whichkernel.search_again(dump, open_, choice.text, "belongs to the capture kernel") if own else None
        if better is not None:
            target = _target(open_, open_(better.text), dump, options)
        choice = better or choice._replace(messages=(*choice.messages, _CAPTURE_KERNEL))
    target.kernels = choice.kernels
    target.messages = (*choice.messages, *target.messages)
    return target


def _explained(error: TargetError, choice: whichkernel.Choice, *, lost: bool) -> TargetError:
    """Return a better error for a dump from whose VMCOREINFO kgcore could not read the kernel.

    :param lost: the kernel's symbol table could not be read either.
    """
    if choice.lost is None:
        ours = "give --vmcoreinfo FILE, if the dump's own is wrong"
        hint = error.hint if not lost else f"{error.hint}; or {ours}" if error.hint else ours
        return TargetError(error.message, hint=hint)
    if choice.lost is not FrameState.EXCLUDED:  # no file with symbols helps here
        hint = "look for a complete copy, or give --vmcoreinfo FILE if the dump's own is wrong"
        return TargetError(f"the kernel's own data are not in the dump: {error.message}", hint=hint)
    why = "it points to excluded memory, but dumps never exclude the kernel's own data"
    return TargetError(f"the VMCOREINFO seems to be wrong: {why}", hint="give the right one with --vmcoreinfo FILE")


def _program(options: DumpLocation, dump: DumpFile | None, text: bytes | None) -> Program:
    """Open a running guest or kernel.

    :raises TargetError: it cannot be opened, or the options name nothing to open.
    """
    if isinstance(dump, PausedGuest):
        return program.open_qemu(dump, text, options.architecture)
    if options.live:
        return program.open_live(text)
    raise TargetError("nothing to open", hint="name a vmcore with -c")


def _target(open_: ProgramOpener, prog: Program, dump: DumpFile | None, options: DumpLocation) -> Target:
    found = with_symbols(open_, prog, options)
    space_of(found.prog).symbols_known()
    target = Target(found.prog, dump, found.origin, messages_of(dump), found.btf_file, found.map_file)
    target.debug_files = found.debug_files
    return target


def messages_of(dump: DumpFile | None) -> tuple[str, ...]:
    """Return what the user should know about a dump file, as sentences."""
    if dump is None:
        return ()
    if not dump.missing_bytes:
        return dump.notices
    cut = f"the dump is cut off: it lacks at least {human_size(dump.missing_bytes)} at its end"
    if isinstance(dump, KdumpDump) and dump.cannot_read:
        cut += f" (more would be readable, but {dump.cannot_read})"
    return (cut, *dump.notices)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep drgn's warnings off the terminal; kgcore's errors and messages report what matters of them.

    Changes nothing if log handlers are already configured (by the command line with ``-v 2``, or by drgn itself).
    """
    logger = logging.getLogger("drgn")
    if logger.hasHandlers():
        yield
        return
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
