# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps on a disk with bad sectors, and dumps that somebody cuts off while they are read: each format, each command.

Nobody dies of it, no byte is wrong, and what is not there is told. At every offset, on made-up files:
tests/sources/vmcore/dumpfile/test_bad_sectors.py.
"""

import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

pytest.importorskip("drgn")

from kgcore.errors import TargetError
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.opening.spaces.x86_64 import Translation
from kgcore.sources.vmcore.opening.target import open_target
from kgcore.sources.vmcore.symbols import debugfiles, vmcoreinfo
from tests.bad_sectors import bad
from tests.sources.vmcore.dumpfile.test_dumpfile import flattened
from tests.vmcore import reshape
from tests.vmcore.conftest import COMMITTED, need
from tests.vmcore.corefile import Core
from tests.vmcore.interposer import Disk, built
from tests.vmcore.tools import Done, kgcore, same_bytes

PAGE = 4096
SMALL = COMMITTED / "k61-small" / "vmcore"
PID = 128
PLACES = 4  # bad pages, each in a run of its own
FORMATS = ("kdump", "kdump-flattened", "elf", "elf-flattened", "lime", "raw")
COMMANDS = (
    ["info"],
    ["info", "--json"],
    ["ps"],
    ["files", PID],
    ["map", PID],
    ["bt", "--all-threads", "--kernel-stack", PID],
    ["debug", "--print", "--directory", ".", PID],
    ["--all"],
    ["--dry-run", PID],
    ["--sysroot", "sysroot", PID],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same dump in all formats, and the core of a process out of each."""
    made = tmp_path_factory.mktemp("formats")
    shutil.copy(SMALL, made / "kdump")
    reshape.elf_of_kdump(SMALL, made / "elf")
    reshape.lime(made / "elf", made / "lime")
    reshape.raw(made / "elf", made / "raw")
    for name in ("kdump", "elf"):
        (made / f"{name}-flattened").write_bytes(flattened((made / name).read_bytes(), piece=50_001, shuffle=False))
    with SMALL.open("rb") as file:
        offset, size = struct.unpack("<QQ", os.pread(file.fileno(), 16, PAGE + 32))
        (made / "vmcoreinfo").write_bytes(os.pread(file.fileno(), size, offset))
    return made


@pytest.fixture(scope="module")
def whole(folder: Path) -> Core:
    assert run(folder, "kdump", "-f", "process", "-o", folder / "core", PID).status in (0, 3)
    return Core(folder / "core")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("interposer"))


@pytest.fixture
def disk(library: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(library, monkeypatch)


def run(folder: Path, name: str, *words: object) -> Done:
    bare = ["--architecture", "x86_64", "--vmcoreinfo", folder / "vmcoreinfo"] if name in ("lime", "raw") else []
    return kgcore(*words, "-c", folder / name, *bare, cwd=folder)


def check(done: Done) -> None:
    assert done.status in (0, 1, 3), done
    assert not any("unexpected" in line or "Traceback" in line or "mapped\n" in line for line in done.remarks), done


def check_core(whole: Core, path: Path, report: Path) -> int:
    """No wrong byte, and what is not there is listed; how many bytes are missing."""
    ours = Core(path)
    for load in ours.loads:
        for address, data in ours.segment(load):
            assert whole.read(address, len(data)) == data
    (process,) = json.loads(report.read_text())["processes"]
    gaps = [(int(str(gap["start"]), 0), int(str(gap["end"]), 0)) for gap in process["missing"]]
    for start, _ in gaps:
        with pytest.raises(ValueError, match="is not in"):
            ours.read(start, 1)
    assert list(ours.threads) == list(whole.threads)
    return sum(end - start for start, end in gaps)


def places_of(path: Path, name: str) -> list[int]:
    """Offsets to try: the headers and tables, and some of all the rest."""
    size = path.stat().st_size
    chance = random.Random(name)
    found = [0, PAGE, *(chance.randrange(2 * PAGE, size) for _ in range(PLACES))]
    if name == "kdump":  # bitmaps and page descriptors
        data = path.read_bytes()
        blocks, mapped = struct.unpack_from("<II", data, 432)
        found += [(1 + blocks) * PAGE, (1 + blocks + mapped // 2) * PAGE, (1 + blocks + mapped) * PAGE]
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_one_bad_page(disk: Disk, folder: Path, whole: Core, tmp_path: Path, name: str) -> None:
    taken = 0
    for number, place in enumerate(places_of(folder / name, name)):
        disk.fails(folder / name, (place // PAGE * PAGE, place // PAGE * PAGE + PAGE))
        core, report = tmp_path / f"core{number}", tmp_path / f"report{number}"
        done = run(folder, name, "-f", "process", "-o", core, "--report", report, PID)
        check(done)
        if done.status == 1:
            # Half of this small dump are the tables that say what the kernel's types and symbols are.
            assert not core.exists()
            assert any("Input/output error" in line or "disk error" in line for line in done.remarks), done
            continue
        taken += 1
        check_core(whole, core, report)
    assert taken >= 1


@pytest.mark.parametrize("name", ["kdump", "lime"])
def test_many_bad_sectors(disk: Disk, folder: Path, whole: Core, tmp_path: Path, name: str) -> None:
    """One in a hundred pages, none of them a header's."""
    size = (folder / name).stat().st_size
    chance = random.Random(5)
    sectors = [chance.randrange(size * 2 // 3, size) // 512 * 512 for _ in range(40)]
    disk.fails(folder / name, *((at, at + 512) for at in sectors))
    core, report = tmp_path / "core", tmp_path / "report"
    done = run(folder, name, "-f", "process", "--jobs", 2, "-o", core, "--report", report, PID)
    check(done)
    if done.status != 1:
        check_core(whole, core, report)


def places_of_pages(whole: Core) -> dict[int, tuple[int, int]]:
    """Of pages of the process that are like no others: their addresses, and offset and size in the kdump file."""
    data = SMALL.read_bytes()
    pages = reshape._pages(data)
    table, count = reshape._descriptors(data)
    rows = list(struct.iter_unpack("<QIIQ", data[table : table + 24 * count]))
    ranks: dict[bytes, list[int]] = {}
    for rank, frame in enumerate(sorted(pages)):
        ranks.setdefault(pages[frame], []).append(rank)
    return {
        address + at: rows[found[0]][:2]
        for load in whole.loads
        for address, memory in whole.segment(load)
        for at in range(0, len(memory), PAGE)
        if len(found := ranks.get(bytes(memory[at : at + PAGE]), [])) == 1
    }


def test_a_page_of_the_process(disk: Disk, folder: Path, whole: Core, tmp_path: Path) -> None:
    """That page is missing, with the reason; and what else has bytes in the same sector."""
    found = places_of_pages(whole)
    assert len(found) > 10
    for address in sorted(found)[:: len(found) // 3]:
        offset, size = found[address]
        disk.fails(folder / "kdump", (offset, offset + size))
        core, report = tmp_path / "core", tmp_path / "report"
        done = run(folder, "kdump", "-f", "process", "--force", "-o", core, "--report", report, PID)
        assert done.status == 3, done
        (process,) = json.loads(report.read_text())["processes"]
        assert check_core(whole, core, report) == PAGE
        assert [str(gap["detail"]) for gap in process["missing"] if "Input/output error" in gap["detail"]]
        with pytest.raises(ValueError, match="is not in"):
            Core(core).read(address, 1)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(map(str, words)))
@pytest.mark.parametrize("name", ["kdump", "elf"])
def test_each_command(disk: Disk, folder: Path, tmp_path: Path, name: str, command: list[object]) -> None:
    size = (folder / name).stat().st_size
    chance = random.Random(str(command))
    disk.fails(folder / name, *((at, at + PAGE) for at in (chance.randrange(2 * PAGE, size) for _ in range(20))))
    check(kgcore(*command, "-c", folder / name, cwd=tmp_path))
    for reads in (30, 90):
        disk.heal()
        (tmp_path / "cut").mkdir()
        path = reshape.copy(folder / name, tmp_path / "cut" / "vmcore")
        disk.is_cut(path, reads, size // 2)
        done = kgcore(*command, cwd=path.parent)
        check(done)
        assert not [entry for entry in os.listdir(path.parent) if entry.endswith(".tmp")]
        shutil.rmtree(path.parent)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_shrinks(disk: Disk, folder: Path, whole: Core, tmp_path: Path, name: str) -> None:
    """While processes are read; those before and after are as good as can be."""
    path = tmp_path / name
    shutil.copy(folder / "vmcoreinfo", tmp_path)
    for reads in (20, 90):
        disk.heal()
        reshape.copy(folder / name, path)
        disk.is_cut(path, reads, path.stat().st_size * 3 // 4)
        core, report = tmp_path / f"core{reads}", tmp_path / f"report{reads}"
        done = run(tmp_path, name, "-f", "process", "-o", core, "--report", report, PID)
        check(done)
        assert path.stat().st_size < (folder / name).stat().st_size, "it was not cut at all"
        if done.status != 1:
            check_core(whole, core, report)


@pytest.mark.parametrize("name", FORMATS)
def test_a_disk_that_gives_few_bytes_at_a_time(
    disk: Disk, folder: Path, whole: Core, tmp_path: Path, name: str
) -> None:
    """It costs nothing."""
    words = ("-f", "process", "--jobs", 1, "-o")
    plain = run(folder, name, *words, tmp_path / "core1", PID)
    disk.gives(3000)
    done = run(folder, name, *words, tmp_path / "core2", PID)
    assert done.status == plain.status
    assert done.remarks == [line.replace("core1", "core2") for line in plain.remarks]
    assert same_bytes(tmp_path / "core1", tmp_path / "core2")
    check(kgcore("check", tmp_path / "core2", cwd=tmp_path))


def test_files_of_root_and_swap_images(disk: Disk, tmp_path: Path) -> None:
    """That lie on such disks, or that somebody cuts off meanwhile."""
    on_disk, swapping = need("k61-disk"), need("k61-zram")
    shutil.copytree(on_disk.path / "sysroot", tmp_path / "root", symlinks=True)
    libc = (tmp_path / "root/lib/x86_64-linux-gnu/libc.so.6").resolve()
    original = shutil.copy(libc, tmp_path / "libc")
    image = Path(dict(swapping.swaps)["/dev/vdc"])
    mine = tmp_path / "image"
    victims = on_disk.victims["dynamic"], swapping.victims["swap_disk"]
    slot = min(
        slot
        for each in victims[1].said["mappings"]
        for page, slot in zip(each["swapped"], each["swap_offset"], strict=True)
        if each["name"] != "dontdump" and page not in each["swap_cached"]
    )
    cases = [
        ("-c", on_disk.dump("vmcore.d17-lzo"), "--root", tmp_path / "root", victims[0].pid),
        ("-c", swapping.dump(), "--swap", f"/dev/vdc={mine}", victims[1].pid),
    ]
    for words, file, source in zip(cases, (libc, mine), (original, image), strict=True):
        shutil.copy(source, file)
        report, core = tmp_path / "report", tmp_path / "core"
        command = ("-f", "127", "--force", "--report", report, "-o", core, *words)
        assert kgcore(*command, cwd=tmp_path).status == 0
        whole = Core(shutil.copy(core, tmp_path / "whole"))
        size = file.stat().st_size
        bad = size // 2 if file == libc else slot * PAGE
        disk.fails(file, (bad, bad + 512))
        done = kgcore(*command, cwd=tmp_path)
        check(done)
        assert done.status == 3
        assert check_core(whole, core, report) == PAGE
        if file == mine:  # its header, without which nobody knows what it is
            disk.fails(file, (0, PAGE))
            done = kgcore(*command, cwd=tmp_path)
            check(done)
            assert done.status == 3
            assert any(f"{mine} is not used: its first page" in line for line in done.remarks), done
            assert check_core(whole, core, report) > PAGE
        disk.is_cut(file, 3, PAGE)
        done = kgcore(*command, cwd=tmp_path)
        check(done)
        assert file.stat().st_size == PAGE
        assert done.status == 3
        assert check_core(whole, core, report) > PAGE
        disk.heal()


@pytest.fixture(scope="module")
def tables() -> dict[str, int]:
    """Physical addresses of pages in the middle of the kernel's tables of types and of symbols."""
    with open_target(DumpLocation(core=str(SMALL))) as target:
        translation = Translation.of(target.vmcoreinfo)
        assert translation is not None
        found = {
            "types": target.prog.symbol("__start_BTF").address + 200_000,
            "names of types": target.prog.symbol("__stop_BTF").address - 200_000,
            "names of symbols": vmcoreinfo.symbol(target.vmcoreinfo, "kallsyms_names"),
            "addresses of symbols": vmcoreinfo.symbol(target.vmcoreinfo, "kallsyms_offsets"),
        }
        places = {}
        for name, address in found.items():
            assert address is not None
            place = translation.image(address)
            assert place is not None
            places[name] = (place + 2 * PAGE) & -PAGE
        return places


@pytest.fixture(scope="module")
def system_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with Path(str(need("k61").vmlinux)).open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        rows = ((each["st_value"], each.name) for each in table.iter_symbols() if each["st_shndx"] != "SHN_UNDEF")
        lines = [f"{value:016x} D {name}\n" for value, name in sorted(rows) if name]
    path = tmp_path_factory.mktemp("map") / "System.map"
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize("name", ["types", "names of types", "names of symbols", "addresses of symbols"])
def test_the_kernels_own_tables(
    disk: Disk, folder: Path, tables: dict[str, int], system_map: Path, tmp_path: Path, name: str
) -> None:
    """A bad page there is named, and costs nothing where the user has another source of what stood in it."""
    vmlinux = need("k61").vmlinux
    words = ("--force", "-o", tmp_path / "core")
    assert run(folder, "raw", *words, PID).status == 0
    core = (tmp_path / "core").read_bytes()
    disk.fails(folder / "raw", (tables[name], tables[name] + PAGE))
    done = run(folder, "raw", *words, PID)
    assert done.status == 1
    (line,) = done.remarks
    (address,) = re.findall(
        r"Input/output error: 0x([0-9a-f]+) \(install linux-image-\S*-dbg and give its vmlinux", line
    )
    assert int(address, 16) & -PAGE == tables[name]
    assert run(folder, "raw", *words, "-s", vmlinux, PID).status == 0
    assert (tmp_path / "core").read_bytes() == core
    if "symbols" not in name:
        return
    assert "with -s, or its System.map" in line
    assert run(folder, "raw", *words, "-s", system_map, PID).status == 0
    assert (tmp_path / "core").read_bytes() == core


def section(path: Path, name: str) -> tuple[int, int]:
    """Where a section of an ELF file lies: offset and size."""
    with path.open("rb") as file:
        found = ELFFile(file).get_section_by_name(name)
        assert found is not None
        return found["sh_offset"], found["sh_size"]


def test_a_vmlinux(disk: Disk, tmp_path: Path) -> None:
    """It is not mapped; a bad sector in it ends the command with an error, and so does somebody who cuts it off."""
    fixture = need("k61")
    vmlinux = fixture.vmlinux
    assert vmlinux is not None
    words = ["-c", fixture.dump(), fixture.victims["threads"].pid, "--force", "-o", tmp_path / "core", "-s"]
    plain = kgcore(*words, vmlinux, cwd=tmp_path)
    assert plain.status == 0, plain
    core = (tmp_path / "core").read_bytes()
    disk.fails(vmlinux)
    assert kgcore(*words, vmlinux, cwd=tmp_path) == plain
    assert (tmp_path / "core").read_bytes() == core
    at, size = section(vmlinux, ".rela.debug_info")
    disk.fails(vmlinux, (at, at + size))  # of no use to anybody
    assert kgcore(*words, vmlinux, cwd=tmp_path) == plain
    assert (tmp_path / "core").read_bytes() == core
    for name in (".debug_info", ".debug_str", ".symtab"):
        at, size = section(vmlinux, name)
        disk.fails(vmlinux, (at + size // 2, at + size // 2 + 512))
        done = kgcore(*words, vmlinux, cwd=tmp_path)
        assert done.status == 1
        (line,) = done.remarks
        assert line.startswith(f"kgcore: symbol file {vmlinux} cannot be read near offset ")
        assert line.endswith(
            "Input/output error (give another copy of it, or leave -s out to use the dump's own types)"
        )
    mine = tmp_path / "vmlinux"
    shutil.copy(vmlinux, mine)
    disk.is_cut(mine, 120, vmlinux.stat().st_size // 2)
    done = kgcore(*words, mine, cwd=tmp_path)
    assert done.status == 1
    assert done.remarks == [f"kgcore: symbol file {mine} has become shorter while it is read (try again)"]


def test_a_vmlinux_that_is_cut_off_later(tmp_path: Path) -> None:
    """When drgn has begun to use it."""
    fixture = need("k612")
    mine = shutil.copy(str(fixture.vmlinux), tmp_path / "vmlinux")
    with open_target(DumpLocation(core=str(fixture.dump()), symbols=(str(mine),))) as target:
        os.truncate(mine, 0)
        assert target.types == f"DWARF in {mine}"
        assert target.prog["init_task"].comm.string_() == b"swapper/0"
        assert target.prog.type("struct super_operations").has_member("alloc_inode")
        assert not [link for link in os.listdir("/proc/self/fd") if link_of(link) == str(mine)]


def link_of(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


def test_a_symbol_file_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no copy, but it is read once."""
    monkeypatch.setattr(debugfiles, "_room", lambda: 0)
    path = tmp_path / "vmlinux"
    path.write_bytes(bytes(5 << 20))
    assert debugfiles.private_copy(str(path)) == -1
    with bad(path, (3 << 20, (3 << 20) + 512)), pytest.raises(TargetError, match=f"near offset {3 << 20}: Input"):
        debugfiles.private_copy(str(path))


@pytest.mark.parametrize("size", [0, 1, 63, 64, 5000, (1 << 20) + 1])
def test_a_copy_of_a_symbol_file(tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    (tmp_path / "file").write_bytes(data)
    copy = debugfiles.private_copy(str(tmp_path / "file"))
    assert os.pread(copy, size + 1, 0) == data
    os.close(copy)


def damaged(disk: Disk, path: Path) -> list[Callable[[], None]]:
    return [
        *(lambda at=at: disk.fails(path, (at, at + 512)) for at in (0, 512, 2048, 4096, 1 << 16)),
        *(lambda reads=reads: disk.is_cut(path, reads, 3000) for reads in (1, 2, 4)),
    ]


def test_check(disk: Disk, folder: Path, whole: Core, tmp_path: Path) -> None:
    """A finished core may lie on such a disk as well."""
    for fail in damaged(disk, tmp_path / "core"):
        disk.heal()
        shutil.copy(folder / "core", tmp_path / "core")
        fail()
        check(kgcore("check", tmp_path / "core", cwd=tmp_path))


def test_the_interposer_shows_what_it_shall(disk: Disk, folder: Path, tmp_path: Path) -> None:
    """drgn by itself dies of what kgcore survives."""
    program = f"import drgn; drgn.Program().set_core_dump({str(folder / 'kdump')!r})"
    disk.fails(folder / "kdump", (1 << 20, (1 << 20) + 512))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=tmp_path)
    assert done.returncode == -7
    assert b"the file is mapped" in done.stderr
