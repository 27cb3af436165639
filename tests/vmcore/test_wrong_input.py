# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is not right is told in one line: what, where and what to try. Through the command line; never a traceback."""

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.opening.target import open_target
from kgcore.sources.vmcore.symbols.debuginfo import debug_package
from tests.vmcore import reshape
from tests.vmcore.conftest import Fixture, need
from tests.vmcore.tools import ROOT, kgcore, tool

PAGE = 4096


@pytest.fixture
def k61() -> Fixture:
    return need("k61")


def refused(tmp_path: Path, *options: object) -> str:
    """The one line that kgcore says."""
    done = kgcore(*options, "-o", tmp_path / "core", 1, cwd=tmp_path)
    assert done.status == 1
    assert done.raw == b""
    (remark,) = done.remarks
    assert "unexpected" not in remark
    assert not (tmp_path / "core").exists()
    return remark


# The file


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: path.write_bytes(b"hello, world\n" * 1000),
            "not an ELF core, a kdump file or a LiME image",
        ),
        (lambda path: path.write_bytes(bytes(1 << 20)), "not an ELF core, a kdump file or a LiME image"),
        (lambda path: path.write_bytes(b""), "is empty (the disk may have been full"),
        (lambda path: path.mkdir(), "is a directory (name the vmcore in it with -c)"),
        (lambda path: shutil.copyfile("/bin/true", path), "it is an ELF file, but not a core (give the vmcore with -c"),
        (lambda path: path.write_bytes(b"QEVM" + bytes(PAGE)), "QEMU migration stream, which is not supported (dump"),
        (lambda path: path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(20)), "cut off within its headers"),
    ],
)
def test_no_dump(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    make(path)
    remark = refused(tmp_path, "-c", path)
    assert message in remark
    assert str(path) in remark


def test_unreadable(tmp_path: Path) -> None:
    """As somebody who may not read every file, as root may."""
    path = tmp_path / "secret"
    path.write_bytes(b"x")
    path.chmod(0)
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    words = [*drop, sys.executable, "-m", "kgcore", "-c", str(path), "1"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"kgcore: cannot open {path}: Permission denied (often only root can read vmcores)"
    ]


def test_core_of_a_process(k61: Fixture, tmp_path: Path) -> None:
    core = k61.victims["threads"].core
    assert core is not None
    assert "is the core of a process, not a vmcore (kgcore check" in refused(tmp_path, "-c", core)


@pytest.mark.parametrize(
    ("file", "offset", "data"),
    [
        ("vmcore.elf", 18, struct.pack("<H", 183)),  # e_machine: EM_AARCH64
        ("vmcore.d17-zlib", 12 + 4 * 65, b"aarch64\0"),  # utsname.machine
    ],
)
def test_another_architecture(file: str, offset: int, data: bytes, k61: Fixture, tmp_path: Path) -> None:
    path = reshape.patched(k61.dump(file), tmp_path / "vmcore", offset, data)
    remark = refused(tmp_path, "-c", path)
    assert "architecture aarch64 is not supported (kgcore reads dumps of x86_64" in remark


# Symbols


def test_vmlinux_of_another_kernel(k61: Fixture, tmp_path: Path) -> None:
    other = need("k612").vmlinux
    remark = refused(tmp_path, "-c", k61.dump(), "-s", other)
    assert str(other) in remark
    assert "with build id " in remark
    assert f"install linux-image-{k61.manifest['release']}-dbg and give its vmlinux with -s" in remark


@pytest.mark.parametrize("content", [b"hello", b"\x7fELF", b""])
def test_symbol_file_that_is_none(content: bytes, k61: Fixture, tmp_path: Path) -> None:
    (tmp_path / "symbols").write_bytes(content)
    assert "symbols" in refused(tmp_path, "-c", k61.dump(), "-s", tmp_path / "symbols")


class Places:
    """Where things lie in the physical memory of a dump."""

    def __init__(self, path: Path) -> None:
        with open_target(DumpLocation(core=str(path), symbols_from="btf")) as target:
            prog = target.prog
            base = int(target.vmcoreinfo["NUMBER(phys_base)"]) - 0xFFFFFFFF80000000

            def place(name: str) -> int:
                address = target.vmcoreinfo.get(f"SYMBOL({name})")
                return base + (int(address, 16) if address else prog.symbol(name).address)

            self.btf, self.btf_end = place("__start_BTF"), place("__stop_BTF")
            self.data: bytes = prog.read(self.btf, self.btf_end - self.btf, physical=True)
            self.num_syms = place("kallsyms_num_syms") if "SYMBOL(kallsyms_num_syms)" in target.vmcoreinfo else 0
            self.tokens = place("kallsyms_token_table") if self.num_syms else 0
            self.names = place("kallsyms_names") if self.num_syms else 0

    @property
    def btf_frames(self) -> set[int]:
        return set(range(self.btf // PAGE, (self.btf_end - 1) // PAGE + 1))


@pytest.fixture(scope="module")
def places() -> Places:
    return Places(need("k61").dump())


def in_file(path: Path, address: int) -> int:
    """The offset of a physical address in an ELF vmcore."""
    (load,) = (load for load in reshape.segments(path) if load.kind == 1 and 0 <= address - load.address < load.size)
    return load.offset + address - load.address


def test_raw_btf(k61: Fixture, places: Places, tmp_path: Path) -> None:
    """BTF as a file: with a dump that lost its own, the same core as with it."""
    whole = k61.dump("vmcore.d17-zlib")
    path = reshape.without_frames(whole, tmp_path / "vmcore", places.btf_frames)
    remark = refused(tmp_path, "-c", path)
    assert "the kernel's type information (BTF) is not in the dump" in remark
    assert f"install linux-image-{k61.manifest['release']}-dbg and give its vmlinux with -s" in remark
    (tmp_path / "types.btf").write_bytes(places.data)
    pid = k61.victims["threads"].pid
    cores: list[Path] = []
    for options in (("-c", path, "-s", tmp_path / "types.btf"), ("-c", whole), ("-c", path, "-s", k61.vmlinux)):
        cores.append(tmp_path / f"core{len(cores)}")
        done = kgcore(*options, "--no-kgcore-note", "-o", cores[-1], pid, cwd=tmp_path)
        assert (done.status, done.remarks) == (0, [])
    assert len({core.read_bytes() for core in cores}) == 1


def test_btf_that_pahole_wrote(k61: Fixture, tmp_path: Path) -> None:
    types = tmp_path / "types.btf"
    subprocess.run([tool("pahole"), "--btf_encode_detached", types, k61.vmlinux], check=True, timeout=120)
    done = kgcore("-c", k61.dump(), "-s", types, "-o", tmp_path / "core", k61.victims["threads"].pid, cwd=tmp_path)
    assert (done.status, done.remarks) == (0, [])


def test_btf_of_another_kernel(k61: Fixture, tmp_path: Path) -> None:
    (tmp_path / "types.btf").write_bytes(Places(need("k612").dump()).data)
    remark = refused(tmp_path, "-c", k61.dump(), "-s", tmp_path / "types.btf")
    assert f"types.btf does not describe the kernel in the dump, {k61.manifest['release']}" in remark


@pytest.mark.parametrize("keep", [2, 20, 1000, 1_000_000])
def test_btf_file_cut_off(keep: int, k61: Fixture, places: Places, tmp_path: Path) -> None:
    (tmp_path / "types.btf").write_bytes(places.data[:keep])
    remark = refused(tmp_path, "-c", k61.dump(), "-s", tmp_path / "types.btf")
    assert "BTF" in remark or "types.btf" in remark


def test_btf_cut_off_in_the_dump(k61: Fixture, places: Places, tmp_path: Path) -> None:
    """Its header says that it is longer than the kernel's symbols do."""
    length = struct.pack("<I", struct.unpack_from("<I", places.data, 20)[0] + 5)
    path = reshape.patched(k61.dump(), tmp_path / "vmcore", in_file(k61.dump(), places.btf + 20), length)
    remark = refused(tmp_path, "-c", path)
    assert "the kernel's type information (BTF) is cut off (install linux-image-" in remark


def test_btf_damaged_in_the_dump(k61: Fixture, places: Places, tmp_path: Path) -> None:
    noise = b"\xff" * 4096
    path = reshape.patched(k61.dump(), tmp_path / "vmcore", in_file(k61.dump(), places.btf + 5000), noise)
    assert "the kernel's type information (BTF) has a type of unknown kind" in refused(tmp_path, "-c", path)


@pytest.mark.parametrize(
    ("what", "data"),
    [("num_syms", b"\xff" * 4), ("num_syms", bytes(4)), ("tokens", b"\xff" * 2048), ("names", b"\xff" * 4096)],
)
def test_kallsyms_damaged(what: str, data: bytes, k61: Fixture, places: Places, tmp_path: Path) -> None:
    at = in_file(k61.dump(), getattr(places, what))
    path = reshape.patched(k61.dump(), tmp_path / "vmcore", at, data)
    remark = refused(tmp_path, "-c", path)
    assert "kallsyms" in remark
    assert f"install linux-image-{k61.manifest['release']}-dbg" in remark


def test_kallsyms_lost_by_an_old_kernel(tmp_path: Path) -> None:
    """5.10 does not say where they are; so they are searched, and what is searched for is not there."""
    fixture = need("k510")
    data = fixture.dump().read_bytes()
    digits = b"".join(b"%d\0" % digit for digit in range(10))
    at, places = data.find(digits), []
    while at >= 0:
        places.append(at)
        at = data.find(digits, at + 1)
    del data
    path = reshape.copy(fixture.dump(), tmp_path / "vmcore")
    with path.open("r+b") as file:
        for at in places:
            file.seek(at)
            file.write(bytes(len(digits)))
    remark = refused(tmp_path, "-c", path)
    assert "(kallsyms) was not found in its memory (install linux-image-5.10.0-" in remark


@pytest.mark.parametrize(
    ("release", "package"),
    [
        ("6.1.0-50-cloud-amd64", "linux-image-6.1.0-50-cloud-amd64-dbg"),
        ("6.1.0-13-686-pae", "linux-image-6.1.0-13-686-pae-dbg"),
        ("6.12.0-1-rt-amd64", "linux-image-6.12.0-1-rt-amd64-dbg"),
        ("7.2.13+deb14-cloud-amd64", "linux-image-7.2.13+deb14-cloud-amd64-dbg"),
        ("6.8.0-45-generic", "linux-image-6.8.0-45-generic-dbgsym"),
        ("5.15.0-1051-aws", "linux-image-5.15.0-1051-aws-dbgsym"),
        ("5.14.0-362.8.1.el9_3.x86_64", "kernel-debuginfo-5.14.0-362.8.1.el9_3.x86_64"),
        ("6.9.7-200.fc40.x86_64", "kernel-debuginfo-6.9.7-200.fc40.x86_64"),
        ("5.14.21-150500.55.19-default", "kernel-default-debuginfo"),
        ("6.1.0-custom", "the debuginfo package of kernel 6.1.0-custom"),
    ],
)
def test_the_package_for_a_release(release: str, package: str) -> None:
    assert debug_package(release).startswith(package)
