# SPDX-License-Identifier: LGPL-2.1-or-later
"""python3 -m tests.vmcore_fixtures.make.reduce NAME...: makes the committed fixtures out of those in the cache.

A real dump of 640 MiB becomes 2 to 5 MB: kgcore extracts every victim from it while each page frame that is read is
written down, and
the frames that were not are marked as excluded, as makedumpfile does it (level 31 is what the header then says, since
frames of every class are gone). Nothing else changes: headers, notes and the pages themselves are those of the dump.
A later kgcore that reads further frames needs the fixture made anew.

Needs kgcore itself (so run it with the project's virtual environment), the fixtures in the cache, and a
vmcore.d1-zlib in them; of a 32-bit guest, which makedumpfile of the host does not read, QEMU's own kdump file. The
kernel of such a guest has no types and not all symbols: raw BTF and a System.map of the symbols that were asked for
come along (made with pahole, of Debian's package dwarves).
"""

import argparse
import lzma
import os
import shutil
import struct
import sys
import tempfile
import tomllib
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

from drgn import Architecture, Platform, Program

from kgcore.coredump.pipeline import Options, prepare, write
from kgcore.errors import NoCurrentTask
from kgcore.sinks.streams import MemorySink
from kgcore.sources.base import TaskRef
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.dumpfile import open_dump
from kgcore.sources.vmcore.facts import read_facts
from kgcore.sources.vmcore.memory.framereader import FrameReader
from kgcore.sources.vmcore.opening.spaces.i386 import LowMemory
from kgcore.sources.vmcore.opening.target import Target, open_target
from kgcore.sources.vmcore.source import VmcoreSource
from kgcore.sources.vmcore.symbols import finders as symbols
from kgcore.sources.vmcore.symbols import systemmap
from kgcore.sources.vmcore.symbols.variables import VARIABLES
from kgcore.sources.vmcore.symbols.vmcoreinfo import parse
from tests.vmcore_fixtures.make import toml
from tests.vmcore_fixtures.make.common import HERE, cache_dir, run, say

DUMP = "vmcore.d1-zlib"
DUMP_32 = "vmcore.qemu-kdump"
PAGE = 4096
EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
PAGE_DESC = struct.Struct("<QIIQ")
ZLIB = 1
ALL_LEVELS = 31
# What of /proc and of the programs is worth its bytes.
PROC = ("maps", "status", "cmdline", "coredump_filter")
SYSROOT = ("crasher",)


class Recorder32:
    """Writes down which page frames of a 32-bit kernel's dump are read, and which symbols are asked for."""

    def __init__(self, path: Path, vmlinux: Path, folder: Path) -> None:
        self.frames: set[int] = set()
        self.names = {"_stext"}
        self._path = path
        self.btf, self.map = folder / "btf", folder / "System.map"
        run(["pahole", "--btf_encode_detached", self.btf, vmlinux])
        self.map.write_text(run(["nm", "-n", vmlinux]))

    @contextmanager
    def target(self) -> Iterator[Target]:
        """The recording Target."""
        physical, read_symbols = LowMemory.physical, systemmap.read_symbols

        def recorded(low: LowMemory, address: int, size: int) -> bytes:
            self.frames.update(range(address // PAGE, (address + size - 1) // PAGE + 1))
            return physical(low, address, size)

        def noted(file: str, start: int | None) -> Any:
            index = read_symbols(file, start)

            def find(prog: Program, name: str | None, address: int | None, one: bool) -> Any:
                found = index(prog, name, address, one)
                if name and found:
                    self.names.add(name)
                return found

            return find

        memory, names = (LowMemory, "physical", recorded), (systemmap, "read_symbols", noted)
        with mock.patch.object(*memory), mock.patch.object(*names):
            options = DumpLocation(core=str(self._path), symbols=(str(self.btf), str(self.map)))
            with open_target(options) as target:
                yield target

    def files(self) -> dict[str, bytes]:
        """What is to be committed besides the dump, by name."""
        lines = self.map.read_text().splitlines(keepends=True)
        kept = "".join(line for line in lines if line.split()[-1] in self.names | set(VARIABLES))
        return {"btf.xz": self.btf.read_bytes(), "System.map.xz": kept.encode()}


class Recorder:
    """A Program on a dump that writes down which page frames are read.

    It consists of an ELF header alone; memory comes from another Program by a callback, page tables of the kernel
    included.
    """

    def __init__(self, path: Path) -> None:
        self.frames: set[int] = set()
        self._path = str(path)
        self._whole = open_target(DumpLocation(core=self._path, symbols_from="btf"))

    def target(self) -> Target:
        """The recording Target. What opening it needs is recorded."""
        text = self._whole.prog["VMCOREINFO"].string_()  # with what was found by searching, before 6.0
        prog = Program(Platform(Architecture.X86_64), vmcoreinfo=text)
        descriptor = os.memfd_create("header")
        ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
        os.write(descriptor, EHDR.pack(ident, 4, 62, 1, 0, 0, 0, 0, 64, 56, 0, 0, 0, 0))
        prog.set_core_dump(descriptor)  # which is drgn's from now on
        prog.add_memory_segment(0, 1 << 52, self._read, True)
        symbols.load_btf(prog, self._whole.release)
        dump = open_dump(self._path)
        if b"SYMBOL(kallsyms_names)" not in (dump.vmcoreinfo or b""):
            # The search for the symbol table steps over the holes that the kernel's text has become, but it checks
            # all parts of the table, more than reading it takes.
            parts = sorted(value for name, value in parse(text).items() if name.startswith("SYMBOL(kallsyms_"))
            start, end = int(parts[0], 16), int(parts[-1], 16) + PAGE
            for address in range(start, end, PAGE):
                prog.read(address, 1)
        return Target(prog, dump, "btf")

    def files(self) -> dict[str, bytes]:
        """Nothing is needed besides the dump."""
        return {}

    def _read(self, address: int, count: int, _offset: int, _physical: bool) -> bytes:
        self.frames.update(range(address // PAGE, (address + count - 1) // PAGE + 1))
        return self._whole.phys(address, count)


@contextmanager
def noted_fills(frames: set[int]) -> Iterator[None]:
    """Write down the page frames that are read in bulk, which may be past drgn."""
    fill = FrameReader.fill

    def noted(reader: FrameReader, pages: Sequence[int], view: memoryview) -> None:
        frames.update(page // PAGE for page in pages)
        fill(reader, pages, view)

    with mock.patch.object(FrameReader, "fill", noted):
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME")
    for name in parser.parse_args().names:
        reduce(cache_dir() / "fixtures" / name, HERE.parent / name)
    return 0


def reduce(whole: Path, small: Path) -> None:
    """Make the committed fixture ``small`` out of ``whole``."""
    manifest = tomllib.loads((whole / "manifest.toml").read_text())
    dump = whole / (DUMP if (whole / DUMP).exists() else DUMP_32)
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(dump) if dump.name == DUMP else Recorder32(dump, whole / "vmlinux", Path(folder))
        with noted_fills(recorder.frames), recorder.target() as target:
            read_facts(target)
            extract_all(VmcoreSource(target), manifest)
        files = recorder.files()
    shutil.rmtree(small, ignore_errors=True)
    small.mkdir()
    write_kdump(dump, small / "vmcore", recorder.frames)
    for name, data in files.items():
        (small / name).write_bytes(lzma.compress(data, preset=9))
    copy_truth(whole, small, manifest)
    (small / "manifest.toml").write_text(toml.dumps(reduced_manifest(manifest, dump.name)))
    say(f"{small.name}: {len(recorder.frames)} page frames, {(small / 'vmcore').stat().st_size / 1e6:.1f} MB")


def extract_all(source: VmcoreSource, manifest: dict[str, Any]) -> None:
    """Read all that kgcore reads of the victims, with the kernel's default filter and with each one's own."""
    list(source.processes())
    for victim in manifest["victims"]:
        for mask in (None, 0x33):
            prepared = prepare(source, TaskRef.parse(str(victim["pid"])), Options(mask=mask))
            write(prepared, MemorySink())
    with suppress(NoCurrentTask):  # the machine did not crash
        _ = source.process(TaskRef.current()).image


def write_kdump(path: Path, out: Path, frames: set[int]) -> None:
    """Copy a kdump file (zlib) with the pages of some frames only."""
    with path.open("rb") as file:
        header = bytearray(file.read(PAGE))
        # struct kdump_sub_header of 64 or of 32 bits
        sizes, dump_level = (428, 8) if struct.unpack_from("<I", header, 428) == (PAGE,) else (416, 4)
        block, sub_blocks, bitmap_blocks = struct.unpack_from("<III", header, sizes)
        if block != PAGE:
            raise ValueError(f"{path}: block size {block}")
        head = bytearray(bytes(header) + file.read(sub_blocks * PAGE))
        struct.pack_into("<i", head, PAGE + dump_level, ALL_LEVELS)
        half = bitmap_blocks * PAGE // 2
        ram, stored = file.read(half), file.read(half)
        wanted = bytearray(half)
        pages: list[bytes] = []
        descriptors = (1 + sub_blocks + bitmap_blocks) * PAGE
        for rank, frame in enumerate(set_bits(stored)):
            if frame in frames:
                wanted[frame // 8] |= 1 << frame % 8
                file.seek(descriptors + rank * PAGE_DESC.size)
                offset, size, flags, _ = PAGE_DESC.unpack(file.read(PAGE_DESC.size))
                file.seek(offset)
                data = file.read(size)
                pages.append(zlib.decompress(data) if flags & ZLIB else data)
    with out.open("wb") as file:
        file.write(head + ram + wanted)
        offset = descriptors + len(pages) * PAGE_DESC.size
        table, body, known = bytearray(), bytearray(), dict[bytes, tuple[int, int, int]]()
        for page in pages:
            if page not in known:  # zero pages, and the copies that a fork left
                packed = zlib.compress(page, 9)
                data, flags = (packed, ZLIB) if len(packed) < PAGE else (page, 0)
                known[page] = (offset + len(body), len(data), flags)
                body += data
            table += PAGE_DESC.pack(*known[page], 0)
        file.write(table + body)


def set_bits(bitmap: bytes) -> Iterator[int]:
    for number, byte in enumerate(bitmap):
        if byte:
            yield from (number * 8 + bit for bit in range(8) if byte >> bit & 1)


def copy_truth(whole: Path, small: Path, manifest: dict[str, Any]) -> None:
    """The kernel's cores, xz-compressed; what the victims said; a little of /proc."""
    for victim in manifest["victims"]:
        if core := victim.get("core"):
            target = small / f"{core}.xz"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(lzma.compress((whole / core).read_bytes(), preset=9))
        said = Path("truth", "victims", f"{victim['name']}.json")
        (small / said).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(whole / said, small / said)
        for name in PROC:
            proc = Path("truth", "proc", str(victim["pid"]), name)
            (small / proc).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(whole / proc, small / proc)
    for name in SYSROOT:
        binary = whole / "sysroot" / "victims" / name
        if binary.exists() and name in {victim["program"] for victim in manifest["victims"]}:
            (small / "sysroot" / "victims").mkdir(parents=True, exist_ok=True)
            here = os.fsencode(Path.cwd())  # where it was compiled, in its DWARF: of no use to anybody else
            data = binary.read_bytes().replace(here, b".".ljust(len(here), b"\0"))
            (small / "sysroot" / "victims" / name).write_bytes(data)


def reduced_manifest(manifest: dict[str, Any], dump_file: str) -> dict[str, Any]:
    victims = [
        {key: f"{value}.xz" if key == "core" else value for key, value in victim.items()}
        for victim in manifest["victims"]
    ]
    (dump,) = (dump for dump in manifest["dumps"] if dump["file"] == dump_file)
    dump = dump | {"file": "vmcore", "level": 0, "reduced": True}
    return manifest | {"dumps": [dump], "victims": victims, "note": f"{manifest['note']}; recipe: make/reduce.py"}


if __name__ == "__main__":
    sys.exit(main())
