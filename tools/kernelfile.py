# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types and symbols of a kernel out of its files, without a dump: raw BTF, a vmlinux, or the vmlinuz that boots.

A vmlinuz packs a vmlinux with BTF but without a symbol table; kgcore finds its kallsyms there as it does in a dump.
"""

import importlib
import io
import lzma
import re
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from struct import Struct, unpack_from

from drgn import Architecture, Platform, Program, Symbol, SymbolBinding, SymbolIndex, SymbolKind, Type
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from kgcore.errors import KgcoreError
from kgcore.sources.vmcore.kernel.layouts.audit import KernelNames
from kgcore.sources.vmcore.kernel.modulebtf import BtfTypes
from kgcore.sources.vmcore.opening.connect import open_program
from kgcore.sources.vmcore.opening.drgnmemory import assemble
from kgcore.sources.vmcore.symbols import vmcoreinfo
from kgcore.sources.vmcore.symbols.btf import MAGIC, Btf, BtfKind
from kgcore.sources.vmcore.symbols.btf_types import TypeFinder
from kgcore.sources.vmcore.symbols.finders import KernelSymbols, kallsyms_lines, kallsyms_of
from kgcore.sources.vmcore.symbols.variables import VariableFinder

__all__ = ("KernelFile",)

_ELF = b"\x7fELF"
_BOOT, _BOOT_AT = b"HdrS", 0x202  # Documentation/arch/x86/boot.rst
_XZ, _GZIP, _ZSTD, _LZ4 = b"\xfd7zXZ\0", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18"
_LZ4_BLOCK = 8 << 20  # of lz4 -l, unpacked
_SYMBOL = {64: Struct("<IBBHQQ"), 32: Struct("<IIIBBH")}  # Elf64_Sym, Elf32_Sym


class KernelFile:
    """What a file says of a kernel.

    :ivar release: of the kernel; "0": unknown.
    :ivar architecture: drgn's name of it, in lower case.
    :ivar names: looks names up.
    """

    def __init__(self, path: Path, modules: Path | None = None) -> None:
        """Read a file.

        :param modules: a directory with the kernel's modules, packed or not; by default one that lies beside the file.
        :raises KgcoreError: it is no kernel that can be read, or its types are damaged.
        """
        data = _kernel(path)
        self._elf = None if data.startswith(MAGIC) else ELFFile(io.BytesIO(data))
        directory = modules or path.parent / "modules"
        banner = re.search(rb"Linux version (\d\S+) \(", data)
        self.release = banner[1].decode(errors="replace") if banner else "0"
        types = data if self._elf is None else _btf(path, self._elf)
        self._btf = Btf(types)
        self.architecture = "x86_64" if self._word_size() == 8 else "i386"
        kind = Architecture.X86_64 if self.architecture == "x86_64" else Architecture.I386
        symbols = None if self._elf is None else self._symbols(Platform(kind))
        prog = Program(Platform(kind))
        finder = TypeFinder(prog, self._btf)
        prog.register_type_finder("file", finder, enable_index=0)
        prog.register_object_finder("file", VariableFinder(prog, finder), enable_index=0)
        if symbols is not None:
            prog.register_symbol_finder("file", symbols, enable_index=0)
        self.names = KernelNames(
            prog,
            symbol=None if symbols else self._in_btf,
            modules=_Modules(directory, prog, finder) if directory.is_dir() else None,
        )

    def _word_size(self) -> int:
        if self._elf is not None:
            return int(self._elf.elfclass) // 8
        number = self._btf.find("long unsigned int", BtfKind.INT) or self._btf.find("unsigned long", BtfKind.INT)
        return self._btf.record(number).size_or_type if number else 8

    def _in_btf(self, name: str) -> tuple[bool | None, str]:
        """Tell whether BTF has a function or a per-CPU variable; the others are unknown."""
        known = any(self._btf.find(name, kind) is not None for kind in (BtfKind.FUNC, BtfKind.VAR))
        return (True, "in BTF") if known else (None, "")

    def _symbols(self, platform: Platform) -> KernelSymbols:
        assert self._elf is not None
        if (table := self._elf.get_section_by_name(".symtab")) is not None:
            names = self._elf.get_section(table["sh_link"]).data()
            return KernelSymbols(SymbolIndex(list(_named(table.data(), names, self._elf.elfclass))))
        return self._kallsyms(platform)

    def _kallsyms(self, platform: Platform) -> KernelSymbols:
        """Find the kernel's own table in its image, as kgcore does in a dump."""
        assert self._elf is not None
        text = self._elf.get_section_by_name(".text")
        if text is None:
            raise KgcoreError("the kernel has no section .text")
        start = text["sh_addr"]
        lines = (  # drgn asks for the last, and reads nothing there
            f"OSRELEASE={self.release}\nPAGESIZE=4096\nSYMBOL(_stext)={start:x}\nSYMBOL(swapper_pg_dir)={start:x}\n"
        ).encode()
        own = kallsyms_lines(self._image(platform, lines), vmcoreinfo.parse(lines))
        return kallsyms_of(self._image(platform, lines + own), "give its vmlinux")

    def _image(self, platform: Platform, lines: bytes) -> Program:
        assert self._elf is not None
        prog = open_program("the kernel's image", lambda prog: assemble(prog, (), ()), platform, lines)
        for segment in self._elf.iter_segments("PT_LOAD"):
            content = segment.data()

            def read(_address: int, count: int, offset: int, _physical: bool, content: bytes = content) -> bytes:
                return content[offset : offset + count].ljust(count, b"\0")

            prog.add_memory_segment(segment["p_vaddr"], segment["p_memsz"], read, False)
        return prog


class _Modules:
    """Types of modules out of their files."""

    def __init__(self, directory: Path, prog: Program, base: TypeFinder) -> None:
        self._directory = directory
        self._prog = prog
        self._base = base
        self._known: dict[str, BtfTypes] = {}

    def loaded(self, module: str) -> bool:
        self._types(module)
        return True

    def type(self, module: str, name: str) -> Type | None:
        return self._types(module).type(name)

    def enumerator(self, module: str, name: str) -> int | None:
        return self._types(module).enumerator(name)

    def _types(self, module: str) -> BtfTypes:
        if module not in self._known:
            path = next(self._directory.rglob(f"{module}.ko*"), None)
            if path is None:
                raise LookupError(f"the kernel has no module {module}: it is built in, or does not exist")
            section = ELFFile(io.BytesIO(_unpacked(path.read_bytes()))).get_section_by_name(".BTF")
            if section is None:
                raise LookupError(f"{path.name} has no BTF")
            types = TypeFinder(self._prog, Btf(section.data(), self._base.btf), self._base)
            self._known[module] = BtfTypes(types)
        return self._known[module]


def _named(table: bytes, names: bytes, bits: int) -> Iterator[Symbol]:
    """Yield the functions and variables of an ELF symbol table."""
    kinds = {0: SymbolKind.UNKNOWN, 1: SymbolKind.OBJECT, 2: SymbolKind.FUNC}
    for row in _SYMBOL[bits].iter_unpack(table):
        name, info, section, value, size = (row[0], row[1], row[3], row[4], row[5]) if bits == 64 else (
            row[0], row[3], row[5], row[1], row[2])  # fmt: skip
        if name and section and info & 15 in kinds:
            text = names[name : names.index(b"\0", name)].decode(errors="backslashreplace")
            yield Symbol(text, value, size, SymbolBinding.GLOBAL, kinds[info & 15])


def _kernel(path: Path) -> bytes:
    """Return the contents of a file: BTF, or an ELF file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KgcoreError(f"cannot read {path}: {error.strerror}") from error
    if data[_BOOT_AT : _BOOT_AT + 4] == _BOOT:
        start = (data[0x1F1] + 1) * 512 + unpack_from("<I", data, 0x248)[0]  # setup_sects, payload_offset
        data = _unpacked(data[start : start + unpack_from("<I", data, 0x24C)[0]])
    if not data.startswith((MAGIC, _ELF)):
        raise KgcoreError(f"{path} is neither BTF nor a kernel", hint="give raw BTF, a vmlinux or a vmlinuz")
    return data


def _unpacked(data: bytes) -> bytes:
    """Unpack what a kernel's build packs."""
    if data.startswith(_XZ):
        return lzma.LZMADecompressor().decompress(data)
    if data.startswith(_GZIP):
        return zlib.decompressobj(31).decompress(data)
    if data.startswith(_ZSTD):
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    if data.startswith(_LZ4):
        return b"".join(_lz4_blocks(data))
    return data


def _lz4_blocks(data: bytes) -> Iterator[bytes]:
    decompress = importlib.import_module("lz4.block").decompress
    at = len(_LZ4)
    while at + 8 < len(data):  # the last four bytes are the size of it all
        (size,) = unpack_from("<I", data, at)
        yield decompress(data[at + 4 : at + 4 + size], uncompressed_size=_LZ4_BLOCK)
        at += 4 + size


def _btf(path: Path, elf: ELFFile) -> bytes:
    """Return the BTF of an ELF file, or BTF that pahole makes of its DWARF."""
    try:
        if (section := elf.get_section_by_name(".BTF")) is not None:
            return bytes(section.data())
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder, "btf")
            subprocess.run(["pahole", "--btf_encode_detached", made, path], check=True, stderr=subprocess.PIPE)
            return made.read_bytes()
    except (ELFError, OSError, subprocess.CalledProcessError) as error:
        raise KgcoreError(f"{path} has no BTF, and pahole makes none of it", hint="install dwarves") from error
