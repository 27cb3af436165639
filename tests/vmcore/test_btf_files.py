# SPDX-License-Identifier: LGPL-2.1-or-later
"""BTF from a file, ``-s FILE.btf``: it has to prove that it is of the kernel in the dump."""

import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kgcore.errors import TargetError
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.opening.target import Target, open_target
from kgcore.sources.vmcore.symbols.btf import Btf, BtfKind
from kgcore.sources.vmcore.symbols.btffile import is_btf, read_btf
from kgcore.sources.vmcore.symbols.finders import OwnSymbols
from tests.vmcore.conftest import need
from tests.vmcore.kallsyms_forms import COMMITTED
from tests.vmcore.tools import tool

_MEMBER = struct.Struct("<III")


def dump(name: str) -> Path:
    return COMMITTED / name / "vmcore"


def own_btf(path: Path) -> bytes:
    with open_target(DumpLocation(core=str(path), symbols_from="btf")) as target:
        own = OwnSymbols.of(target.prog)
        assert own is not None
        return own.btf.data


def given(path: Path, file: Path) -> Target:
    return open_target(DumpLocation(core=str(path), symbols=(str(file),)))


def refused(path: Path, file: Path) -> str:
    with pytest.raises(TargetError) as caught:
        given(path, file)
    return caught.value.message


@pytest.fixture(scope="module")
def k61() -> bytes:
    return own_btf(dump("k61-small"))


@pytest.fixture(scope="module")
def k61_whole() -> bytes:
    """Of a dump that has all of the kernel's memory; the small one has what kgcore reads."""
    return own_btf(need("k61").dump("vmcore.d1-zlib"))


@pytest.mark.parametrize("name", ["k510-small", "k61-small", "k612-small", "k72-small", "k61-abi-small"])
def test_its_own(name: str, tmp_path: Path) -> None:
    """Whatever contradicts a kernel's own BTF is no proof."""
    (tmp_path / "own.btf").write_bytes(own_btf(dump(name)))
    with given(dump(name), tmp_path / "own.btf") as target:
        assert target.types == f"BTF in {tmp_path / 'own.btf'}, symbols from the kernel's kallsyms"


@pytest.mark.parametrize("name", ["k510", "k61", "k612", "k72", "k510-rt", "k61-rt", "k612-rt", "k-experimental"])
def test_its_own_of_more_kernels(name: str, tmp_path: Path) -> None:
    path = need(name).dump()
    (tmp_path / "own.btf").write_bytes(own_btf(path))
    given(path, tmp_path / "own.btf").close()


def test_made_by_pahole(tmp_path: Path) -> None:
    fixture = need("k612")
    types = tmp_path / "made.btf"
    subprocess.run([tool("pahole"), "--btf_encode_detached", types, fixture.vmlinux], check=True, timeout=300)
    given(fixture.dump(), types).close()


def test_another_kernel(k61: bytes, tmp_path: Path) -> None:
    (tmp_path / "k61.btf").write_bytes(k61)
    for name in ("k510-small", "k612-small", "k72-small", "k61-abi-small"):
        said = refused(dump(name), tmp_path / "k61.btf")
        assert "k61.btf does not describe the kernel in the dump, " in said


def test_the_next_update_of_the_same_series(tmp_path: Path) -> None:
    """Most structures are the same, and nothing in VMCOREINFO is another: the functions are."""
    newer, older = need("k612").dump(), dump("k612-small")
    with open_target(DumpLocation(core=str(older), symbols_from="btf")) as target:
        release = target.release
    if release == need("k612").manifest["release"]:
        pytest.skip("both fixtures are of one kernel: the committed one was made anew")
    (tmp_path / "newer.btf").write_bytes(own_btf(newer))
    (tmp_path / "older.btf").write_bytes(own_btf(older))
    said = "does not describe the kernel in the dump, "
    assert said + release in refused(older, tmp_path / "newer.btf")
    assert said in refused(newer, tmp_path / "older.btf")


# The same kernel built anew: functions and variables are the same, a structure is not (CONFIG_RANDSTRUCT, a patch).


def member_at(data: bytes, struct_name: str, member: str) -> int:
    """Where in BTF data the offset of a member stands."""
    btf = Btf(data)
    number = btf.find(struct_name, BtfKind.STRUCT)
    assert number is not None
    record = btf.record(number)
    for index in range(record.vlen):
        at = record.offset + index * _MEMBER.size
        if btf.name(_MEMBER.unpack_from(data, at)[0]) == member:
            return at + 8
    raise AssertionError(member)


def swapped(data: bytes, struct_name: str, one: str, two: str) -> bytes:
    changed = bytearray(data)
    places = member_at(data, struct_name, one), member_at(data, struct_name, two)
    values = [changed[at : at + 4] for at in places]
    for at, value in zip(places, reversed(values), strict=True):
        changed[at : at + 4] = value
    return bytes(changed)


@pytest.mark.parametrize(
    ("struct_name", "one", "two", "why"),
    [
        ("task_struct", "comm", "journal_info", "init_task is no task"),
        ("task_struct", "pid", "policy", "is not the first process"),
        ("task_struct", "nsproxy", "signal", "no name of the kernel"),
        ("zone", "free_area", "name", "OFFSET(zone.free_area) is"),
        ("page", "_refcount", "memcg_data", "OFFSET(page._refcount) is"),
        ("list_head", "next", "prev", "OFFSET(list_head.next) is 8 in it, 0 in the dump"),
    ],
)
def test_members_elsewhere(struct_name: str, one: str, two: str, why: str, k61_whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "other.btf").write_bytes(swapped(k61_whole, struct_name, one, two))
    whole = need("k61").dump("vmcore.d1-zlib")
    assert why in refused(whole, tmp_path / "other.btf")


def test_a_constant_with_another_value(k61: bytes, tmp_path: Path) -> None:
    btf = Btf(k61)
    found = btf.find_enumerator("PG_swapbacked")
    assert found is not None
    record = btf.record(found[0])
    changed = bytearray(k61)
    for index in range(record.vlen):
        name, value = struct.unpack_from("<II", k61, record.offset + 8 * index)
        if btf.name(name) == "PG_swapbacked":
            struct.pack_into("<I", changed, record.offset + 8 * index + 4, value + 1)
    (tmp_path / "other.btf").write_bytes(changed)
    said = refused(dump("k61-small"), tmp_path / "other.btf")
    assert f"PG_swapbacked is {found[1] + 1} in it, {found[1]} in the dump" in said


def test_a_per_cpu_variable_elsewhere(k61: bytes, tmp_path: Path) -> None:
    btf = Btf(k61)
    number = btf.find(".data..percpu", BtfKind.DATASEC)
    assert number is not None
    record = btf.record(number)
    changed = bytearray(k61)
    variable, offset, _ = _MEMBER.unpack_from(k61, record.offset + 12 * 200)
    struct.pack_into("<I", changed, record.offset + 12 * 200 + 4, offset + 64)
    (tmp_path / "other.btf").write_bytes(changed)
    name = btf.name(btf.record(variable).name_offset)
    assert f"the per-CPU variable {name} is elsewhere in it" in refused(dump("k61-small"), tmp_path / "other.btf")


# Files of other kinds


def elf_of(vmlinux: Path, target: Path) -> Path:
    """What a vmlinuz packs, as far as it matters: sections without DWARF, with BTF and build id."""
    subprocess.run([tool("objcopy"), "-S", vmlinux, target], check=True, timeout=300)
    return target


def test_a_vmlinux_without_dwarf(tmp_path: Path) -> None:
    stripped = elf_of(need("k61").vmlinux, tmp_path / "vmlinux")
    with given(need("k61").dump(), stripped) as target:
        assert target.symbols_from == "btf"
    said = refused(need("k612").dump(), stripped)
    assert "vmlinux belongs to a kernel with build id " in said
    alone = tmp_path / "alone"
    subprocess.run([tool("objcopy"), "--only-section=.BTF", stripped, alone], check=True, timeout=300)
    given(need("k61").dump(), alone).close()
    assert "does not describe" in refused(need("k612").dump(), alone)


def test_a_vmlinux_with_dwarf_is_no_btf_file() -> None:
    assert not is_btf(str(need("k61").vmlinux))


def test_text_of_bpftool(tmp_path: Path) -> None:
    (tmp_path / "types.btf").write_text("[1] INT 'long unsigned int' size=8 bits_offset=0 nr_bits=64 encoding=(none)\n")
    with pytest.raises(TargetError) as caught:
        given(dump("k61-small"), tmp_path / "types.btf")
    assert "types.btf is BTF as text, not BTF" in caught.value.message
    assert "pahole --btf_encode_detached FILE.btf vmlinux" in (caught.value.hint or "")


def test_of_a_big_endian_kernel(k61: bytes, tmp_path: Path) -> None:
    (tmp_path / "types.btf").write_bytes(k61[1::-1] + k61[2:])
    assert "types.btf is BTF of a big-endian kernel" in refused(dump("k61-small"), tmp_path / "types.btf")


def test_of_a_module(tmp_path: Path) -> None:
    """Split BTF: its types build upon the kernel's, which it does not have."""
    kernel = Btf(own_btf(dump("k61-small")))
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 12, 12, 5)
    record = struct.pack("<III", kernel.string_length + 1, BtfKind.TYPEDEF << 24, 5)
    (tmp_path / "module.btf").write_bytes(header + record + b"\0abc\0")
    assert "module.btf does not describe the kernel" in refused(dump("k61-small"), tmp_path / "module.btf")


@pytest.mark.parametrize("size", [5, 63, 64, 200, 4096])
def test_a_damaged_elf_file(size: int, tmp_path: Path) -> None:
    header = bytearray(Path(shutil.which("true") or "/bin/true").read_bytes()[:size])
    (tmp_path / "cut").write_bytes(bytes(header))
    assert not is_btf(str(tmp_path / "cut"))
    assert "cut" in refused(dump("k61-small"), tmp_path / "cut")


@pytest.mark.parametrize("change", [lambda data: data[:1000], lambda data: data[:60] + b"\xff" * 8 + data[68:]])
def test_damage_is_named_with_the_file(change: Callable[[bytes], bytes], k61: bytes, tmp_path: Path) -> None:
    (tmp_path / "types.btf").write_bytes(change(k61))
    assert "types.btf" in refused(dump("k61-small"), tmp_path / "types.btf")


def test_absent(tmp_path: Path) -> None:
    assert not is_btf(str(tmp_path / "absent"))
    assert not is_btf(str(tmp_path))
    with pytest.raises(TargetError, match="cannot read symbol file"):
        read_btf(str(tmp_path / "absent"), "")
    os.mkfifo(tmp_path / "pipe")
    assert not is_btf(str(tmp_path / "pipe"))
