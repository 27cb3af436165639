# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types of real modules, from BTF, debug files and what kgcore knows: compared with DWARF and with memory."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from drgn import Object, TypeKind, cast
from drgn.helpers.linux.fs import for_each_mount
from drgn.helpers.linux.swap import for_each_swap_info

from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.kernel.moduletypes import ModuleTypes
from kgcore.sources.vmcore.opening.target import Target, open_target
from tests.vmcore.conftest import MAIN, Fixture, need
from tests.vmcore.test_target import compare

ZRAM = ("k510-zram", "k61-zram", "k612-zram", "k72-zram")
TYPES = (
    ("zram", "struct zram"),
    ("zram", "struct zram_table_entry"),
    ("zram", "struct zcomp"),
    ("zram", "struct zcomp_strm"),
    ("zsmalloc", "struct zs_pool"),
    ("zsmalloc", "struct zspage"),
    ("zsmalloc", "struct size_class"),
)
FORMATS = ("vmcore.elf", "vmcore.qemu-kdump", "vmcore.qemu-flat", "vmcore.d17-lzo")
MODES = ("nothing", "vmlinux", "vmlinux and modules")


def debug_files(fixture: Fixture) -> tuple[str, ...]:
    """Those of zram and zsmalloc. 7.2 of Debian has the latter built in."""
    found = tuple(str(path) for path in sorted((fixture.path / "debug-modules").glob("*.ko*")))
    assert found
    return found


def types_of(target: Target) -> ModuleTypes:
    """As they are once somebody has proven those that kgcore declares."""
    types = ModuleTypes(target)
    for module in ("zram", "zsmalloc"):
        types.prove(module, lambda: None)
    return types


def opened(fixture: Fixture, mode: str, file: str = "vmcore.elf") -> Target:
    if mode == "nothing":
        return open_target(DumpLocation(core=str(fixture.dump(file)), symbols_from="btf"))
    modules = debug_files(fixture) if "modules" in mode else ()
    return open_target(DumpLocation(core=str(fixture.dump(file)), symbols=(str(fixture.vmlinux), *modules)))


@pytest.fixture(params=ZRAM)
def fixture(request: pytest.FixtureRequest) -> Fixture:
    return need(request.param)


@pytest.mark.parametrize("mode", MODES)
def test_against_dwarf(fixture: Fixture, mode: str) -> None:
    """Everything that the modules' structures consist of or refer to."""
    with opened(fixture, mode) as target, opened(fixture, "vmlinux and modules") as reference:
        types = types_of(target)
        differences: list[str] = []
        seen: set[str] = set()
        for module, name in TYPES:
            compare(types.type(module, name), reference.prog.type(name), name, seen, differences)
        assert not differences
        assert {f"{TypeKind.STRUCT} {name.split()[1]}" for _, name in TYPES} <= seen
        assert len(seen) > 300


@pytest.mark.parametrize("mode", MODES)
def test_constants(fixture: Fixture, mode: str) -> None:
    with opened(fixture, mode) as target, opened(fixture, "vmlinux and modules") as reference:
        types = types_of(target)
        expected = reference.prog.type("enum zram_pageflags").enumerators
        assert expected is not None
        assert types.type("zram", "enum zram_pageflags").enumerators == expected
        assert {item.name: types.enumerator("zram", item.name) for item in expected} == {
            item.name: item.value for item in expected
        }
        assert len(expected) >= 7
        assert types.enumerator("zram", "ZRAM_NO_SUCH") is None
        assert types.enumerator("zram", "PIDTYPE_TGID") == 1, "one of the kernel's own"


@pytest.mark.parametrize("file", ["vmcore.elf", "vmcore.d1-zlib"])
@pytest.mark.parametrize("mode", MODES)
def test_devices_in_memory(fixture: Fixture, mode: str, file: str) -> None:
    """``struct zram`` where the kernel has one: it points back to its disk, and says what it holds."""
    with opened(fixture, mode, file) as target:
        types = types_of(target)
        pointer = target.prog.pointer_type(types.type("zram", "struct zram"))
        entry = types.type("zram", "struct zram_table_entry").size
        disks = [info.bdev.bd_disk for info in for_each_swap_info(target.prog) if info.bdev]
        found = 0
        for disk in disks:
            if disk.disk_name.string_().startswith(b"zram"):
                found += 1
                zram = cast(pointer, disk.private_data)
                assert zram.disk == disk
                assert 0 < zram.stats.pages_stored.counter.value_() <= zram.disksize.value_() >> 12
                assert zram.table[1].address_ - zram.table[0].address_ == entry
                pool = Object(target.prog, types.type("zsmalloc", "struct zs_pool"), address=zram.mem_pool.value_())
                assert pool.name.string_() == disk.disk_name.string_()
                assert {each.index.value_() for each in size_classes(pool)} <= set(range(512))
        assert found


def size_classes(pool: Object) -> Iterator[Object]:
    for pointer in pool.size_class:
        if pointer:
            assert 32 <= pointer.size.value_() <= 4096
            assert 1 <= pointer.pages_per_zspage.value_() <= 16
            yield pointer


@pytest.mark.parametrize("mode", MODES)
def test_kernel_memory_is_lost(fixture: Fixture, mode: str) -> None:
    """makedumpfile takes some of the kernel's memory of 6.12 and later for memory of users, even its 1.7.8 does."""
    with opened(fixture, mode, "vmcore.d31-zlib") as target, opened(fixture, "vmlinux and modules") as reference:
        types = types_of(target) if fixture.version < (5, 11) else ModuleTypes(target)
        unknown: list[str] = []
        for module, name in TYPES:
            try:
                assert types.type(module, name).size == reference.prog.type(name).size
            except LookupError as error:
                unknown.append(str(error))
        assert not unknown or (fixture.version >= (6, 12) and mode != "vmlinux and modules")
        for text in unknown:
            assert re.search("(excluded|not in the dump).*-dbg and give both vmlinux and z", text), text


@pytest.mark.parametrize("name", ZRAM)
def test_file_that_drgn_did_not_take(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Since it could not tell which build the module is of; and nothing else describes the module."""
    monkeypatch.setattr(ModuleTypes, "_read_btf", lambda *_: None)
    fixture = need(name)
    with opened(fixture, "vmlinux") as target, opened(fixture, "vmlinux and modules") as reference:
        target.debug_files = debug_files(fixture)
        types = ModuleTypes(target)
        with pytest.raises(LookupError):
            target.prog.type("struct zram")
        differences: list[str] = []
        for module, type_name in TYPES:
            compare(types.type(module, type_name), reference.prog.type(type_name), type_name, set(), differences)
        assert not differences
        assert target.prog.type("struct zram").size == reference.prog.type("struct zram").size


def test_file_of_another_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModuleTypes, "_read_btf", lambda *_: None)
    files = debug_files(need("k612-zram"))
    options = DumpLocation(core=str(need("k61-zram").dump()), symbols=(str(need("k61-zram").vmlinux), *files))
    with open_target(options) as target:
        assert target.debug_files[1:] == files
        with pytest.raises(LookupError, match=r"struct zram of .* is unknown: .*zram.ko does not match the build id"):
            ModuleTypes(target).type("zram", "struct zram")


def test_debug_file_is_found(tmp_path: Path) -> None:
    """Where nothing else describes the module: the file of the package lies in a directory that the user named."""
    fixture = need("k510-zram")
    release = fixture.manifest["release"]
    directory = tmp_path / "lib" / "modules" / release / "kernel"
    directory.mkdir(parents=True)
    for file in debug_files(fixture):
        os.symlink(file, directory / Path(file).name)
    (tmp_path / "boot").mkdir()
    os.symlink(fixture.vmlinux.resolve(), tmp_path / "boot" / f"vmlinux-{release}")
    options = DumpLocation(core=str(fixture.dump()), debug_directories=(str(tmp_path),))
    with open_target(options) as target:
        assert target.symbols_from == "dwarf"
        types = ModuleTypes(target)
        with pytest.raises(LookupError):
            target.prog.type("struct zram")
        assert types.type("zram", "struct zram").member("table").type.type.size == 24
        assert target.prog.type("struct zram").size == types.type("zram", "struct zram").size
        assert types.enumerator("zram", "ZRAM_LOCK") == 24
        with pytest.raises(LookupError, match="neither the kernel nor its module zram has struct no_such"):
            types.type("zram", "struct no_such")


@pytest.mark.parametrize("mode", ["nothing", "vmlinux"])
@pytest.mark.parametrize("file", FORMATS)
@pytest.mark.parametrize("name", MAIN)
def test_disk_of_the_guest(name: str, file: str, mode: str) -> None:
    """``struct virtio_blk`` of the disk that is mounted: no zram is there, and nothing but the dump describes it."""
    fixture = need(name)
    with opened(fixture, mode, file) as target:
        types = ModuleTypes(target)
        if fixture.version < (5, 11):
            with pytest.raises(LookupError, match="module virtio_blk is unknown: the kernel has no BTF of it"):
                types.type("virtio_blk", "struct virtio_blk")
            return
        pointer = target.prog.pointer_type(types.type("virtio_blk", "struct virtio_blk"))
        devices = [mount.mnt.mnt_sb.s_bdev for mount in for_each_mount(target.prog) if mount.mnt.mnt_sb.s_bdev]
        disks = {device.bd_disk.value_(): device.bd_disk for device in devices}
        assert disks
        for disk in disks.values():
            assert disk.disk_name.string_().startswith(b"vd")
            block = cast(pointer, disk.private_data)
            assert block.disk == disk
            assert block.vdev.priv == block
            assert 1 <= block.num_vqs.value_() <= 64
            assert block.vqs[0].vq.vdev == block.vdev
        assert types.type("virtio_blk", "struct virtio_blk") is types.type("virtio_blk", "struct virtio_blk")
        with pytest.raises(LookupError, match="module zram, which is not loaded"):
            types.type("zram", "struct zram")


@pytest.mark.parametrize("name", MAIN[1:])
def test_raw_btf_given_as_a_file(name: str, tmp_path: Path) -> None:
    """What the module's BTF continues is then still the dump's."""
    fixture = need(name)
    with opened(fixture, "nothing") as target:
        start, stop = (target.prog.symbol(symbol).address for symbol in ("__start_BTF", "__stop_BTF"))
        (tmp_path / "same.btf").write_bytes(target.prog.read(start, stop - start))
        (tmp_path / "longer.btf").write_bytes(target.prog.read(start, stop - start) + b"\0")
        expected = ModuleTypes(target).type("virtio_blk", "struct virtio_blk")
        assert expected.size
        for file in ("same.btf", "longer.btf"):
            options = DumpLocation(core=str(fixture.dump()), symbols=(str(tmp_path / file),))
            with open_target(options) as other:
                differences: list[str] = []
                found = ModuleTypes(other).type("virtio_blk", "struct virtio_blk")
                compare(found, expected, "virtio_blk", set(), differences)
                assert not differences
