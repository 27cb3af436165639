# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types and symbols for a Program: from DWARF, if a file with it is named or found, else from the dump itself."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from drgn import Program, SymbolIndex

from kgcore.errors import BrokenDump, TargetError
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.opening.spaces import space_of
from kgcore.sources.vmcore.symbols import finders as symbols
from kgcore.sources.vmcore.symbols import systemmap, vmcoreinfo
from kgcore.sources.vmcore.symbols.btffile import is_btf
from kgcore.sources.vmcore.symbols.debuginfo import SYSTEM_MAP, debug_package
from kgcore.sources.vmcore.symbols.proof import map_contradicts

__all__ = ("ProgramOpener", "WithSymbols", "text_of", "vmcoreinfo_of", "with_symbols")

ProgramOpener = Callable[[bytes | None], Program]
"""Opens the same memory again; the argument is VMCOREINFO to use instead of the dump's own."""


class WithSymbols(NamedTuple):
    """A Program whose types and symbols work.

    :ivar origin: where they come from: DWARF, or BTF and a list of symbols.
    :ivar btf_file: the file with the BTF; None: the dump's own BTF is used.
    :ivar map_file: System.map; None: symbols come from the dump's kallsyms.
    :ivar debug_files: files with DWARF that the user named.
    """

    prog: Program
    origin: Literal["dwarf", "btf"]
    btf_file: str | None = None
    map_file: str | None = None
    debug_files: tuple[str, ...] = ()


class _Files(NamedTuple):
    """The files that the user named with ``-s``, by kind."""

    btf: tuple[str, ...]
    maps: tuple[str, ...]
    dwarf: tuple[str, ...]


def with_symbols(open_: ProgramOpener, prog: Program, options: DumpLocation) -> WithSymbols:
    """Give a Program types and symbols.

    :param open_: opens the memory again: drgn takes some symbols only from VMCOREINFO, and reads that only on opening.
    :raises TargetError: no types or symbols were found; the hint says what to install.
    """
    files = _by_kind(options.symbols)
    if options.symbols_from == "dwarf" or (options.symbols_from == "auto" and not files.btf):
        found = _with_dwarf(open_, prog, files.dwarf, options)
        if found is not None:
            return found
        if options.symbols_from == "dwarf":
            release = vmcoreinfo_of(prog).get("OSRELEASE", "")
            raise TargetError(
                f"found no debug information for kernel {release}",
                hint=f"install {debug_package(release)}, or name its vmlinux with -s",
            )
    return _with_btf(open_, prog, files)


def _by_kind(names: tuple[str, ...]) -> _Files:
    btf = tuple(name for name in names if is_btf(name))
    maps = tuple(name for name in names if systemmap.is_system_map(name))
    return _Files(btf, maps, tuple(name for name in names if name not in btf and name not in maps))


def _with_dwarf(
    open_: ProgramOpener, prog: Program, files: tuple[str, ...], options: DumpLocation
) -> WithSymbols | None:
    """Load DWARF into a Program, opened again if KASLR moved the kernel; None: no DWARF was found."""
    info = vmcoreinfo_of(prog)
    release, directories = info.get("OSRELEASE", ""), (options.debug_directories, options.kernel_directories)
    if not symbols.load_dwarf(prog, release, files, *directories):
        return None
    if moved := space_of(prog).moved(info):
        prog = open_(text_of(prog) + f"KERNELOFFSET={moved:x}\n".encode())
        symbols.load_dwarf(prog, release, files, *directories)
    return WithSymbols(prog, "dwarf", debug_files=files)


def _with_btf(open_: ProgramOpener, prog: Program, files: _Files) -> WithSymbols:
    info = vmcoreinfo_of(prog)
    release = info.get("OSRELEASE", "")
    try:
        lines = b"" if files.maps else symbols.kallsyms_lines(prog, info)
    except BrokenDump as error:
        hint = f"install {debug_package(release)} and give its vmlinux with -s, or {SYSTEM_MAP}"
        raise TargetError(error.message, hint=hint) from error
    if lines:
        prog = open_(text_of(prog) + lines)
    btf, map_ = next(iter(files.btf), None), next(iter(files.maps), None)
    named = _symbols_of(prog, map_, info) if map_ else None
    symbols.load_btf(prog, release, btf, named)
    return WithSymbols(prog, "btf", btf, map_)


def _symbols_of(prog: Program, file: str, info: Mapping[str, str]) -> SymbolIndex:
    """Return the symbols of a System.map.

    :raises TargetError: it cannot be read, or is another kernel's.
    """
    found = systemmap.read_symbols(file, vmcoreinfo.symbol(info, "_stext"))
    if why := map_contradicts(lambda name: [each.address for each in found(prog, name, None, False)], info):
        release = info.get("OSRELEASE", "")
        raise TargetError(f"{file} is not the System.map of the kernel in the dump, {release}: {why}")
    return found


def vmcoreinfo_of(prog: Program) -> Mapping[str, str]:
    """Return the lines of a Program's VMCOREINFO as a mapping."""
    return vmcoreinfo.parse(text_of(prog))


def text_of(prog: Program) -> bytes:
    """Return the text of a Program's VMCOREINFO; b"" if it has no VMCOREINFO."""
    try:
        text: bytes = prog["VMCOREINFO"].string_()
    except LookupError:
        return b""
    return text
