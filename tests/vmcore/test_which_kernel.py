# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which kernel a dump is of, where its header does not say it or says it wrong, and where memory has several."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("drgn")

from drgn import Program

from kgcore.sources.vmcore.opening.foreign import from_program
from tests.vmcore import reshape
from tests.vmcore.conftest import Fixture, need
from tests.vmcore.tools import kgcore

PAGE = 4096
PT_LOAD, PT_NOTE = 1, 4
START_KERNEL_MAP = 0xFFFFFFFF80000000
ADDRESS = re.compile(r"--vmcoreinfo (0x[0-9a-f]+)")


def info(*words: object, cwd: Path, status: int = 0) -> dict[str, Any]:
    done = kgcore("info", "--json", *words, cwd=cwd)
    assert done.status == status, done.remarks
    return dict(json.loads(done.raw))


def commands(path: Path, *options: object) -> list[str]:
    """The processes that have memory, by what they were started with."""
    done = kgcore("ps", "--json", "-c", path, *options, cwd=path.parent)
    assert done.status in (0, 3), done.remarks
    rows = json.loads(done.raw)["processes"]
    return [row["comm"] for row in rows if row["core_estimate"]]


class Memory:
    """Physical memory of an ELF dump, to be changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loads = [each for each in reshape.segments(path) if each.kind == PT_LOAD]

    def offset(self, address: int) -> int:
        return next(
            each.offset + address - each.address
            for each in self._loads
            if each.address <= address < each.address + each.size
        )

    def write(self, address: int, data: bytes) -> None:
        with self._path.open("r+b") as file:
            file.seek(self.offset(address))
            file.write(data)

    def read(self, address: int, size: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(self.offset(address))
            return file.read(size)

    def replace(self, old: bytes, new: bytes) -> int:
        """Everywhere in the file."""
        assert len(old) == len(new)
        count = 0
        with self._path.open("r+b") as file:
            at, tail = 0, b""
            while piece := file.read(1 << 22):
                data = tail + piece
                for match in re.finditer(re.escape(old), data):
                    place = file.tell()
                    file.seek(at - len(tail) + match.start())
                    file.write(new)
                    file.seek(place)
                    count += 1
                at, tail = at + len(piece), data[-len(old) + 1 :]
        return count


def with_note(path: Path, text: bytes) -> None:
    """Give an ELF dump a VMCOREINFO note instead of its own."""
    rows = reshape.segments(path)
    number = next(number for number, each in enumerate(rows) if each.kind == PT_NOTE)
    with path.open("r+b") as file:
        head = file.read(64)
        (table,) = struct.unpack_from("<Q", head, 32)
        file.seek(rows[number].offset)
        notes = file.read(rows[number].size).replace(b"VMCOREINFO\0", b"XMCOREINFO\0")
        notes += struct.pack("<III", 11, len(text), 0) + b"VMCOREINFO\0\0" + text + bytes(-len(text) % 4)
        file.seek(0, 2)
        offset = file.tell()
        file.write(notes)
        file.seek(table + 56 * number)
        file.write(struct.pack("<IIQQQQQQ", PT_NOTE, 0, offset, 0, 0, len(notes), len(notes), 4))


class TestTwoKernels:
    """A guest whose capture kernel was running when all of its RAM was dumped."""

    @pytest.fixture
    def guest(self) -> Fixture:
        return need("k61-capture")

    @pytest.fixture
    def copy(self, guest: Fixture, tmp_path: Path) -> Path:
        return reshape.copy(guest.dump(), tmp_path / "vmcore")

    def test_the_crashed_one_is_taken(self, guest: Fixture, tmp_path: Path) -> None:
        pids = [guest.victims[name].pid for name in ("crasher", "spin")]
        cores = []
        for file in ("vmcore.elf", "vmcore.kexec"):
            folder = tmp_path / file
            folder.mkdir()
            done = kgcore("-c", guest.dump(file), "--no-kgcore-note", "-D", folder, *pids, cwd=tmp_path)
            assert done.status in (0, 3)
            told = [line for line in done.remarks if "kernels: kgcore uses the one that crashed" in line]
            assert len(told) == (file == "vmcore.elf")
            cores.append({path.name: path.read_bytes() for path in folder.iterdir()})
        assert len(cores[0]) == 2
        assert cores[0] == cores[1]

    def test_info(self, guest: Fixture, tmp_path: Path) -> None:
        found = info("-c", guest.dump(), cwd=tmp_path)
        capture, crashed = sorted(found["kernels"], key=lambda one: bool(one["taken"]))
        assert (capture["capture"], capture["running"], capture["crash_time"]) == (True, True, None)
        assert (crashed["capture"], crashed["taken"]) == (False, True)
        assert {one["release"] for one in found["kernels"]} == {guest.manifest["release"]}
        assert found["crash_time"] == next(one["crash_time"] for one in found["kernels"] if one["taken"])
        done = kgcore("info", "-c", guest.dump(), cwd=tmp_path)
        assert re.search(r"^kernels .*the one that crashed, .* \(shown here\)", done.raw.decode(), re.MULTILINE)
        assert info("-c", guest.dump("vmcore.kexec"), cwd=tmp_path)["kernels"] == []

    def test_the_user_chooses(self, guest: Fixture, tmp_path: Path) -> None:
        told = kgcore("info", "-c", guest.dump(), cwd=tmp_path).remarks[0]
        address = ADDRESS.search(told)
        assert address
        assert "crasher" in commands(guest.dump())
        other = commands(guest.dump(), "--vmcoreinfo", address[1])
        assert other
        assert "crasher" not in other
        done = kgcore("ps", "-c", guest.dump(), "--vmcoreinfo", "0x1000", cwd=tmp_path)
        assert done.status == 1
        assert "no VMCOREINFO at the physical address" in done.remarks[0]

    @pytest.mark.parametrize("form", ["lime", "raw"])
    def test_without_notes_of_cpus(self, guest: Fixture, form: str, tmp_path: Path) -> None:
        path = (reshape.lime if form == "lime" else reshape.raw)(guest.dump(), tmp_path / "image")
        assert "crasher" in commands(path, *(("--architecture", "x86_64") if form == "raw" else ()))

    def test_without_the_time_of_the_crash(self, copy: Path) -> None:
        """The capture kernel lies where the crashed kernel has reserved memory for it."""
        assert Memory(copy).replace(b"\nCRASHTIME=", b"\nXRASHTIME=")
        assert "crasher" in commands(copy)

    def test_the_header_has_the_capture_kernels(self, copy: Path) -> None:
        capture = next(one for one in info("-c", copy, cwd=copy.parent)["kernels"] if one["capture"])
        text = Memory(copy).read(capture["vmcoreinfo"], PAGE - 24).split(b"\0")[0]
        assert text.startswith(b"OSRELEASE=")
        with_note(copy, text)
        assert "crasher" in commands(copy)
        assert "belongs to the capture kernel" in kgcore("info", "-c", copy, cwd=copy.parent).remarks[0]

    def test_a_crash_before_a_reboot(self, copy: Path) -> None:
        """What ran is no capture kernel: then the crash is history, however much of it is still in RAM."""
        kernels = info("-c", copy, cwd=copy.parent)["kernels"]
        capture = next(one for one in kernels if one["capture"])
        symbol = self.symbol(copy, "elfcorehdr_addr", hex(capture["vmcoreinfo"]))
        Memory(copy).write(symbol, b"\xff" * 8)
        with copy.open("r+b") as file:  # a CPU that the capture kernel did not start is still the crashed kernel's
            head = file.read(1 << 16)
            first, second = (match.start() + 8 + 392 + 3 * 8 for match in re.finditer(rb"QEMU\0{4}\x01\0{3}", head))
            file.seek(second)
            file.write(head[first : first + 8])
        assert "crasher" not in commands(copy)
        told = kgcore("info", "-c", copy, cwd=copy.parent).remarks[0]
        assert "kgcore uses the running one" in told
        address = ADDRESS.search(told)
        assert address
        assert "crasher" in commands(copy, "--vmcoreinfo", address[1])

    @staticmethod
    def symbol(path: Path, name: str, vmcoreinfo: str) -> int:
        """Physical address of a variable of one of the kernels."""
        from kgcore.sources.location import DumpLocation
        from kgcore.sources.vmcore.opening.target import open_target

        with open_target(DumpLocation(core=str(path), vmcoreinfo=vmcoreinfo)) as target:
            address = target.symbol_address(name)
            assert address
            return address - START_KERNEL_MAP + int(target.vmcoreinfo["NUMBER(phys_base)"])


def moved(text: bytes) -> bytes:
    """A VMCOREINFO of another boot: KASLR put all addresses elsewhere."""

    def elsewhere(match: re.Match[bytes]) -> bytes:
        value = int(match[2], 16)
        return match[1] + b"%x" % (value + 0x3000000 if value >> 31 == 0x1FFFFFFFF else value)

    return re.sub(rb"(SYMBOL\(\w+\)=|KERNELOFFSET=)(\w+)", elsewhere, text)


def other_release(text: bytes) -> bytes:
    return moved(text).replace(b"OSRELEASE=6.1.0-", b"OSRELEASE=5.9.1-")


def same_addresses(text: bytes) -> bytes:
    return text.replace(b"OSRELEASE=6.1.0-", b"OSRELEASE=5.9.1-")


def empty(text: bytes) -> bytes:
    return bytes(len(text))


def rubbish(text: bytes) -> bytes:
    return b"\xff" * len(text)


WRONG = [moved, other_release, same_addresses, empty, rubbish]


def wrong_header(source: Path, target: Path, change: Callable[[bytes], bytes]) -> bytes:
    """A dump with another VMCOREINFO in its header, wherever it has that; and the right one."""
    reshape.copy(source, target)
    with target.open("r+b") as file:
        head = file.read(1 << 17)
        if head.startswith(b"KDUMP"):
            offset, size = struct.unpack_from("<QQ", head, PAGE + 32)
        else:
            note = head.index(b"VMCOREINFO\0")
            offset, size = note + 12, struct.unpack_from("<I", head, note - 8)[0]
        file.seek(offset)
        right = file.read(size)
        assert right.startswith(b"OSRELEASE=")
        file.seek(0)
        whole = file.read(1 << 17)
        for match in re.finditer(re.escape(right[:200]), whole):  # a kdump file has it as a note, too
            file.seek(match.start())
            file.write(change(right)[:size].ljust(size, b"\0"))
    return right


@pytest.mark.parametrize("change", WRONG)
class TestWrongHeader:
    def test_the_right_one_is_in_memory(self, change: Callable[[bytes], bytes], tmp_path: Path) -> None:
        fixture = need("k61")
        pid = fixture.victims["threads"].pid
        cores = []
        for name in ("right", "wrong"):
            path = fixture.dump()
            if name == "wrong":
                path = tmp_path / "vmcore"
                wrong_header(fixture.dump(), path, change)
            done = kgcore("-c", path, "--no-kgcore-note", "-o", tmp_path / name, pid, cwd=tmp_path)
            assert done.status == 0, done.remarks
            told = [line for line in done.remarks if "kgcore uses one in memory" in line]
            assert bool(told) == (name == "wrong" and change is not empty)
            cores.append((tmp_path / name).read_bytes())
        assert cores[0] == cores[1]

    @pytest.mark.parametrize("file", ["vmcore.d1-zlib", "vmcore.d31-elf"])
    def test_other_formats(self, change: Callable[[bytes], bytes], file: str, tmp_path: Path) -> None:
        fixture = need("k61")
        wrong_header(fixture.dump(file), tmp_path / "vmcore", change)
        assert "threads" in commands(tmp_path / "vmcore")

    def test_there_is_none_in_memory(self, change: Callable[[bytes], bytes], tmp_path: Path) -> None:
        """The small dump was reduced, and that page is not in it."""
        path = tmp_path / "vmcore"
        right = wrong_header(need("k61-small").dump("vmcore"), path, change)
        for words in (("info",), ("ps",), (1,)):
            done = kgcore(*words, "-c", path, cwd=tmp_path)
            assert done.status == 1
            assert "VMCOREINFO" in done.remarks[0]
            assert "--vmcoreinfo" in done.remarks[0]
            assert "-dbg" not in done.remarks[0]
        (tmp_path / "right").write_bytes(right)
        assert "threads" in commands(path, "--vmcoreinfo", tmp_path / "right")


def test_a_wrong_one_that_the_user_gives(tmp_path: Path) -> None:
    dump = need("k61").dump()
    head = dump.read_bytes()[: 1 << 16]
    text = head[head.index(b"OSRELEASE=") :].split(b"\0")[0]
    for change in (moved, other_release, same_addresses):
        (tmp_path / "wrong").write_bytes(change(text))
        done = kgcore("ps", "-c", dump, "--vmcoreinfo", tmp_path / "wrong", cwd=tmp_path)
        assert done.status == 1
        assert "given with --vmcoreinfo does not match a kernel in the dump's memory" in done.remarks[0]


def test_in_drgn(tmp_path: Path) -> None:
    """drgn believes the header; kgcore opens the dump anew."""
    wrong_header(need("k61").dump(), tmp_path / "vmcore", moved)
    prog = Program()
    prog.set_core_dump(tmp_path / "vmcore")
    with from_program(prog) as target:
        assert target.prog is not prog
        assert target.prog["init_task"].comm.string_().startswith(b"swapper")


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("SYMBOL(kallsyms_names)=", "zz"),
        ("SYMBOL(kallsyms_offsets)=", "0"),
        ("SYMBOL(swapper_pg_dir)=", ""),
        ("NUMBER(MAX_PHYSMEM_BITS)=", "99999999999999999999"),
    ],
)
def test_a_damaged_line(line: str, value: str, tmp_path: Path) -> None:
    """Not all of a VMCOREINFO is looked at before it is used."""

    def change(text: bytes) -> bytes:
        new = (line + value + "\n").encode() if value else b""
        return re.sub(re.escape(line.encode()) + rb".*\n", new, text)

    path = tmp_path / "vmcore"
    wrong_header(need("k61").dump(), path, change)
    assert "threads" in commands(path)
    wrong_header(need("k61-small").dump("vmcore"), path, change)
    done = kgcore("ps", "-c", path, cwd=tmp_path)
    assert done.status == 0 or "--vmcoreinfo" in done.remarks[-1]


class TestOtherCauses:
    def test_raw_memory_without_its_holes(self, tmp_path: Path) -> None:
        """As dd makes it of one range after the other; that below 640 KiB ends within a page."""
        fixture = need("k61-novmcoreinfo")
        text = (fixture.path / "truth/system/iomem").read_text()
        ranges = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) : System RAM$", text, re.MULTILINE)
        memory = Memory(fixture.dump())
        path = tmp_path / "raw"
        lost, expected = 0, []
        with path.open("wb") as file:
            for first, last in ((int(first, 16), int(last, 16)) for first, last in ranges):
                lost = first - file.tell()
                expected.append(lost)
                for at in range(first, last + 1, 1 << 22):
                    file.write(memory.read(at, min(1 << 22, last + 1 - at)))
        done = kgcore("info", "-c", path, "--architecture", "x86_64", cwd=tmp_path)
        assert done.status == 1
        assert (
            f"lacks the holes between ranges of RAM: its kernel is {expected[-1]:#x} bytes below its address"
            in done.remarks[0]
        )

    def test_xens_own(self, tmp_path: Path) -> None:
        path = reshape.elf_of_kdump(need("k61-small").dump("vmcore"), tmp_path / "vmcore")
        data = path.read_bytes()
        note = data.index(b"VMCOREINFO\0")
        text = data[note + 12 :].split(b"\0")[0]
        size = struct.unpack_from("<I", data, note - 8)[0]
        head = bytearray(data)
        head[note + 12 : note + 12 + size] = moved(text).ljust(size, b"\0")[:size]
        # What was a note of QEMU's is one of Xen's (XEN_ELFNOTE_CRASH_INFO, owner "Xen").
        qemu = head.index(b"QEMU\0")
        struct.pack_into("<I", head, qemu - 12, 4)
        head[qemu : qemu + 8] = b"Xen\0Xen\0"
        path.write_bytes(head)
        done = kgcore("info", "-c", path, cwd=tmp_path)
        assert done.status == 1
        assert "Xen host" in done.remarks[0]
