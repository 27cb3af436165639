# SPDX-License-Identifier: LGPL-2.1-or-later
"""Opening a vmcore: everything between a file name and a :class:`drgn.Program` whose types and symbols work."""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import Literal, Self
from weakref import finalize

from drgn import Architecture, ModuleFileStatus, Program, ProgramFlags

from kgcore.arch.x86.kernels import I386_KERNEL, X86_64_KERNEL
from kgcore.errors import BrokenDump, TargetError
from kgcore.sources.drgnversion import version
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.damage import guarded
from kgcore.sources.vmcore.dumpfile import DumpFile, DumpNote, Frames, FrameState, KdumpDump, everything, open_dump
from kgcore.sources.vmcore.dumpfile.pagesize import usual_page_shift
from kgcore.sources.vmcore.opening import drgnmemory, program, whichkernel
from kgcore.sources.vmcore.opening.lowmem import LowMemory
from kgcore.sources.vmcore.opening.qemu import PausedGuest
from kgcore.sources.vmcore.opening.translation import KernelMemory, is_encrypted
from kgcore.sources.vmcore.opening.whichkernel import KernelSeen
from kgcore.sources.vmcore.symbols import finders as symbols
from kgcore.sources.vmcore.symbols import systemmap, vmcoreinfo
from kgcore.sources.vmcore.symbols.debugfiles import given_name
from kgcore.sources.vmcore.symbols.debuginfo import debug_package
from kgcore.text import human_size

__all__ = ("Target", "add_types", "from_program", "open_target")

_CAPTURE_KERNEL = "the kernel in it is a capture kernel, booted to save a dump; the one that crashed was not found"
_KEY = "kgcore_target"
_Open = Callable[[bytes | None], Program]  # with VMCOREINFO to use instead of what there is
_ARCHES_32 = frozenset({Architecture.I386})


class Target:
    """An opened kernel.

    :ivar dump: the file's own tables; None for a running kernel, and where there is no file.
    :ivar prog: types, objects, symbols and drgn's Linux helpers work on it.
    :ivar architecture: of the kernel.
    :ivar frames: which page frames the file holds.
    :ivar page_shift: a page has ``1 << page_shift`` bytes, and ``page_size`` is that.
    :ivar notes: of the dump file, in its order.
    :ivar vmcoreinfo: the kernel's VMCOREINFO.
    :ivar assembled: drgn does not read the file, but asks us.
    :ivar live: it is a running kernel, or a guest that was running a moment ago.
    :ivar messages: what the user should know of the dump before trusting what comes out of it.
    :ivar ours: the Program is; else nothing may be loaded into it.
    :ivar kernels: that are in the dump's memory, if it was searched for them.
    :ivar debug_files: what the user named as files with debug information; drgn may have left some of them aside.
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
        self.assembled = drgnmemory.reader_of(prog) is not None or LowMemory.of(prog) is not None
        self.ours = True
        self._kept = False
        self.live = program.is_live(prog) or isinstance(dump, PausedGuest)
        self.frames: Frames = dump.frames if dump else everything()
        self.notes: tuple[DumpNote, ...] = dump.notes if dump else ()
        self.vmcoreinfo = _vmcoreinfo_of(prog)
        self.release = self.vmcoreinfo.get("OSRELEASE", "")
        told = vmcoreinfo.number(self.vmcoreinfo, "PAGESIZE")
        self.page_shift = dump.page_shift if dump else usual_page_shift(program.machine_of(prog), told)
        self.page_size = 1 << self.page_shift
        if told not in (None, self.page_size):
            self.messages += (
                f"VMCOREINFO says PAGESIZE={told}, which its machine does not have: kgcore reads pages of "
                f"{self.page_size} bytes",
            )
        low = LowMemory.of(prog)
        self.architecture = X86_64_KERNEL if low is None else I386_KERNEL
        self._phys: Callable[[int, int], bytes] = partial(prog.read, physical=True) if low is None else low.physical
        # Probes are asked again and again; caches of this object's own, so that they go when it goes.
        self.symbol_address: Callable[[str], int | None] = cache(self._symbol_address)
        self.has_type: Callable[[str], bool] = cache(self._has_type)
        self.has_member: Callable[[str, str], bool] = cache(self._has_member)
        self.constant: Callable[[str], int | None] = cache(self._constant)

    def phys(self, address: int, size: int) -> bytes:
        """Physical memory.

        Of frames that are not STORED drgn itself gives zeros, if it reads an ELF dump: ask :attr:`frames` first.

        :raises drgn.FaultError: it is not in the dump.
        """
        return self._phys(address, size)

    def _symbol_address(self, name: str) -> int | None:
        """The address of a kernel symbol, None if there is none."""
        try:
            address: int = self.prog.symbol(name).address
        except LookupError:
            return None
        return address

    def _has_type(self, name: str) -> bool:
        """Whether the kernel has a type (``struct folio``)."""
        try:
            self.prog.type(name)
        except LookupError:
            return False
        return True

    def _has_member(self, type_name: str, member: str) -> bool:
        """Whether there is that structure or union, and it has that member, perhaps in an unnamed one."""
        try:
            has: bool = self.prog.type(type_name).has_member(member)
        except (LookupError, TypeError):
            return False
        return has

    def _constant(self, name: str) -> int | None:
        """The value of an enumerator, or of ``NUMBER(name)`` in VMCOREINFO; None if there is neither."""
        try:
            return int(self.prog.constant(name).value_())
        except LookupError:
            return vmcoreinfo.number(self.vmcoreinfo, f"NUMBER({name})")

    @property
    def types(self) -> str:
        """Where types and symbols came from, in words."""
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
        """What this is, in words; the same wherever the file lies and wherever types and symbols came from."""
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
        """Let go of the file. drgn closes its own when the Program is no longer referred to."""
        if self.dump and not self._kept:
            self.dump.close()

    def keep(self) -> None:
        """Let go of the file only when nobody refers to this any more."""
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

    :raises TargetError: it cannot be opened, or its kernel not be understood; the hint says what to try.
    """
    return _opened(options, _given(options))


def _given(options: DumpLocation) -> bytes | int | None:
    """What stands behind --vmcoreinfo: the text of a file, or an address."""
    if options.vmcoreinfo is None:
        return None
    if not re.fullmatch("0x[0-9a-fA-F]{1,16}", options.vmcoreinfo):
        return program.read_vmcoreinfo_file(options.vmcoreinfo)
    if options.core is None:
        raise TargetError("--vmcoreinfo ADDRESS is for dumps", hint="of a running machine, give a file")
    return int(options.vmcoreinfo, 16)


def _opened(
    options: DumpLocation, text: bytes | int | None, dump: DumpFile | None = None, through: Program | None = None
) -> Target:
    """
    :param text: VMCOREINFO to use instead of the dump's, or, of a dump, its physical address.
    :param dump: if it is open already.
    :param through: read what this can read, which is not touched.
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
            open_: _Open = partial(_program, options, dump)
            if through is not None:
                open_ = partial(program.open_through, through)
            return _with_symbols(open_, open_(text), dump, options)
    except BaseException as error:
        if dump is not None:
            dump.close()
        if isinstance(error, TargetError) and (messages := _messages(dump)):  # they are the likelier reason
            raise TargetError("; ".join((*messages, error.message)), hint=error.hint) from error
        raise


def _of_dump(options: DumpLocation, path: str, dump: DumpFile, given: bytes | int | None) -> Target:
    program.refuse_others(path, dump, options.architecture)
    open_ = partial(program.open_core, path, dump, architecture=options.architecture)
    choice = whichkernel.choose(path, dump, open_, given)
    own = given is None and not choice.kernels  # the header's, and memory was not searched
    try:
        target = _with_symbols(open_, open_(choice.text), dump, options)
    except TargetError as error:
        lost = not whichkernel.has_symbols(open_, choice.text)
        better = whichkernel.search_again(dump, open_, choice.text, "is damaged") if own and lost else None
        if better is None:
            raise _explained(error, choice, lost=lost) from error
        choice = better
        target = _with_symbols(open_, open_(choice.text), dump, options)
    if given is None and whichkernel.is_capture_kernel(target.prog):
        better = whichkernel.search_again(dump, open_, choice.text, "is the capture kernel's") if own else None
        if better is not None:
            target = _with_symbols(open_, open_(better.text), dump, options)
        choice = better or choice._replace(messages=(*choice.messages, _CAPTURE_KERNEL))
    target.kernels = choice.kernels
    target.messages = (*choice.messages, *target.messages)
    return target


def _explained(error: TargetError, choice: whichkernel.Choice, *, lost: bool) -> TargetError:
    """What a dump lacks by whose VMCOREINFO no kernel could be read.

    :param lost: not even its symbol table.
    """
    if choice.lost is None:
        ours = "give --vmcoreinfo FILE, if the dump's own is wrong"
        hint = error.hint if not lost else f"{error.hint}; or {ours}" if error.hint else ours
        return TargetError(error.message, hint=hint)
    if choice.lost is not FrameState.EXCLUDED:  # then no file of symbols helps
        hint = "look for a copy that is whole, or give --vmcoreinfo FILE if the dump's own is wrong"
        return TargetError(f"the kernel's own data are not in the dump: {error.message}", hint=hint)
    why = "it leads to memory that was left out, which a kernel's own data are not"
    return TargetError(f"the VMCOREINFO is wrong, it seems: {why}", hint="give the right one with --vmcoreinfo FILE")


@guarded("the dump cannot be used")
def from_program(prog: Program) -> Target:
    """A Program that somebody else opened, with the debug information they loaded, if they did.

    It stays as it is: where it has no types, or drgn cannot read its memory, the target has a Program of its own.

    :raises TargetError: it is not a Linux kernel, or its types are not to be had.
    """
    _require_kernel(prog)
    path = _path_of(prog)
    if prog.platform is not None and prog.platform.arch in _ARCHES_32:
        return _opened_anew(prog, path)
    dump: DumpFile | None = None
    unknown: tuple[str, ...] = ()
    if path:
        try:
            dump = open_dump(path)
        except TargetError as error:  # though drgn could open it
            unknown = (f"what the dump holds cannot be told: {error.message}; memory left out may look like zeros",)
    if dump and path and (is_encrypted(prog, dump.frames) or whichkernel.is_wrong(dump, _text_of(prog))):
        dump.close()
        return _opened_anew(prog, path)
    if _has_types(prog):
        target = Target(prog, dump, _types_of(prog), (*unknown, *_messages(dump)))
        target.ours = False
        return target
    return _own(prog, path, dump, unknown)


def _own(prog: Program, path: str | None, dump: DumpFile | None, messages: tuple[str, ...] = ()) -> Target:
    """The same kernel with the types and symbols that it has itself. It takes half a second, and is kept for the next
    time, as long as there is that Program.

    :param path: of the dump.
    :param dump: it, if it can be opened anew; else what that Program can read is read.
    """
    known: Target | None = prog.cache.get(_KEY)
    if known is not None:
        if dump is not None:
            dump.close()
        return known
    text: bytes | None = prog["VMCOREINFO"].string_()
    if dump is not None:
        if text == whichkernel.own_vmcoreinfo(dump):  # then whether that is right is looked into
            text = None
        target = _opened(DumpLocation(core=path, symbols_from="btf"), text, dump)
    else:
        target = _opened(DumpLocation(symbols_from="btf"), text, through=prog)
    target.messages = (*messages, *target.messages)
    if dump is not None:  # else it would refer to that Program, and keep it for ever; and what runs changes
        target.keep()
        prog.cache[_KEY] = target
    return target


@guarded("the dump cannot be used")
def add_types(prog: Program) -> None:
    """Register finders for the kernel's own types and symbols with somebody's Program, behind all that it has.

    :raises TargetError: it is not a Linux kernel, drgn cannot read its memory, or it has no types of its own.
    """
    _require_kernel(prog)
    if symbols.has_btf(prog):
        return
    if prog.platform is not None and prog.platform.arch in _ARCHES_32:
        raise TargetError("drgn does not read the memory of 32-bit kernels", hint="gcore() and the command kgcore do")
    path = _path_of(prog)
    dump = None
    if path is not None:
        with suppress(TargetError):
            dump = open_dump(path)
    own = symbols.OwnSymbols.of(_own(prog, path, dump).prog)
    assert own is not None
    own.give(prog, first=False)


def _require_kernel(prog: Program) -> None:
    if ProgramFlags.IS_LINUX_KERNEL not in prog.flags:
        raise TargetError("the program is not a Linux kernel", hint="open a vmcore or the running kernel in drgn")
    if not hasattr(prog, "core_dump_path"):
        raise TargetError(
            f"drgn {version()} does not tell which file a program came from",
            hint="it takes drgn 0.0.33 or later; the command kgcore and kgcore.open_vmcore() work with this one",
        )


def _path_of(prog: Program) -> str | None:
    """Of the dump file."""
    path: str | None = None if ProgramFlags.IS_LIVE in prog.flags else prog.core_dump_path
    return _still_there(path) if path else None


def _types_of(prog: Program) -> Literal["dwarf", "btf"]:
    """Where a Program has its types from, if it has any; debug information goes before what load_types() added."""
    with suppress(LookupError):
        if prog.main_module().debug_file_status == ModuleFileStatus.HAVE:
            return "dwarf"
    return "btf" if symbols.has_btf(prog) else "dwarf"


def _opened_anew(prog: Program, path: str | None) -> Target:
    """drgn opens dumps of 32-bit kernels, encrypted ones, those with a wrong VMCOREINFO, and reads no kernel there. See
    :mod:`kgcore.sources.vmcore.opening.lowmem` and :mod:`kgcore.sources.vmcore.opening.translation`."""
    if not path:
        raise TargetError("running kernels are read of x86_64 only", hint="make a dump, and open that")
    files: tuple[str, ...] = ()
    with suppress(LookupError):
        file = prog.main_module().debug_file_path
        files = (file,) if file else ()
    return open_target(DumpLocation(core=_still_there(path), symbols=files))


def _still_there(path: str) -> str:
    """A name of the dump that drgn has opened, even if it was deleted since."""
    if not os.path.exists(path):
        for descriptor in os.listdir("/proc/self/fd"):
            link = f"/proc/self/fd/{descriptor}"
            with suppress(OSError):
                if os.readlink(link) == f"{os.path.abspath(path)} (deleted)":
                    return link
    return path


def _program(options: DumpLocation, dump: DumpFile | None, text: bytes | None) -> Program:
    """Of a running machine."""
    if isinstance(dump, PausedGuest):
        return program.open_qemu(dump, text, options.architecture)
    if options.live:
        return program.open_live(text)
    raise TargetError("there is nothing to open", hint="name a vmcore with -c")


def _with_symbols(open_: "_Open", prog: Program, dump: DumpFile | None, options: DumpLocation) -> Target:
    """DWARF if a file was named or one is found; else BTF."""
    info = _vmcoreinfo_of(prog)
    release = info.get("OSRELEASE", "")
    btf_files = [file for file in options.symbols if symbols.is_raw_btf(file)]
    maps = [file for file in options.symbols if systemmap.is_system_map(file)]
    dwarf_files = [file for file in options.symbols if file not in btf_files and file not in maps]
    if options.symbols_from == "dwarf" or (options.symbols_from == "auto" and not btf_files):
        directories = options.debug_directories, options.kernel_directories
        if symbols.load_dwarf(prog, release, dwarf_files, *directories):
            if moved := _moved(prog, info):
                line = f"KERNELOFFSET={moved:x}\n".encode()
                prog = open_(prog["VMCOREINFO"].string_() + line)
                symbols.load_dwarf(prog, release, dwarf_files, *directories)
            target = _finished(prog, dump, "dwarf")
            target.debug_files = tuple(dwarf_files)
            return target
        if options.symbols_from == "dwarf":
            raise TargetError(
                f"no debug information was found for kernel {release}",
                hint=f"install {debug_package(release)}, or name its vmlinux with -s",
            )
    try:
        lines = b"" if maps else symbols.kallsyms_lines(prog, info)
    except BrokenDump as error:
        hint = f"install {debug_package(release)} and give its vmlinux with -s"
        raise TargetError(error.message, hint=hint) from error
    if lines:  # drgn takes these from VMCOREINFO only, and VMCOREINFO only when it opens something
        prog = open_(prog["VMCOREINFO"].string_() + lines)
    named = systemmap.read_symbols(maps[0], vmcoreinfo.symbol(info, "_stext")) if maps else None
    symbols.load_btf(prog, release, btf_files[0] if btf_files else None, named)
    return _finished(prog, dump, "btf", btf_files[0] if btf_files else None, maps[0] if maps else None)


def _moved(prog: Program, info: Mapping[str, str]) -> int:
    """How far KASLR has moved a kernel that does not say so: VMCOREINFO of i386 has no KERNELOFFSET."""
    start = vmcoreinfo.symbol(info, "_stext")
    if LowMemory.of(prog) is None or "KERNELOFFSET" in info or start is None:
        return 0
    try:
        linked: int = prog.symbol("_stext").address
    except LookupError:
        return 0
    return start - linked


def _finished(
    prog: Program,
    dump: DumpFile | None,
    symbols_from: Literal["dwarf", "btf"],
    btf_file: str | None = None,
    map_file: str | None = None,
) -> Target:
    if memory := KernelMemory.of(prog):
        memory.add_direct_map()
    return Target(prog, dump, symbols_from, _messages(dump), btf_file, map_file)


def _has_types(prog: Program) -> bool:
    """Whether it has the kernel's types: a module's debug information alone is not enough."""
    try:
        return bool(prog["init_task"].type_.has_member("mm") and prog.symbol("init_task"))
    except (LookupError, TypeError):
        return False


def _vmcoreinfo_of(prog: Program) -> Mapping[str, str]:
    return vmcoreinfo.parse(_text_of(prog))


def _text_of(prog: Program) -> bytes:
    try:
        text: bytes = prog["VMCOREINFO"].string_()
    except LookupError:
        return b""
    return text


def _messages(dump: DumpFile | None) -> tuple[str, ...]:
    if dump is None:
        return ()
    if not dump.missing_bytes:
        return dump.notices
    cut = f"the dump is cut off: at least {human_size(dump.missing_bytes)} are missing at its end"
    if isinstance(dump, KdumpDump) and dump.cannot_read:
        cut += f" (more of what is there could be read, but {dump.cannot_read})"
    return (cut, *dump.notices)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep drgn's own warnings from the terminal; what matters of them is said in an error or a message.

    Where somebody has said what becomes of log messages (the command line with ``-v 2``, drgn itself), that counts.
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
