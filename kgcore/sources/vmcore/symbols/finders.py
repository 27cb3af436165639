# SPDX-License-Identifier: LGPL-2.1-or-later
"""Give a Program types and symbols: from the DWARF of a vmlinux, else from the dump itself."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from drgn import FaultError, MissingDebugInfoError, PlatformFlags, Program, Symbol, SymbolIndex
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

from kgcore.arch import SMALLEST_PAGE
from kgcore.errors import BrokenDump, TargetError
from kgcore.sources.drgnversion import older_than, version
from kgcore.sources.vmcore.kernelreads import in_words, kernel_bytes
from kgcore.sources.vmcore.symbols import kallsyms, vmcoreinfo
from kgcore.sources.vmcore.symbols.btf import Btf
from kgcore.sources.vmcore.symbols.btf_types import TypeFinder
from kgcore.sources.vmcore.symbols.btffile import read_btf
from kgcore.sources.vmcore.symbols.debugfiles import given_name, private_copies
from kgcore.sources.vmcore.symbols.debuginfo import BTF_ONCE, SYSTEM_MAP, debug_package
from kgcore.sources.vmcore.symbols.proof import types_contradict
from kgcore.sources.vmcore.symbols.variables import VariableFinder

__all__ = ("OwnSymbols", "has_btf", "kallsyms_lines", "kallsyms_of", "load_btf", "load_dwarf")

_MAX_BTF = 64 << 20  # bytes; a Debian kernel has 5 MB
_FINDER = "kgcore"
_PROMOTED = ".llvm."
_PER_CPU_END = 1 << 24  # beyond the offset of any per-CPU variable, and below where any kernel lies


def load_dwarf(
    prog: Program,
    release: str,
    files: Sequence[str] = (),
    debug_directories: Sequence[str] = (),
    kernel_directories: Sequence[str] = (),
) -> bool:
    """Load the kernel's debug information from files, else from the directories and where drgn looks.

    Downloads nothing.

    :returns: whether it found any. Finding nothing is no error if the caller named no file.
    :raises TargetError: a file has no debug information, or belongs to another kernel.
    """
    options = prog.debug_info_options
    options.directories = (*debug_directories, *options.directories)
    options.kernel_directories = (*kernel_directories, *options.kernel_directories)
    prog.set_enabled_debug_info_finders([name for name in prog.enabled_debug_info_finders() if name != "debuginfod"])
    try:
        with private_copies(prog, files) as copies:
            prog.load_debug_info(copies, default=False, main=True)
    except TargetError:
        raise
    except MissingDebugInfoError as error:
        if files:
            raise _wrong_symbols(prog, release, files, error) from error
        return False
    except MemoryError:
        raise
    except Exception as error:  # drgn raises errors of elfutils as Exception and ValueError
        words = given_name(prog, str(error))
        raise TargetError(f"drgn cannot load {', '.join(files) or 'debug information'}: {words}") from error
    return True


def _wrong_symbols(prog: Program, release: str, files: Sequence[str], error: Exception) -> TargetError:
    build_id = prog.main_module().build_id
    return TargetError(
        f"{', '.join(files)}: no debug information for the kernel in the dump, {release}"
        + (f" with build id {build_id.hex()}" if build_id else ""),
        hint=f"install {debug_package(release)} and give its vmlinux with -s, or leave -s out to use the dump's BTF",
    )


class KernelSymbols:
    """A symbol finder for :meth:`drgn.Program.register_symbol_finder`: the kernel's own table, or a System.map.

    Before Linux 6.15 the table has per-CPU variables at their offset, from 0 on. These offsets are no addresses: a null
    pointer is not ``__per_cpu_start``. So a look-up by address finds only symbols within the kernel's image.
    """

    def __init__(self, index: SymbolIndex) -> None:
        self._index = index
        self._start: int | None = None
        self._end: int | None = None
        self._by_source_name: Mapping[str, Sequence[Symbol]] | None = None

    def __call__(self, prog: Program, name: str | None, address: int | None, one: bool) -> Sequence[Symbol]:
        if address is not None:
            if self._start is None or self._end is None:
                self._start = self._address(prog, "_text") or _PER_CPU_END
                self._end = self._address(prog, "_end") or 1 << 64
            if not self._start <= address < self._end:
                return []
        found: Sequence[Symbol] = self._index(prog, name, address, one)
        if not found and name is not None and address is None:
            return self._promoted(prog).get(name, ())
        return found

    def names(self, prog: Program) -> Mapping[str, list[int]]:
        """Return the addresses of all symbols by name, with and without the suffix that a compiler appended."""
        found: dict[str, list[int]] = {}
        for symbol in self._index(prog, None, None, False):
            found.setdefault(symbol.name, []).append(symbol.address)
            if (dot := symbol.name.find(".", 1)) > 0:
                found.setdefault(symbol.name[:dot], []).append(symbol.address)
        return found

    def _promoted(self, prog: Program) -> Mapping[str, Sequence[Symbol]]:
        """Return the static symbols that ThinLTO made global, by their names in the source.

        LLVM appends ".llvm." and a number. Names that several symbols have then are left out: any may be meant.
        (Other suffixes are of parts and copies of a function: ".cold", ".isra.0", ".constprop.0", ".part.0".)
        """
        if self._by_source_name is None:
            found: dict[str, list[Symbol]] = {}
            for symbol in self._index(prog, None, None, False):
                if _PROMOTED in symbol.name:
                    name, _, number = symbol.name.rpartition(_PROMOTED)
                    if name and number.isdecimal():
                        found.setdefault(name, []).append(symbol)
            self._by_source_name = {name: each for name, each in found.items() if len(each) == 1}
        return self._by_source_name

    def _address(self, prog: Program, name: str) -> int | None:
        found = self(prog, name, None, True)
        return found[0].address if found else None


@dataclass(frozen=True, slots=True)
class OwnSymbols:
    """Types and symbols that a kernel carries itself, for any Program of that kernel."""

    symbols: KernelSymbols
    btf: Btf

    @staticmethod
    def of(prog: Program) -> "OwnSymbols | None":
        """Return what :func:`load_btf` found for a Program; None: it did not run."""
        found: OwnSymbols | None = prog.cache.get(_FINDER)
        return found

    def give(self, prog: Program, *, first: bool) -> None:
        """Register the finders.

        :param first: put them before the finders already there; the object finder, with kgcore's own table of
            variables, comes last anyway.
        """
        index = 0 if first else -1
        types = TypeFinder(prog, self.btf)
        prog.register_symbol_finder(_FINDER, self.symbols, enable_index=index)
        prog.register_type_finder(_FINDER, types, enable_index=index)
        prog.register_object_finder(_FINDER, VariableFinder(prog, types), enable_index=-1)


def load_btf(prog: Program, release: str, file: str | None = None, symbols: SymbolIndex | None = None) -> None:
    """Register finders for the types in the kernel's BTF and the symbols in its kallsyms.

    VMCOREINFO must name the parts of kallsyms (see :func:`kgcore.sources.vmcore.symbols.kallsyms.amended`).

    :param file: a file with BTF to use instead of the dump's.
    :param symbols: symbols to use instead of kallsyms.
    :raises TargetError: the kernel has no BTF or no kallsyms, they are damaged, or the file is another kernel's.
    """
    remedy = f"install {debug_package(release)} and give its vmlinux with -s"
    own = _read_own(prog, release, remedy, file, symbols)
    own.give(prog, first=True)
    prog.cache[_FINDER] = own
    if file:
        try:
            why = types_contradict(prog, _vmcoreinfo(prog), own.btf, own.symbols.names(prog))
        except BrokenDump as error:
            why = error.message
        if why:
            raise TargetError(f"{file} does not describe the kernel in the dump, {release}: {why}", hint=remedy)


def _read_own(prog: Program, release: str, remedy: str, file: str | None, symbols: SymbolIndex | None) -> OwnSymbols:
    table = kallsyms_of(prog, remedy) if symbols is None else KernelSymbols(symbols)
    if not table(prog, "init_task", None, True):
        raise TargetError(
            "the kernel's symbol table (kallsyms) has no variables (no CONFIG_KALLSYMS_ALL)",
            hint=f"{remedy}, or {SYSTEM_MAP}",
        )
    no_types = f"{remedy}, or {BTF_ONCE}"
    try:
        btf = Btf(read_btf(file, _vmcoreinfo(prog).get("BUILD-ID", "")) if file else _read_btf(prog, table))
    except LookupError as error:
        raise TargetError(
            f"the kernel in the dump, {release}, has no type information (no CONFIG_DEBUG_INFO_BTF)",
            hint=no_types,
        ) from error
    except FaultError as error:
        raise TargetError(
            f"the kernel's type information (BTF) is not in the dump: {in_words(error)}", hint=no_types
        ) from error
    except BrokenDump as error:
        raise TargetError(f"{file}: {error.message}" if file else error.message, hint=no_types) from error
    return OwnSymbols(table, btf)


def _vmcoreinfo(prog: Program) -> Mapping[str, str]:
    return vmcoreinfo.parse(prog["VMCOREINFO"].string_())


def kallsyms_of(prog: Program, remedy: str) -> KernelSymbols:
    """Return the kernel's own symbol table.

    :param remedy: what the user can try if the table is missing.
    :raises TargetError: the table cannot be read.
    """
    try:
        return KernelSymbols(load_vmlinux_kallsyms(prog))
    except MemoryError:
        raise
    except Exception as error:  # drgn raises LookupError, FaultError, SyntaxError and Exception here
        raise TargetError(
            f"cannot read the kernel's symbol table (kallsyms): {in_words(error)}",
            hint=f"{_newer_drgn(prog)}{remedy}, or {SYSTEM_MAP}",
        ) from error


def kallsyms_lines(prog: Program, info: Mapping[str, str]) -> bytes:
    """Return the lines that a VMCOREINFO lacks for drgn to read kallsyms.

    :raises BrokenDump: no symbol table was found.
    """

    def read(address: int, size: int) -> bytes:
        try:
            return kernel_bytes(prog, address, size)
        except FaultError:
            data = b""
            with suppress(FaultError):
                while len(data) < size:
                    data += kernel_bytes(prog, address + len(data), min(SMALLEST_PAGE, size - len(data)))
            return data

    word = 8 if prog.platform is None or PlatformFlags.IS_64_BIT in prog.platform.flags else 4
    lacking = kallsyms.amended(info, read, word)
    return "".join(f"SYMBOL({name})={address:x}\n" for name, address in lacking.items()).encode()


def _newer_drgn(prog: Program) -> str:
    """Return a hint to use a newer drgn, if the addresses in the symbol table are relative to their own place.

    They are since Linux 7.0. "": this drgn can read the table.
    """
    if not older_than(0, 1) or b"SYMBOL(kallsyms_relative_base)=" in prog["VMCOREINFO"].string_():
        return ""
    return f"Linux 7.0 and later need drgn 0.1.0, this is drgn {version()}; or "


def has_btf(prog: Program) -> bool:
    """Tell whether :func:`load_btf` has registered its finders."""
    return _FINDER in prog.registered_type_finders()


def _read_btf(prog: Program, table: KernelSymbols) -> bytes:
    """Return the kernel's BTF from the dump.

    :raises LookupError: the kernel has no BTF.
    """
    found = [table(prog, name, None, True) for name in ("__start_BTF", "__stop_BTF")]
    if not all(found):
        raise LookupError("no BTF")
    start, stop = (symbols[0].address for symbols in found)
    if not start < stop <= start + _MAX_BTF:
        raise BrokenDump(f"implausible size of the kernel's type information (BTF): {stop - start} bytes")
    data: bytes = prog.read(start, stop - start)
    return data
