# SPDX-License-Identifier: LGPL-2.1-or-later
"""``--swap DEV=IMAGE``: memory out of images of swap devices and swap files.

Without them it is missing, and it is said where it would be; with them it is what the victims wrote, and what the
kernel read from the same device for its core.
"""

import json
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

drgn = pytest.importorskip("drgn")

from kgcore.errors import TargetError
from kgcore.model.memory import Provenance, peek
from kgcore.sources.base import Process, UserFiles
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.memory.swap import images
from kgcore.sources.vmcore.opening.target import Target, open_target
from kgcore.sources.vmcore.source import VmcoreSource
from tests.vmcore.conftest import MAIN, Extractor, Fixture, Victim, need
from tests.vmcore.corefile import Core
from tests.vmcore.differences import Expected, compare
from tests.vmcore.patterns import contents
from tests.vmcore.tools import kgcore

PAGE = 4096
FIXTURES = [f"{name}-zram" for name in MAIN]
VICTIMS = ["swap_disk", "swap_disk_child", "swap_file"]
DEVICES = {"swap_disk": "/dev/vdc", "swap_disk_child": "/dev/vdc", "swap_file": "/disk/swap"}


class Swapped(NamedTuple):
    """A page that was in its swap space alone, as the victim saw it itself.

    :ivar content: what it filled it with.
    :ivar mapping: the victim's name for the mapping.
    """

    address: int
    slot: int
    content: bytes
    mapping: str


def swapped(fixture: Fixture, victim: Victim, process: Process, device: str) -> Iterator[Swapped]:
    """Of such pages those that still were on the device when the machine stopped: for a neighbour, some are read ahead
    since."""
    for page in _swapped(fixture, victim, device):
        vma = next(vma for vma in process.image.vmas if vma.start <= page.address < vma.end)
        (run,) = process.memory.runs(vma, page.address, page.address + PAGE)
        if run.provenance is Provenance.SWAP_CACHE:
            assert peek(process.memory, vma, page.address, PAGE) == page.content
        elif run.provenance is Provenance.ZERO:  # 6.12 and later know of pages of zeros without the device
            assert page.content == bytes(PAGE)
        else:
            yield page


def _swapped(fixture: Fixture, victim: Victim, device: str) -> Iterator[Swapped]:
    """A CPU may go on with slots of the device that was preferred before: the victim knows the number of each."""
    wanted = fixture.swap_devices.index(device)
    for mapping in victim.said["mappings"]:
        entries = zip(mapping["swapped"], mapping["swap_type"], mapping["swap_offset"], strict=True)
        for page, number, slot in entries:
            if number == wanted and page not in mapping["swap_cached"]:
                content = contents(mapping, page * PAGE, PAGE)
                yield Swapped(mapping["addr"] + page * PAGE, slot, content, mapping["name"])


def image(fixture: Fixture, device: str) -> Path:
    return Path(dict(fixture.swaps)[device])


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize("device", sorted({*DEVICES.values()}))
def test_without_an_image_it_is_said_where_the_pages_are(name: str, device: str, extract: Extractor) -> None:
    fixture = need(name)
    told = 0
    for victim_name in VICTIMS:
        victim = fixture.victims[victim_name]
        _, report = extract(fixture.dump(), victim.pid, mask=None)
        process = extract.source(fixture.dump()).process(victim.pid)
        missing = {page: gap for gap in report.missing for page in range(gap.start, gap.end, PAGE)}
        for address, slot, _, mapping in swapped(fixture, victim, process, device):
            vma = next(vma for vma in process.image.vmas if vma.start <= address < vma.end)
            (run,) = process.memory.runs(vma, address, address + PAGE)
            assert (run.provenance, run.detail) == (Provenance.SWAPPED, f"on {device}, slot {slot}")
            if mapping != "dontdump":
                assert missing[address].reason == "swapped"
                assert missing[address].detail.startswith(f"on {device}, slot")
                told += 1
    assert told > 20


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize("victim_name", VICTIMS)
def test_with_an_image_every_byte_is_there(name: str, victim_name: str, extract: Extractor) -> None:
    fixture = need(name)
    victim = fixture.victims[victim_name]
    device = DEVICES[victim_name]
    given = ((device, str(image(fixture, device))),)
    path, report = extract(fixture.dump(), victim.pid, swap=given, mask=None, vendor_note=False)
    core = Core(path)
    assert report.missing == ()
    assert victim.core is not None
    orphan = Expected(tracer_died=victim_name.endswith("_child"))  # its core was taken after its parent's
    assert list(compare(Core(victim.core), core, orphan)) == []
    checked = 0
    for mapping in victim.said["mappings"]:
        for offset, length in mapping["ranges"]:
            if mapping["name"] != "dontdump":
                assert core.read(mapping["addr"] + offset, length) == contents(mapping, offset, length)
                checked += length
    assert checked > 1 << 18
    process = extract.source(fixture.dump()).process(victim.pid)
    pages = [page for page in swapped(fixture, victim, process, device) if page.mapping != "dontdump"]
    assert report.recovered.get("swap-image", 0) >= len(pages) * PAGE


@pytest.mark.parametrize("name", FIXTURES)
def test_an_image_of_another_device_helps_nobody(name: str, extract: Extractor) -> None:
    fixture = need(name)
    victim = fixture.victims["swap_disk"]
    given = (("/disk/swap", str(image(fixture, "/disk/swap"))),)
    _, bare = extract(fixture.dump(), victim.pid, mask=None)
    _, report = extract(fixture.dump(), victim.pid, swap=given, mask=None)
    assert report.missing == bare.missing
    assert "swap-image" not in report.recovered


@pytest.mark.parametrize("name", FIXTURES)
def test_the_swap_cache_comes_first(name: str, extract: Extractor, tmp_path: Path) -> None:
    """The image holds what was once written; a page in memory is newer, and is what counts."""
    fixture = need(name)
    victim = fixture.victims["swap_disk"]
    spoilt = tmp_path / "spoilt"
    spoilt.write_bytes(bytes(1 << 10) + image(fixture, "/dev/vdc").read_bytes()[1 << 10 : PAGE] + b"\xee" * (32 << 20))
    os.truncate(spoilt, image(fixture, "/dev/vdc").stat().st_size)
    path, report = extract(fixture.dump(), victim.pid, swap=(("/dev/vdc", str(spoilt)),), mask=None)
    core = Core(path)
    process = extract.source(fixture.dump()).process(victim.pid)
    slots = [page.address for page in swapped(fixture, victim, process, "/dev/vdc")]
    cached = 0
    for mapping in victim.said["mappings"]:
        for page in mapping["swap_cached"]:
            address = mapping["addr"] + page * PAGE
            if mapping["name"] != "dontdump":
                assert core.read(address, PAGE) == contents(mapping, page * PAGE, PAGE)
                cached += 1
    assert cached >= 8
    assert any(core.read(address, PAGE) == b"\xee" * PAGE for address in slots)
    assert report.recovered["swap-cache"] >= cached * PAGE


# What is no image


@pytest.fixture
def opened() -> Iterator[Target]:
    with open_target(DumpLocation(core=str(need("k61-zram").dump()))) as target:
        yield target


def refuse(target: Target, path: Path, device: str = "/dev/vdc") -> TargetError:
    with pytest.raises(TargetError) as caught:
        VmcoreSource(target, UserFiles({device: str(path)}))
    return caught.value


def header(pages: int, *, version: int = 1, magic: bytes = b"SWAPSPACE2") -> bytes:
    return struct.pack("<1024sII", b"", version, pages - 1).ljust(PAGE - 10, b"\0") + magic


def test_a_device_that_the_kernel_does_not_swap_to(opened: Target, tmp_path: Path) -> None:
    error = refuse(opened, image(need("k61-zram"), "/dev/vdc"), "/dev/sda2")
    assert error.message == "this kernel does not swap to /dev/sda2"
    assert "it swaps to: /dev/zram0, " in error.hint
    assert "/dev/vdc, /disk/swap" in error.hint


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (b"", "it is empty", "the first byte"),
        (bytes(1 << 20), "its first page does not end with SWAPSPACE2", "encrypted"),
        (header(8192, magic=b"S1SUSPEND\0"), "a hibernated system has overwritten it", ""),
        (b"LUKS\xba\xbe".ljust(PAGE, b"\0"), "it is encrypted (LUKS)", "decrypted device"),
        (bytes(512) + b"EFI PART" + bytes(PAGE), "it is a whole disk", "only the swap partition"),
        (b"\x1f\x8b" + bytes(PAGE), "it is compressed with gzip", "decompress it: gzip"),
        (b"QFI\xfb" + bytes(PAGE), "it is a QEMU disk image (qcow2)", ""),
        (header(8192, version=2), "its header says 8192 pages, but the kernel uses 8192", ""),
        (header(4096), "its header says 4096 pages, but the kernel uses 8192", "a different swap space"),
    ],
)
def test_a_wrong_image_is_refused(opened: Target, tmp_path: Path, content: bytes, message: str, hint: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    error = refuse(opened, path)
    assert error.message.startswith(f"{path} is not an image of /dev/vdc: ")
    assert message in error.message
    assert hint in error.hint


def test_what_is_neither_a_file_nor_a_device(opened: Target, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "neither a file nor a block device" in refuse(opened, tmp_path / "fifo").message
    assert "neither a file nor a block device" in refuse(opened, tmp_path).message
    assert "No such file" in refuse(opened, tmp_path / "gone").message


def test_one_device_under_two_names(tmp_path: Path) -> None:
    """/proc/swaps escapes blanks; both spellings mean the same."""
    assert images._escaped("/a b\\c\n") == r"/a\040b\134c\012"


def test_a_block_device(extract: Extractor, tmp_path: Path) -> None:
    fixture = need("k61-zram")
    copy = tmp_path / "disk"
    shutil.copyfile(image(fixture, "/dev/vdc"), copy)
    done = subprocess.run(["losetup", "--find", "--show", "-r", copy], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    device = done.stdout.strip()
    try:
        _, report = extract(fixture.dump(), fixture.victims["swap_disk"].pid, swap=(("/dev/vdc", device),), mask=None)
        assert report.missing == ()
    finally:
        subprocess.run(["losetup", "-d", device])


# Images that are damaged


def test_what_lies_beyond_the_end_of_an_image_is_missing(extract: Extractor, tmp_path: Path) -> None:
    fixture = need("k61-zram")
    victim = fixture.victims["swap_disk"]
    pages = list(swapped(fixture, victim, extract.source(fixture.dump()).process(victim.pid), "/dev/vdc"))
    slots = sorted(page.slot for page in pages)
    middle = slots[len(slots) // 2]
    short = tmp_path / "short"
    short.write_bytes(image(fixture, "/dev/vdc").read_bytes()[: middle * PAGE + 100])  # a page in part is none
    _, report = extract(fixture.dump(), victim.pid, swap=(("/dev/vdc", str(short)),), mask=None)
    assert {gap.reason for gap in report.missing} == {"swapped"}
    for gap in report.missing:
        assert gap.detail.startswith("on /dev/vdc, beyond the end of its image, slot")
    # Those marked MADV_DONTDUMP are not asked for.
    gone = {page.address for page in pages if page.slot >= middle and page.mapping != "dontdump"}
    assert {page for gap in report.missing for page in range(gap.start, gap.end, PAGE)} == gone


def test_what_cannot_be_read_after_all_is_a_gap(
    extract: Extractor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fixture = need("k61-zram")
    victim = fixture.victims["swap_file"]
    process = extract.source(fixture.dump()).process(victim.pid)
    address, bad, *_ = next(swapped(fixture, victim, process, "/disk/swap"))
    real = os.pread

    def pread(descriptor: int, size: int, at: int) -> bytes:
        if at <= bad * PAGE < at + size and size <= 1 << 20 and at:
            raise OSError(5, "Input/output error")
        return real(descriptor, size, at)

    swap = (("/disk/swap", str(image(fixture, "/disk/swap"))),)
    extract.source(fixture.dump(), swap=swap, symbols=())  # opened before reading fails
    monkeypatch.setattr(os, "pread", pread)
    path, report = extract(fixture.dump(), victim.pid, swap=swap, mask=None, missing="zero", dax=True)
    assert [(gap.start, gap.end, gap.reason, gap.late) for gap in report.missing] == [
        (address, address + PAGE, "unreadable", False)  # a file is written once more
    ]
    assert "Input/output error" in report.missing[0].detail
    core = Core(path)
    assert core.read(address, PAGE) == bytes(PAGE)
    mapping = next(
        found for found in victim.said["mappings"] if found["addr"] <= address < found["addr"] + found["length"]
    )
    offset = address - mapping["addr"] + PAGE
    assert core.read(address + PAGE, PAGE) == contents(mapping, offset, PAGE)


# As its users see it


def test_on_the_command_line(tmp_path: Path) -> None:
    fixture = need("k61-zram")
    pid = fixture.victims["swap_file"].pid
    words = ["-c", fixture.dump(), "-f", "process"]
    assert kgcore(*words, pid, cwd=tmp_path).status == 3
    given = f"/disk/swap={image(fixture, '/disk/swap')}"
    done = kgcore(*words, "--force", "--swap", given, "--report", "r.json", pid, cwd=tmp_path)
    assert (done.status, done.remarks) == (0, [])
    (process,) = json.loads((tmp_path / "r.json").read_text())["processes"]
    assert process["complete"]
    text = json.dumps(process)
    assert re.search(r'"swap-image": \d{6}', text)
    wrong = kgcore(*words, "--swap", f"/dev/sda={image(fixture, '/dev/vdc')}", pid, cwd=tmp_path)
    assert wrong.status == 1
    assert len(wrong.remarks) == 1
    assert wrong.remarks[0].startswith("kgcore: this kernel does not swap to /dev/sda (it swaps to: ")
    assert not any(name.startswith(".") for name in os.listdir(tmp_path))
