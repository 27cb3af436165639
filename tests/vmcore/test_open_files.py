# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kgcore files`` on real dumps, beside what /proc told the process itself of its descriptors."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("drgn")

from kgcore.sources.base import OpenFiles, TaskRef
from tests.vmcore.conftest import MAIN, Extractor, Fixture, Victim, need
from tests.vmcore.patterns import contents as pattern
from tests.vmcore.patterns import splitmix64
from tests.vmcore.tools import kgcore

GUESTS = ("k510-files", "k61-files", "k612-files", "k72-files", "k61-686pae-files")
PAGE = 4096


@pytest.fixture(params=GUESTS)
def guest(request: pytest.FixtureRequest) -> Fixture:
    return need(request.param)


def symbols(guest: Fixture) -> tuple[str, ...]:
    """Debian's 32-bit kernels have no types of their own."""
    return (str(guest.vmlinux),) if "686" in guest.name else ()


def victim(guest: Fixture) -> Victim:
    return guest.victims["openfiles"]


def opened(guest: Fixture, extract: Extractor, dump: str = "vmcore.elf") -> tuple[Any, OpenFiles]:
    process = extract.source(guest.dump(dump), symbols=symbols(guest)).process(victim(guest).pid)
    return process, process.open_files()


def fdinfo(text: str) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def content_of(said: dict[str, Any], size: int) -> bytes:
    """What the victim wrote: words of its pattern in ranges, zeros elsewhere."""
    data = bytearray(size)
    for start, length in said["ranges"]:
        words = b"".join(struct.pack("<Q", splitmix64(said["seed"] ^ start + at & ~7)) for at in range(0, length, 8))
        data[start : start + length] = words[:length]
    return bytes(data)


def test_each_descriptor_is_as_proc_has_it(guest: Fixture, extract: Extractor) -> None:
    said = {row["fd"]: row for row in victim(guest).said["fds"]}
    _, found = opened(guest, extract)
    assert found.tgid == victim(guest).pid
    assert found.lost == ()
    assert [file.fd for file in found.files] == sorted(said)
    assert len(said) > 64
    for file in found.files:
        row, info = said[file.fd], fdinfo(said[file.fd]["fdinfo"])
        assert file.path == row["path"].encode("latin-1")
        assert (file.flags, file.offset) == (int(info["flags"], 8), int(info["pos"])), file
        assert (file.size, file.nlink, file.inode) == (row["size"], row["nlink"], row["inode"]), file
        if file.type != "anon_inode":
            assert file.mode == row["mode"], file


def test_types(guest: Fixture, extract: Extractor) -> None:
    """As ls names them by the mode; files without any are those of anon_inode."""
    kinds = {0o14: "socket", 0o12: "symlink", 0o10: "regular", 6: "block", 4: "directory", 2: "character", 1: "fifo"}
    said = {row["fd"]: row for row in victim(guest).said["fds"]}
    _, found = opened(guest, extract)
    for file in found.files:
        anonymous = said[file.fd]["path"].startswith("anon_inode:")
        assert file.type == ("anon_inode" if anonymous else kinds[said[file.fd]["mode"] >> 12]), file
    assert {file.type for file in found.files} >= {"anon_inode", *kinds.values()} - {"symlink"}


def test_copies_of_a_descriptor_share_the_file(guest: Fixture, extract: Extractor) -> None:
    files = {file.fd: file for file in opened(guest, extract)[1].files}
    assert {files[fd].file for fd in (3, 70, 72, 76)} == {files[3].file}
    assert files[4].path == files[3].path
    assert files[4].file != files[3].file


def test_sockets(guest: Fixture, extract: Extractor) -> None:
    """Beside what getsockname() and getpeername() said."""
    families = {1: "unix", 2: "inet", 10: "inet6", 16: "netlink"}
    kinds = {1: "stream", 2: "dgram", 3: "raw", 5: "seqpacket"}
    files = {file.fd: file for file in opened(guest, extract)[1].files}
    sockets = [row for row in victim(guest).said["fds"] if "domain" in row]
    assert {families[row["domain"]] for row in sockets} >= {"unix", "inet", "netlink"}
    assert any("remote" in row for row in sockets)
    for row in sockets:
        socket = files[row["fd"]].socket
        assert socket is not None
        assert (socket.family, socket.type) == (families[row["domain"]], kinds[row["type"]])
        local = row.get("local", "")
        assert socket.local.decode() == ("" if local.endswith(":0") else local)  # not bound
        assert socket.remote.decode() == row.get("remote", "")


def test_contents_are_what_was_written(guest: Fixture, extract: Extractor) -> None:
    """Every byte that is given is right, and every page that the kernel did not have in memory is missing."""
    process, found = opened(guest, extract)
    files = {file.fd: file for file in found.files}
    kinds = set()
    for said in victim(guest).said["files"]:
        file = files[said["fd"]]
        contents = process.contents(file)
        truth = content_of(said, file.size)
        data, lost = bytearray(), set()
        for run, piece in contents.read():
            assert run.address == len(data)
            assert len(piece) == (run.length if run.provenance.stored else 0)
            kinds.add(run.provenance.value)
            data += piece or bytes(run.length)
            if run.provenance.missing:
                lost |= set(range(run.address // PAGE, run.end // PAGE))
        assert -(-file.size // PAGE) * PAGE == len(data)
        assert [run[:3] for run in contents.runs()] == merged(contents.read())
        for page in set(range(len(data) // PAGE)) - lost:
            at = slice(page * PAGE, min((page + 1) * PAGE, file.size))
            assert data[at] == truth[at], (said["what"], page)
        gone = set(said["not_resident"])
        if said["what"] == "deleted":
            gone = {4, 5}  # a hole, of which the page cache knows nothing
        elif said["what"] == "swapped":  # nothing tells the layout of i386's zram
            assert len(gone) == 32
            gone = gone if "686" in guest.name else set()
        assert lost == gone, said["what"]
    assert {"page-cache", "zero", "file"} <= kinds
    assert "686" in guest.name or "zram" in kinds


def merged(pieces: Any) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for run, _ in pieces:
        if rows and rows[-1][2] is run.provenance and run.provenance:
            rows[-1] = (rows[-1][0], rows[-1][1] + run.length, run.provenance)
        else:
            rows.append(run[:3])
    return rows


def test_only_in_memory_files_are_zeros_where_there_is_nothing(guest: Fixture, extract: Extractor) -> None:
    """Files of sysfs look as if they were such, and are not."""
    said = {row["fd"]: row["what"] for row in victim(guest).said["files"]}
    for file in opened(guest, extract)[1].files:
        memory = said.get(file.fd) in ("tmpfs", "gone", "memfd", "swapped") or (
            file.path is not None and (file.path.startswith((b"/truth/",)))
        )
        assert file.in_memory == memory, file
        assert file.unsaved == (memory or said.get(file.fd) in ("deleted", "evicted", "nameless"))


@pytest.mark.parametrize("name", MAIN)
def test_files_of_an_overlay(name: str, extract: Extractor) -> None:
    """As in containers: the pages are another file's. Of those open for reading alone that is not for sure, since they
    may have been copied up meanwhile."""
    guest = need(name)
    told = guest.victims["pagecache"]
    process = extract.source(guest.dump()).process(told.pid)
    files = process.open_files().files
    areas = {area["name"]: area for area in told.said["mappings"]}
    readers = [file for file in files if file.path == b"/overlay/pagecache-lower-shared"]
    assert len(readers) == 1
    assert all(run.provenance.missing for run in process.contents(readers[0]).runs())
    (changed,) = (file for file in files if file.path == b"/overlay/pagecache-stale" and file.flags & 3)
    area = areas["overlay-changed"]
    data = first_bytes(process.contents(changed), area["length"])
    assert data[:7] == b"changed"
    assert data[8:] == pattern(area, 8, area["length"] - 8)


def first_bytes(contents: Any, size: int) -> bytes:
    data = bytearray()
    for run, piece in contents.read():
        if len(data) < size:
            assert not run.provenance.missing
            data += piece or bytes(run.length)
    return bytes(data[:size])


@pytest.mark.parametrize("name", [*MAIN, "k61-zram", "k61-disk", "k61-686pae", "k61-686"])
def test_every_victim_has_the_files_that_proc_showed(name: str, extract: Extractor) -> None:
    """All sorts of processes: those that share a table, whose leader is gone, that are stopped or in namespaces."""
    guest = need(name)
    source = extract.source(guest.dump(), symbols=symbols(guest))
    seen = 0
    for told in guest.victims.values():
        lines = (told.proc / "links").read_bytes().split(b"\nfd/")
        shown = {int(fd): path for fd, _, path in (line.partition(b"\t") for line in lines[1:])}
        if not shown:  # a zombie has none
            continue
        last = max(shown)
        shown[last] = shown[last].removesuffix(b"\n")
        found = source.process(TaskRef.parse(str(told.pid))).open_files()
        assert found.lost == ()
        assert {file.fd: file.path for file in found.files} == shown, told.name
        seen += 1
    assert seen >= 3


# The command


def row_of(files: list[dict[str, Any]], fd: int) -> dict[str, Any]:
    (row,) = (row for row in files if row["fd"] == fd)
    return row


def run(guest: Fixture, *words: object, dump: str = "vmcore.elf", cwd: Path | None = None) -> Any:
    options = [word for path in symbols(guest) for word in ("-s", path)]
    return kgcore("files", "-c", guest.dump(dump), *options, victim(guest).pid, *words, cwd=cwd or guest.path)


def test_the_command_shows_what_the_source_says(guest: Fixture, extract: Extractor) -> None:
    _, found = opened(guest, extract)
    done = run(guest, "--json")
    assert done.status == 0
    listing = json.loads(done.raw)
    assert (listing["version"], listing["pid"], listing["lost"]) == (1, victim(guest).pid, [])
    said = {row["fd"]: row for row in victim(guest).said["fds"]}
    for file, row in zip(found.files, listing["files"], strict=True):
        assert row["flags"] == fdinfo(said[file.fd]["fdinfo"])["flags"].zfill(2)
        assert (row["content"] is not None) == file.unsaved
    deleted, memfd = row_of(listing["files"], 5), row_of(listing["files"], 10)
    assert deleted["content"]["missing"] == [[4 * PAGE, 6 * PAGE, "file", ""]]
    assert deleted["content"]["sources"] == {"page-cache": 5 * PAGE}
    assert memfd["content"]["sources"] == {"zero": 18 * PAGE, "page-cache": 2 * PAGE}
    table = run(guest)
    assert table.status == 0
    by_fd = {line.split()[0]: line for line in table.lines[1:]}
    assert "O_RDWR|O_APPEND " in by_fd["3"]
    assert " 12345 " in by_fd["3"]
    assert by_fd["5"].endswith("20.0 KiB of 28.0 KiB  0 B    /disk/files/openfiles-deleted (deleted)")
    assert by_fd["9"].endswith(r"all                   --     /tmp/openfiles-gone\n\x1b[31m\xff (deleted)")
    assert "  --                    0 B    /disk/files/openfiles-regular" in by_fd["3"]


def test_extract_writes_the_content(guest: Fixture, tmp_path: Path) -> None:
    said = {row["what"]: row for row in victim(guest).said["files"]}
    for what in ("tmpfs", "memfd", "regular"):
        done = run(guest, "--extract", said[what]["fd"], cwd=tmp_path)
        name = f"fd.{victim(guest).pid}.{said[what]['fd']}"
        assert (done.status, done.lines, done.remarks) == (0, [f"Saved {name}"], [])
        size = row_of(victim(guest).said["fds"], said[what]["fd"])["size"]
        assert (tmp_path / name).read_bytes() == content_of(said[what], size)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    again = run(guest, "--extract", said["tmpfs"]["fd"], cwd=tmp_path)
    assert again.status == 1
    assert "exists" in again.remarks[0]
    assert run(guest, "--extract", said["tmpfs"]["fd"], "-o", "-", cwd=tmp_path).raw == content_of(
        said["tmpfs"], row_of(victim(guest).said["fds"], said["tmpfs"]["fd"])["size"]
    )


def test_what_extract_lacks_is_a_hole_and_told(guest: Fixture, tmp_path: Path) -> None:
    (said,) = (row for row in victim(guest).said["files"] if row["what"] == "deleted")
    done = run(guest, "--extract", said["fd"], "-o", tmp_path / "out")
    assert done.status == 3
    assert done.remarks == [
        f"kgcore: file descriptor {said['fd']}: 8.00 KiB of 28.0 KiB missing, left as holes:",
        "kgcore:   0x4000-0x6000 file",
    ]
    assert (tmp_path / "out").read_bytes() == content_of(said, 7 * PAGE)


def test_level_31_leaves_no_content(extract: Extractor, tmp_path: Path) -> None:
    guest = need("k61-files")
    process, found = opened(guest, extract, "vmcore.d31-zlib")
    _, whole = opened(guest, extract)
    assert found.files == whole.files
    for said in victim(guest).said["files"]:
        (file,) = (file for file in found.files if file.fd == said["fd"])
        runs = list(process.contents(file).runs())
        assert all(run.provenance.missing or run.provenance.value in ("zero", "zram") for run in runs)
        if said["what"] == "tmpfs":
            assert [run.provenance.value for run in runs] == ["excluded", "zero", "excluded"]
    done = run(guest, "--extract", 8, "-o", tmp_path / "out", dump="vmcore.d31-zlib")
    assert done.status == 3
    assert "excluded" in done.remarks[1]


def test_list(guest: Fixture, extract: Extractor, tmp_path: Path) -> None:
    done = run(guest, "--list", tmp_path / "list")
    assert (done.status, done.lines) == (0, [f"Saved {tmp_path / 'list'}"])
    said = victim(guest).said["fds"]
    lines = (tmp_path / "list").read_text().splitlines()
    assert len(lines) == len(said)
    for line, row in zip(lines, sorted(said, key=lambda row: int(row["fd"])), strict=True):
        if row["fd"] != 9:  # whose name is escaped
            assert line == f"{row['fd']} : {row['path']} : {fdinfo(row['fdinfo'])['pos']}"
        else:
            assert line == r"9 : /tmp/openfiles-gone\n\x1b[31m\xff (deleted) : 0"


def test_types_out_of_the_dump_itself(extract: Extractor) -> None:
    """No vmlinux is needed."""
    guest = need("k61-files")
    source = extract.source(guest.dump(), symbols_from="btf")
    assert source.process(TaskRef.parse(str(victim(guest).pid))).open_files().files == opened(guest, extract)[1].files


def test_what_cannot_be() -> None:
    guest = need("k61-files")
    assert run(guest, "--extract", 69).remarks == [
        f"kgcore: process {victim(guest).pid} has no file descriptor 69 "
        f"(kgcore files {victim(guest).pid} lists its descriptors)"
    ]
    assert run(guest, "--extract", 12).remarks == [
        "kgcore: file descriptor 12 is not a regular file: a dump holds no content of it"
    ]
