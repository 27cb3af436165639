# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is damaged: dumps in every container, cores and sysroots; and where in them what lies."""

import os
import pickle
import random
import shutil
import struct
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kgcore.sources.vmcore.symbols import vmcoreinfo
from tests.campaign.measured import run
from tests.sources.vmcore.dumpfile.test_dumpfile import flattened
from tests.vmcore.conftest import Fixture, find, main_dump
from tests.vmcore.reshape import copy, elf_of_kdump, lime, raw, segments

PAGE = 4096
SMALL = ("k510-small", "k61-small", "k612-small", "k72-small", "k61-crash-small")
COMPRESSED = {"zram": ("k61-zram", "k72-zram", "k510-zram"), "zswap": ("k61-zswap", "k72-zswap", "k612-zswap")}
OTHERS = "i386 with BTF and System.map", "swap images and --root"
CONTAINERS = ("ELF", "kdump", "flattened", "split set", "LiME", "raw memory")
_IMAGE = 0xFFFFFFFF80000000
_FLAT_PIECE = 1 << 14


class Field(NamedTuple):
    """A member of a structure in a file, or what else is to be damaged: where, and how many bytes."""

    type: str
    name: str
    offset: int
    size: int


@dataclass
class Base:
    """A dump that can be damaged in place.

    :ivar files: of it; more than one of a split set.
    :ivar options: for kgcore to find it.
    :ivar pids: of processes that are worth asking for.
    :ivar fields: members of structures, found by type; of an ELF file only.
    :ivar reads: what else kgcore reads, as offsets and sizes.
    :ivar pointers: kernel pointers in it.
    :ivar regions: parts of the file by name: BTF, kallsyms; pieces of (offset, size).
    :ivar clean: cores of the whole dump, by pid.
    """

    container: str
    fixture: str
    files: list[Path]
    options: list[str]
    pids: list[int]
    fields: list[Field] = field(default_factory=list)
    reads: list[tuple[int, int]] = field(default_factory=list)
    pointers: list[int] = field(default_factory=list)
    regions: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    clean: dict[int, Path] = field(default_factory=dict)

    def bytes_of(self, region: str) -> bytes:
        with self.files[0].open("rb") as file:
            return b"".join(os.pread(file.fileno(), size, offset) for offset, size in self.regions[region])

    def place(self, region: str, offset: int) -> int:
        """Where in the file a byte of a region lies."""
        for start, size in self.regions[region]:
            if offset < size:
                return start + offset
            offset -= size
        raise IndexError(offset)


def in_a_child(work: Callable[[], object]) -> object:
    """What a function returns, called in a process of its own: what it opens is gone afterwards."""
    end, start = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(end)
            with os.fdopen(start, "wb") as pipe:
                pickle.dump(work(), pipe)
            status = 0
        except BaseException:  # noqa: BLE001  (this process ends here)
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(start)
    with os.fdopen(end, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    if not data:
        raise RuntimeError("material could not be made: see above")
    return pickle.loads(data)


class Material:
    """All inputs of a lane.

    :ivar bases: by container, and "zram" and "zswap" as far as their guests have been built.
    :ivar cores: finished cores.
    :ivar sysroots: finished sysroots.
    :ivar left_out: what is not there, and why.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bases: dict[str, list[Base]] = {name: [] for name in (*CONTAINERS, *COMPRESSED, *OTHERS)}
        self.left_out: list[str] = []
        for name in SMALL:
            if (fixture := find(name)) is not None:
                self._add_small(fixture)
        for kind, names in COMPRESSED.items():
            there = [fixture for name in names if (fixture := find(name)) is not None]
            if not there:
                self.left_out.append(f"{kind}: none of {', '.join(names)} has been built")
            for fixture in there[:1]:
                self.bases[kind].append(self._compressed(kind, fixture))
        self._with_swap()
        self._small_machine()
        self.cores = sorted(path for base in self.bases["kdump"] for path in base.clean.values())
        self.cores += self._packed(self.bases["kdump"][0])
        self.sysroots = [self._sysroot(base) for base in self.bases["kdump"] if base.fixture == "k61-crash-small"]

    def _add_small(self, fixture: Fixture) -> None:
        place = self.directory / fixture.name
        place.mkdir(parents=True)
        pids = [victim.pid for victim in fixture.victims.values()]

        def base(container: str, files: list[Path], *options: str) -> Base:
            words = [word for file in files if file.stem == "vmcore" for word in ("-c", str(file))]
            made = Base(container, fixture.name, files, [*words, *options], pids)
            self.bases[container].append(made)
            return made

        kdump = place / "vmcore.kdump"
        shutil.copyfile(fixture.dump("vmcore"), kdump)
        first = base("kdump", [kdump])
        self._make_clean(first, place / "cores")
        elf = elf_of_kdump(kdump, place / "vmcore.elf")
        if fixture.name == "k61-small":
            # These have no place for it, and it is not in the few pages that a small dump has.
            info = place / "vmcoreinfo"
            info.write_bytes(vmcoreinfo_of(kdump))
            told = ("--vmcoreinfo", str(info))
            base("LiME", [lime(elf, place / "vmcore.lime"), info], *told).clean = first.clean
            image = raw(elf, place / "vmcore.raw")
            base("raw memory", [image, info], "--architecture", "x86_64", *told).clean = first.clean
        with_ram(elf, fixture.manifest["ram_mib"] << 20)
        described = base("ELF", [elf])
        described.clean = first.clean
        found = in_a_child(lambda: Finder(described).all())
        described.fields, described.reads, described.pointers, described.regions = found  # type: ignore[misc]
        if fixture.name not in ("k61-small", "k72-small"):
            return
        flat = place / "vmcore.flat"
        flat.write_bytes(flattened(kdump.read_bytes(), piece=_FLAT_PIECE))
        base("flattened", [flat]).clean = first.clean
        base("split set", split(kdump, place)).clean = first.clean

    def _make_clean(self, base: Base, place: Path) -> None:
        place.mkdir()
        run(*base.options, "-v", "0", "-D", place, *map(str, base.pids))
        for pid in list(base.pids):
            if (path := place / f"core.{pid}").exists():
                base.clean[pid] = path
            else:
                base.pids.remove(pid)

    def _compressed(self, kind: str, fixture: Fixture) -> Base:
        place = self.directory / fixture.name
        place.mkdir(parents=True)
        dump = copy(fixture.dump(main_dump(fixture)), place / "vmcore.elf")
        base = Base(kind, fixture.name, [dump], ["-c", str(dump)], [victim.pid for victim in fixture.victims.values()])
        base.reads, base.pointers = in_a_child(lambda: recorded(fixture.name, dump))  # type: ignore[misc]
        return base

    def _with_swap(self) -> None:
        """The images of swap devices, and the programs that ran: files that the user gives besides the dump."""
        for base in self.bases["zram"]:
            fixture = find(base.fixture)
            assert fixture is not None
            place = self.directory / fixture.name
            swaps = [(device, copy(Path(image), place / Path(image).name)) for device, image in fixture.swaps]
            root = place / "root"
            shutil.copytree(fixture.path / "sysroot", root, symlinks=True)
            options = [*base.options, "--root", str(root)]
            for device, image in swaps:
                options += ["--swap", f"{device}={image}"]
            programs = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
            files = [*(image for _, image in swaps), *programs]
            self.bases["swap images and --root"].append(Base("swap", fixture.name, files, options, base.pids))

    def _small_machine(self) -> None:
        if (fixture := find("k61-686pae-small")) is None:
            return
        place = self.directory / fixture.name
        place.mkdir()
        dump = place / "vmcore.kdump"
        shutil.copyfile(fixture.dump("vmcore"), dump)
        symbols = fixture.packed_symbols(place)
        options = ["-c", str(dump), *(word for file in symbols for word in ("-s", file))]
        files = [dump, *map(Path, symbols)]
        pids = [victim.pid for victim in fixture.victims.values()]
        self.bases["i386 with BTF and System.map"].append(Base("kdump", fixture.name, files, options, pids))

    def _packed(self, base: Base) -> list[Path]:
        place = self.directory / "packed"
        place.mkdir()
        for kind in ("gzip", "zstd"):
            run(*base.options, "-v", "0", "-D", place, "--compress", kind, str(base.pids[0]))
        return sorted(place.iterdir())

    def _sysroot(self, base: Base) -> Path:
        place = self.directory / "sysroot"
        run(*base.options, "-v", "0", "-D", self.directory, "--force", "--sysroot", place, str(base.pids[0]))
        return place


def with_ram(elf: Path, size: int) -> Path:
    """An ELF vmcore that also says where RAM was that it does not hold, as makedumpfile's do."""
    data = elf.read_bytes()
    (count,) = struct.unpack_from("<H", data, 56)
    rows = [list(row) for row in struct.iter_unpack("<IIQQQQQQ", data[64 : 64 + 56 * count])]
    notes = data[rows[0][2] : rows[0][2] + rows[0][5]]
    first = min(row[2] for row in rows[1:])
    for row in rows[1:]:
        row[2] += PAGE
    rows[0][2] = 64 + 56 * (count + 1)
    rows.append([1, 7, len(data) + PAGE, 0, 0, 0, size, 0])
    head = bytearray(data[:64])
    struct.pack_into("<H", head, 56, len(rows))
    front = bytes(head) + b"".join(struct.pack("<IIQQQQQQ", *row) for row in rows) + notes
    elf.write_bytes(front.ljust(first + PAGE, b"\0") + data[first:])
    return elf


def vmcoreinfo_of(kdump: Path) -> bytes:
    """The text that a kdump file's sub-header points to."""
    data = kdump.read_bytes()
    offset, size = struct.unpack_from("<QQ", data, PAGE + 32)
    return data[offset : offset + size]


def split(kdump: Path, place: Path) -> list[Path]:
    """A split set of two files, as makedumpfile --split makes it."""
    data = kdump.read_bytes()
    block, sub_blocks, bitmap_blocks = struct.unpack_from("<III", data, 428)
    bitmap = (1 + sub_blocks) * block
    half = bitmap_blocks * block // 2
    table = bitmap + 2 * half
    bits = data[bitmap + half : table]
    frames = [at for at in range(len(bits) * 8) if bits[at >> 3] >> (at & 7) & 1]
    rows = [data[table + 24 * at : table + 24 * at + 24] for at in range(len(frames))]
    (last,) = struct.unpack_from("<Q", data, block + 96)
    middle = frames[len(frames) // 2]
    files = []
    for number, (start, end) in enumerate(((0, middle), (middle, last))):
        mine = [row for frame, row in zip(frames, rows, strict=True) if start <= frame < end]
        moved = 24 * (len(rows) - len(mine))
        head = bytearray(data[:table])
        struct.pack_into("<i", head, block + 12, 1)
        struct.pack_into("<QQ", head, block + 80, start, end)
        body = b"".join(struct.pack("<Q", struct.unpack_from("<Q", row)[0] - moved) + row[8:] for row in mine)
        files.append(place / f"vmcore.{number}")
        files[-1].write_bytes(bytes(head) + body + data[table + 24 * len(rows) :])
    return files


def recorded(name: str, dump: Path) -> tuple[list[tuple[int, int]], list[int]]:
    """What kgcore reads of kernel structures, as offsets in an ELF file and sizes; and the pointers there."""
    from tests.vmcore.hostile import Baseline

    base = Baseline.of(name)
    own = {read for reads in base.own.values() for read in reads}
    return _offsets(dump, sorted(own)), base.pointers


def _offsets(dump: Path, reads: list[tuple[int, int]]) -> list[tuple[int, int]]:
    loads = sorted((row.address, row.size, row.offset) for row in segments(dump) if row.kind == 1)
    found = []
    for at, size in reads:
        for start, length, offset in loads:
            if start <= at and at + size <= start + length:
                found.append((offset + at - start, size))
                break
    return found


def relocated(material: Material, new: Path) -> Material:
    """The same material, copied to another directory: each lane damages its own."""
    old, material.directory = material.directory, new

    def moved(path: Path) -> Path:
        return new / path.relative_to(old)

    for base in (base for bases in material.bases.values() for base in bases):
        base.files = [moved(path) for path in base.files]
        base.options = [word.replace(str(old), str(new)) for word in base.options]
        base.clean = {pid: moved(path) for pid, path in base.clean.items()}
    material.cores = [moved(path) for path in material.cores]
    material.sysroots = [moved(path) for path in material.sysroots]
    return material


class Finder:
    """Finds structures in a dump, by type. (Runs in a child: it opens the dump.)"""

    TYPES = (
        "task_struct mm_struct signal_struct sighand_struct cred files_struct fdtable file inode address_space dentry "
        "path vm_area_struct pid nsproxy mount"
    ).split()

    def __init__(self, base: Base) -> None:
        from kgcore.sources.location import DumpLocation
        from kgcore.sources.vmcore.opening.target import open_target

        self._base = base
        self._target = open_target(DumpLocation(core=str(base.files[0]), symbols_from="btf"))
        self._prog = self._target.prog
        self._loads = sorted((row.address, row.size, row.offset) for row in segments(base.files[0]) if row.kind == 1)
        self._page_offset: int = self._prog["page_offset_base"].value_()
        self._phys_base = int(self._target.vmcoreinfo["NUMBER(phys_base)"])

    def all(self) -> tuple[list[Field], list[tuple[int, int]], list[int], dict[str, list[tuple[int, int]]]]:
        objects = dict(self._objects())
        fields = [field for (kind, address) in objects for field in self._members(kind, address)]
        reads, pointers = recorded(self._base.fixture, self._base.files[0])
        pointers += [address for _, address in objects]
        return fields, reads, sorted(set(pointers)), dict(self._regions())

    def _objects(self) -> Iterator[tuple[tuple[str, int], None]]:
        from drgn import FaultError
        from drgn.helpers.linux.pid import find_task

        for pid in [1, 2, *self._base.pids]:
            with suppress(FaultError, LookupError, ValueError):
                task = find_task(self._prog, pid)
                if not task:
                    continue
                yield ("task_struct", task.value_()), None
                for kind in ("mm", "signal", "sighand", "cred", "files", "nsproxy", "thread_pid"):
                    pointer = task.member_(kind)
                    if pointer:
                        yield (pointer.type_.type.tag or "", pointer.value_()), None
                yield from self._files(task)

    def _files(self, task: object) -> Iterator[tuple[tuple[str, int], None]]:
        from drgn import FaultError

        with suppress(FaultError, LookupError):
            table = task.files.fdt  # type: ignore[attr-defined]
            yield ("fdtable", table.value_()), None
            files = [table.fd[at] for at in range(min(int(table.max_fds.value_()), 16))]
            if task.mm:  # type: ignore[attr-defined]
                files.append(task.mm.exe_file)  # type: ignore[attr-defined]
            for file in filter(None, files):
                with suppress(FaultError, LookupError):
                    yield ("file", file.value_()), None
                    yield ("dentry", file.f_path.dentry.value_()), None
                    yield ("inode", file.f_inode.value_()), None
                    yield ("address_space", file.f_mapping.value_()), None

    def _members(self, kind: str, address: int) -> Iterator[Field]:
        with suppress(LookupError):
            yield from self._flat(kind, "", self._prog.type(f"struct {kind}"), address, 0)

    def _flat(self, kind: str, prefix: str, type_: object, address: int, depth: int) -> Iterator[Field]:
        from drgn import TypeKind, sizeof

        for member in type_.members:  # type: ignore[attr-defined]
            name = f"{prefix}{member.name or '?'}"
            inner = member.type
            while inner.kind is TypeKind.TYPEDEF:
                inner = inner.type
            at = address + member.bit_offset // 8
            if inner.kind in (TypeKind.STRUCT, TypeKind.UNION) and depth < 3 and inner.members is not None:
                yield from self._flat(kind, f"{name}.", inner, at, depth + 1)
                continue
            with suppress(TypeError):
                size = sizeof(member.type)
                offset = self._offset(at, min(size, 8))
                if offset is not None and size:
                    yield Field(kind, name, offset, min(size, 8))

    def _offset(self, address: int, size: int) -> int | None:
        """Where in the file kernel memory lies: of the direct map and of the kernel's image."""
        physical = address - _IMAGE + self._phys_base if address >= _IMAGE else address - self._page_offset
        for start, length, offset in self._loads:
            if start <= physical and physical + size <= start + length:
                return offset + physical - start
        return None

    def _regions(self) -> Iterator[tuple[str, list[tuple[int, int]]]]:
        def region(start: int, end: int) -> list[tuple[int, int]]:
            found = []
            while start < end:
                size = min(end - start, PAGE - start % PAGE)
                if (offset := self._offset(start, size)) is None:
                    break
                found.append((offset, size))
                start += size
            return found

        address = self._target.symbol_address
        start, stop = address("__start_BTF"), address("__stop_BTF")
        if start and stop:
            yield "BTF", region(start, stop)
        names = (
            "kallsyms_offsets kallsyms_relative_base kallsyms_num_syms kallsyms_names kallsyms_markers "
            "kallsyms_token_table kallsyms_token_index"
        ).split()
        info = vmcoreinfo.parse(self._prog["VMCOREINFO"].string_())  # with what was found out by searching
        known = sorted(at for name in names if (at := vmcoreinfo.symbol(info, name) or address(name)))
        if known:
            yield "kallsyms", region(known[0], known[-1] + 512)


def typical(rng: random.Random, old: int, size: int, base: Base, offset: int) -> int:
    """Another value for a member: what breaks programs."""
    bits = 8 * size
    kinds = (
        lambda: rng.getrandbits(bits),
        lambda: rng.choice((0, 1, 2, 0x7F, 0xFF, 0xFFF, (1 << bits - 1) - 1, 1 << bits - 1, (1 << bits) - 1)),
        lambda: old ^ 1 << rng.randrange(bits),
        lambda: rng.choice(base.pointers) if base.pointers and size == 8 else old + 1,
        lambda: old + rng.choice((-8, 8, 16, -64, 4096, -4096, 1 << 21)),
        lambda: offset << 12 | rng.choice((0x67, 0xE7, 0x100)),
    )
    return rng.choice(kinds)() & (1 << bits) - 1
