# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs and libraries as files: where they go, what stays out, and what is said of them. Made-up processes."""

import json
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kgcore.binaries.contents import FileGap
from kgcore.binaries.sysroot import MANIFEST, Sysroot, SysrootFile, SysrootReport
from kgcore.errors import OutputError
from kgcore.model.lost import Lost
from kgcore.model.memory import Piece, Provenance, Run
from kgcore.model.process import MappedFile, ProcessImage, Vma
from kgcore.sources.base import FileContents
from tests.builders import FakeMemory, FakeSource, make_image
from tests.fake_source import ELF, made_up_file

PAGE = 4096


def add(
    directory: Path, *found: FileContents | Lost, sysroot: Sysroot | None = None, force: bool = False
) -> SysrootReport:
    return (sysroot or Sysroot(str(directory), force=force)).add(FakeSource(its_files=found).process(1))


def manifest(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
    return {entry["path"]: entry for entry in content["files"]}


def tree(directory: Path) -> list[str]:
    """All files and links, and directories that are empty."""
    return sorted(
        str(Path(top, name).relative_to(directory))
        for top, directories, files in os.walk(directory)
        for name in [*files, *(d for d in directories if os.path.islink(Path(top, d)) or not os.listdir(Path(top, d)))]
        if name != MANIFEST
    )


def test_files_go_where_they_were(tmp_path: Path) -> None:
    report = add(tmp_path / "dir", made_up_file(b"/usr/bin/x"), made_up_file(b"/usr/lib/y.so", b"\x7fELF" + bytes(3)))
    assert tree(tmp_path / "dir") == ["usr/bin/x", "usr/lib/y.so"]
    assert (tmp_path / "dir/usr/bin/x").read_bytes() == ELF
    assert (tmp_path / "dir/usr/lib/y.so").read_bytes() == b"\x7fELF" + bytes(3)
    for path, mode in (("dir", 0o700), ("dir/usr/bin", 0o700), ("dir/usr/bin/x", 0o600), (f"dir/{MANIFEST}", 0o600)):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == mode
    assert report.complete
    assert [file.sources for file in report.files] == [{"page-cache": len(ELF)}, {"page-cache": 7}]
    assert manifest(tmp_path / "dir")["/usr/bin/x"]["whole"] is True


def test_what_is_missing_is_a_hole_and_in_the_list(tmp_path: Path) -> None:
    content = b"\x7fELF" + b"a" * (5 * PAGE + 100)

    def read() -> Iterator[Piece]:
        yield Piece(Run(0, PAGE, Provenance.PAGE_CACHE), content[:PAGE])
        yield Piece(Run(PAGE, PAGE, Provenance.FILE), b"")
        yield Piece(Run(2 * PAGE, PAGE, Provenance.FILE), b"")
        yield Piece(Run(3 * PAGE, PAGE, Provenance.EXCLUDED, "why"), b"")
        yield Piece(Run(4 * PAGE, PAGE, Provenance.ROOT), content[4 * PAGE : 5 * PAGE])
        yield Piece(Run(5 * PAGE, PAGE, Provenance.UNREADABLE), b"")

    report = add(tmp_path, FileContents(path=b"/x", size=len(content), mode=0o100755, deleted=False, key=1, read=read))
    written = (tmp_path / "x").read_bytes()
    assert written == content[:PAGE] + bytes(3 * PAGE) + content[4 * PAGE : 5 * PAGE] + bytes(len(content) - 5 * PAGE)
    gaps = [
        [PAGE, 3 * PAGE, "file", ""],
        [3 * PAGE, 4 * PAGE, "excluded", "why"],
        [5 * PAGE, len(content), "unreadable", ""],
    ]
    assert manifest(tmp_path)["/x"]["missing"] == gaps
    assert manifest(tmp_path)["/x"]["sources"] == {"page-cache": PAGE, "root": PAGE}
    assert not report.complete
    assert report.lines() == [
        f"sysroot {tmp_path}: 1 file, 0 complete, 12.1 KiB missing",
        "  /x: 12.1 KiB of 20.1 KiB missing: file; excluded (why); unreadable",
    ]
    assert report.lines(details=False) == report.lines()[:1]


@pytest.mark.parametrize(
    "pieces",
    [
        [Piece(Run(0, PAGE, Provenance.PAGE_CACHE), bytes(PAGE))],
        [Piece(Run(PAGE, PAGE, Provenance.PAGE_CACHE), bytes(PAGE))],
        [],
    ],
)
def test_pieces_out_of_place_leave_nothing_behind(tmp_path: Path, pieces: list[Piece]) -> None:
    with pytest.raises(ValueError, match="pieces"):
        add(
            tmp_path,
            FileContents(path=b"/x", size=2 * PAGE, mode=0o100755, deleted=False, key=1, read=lambda: iter(pieces)),
        )
    assert tree(tmp_path) == []


# Names


@pytest.mark.parametrize(
    "path",
    [
        b"", b"/", b"x", b"../x", b"/../x", b"/a/../../x", b"/a/./x", b"/x\0y", b"/" + b"a/" * 2100, b"/..",
        b"//..//..//etc/passwd", b"/" + MANIFEST.encode(), b"//" + MANIFEST.encode() + b"/",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere(tmp_path: Path, path: bytes) -> None:
    report = add(tmp_path / "dir", made_up_file(path), made_up_file(b"/good"))
    assert tree(tmp_path) == ["dir/good"]
    assert len(report.lost) == 1
    assert "is not written" in report.lost[0]
    assert not report.complete
    assert report.problems == ()


@pytest.mark.parametrize("path", [b"/a/" + b"n" * 256, b"/" + b"n" * 300 + b"/x"])
def test_names_that_the_file_system_refuses(tmp_path: Path, path: bytes) -> None:
    report = add(tmp_path, made_up_file(path), made_up_file(b"/good"))
    assert "good" in tree(tmp_path)
    assert len(report.problems) == 1
    assert "File name too long" in report.problems[0]
    with pytest.raises(OutputError):
        report.raise_problems()


def test_odd_names(tmp_path: Path) -> None:
    name = b"/l\xff\x1b[31m\n.so"
    report = add(tmp_path, made_up_file(name, lost=1))
    assert os.listdir(os.fsencode(tmp_path)) != []
    assert (tmp_path / os.fsdecode(name[1:])).exists()
    assert all(line.isprintable() for line in report.lines())
    assert [os.fsencode(path) for path in manifest(tmp_path)] == [name]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("link", ["lib", "lib/deep", "lib/deep/x.so"])
def test_no_symbolic_link_is_followed(tmp_path: Path, force: bool, link: str) -> None:
    (tmp_path / "outside/deep").mkdir(parents=True)
    (tmp_path / "outside/deep/x.so").write_text("precious")
    directory = tmp_path / "dir"
    (directory / link).parent.mkdir(parents=True)
    (directory / link).symlink_to(tmp_path / "outside" / Path(link).relative_to("lib"))
    report = add(directory, made_up_file(b"/lib/deep/x.so"), made_up_file(b"/good"), force=force)
    assert len(report.problems) == 1
    assert (tmp_path / "outside/deep/x.so").read_text() == "precious"
    assert (directory / "good").exists()


def test_the_directory_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "dir").symlink_to("real")
    assert add(tmp_path / "dir", made_up_file(b"/x")).complete
    assert tree(tmp_path / "real") == ["x"]


@pytest.mark.parametrize("existing", ["dir", "fifo"])
def test_what_is_in_the_way(tmp_path: Path, existing: str) -> None:
    (tmp_path / "x").mkdir() if existing == "dir" else os.mkfifo(tmp_path / "x")
    report = add(tmp_path, made_up_file(b"/x"), made_up_file(b"/y"), force=True)
    assert len(report.problems) == 1
    assert "not a regular file" in report.problems[0]
    assert (tmp_path / "y").exists()


def test_a_file_where_a_directory_is_wanted(tmp_path: Path) -> None:
    report = add(tmp_path, made_up_file(b"/x"), made_up_file(b"/x/y"))
    assert len(report.problems) == 1
    assert tree(tmp_path) == ["x"]


# Several processes, several runs


def test_processes_share_files(tmp_path: Path) -> None:
    reads = []

    def counted(contents: FileContents) -> FileContents:
        def read() -> Iterator[Piece]:
            reads.append(contents.path)
            return contents.read()

        return FileContents(
            path=contents.path,
            size=contents.size,
            mode=contents.mode,
            deleted=contents.deleted,
            key=contents.key,
            read=read,
        )

    sysroot = Sysroot(str(tmp_path))
    library = counted(made_up_file(b"/lib/x.so", lost=1))
    for program in (b"/bin/a", b"/bin/b"):
        report = add(tmp_path, counted(made_up_file(program)), library, sysroot=sysroot)
        assert [file.path for file in report.files] == [program, b"/lib/x.so"]
        assert [file.whole for file in report.files] == [True, False]
    assert reads == [b"/bin/a", b"/lib/x.so", b"/bin/b"]
    assert sorted(manifest(tmp_path)) == ["/bin/a", "/bin/b", "/lib/x.so"]


def test_two_files_of_one_name(tmp_path: Path) -> None:
    """In containers, or where one had been deleted: the first one counts, and nobody gets the wrong one silently."""
    sysroot = Sysroot(str(tmp_path), force=True)
    add(tmp_path, made_up_file(b"/bin/x"), sysroot=sysroot)
    report = add(tmp_path, made_up_file(b"/bin/x", ELF + b"!", key=2), sysroot=sysroot)
    assert report.files == ()
    assert "a different file has this name already" in report.lost[0]
    assert (tmp_path / "bin/x").read_bytes() == ELF
    # One that is the same is no other.
    report = add(tmp_path, made_up_file(b"/bin/x", key=3), sysroot=sysroot)
    assert report.complete


def test_a_deleted_file_has_its_old_name(tmp_path: Path) -> None:
    report = add(tmp_path, made_up_file(b"/lib/new.so"), made_up_file(b"/lib/old.so", deleted=True))
    assert tree(tmp_path) == ["lib/new.so", "lib/old.so"]
    assert report.remarks == ("/lib/old.so was deleted; the sysroot has it under its old name",)
    assert report.complete
    assert manifest(tmp_path)["/lib/old.so"]["deleted"] is True
    report = add(tmp_path, made_up_file(b"/lib/new.so", b"\x7fELFother", key=2, deleted=True))
    assert len(report.problems) == 1


def test_a_later_run_adds(tmp_path: Path) -> None:
    add(tmp_path, made_up_file(b"/bin/a", lost=1), Lost("one is lost"))
    times = (tmp_path / "bin/a").stat()
    report = add(tmp_path, made_up_file(b"/bin/a", lost=1), made_up_file(b"/bin/b"))
    assert report.problems == ()
    assert (tmp_path / "bin/a").stat().st_ino == times.st_ino
    assert sorted(manifest(tmp_path)) == ["/bin/a", "/bin/b"]
    assert [entry["whole"] for entry in manifest(tmp_path).values()] == [False, True]
    assert json.loads((tmp_path / MANIFEST).read_text())["lost"] == ["process 4321: one is lost"]


def test_a_file_system_that_gives_few_bytes_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is the same stays the same."""
    add(tmp_path, made_up_file(b"/bin/a", lost=1))
    before = (tmp_path / "bin/a").stat().st_ino
    pread, read = os.pread, os.read
    monkeypatch.setattr(os, "pread", lambda number, size, at: pread(number, min(size, 100), at))
    monkeypatch.setattr(os, "read", lambda number, size: read(number, min(size, 100)))
    assert add(tmp_path, made_up_file(b"/bin/a", lost=1)).problems == ()
    assert (tmp_path / "bin/a").stat().st_ino == before


def test_files_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(ELF[:-1] + b"?")
    report = add(tmp_path, made_up_file(b"/x"))
    assert report.problems == (f"{tmp_path}/x exists (--force replaces it)",)
    assert (tmp_path / "x").read_bytes() == ELF[:-1] + b"?"
    assert add(tmp_path, made_up_file(b"/x"), force=True).complete
    assert (tmp_path / "x").read_bytes() == ELF


@pytest.mark.parametrize("content", ["", "no JSON", "[]", "{}", '{"format": "kgcore-sysroot", "version": 2}'])
def test_a_list_that_is_not_ours(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(OutputError, match="not a manifest of this version of kgcore"):
        add(tmp_path, made_up_file(b"/x"))
    assert (tmp_path / MANIFEST).read_text() == content
    assert tree(tmp_path) == []
    assert add(tmp_path, made_up_file(b"/x"), force=True).complete


def test_a_place_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot create"):
        add(tmp_path / "file/dir", made_up_file(b"/x"))


# The names that the process has for them


def with_names(tmp_path: Path, *names: tuple[bytes, bytes], force: bool = False) -> SysrootReport:
    """:param names: (as the process calls it, as the kernel does) of each library."""
    base = 0x7F0000000000
    vmas = tuple(
        Vma(base + n * PAGE, base + (n + 1) * PAGE, 5, file=MappedFile(path, 1, 0o100755, len(ELF)))
        for n, (_, path) in enumerate(names)
    )
    memory, image = process_with_libraries([(name, base + n * PAGE) for n, (name, _) in enumerate(names)], vmas)
    files = [made_up_file(path) for path in dict.fromkeys(path for _, path in names)]
    return Sysroot(str(tmp_path), force=force).add(FakeSource(image, memory, files).process(1))


def process_with_libraries(
    libraries: list[tuple[bytes, int]], vmas: tuple[Vma, ...]
) -> tuple[FakeMemory, ProcessImage]:
    """A process whose dynamic linker lists these: program headers, .dynamic, r_debug, link_map, names."""
    at, dynamic, debug, maps, strings = 0x10000, 0x10400, 0x10600, 0x10800, 0x14000
    page = bytearray(8 * PAGE)

    def put(address: int, data: bytes) -> None:
        page[address - at : address - at + len(data)] = data

    header = "<IIQQQQQQ"
    put(at, struct.pack(header, 6, 4, 0, at, 0, 0, 0, 8) + struct.pack(header, 2, 6, 0, dynamic, 0, 64, 64, 8))
    put(dynamic, struct.pack("<6Q", 5, 1, 21, debug, 0, 0))
    put(debug, struct.pack("<IIQ", 1, 0, maps))
    for number, (name, address) in enumerate(libraries):
        following = maps + 40 * (number + 1) if number + 1 < len(libraries) else 0
        put(maps + 40 * number, struct.pack("<5Q", 0, strings + 512 * number, address, following, 0))
        put(strings + 512 * number, name + b"\0")
    vma = Vma(at, at + len(page), 3, anon=True)
    image = make_image(vmas=(vma, *vmas), auxv=((3, at), (4, 56), (5, 2), (0, 0)))
    return FakeMemory(content={at: bytes(page)}), image


def test_links_lead_from_the_names_that_debuggers_look_for(tmp_path: Path) -> None:
    report = with_names(
        tmp_path,
        (b"/lib/x86_64-linux-gnu/libc.so.6", b"/usr/lib/x86_64-linux-gnu/libc-2.31.so"),
        (b"/lib64/ld-linux-x86-64.so.2", b"/usr/lib/x86_64-linux-gnu/ld-2.31.so"),
        (b"/opt/app/bin/../lib/libapp.so", b"/opt/app/lib/libapp.so"),
        (b"/opt/app/lib/other.so", b"/opt/app/lib/other.so"),
        (b"relative.so", b"/opt/relative.so"),
        (b"", b"/vdso"),
    )
    assert report.remarks == ()
    for name in ("lib/x86_64-linux-gnu/libc.so.6", "lib64/ld-linux-x86-64.so.2", "opt/app/bin/../lib/libapp.so"):
        assert (tmp_path / name).read_bytes() == ELF
    assert os.readlink(tmp_path / "lib64/ld-linux-x86-64.so.2") == "../usr/lib/x86_64-linux-gnu/ld-2.31.so"
    assert not (tmp_path / "opt/app/lib/other.so").is_symlink()
    # Once more, over what is there
    assert with_names(tmp_path, (b"/lib64/ld-linux-x86-64.so.2", b"/usr/lib/x86_64-linux-gnu/ld-2.31.so")).remarks == ()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (b"/../../escape", "leads out"),
        (b"/a/../../escape", "leads out"),
        (b"/usr/lib/real.so/x", "Not a directory"),
        (b"/", "name is invalid"),
        (b"/kgcore-sysroot.json", "the manifest has this name"),
        (b"/taken", "File exists"),
    ],
)
def test_links_that_are_not_made(tmp_path: Path, name: bytes, why: str) -> None:
    directory = tmp_path / "dir"
    directory.mkdir()
    (directory / "taken").write_text("precious")
    report = with_names(directory, (name, b"/usr/lib/real.so"), force=True)
    assert len(report.remarks) == 1
    assert why in report.remarks[0]
    assert report.complete  # a debugger may need help; nothing is missing
    assert os.listdir(tmp_path) == ["dir"]
    assert (directory / "taken").read_text() == "precious"


def test_a_link_is_not_followed_by_the_next_process(tmp_path: Path) -> None:
    sysroot = Sysroot(str(tmp_path))
    vma = Vma(0x7F0000000000, 0x7F0000001000, 5, file=MappedFile(b"/usr/x", 1, 0o100755, len(ELF)))
    memory, image = process_with_libraries([(b"/x", vma.start)], (vma,))
    sysroot.add(FakeSource(image, memory, [made_up_file(b"/usr/x")]).process(1))
    report = add(tmp_path, made_up_file(b"/x", b"\x7fELFother"), sysroot=sysroot)
    assert "a different file of another process has this name" in report.lost[0]
    assert (tmp_path / "usr/x").read_bytes() == ELF


def test_what_processes_share_is_told_once() -> None:
    def file(name: bytes, lost: int = 0) -> SysrootFile:
        missing = (FileGap(0, lost, "file", ""),) if lost else ()
        return SysrootFile(name, 8192, None, missing, {})

    shared, own = (file(b"/lib/libc.so.6", 4096), file(b"/lib/ld.so")), file(b"/bin/own", 4096)
    first = SysrootReport("dir", shared, ("a remark",), ("a loss",), ())
    assert first.lines() == [
        "sysroot dir: 2 files, 1 complete, 4.00 KiB missing",
        "  /lib/libc.so.6: 4.00 KiB of 8.00 KiB missing: file",
        "  a loss",
        "  a remark",
    ]
    before: frozenset[bytes | str] = frozenset((*(one.path for one in shared), "a remark", "a loss"))
    again = SysrootReport("dir", shared, ("a remark",), ("a loss",), (), before=before)
    assert again.lines() == ["sysroot dir: 2 files, all as before"]
    more = SysrootReport("dir", (*shared, own), ("a remark", "another"), (), (), before=before)
    assert more.lines() == [
        "sysroot dir: 3 files, 2 as before, 1 new, 0 complete, 4.00 KiB missing",
        "  /bin/own: 4.00 KiB of 8.00 KiB missing: file",
        "  another",
    ]
    assert not again.complete, "to programs it says all of it"
    assert again.to_json() == first.to_json()
