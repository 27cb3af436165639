# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of the user's in the place of pages that the dump lacks: which pages, which files, and what counts as proof."""

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from drgn import FaultError

from kgcore.errors import TargetError
from kgcore.model.memory import Provenance
from kgcore.model.process import MappedFile
from kgcore.sources.inroot import open_in_root
from kgcore.sources.vmcore.dumpfile.frames import FrameState
from kgcore.sources.vmcore.memory import rootfiles
from kgcore.sources.vmcore.memory.extents import Extent, missing, zeros
from kgcore.sources.vmcore.memory.pagecache import CachedFile, PageCache
from kgcore.sources.vmcore.memory.pages import pieces
from kgcore.sources.vmcore.memory.physical import PhysicalMemory
from kgcore.sources.vmcore.memory.rootfiles import Identity, RootFiles
from tests.vmcore.layouts.test_pagecache import TYPES as CACHE
from tests.vmcore.layouts.test_pagecache import Cache, EverySwap, sibling
from tests.vmcore.layouts.world import physical

PAGE = 4096
FILE, EXCLUDED, ROOT, ANON = Provenance.FILE, Provenance.EXCLUDED, Provenance.ROOT, Provenance.PRESENT
UPTODATE, DIRTY, WRITEBACK = 8, 16, 2
PATH = b"/usr/lib/x.so"
BASE = 0x7F0000000000

INODE = "unsigned long i_ino; long i_size; struct { int counter; } i_writecount; struct address_space *i_mapping;"
TYPES = CACHE.replace(
    "struct address_space { void *host; struct xarray i_pages; };",
    "struct address_space { struct inode *host; struct xarray i_pages; struct { int counter; } i_mmap_writable; };",
)
TIMES = {
    "5.10": "struct timespec64 i_mtime, i_ctime;",
    "6.6": "struct timespec64 i_mtime, __i_ctime;",
    "6.7": "struct timespec64 __i_mtime, __i_ctime;",
    "6.11": "long i_mtime_sec, i_ctime_sec; unsigned int i_mtime_nsec, i_ctime_nsec;",
}


def elf(build_id: bytes | None, size: int) -> bytes:
    """A file that starts like a program with that build id; all its pages differ."""
    note = b"" if build_id is None else struct.pack("<III4s", 4, len(build_id), 3, b"GNU\0") + build_id
    head = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    head += struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(note), len(note), 4) + note
    filler = b"".join(struct.pack("<Q", number) for number in range(size // 8 + 1))
    return (head + filler[len(head) :])[:size]


class Mapped(Cache):
    """A file of the crashed machine, and a directory of ours.

    :ivar frames_of: the page frame of each page that is in the page cache.
    """

    def __init__(self, root: Path, content: bytes, *, times: str = "6.11") -> None:
        super().__init__(
            f"struct timespec64 {{ long tv_sec; long tv_nsec; }}; struct inode {{ {INODE} {TIMES[times]} }};" + TYPES,
            "6.12.0",
        )
        self.root = root
        self.content = content
        self.inode = self.new("struct inode", i_ino=12, i_size=len(content), i_mapping=self.mapping)
        self.set("struct address_space", self.mapping, {"host": self.inode})
        self.frames_of: dict[int, int] = {}
        self.excluded: set[int] = set()
        self._entries: dict[int, int] = {}

    def hold(self, page: int, *, flags: int = UPTODATE, data: bytes | None = None, excluded: bool = False) -> int:
        """Put a page into the page cache; its frame."""
        data = self.content[page * PAGE : (page + 1) * PAGE] if data is None else data
        frame = physical(self.data(data.ljust(PAGE, b"\0"))) >> 12
        entry = self.page(frame, page, flags)
        self.set("struct page", entry, {"mapping": self.mapping})
        self._entries[page] = entry
        self.frames_of[page] = frame
        if excluded:
            self.excluded.add(frame)
        return frame

    def large(self, page: int, count: int, *, excluded: bool = False) -> int:
        """The same with a large folio."""
        data = self.content[page * PAGE : (page + count) * PAGE]
        frame = physical(self.data(data.ljust(count * PAGE, b"\0"))) >> 12
        entry = self.page(frame, page)
        self.set("struct page", entry, {"mapping": self.mapping})
        self._entries |= {page: entry} | {page + n: sibling(page) for n in range(1, count)}
        self.frames_of |= {page + n: frame + n for n in range(count)}
        if excluded:
            self.excluded |= {frame + n for n in range(count)}
        return frame

    def ours(self, content: bytes | None = None, path: bytes = PATH) -> Path:
        """The file in our directory."""
        name = Path(str(self.root) + os.fsdecode(path))
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(self.content if content is None else content)
        return name

    @property
    def cached(self) -> CachedFile:
        return CachedFile(self.mapping, len(self.content), in_memory=False)

    @property
    def named(self) -> MappedFile:
        return MappedFile(PATH, 1, stat.S_IFREG | 0o755, len(self.content))

    def files(self) -> RootFiles:
        self.head(self.node(0, self._entries))
        runs = []
        for frame in sorted(self.memory):
            runs.append((frame, frame + 1, FrameState.EXCLUDED if frame in self.excluded else FrameState.STORED))
        self.frames(*runs)
        memory = PhysicalMemory(self.kernel)
        return RootFiles(self.kernel, memory, PageCache(self.kernel, memory, EverySwap()), str(self.root))

    def mapped(
        self, files: RootFiles, *, named: MappedFile | None = None, cached: CachedFile | None = None
    ) -> Iterator[Extent]:
        """A mapping of the whole file without page tables."""
        cached = cached or self.cached
        cache = PageCache(self.kernel, PhysicalMemory(self.kernel), EverySwap())
        pages = -(-len(self.content) // PAGE)
        return files.fill(named or self.named, cached, -BASE, cache.extents(cached, 0, pages, BASE))


def kinds(extents: Iterator[Extent]) -> str:
    """A letter for each page."""
    letters = {ROOT: "r", FILE: "f", EXCLUDED: "x", Provenance.PAGE_CACHE: "c", ANON: "p", Provenance.ZERO: "0"}
    return "".join(letters[run.provenance] * (run.length // PAGE) for run, _, _ in extents)


def read(extents: Iterator[Extent]) -> bytes:
    return b"".join(bytes(data).ljust(run.length, b"?") for run, data in pieces(extents, 1 << 30, PAGE))


def refused(world: Mapped) -> str:
    """The sentence about our file, which is not used."""
    files = world.files()
    assert "r" not in kinds(world.mapped(files))
    (sentence,) = files.remarks([world.named])
    return sentence


# Which pages


def test_pages_that_were_not_in_memory(tmp_path: Path) -> None:
    world = Mapped(tmp_path, elf(b"id", 6 * PAGE))
    world.hold(0)
    world.hold(3)
    world.ours()
    files = world.files()
    assert kinds(world.mapped(files)) == "crrcrr"
    assert read(world.mapped(files)) == world.content
    assert list(files.remarks([world.named])) == []


def test_pages_that_makedumpfile_left_out(tmp_path: Path) -> None:
    world = Mapped(tmp_path, elf(b"id", 8 * PAGE))
    world.hold(0)
    world.hold(1, excluded=True)
    truncated = world.pages + 64 * world.hold(7, excluded=True)
    world.set("struct page", truncated, {"mapping": 0})
    world.hold(2, excluded=True, flags=UPTODATE | DIRTY)
    world.hold(3, excluded=True, flags=UPTODATE | WRITEBACK)
    world.hold(4, excluded=True)
    world.hold(5, flags=DIRTY)  # in part: it is not up to date
    world.ours()
    files = world.files()
    assert kinds(world.mapped(files)) == "crxxrfrx"
    given = read(world.mapped(files))
    assert given[PAGE : 2 * PAGE] == world.content[PAGE : 2 * PAGE]


def test_private_copies_are_not_the_files(tmp_path: Path) -> None:
    """A page table may lead to the page cache's page or to the process's own copy of it."""
    world = Mapped(tmp_path, elf(b"id", 4 * PAGE))
    world.hold(0)
    theirs = world.hold(1, excluded=True)
    world.hold(2, excluded=True)
    own = physical(world.data(b"private")) >> 12
    evicted = physical(world.data(b"private too")) >> 12
    world.excluded |= {own, evicted}
    world.ours()
    files = world.files()
    memory = PhysicalMemory(world.kernel)

    def mapped() -> Iterator[Extent]:
        for number, frame in enumerate((theirs, own, evicted)):
            yield from memory.extents(BASE + (number + 1) * PAGE, PAGE, frame << 12)

    assert kinds(mapped()) == "xxx"
    assert kinds(files.fill(world.named, world.cached, -BASE, mapped())) == "rxx"


def test_large_folios(tmp_path: Path) -> None:
    world = Mapped(tmp_path, elf(b"id", 8 * PAGE))
    world.hold(0)
    world.large(4, 4, excluded=True)
    world.ours()
    files = world.files()
    assert kinds(world.mapped(files)) == "crrrrrrr"
    assert read(world.mapped(files)) == world.content


def test_one_extent_in_parts(tmp_path: Path) -> None:
    """Adjacent frames, of which two are the file's."""
    world = Mapped(tmp_path, elf(b"id", 8 * PAGE))
    world.hold(7)
    before = physical(world.data(b"private")) >> 12
    assert world.large(1, 2, excluded=True) == before + 1
    assert physical(world.data(b"private")) >> 12 == before + 3
    world.excluded |= {before, before + 3}
    world.ours()
    files = world.files()
    extents = PhysicalMemory(world.kernel).extents(BASE, 4 * PAGE, before << 12)
    assert kinds(files.fill(world.named, world.cached, -BASE, extents)) == "xrrx"


def test_nobody_knows_of_pages_that_are_shared_and_writable(tmp_path: Path) -> None:
    """The page table alone may know that they were written to. What was not in memory is on the disk all the same."""
    world = Mapped(tmp_path, elf(b"id", 3 * PAGE))
    world.hold(0)
    world.hold(1, excluded=True)
    file = world.ours()
    theirs = rootfiles.identity(os.open(file, os.O_RDONLY))
    world.set("struct inode", world.inode, inode_times(theirs) | {"i_ino": theirs.number})
    world.set("struct address_space", world.mapping, {"i_mmap_writable.counter": 1})
    assert kinds(world.mapped(world.files())) == "cxr"
    world.set("struct address_space", world.mapping, {"i_mmap_writable.counter": -1})
    assert kinds(world.mapped(world.files())) == "crr"


def test_what_the_page_cache_had_must_be_known(tmp_path: Path) -> None:
    world = Mapped(tmp_path, elf(b"id", 3 * PAGE))
    world.hold(0)
    world.ours()
    unknown = missing(BASE + PAGE, PAGE, FILE, "the page cache's tree is unreadable")
    given = files = list(world.files().fill(world.named, world.cached, -BASE, iter([unknown, zeros(BASE, PAGE)])))
    assert given == files == [unknown, zeros(BASE, PAGE)]


def test_behind_the_end_there_are_zeros(tmp_path: Path) -> None:
    world = Mapped(tmp_path, elf(b"id", 2 * PAGE + 100))
    world.hold(0)
    world.ours()
    assert read(world.mapped(world.files())) == world.content.ljust(3 * PAGE, b"\0")


@pytest.mark.parametrize(
    ("named", "cached"),
    [
        ({"path": None}, {}),
        ({"path": b"relative"}, {}),
        ({"path": PATH + b" (deleted)"}, {}),
        ({"nlink": 0}, {}),
        ({"mode": stat.S_IFCHR | 0o600}, {}),
        ({"mode": stat.S_IFBLK | 0o600}, {}),
        ({"dax": True}, {}),
        ({}, {"in_memory": True}),
        ({}, {"shift": 9}),
    ],
)
def test_files_that_no_disk_has(tmp_path: Path, named: dict[str, object], cached: dict[str, object]) -> None:
    world = Mapped(tmp_path, elf(b"id", 3 * PAGE))
    world.hold(0)
    world.ours()
    files = world.files()
    assert kinds(world.mapped(files)) == "crr"
    values = {"path": PATH, "nlink": 1, "mode": stat.S_IFREG, "size": len(world.content)} | named
    lost = [missing(BASE + PAGE, PAGE, FILE)]
    file = world.cached._replace(**cached)  # type: ignore[arg-type]
    assert list(files.fill(MappedFile(**values), file, -BASE, iter(lost))) == lost  # type: ignore[arg-type]


# Which files


def test_without_our_file_all_stays_as_it_is(tmp_path: Path) -> None:
    world = Mapped(tmp_path, elf(b"id", 3 * PAGE))
    world.hold(0)
    files = world.files()
    assert kinds(world.mapped(files)) == "cff"
    assert list(files.remarks([world.named])) == []


def test_equal_pages_are_proof(tmp_path: Path) -> None:
    world = Mapped(tmp_path, elf(None, 3 * PAGE))
    world.hold(2)
    world.ours()
    assert kinds(world.mapped(world.files())) == "rrc"


def test_a_build_id_is_proof(tmp_path: Path) -> None:
    """Of a file that has no whole page, which pages cannot prove."""
    world = Mapped(tmp_path, elf(b"id", 3000))
    world.hold(0)
    world.ours()
    files = world.files()
    lost = [missing(BASE + PAGE, PAGE, FILE)]
    assert kinds(files.fill(world.named, world.cached, -BASE, iter(lost))) == "r"
    bare = Mapped(tmp_path, elf(None, 3000))
    bare.hold(0)
    bare.ours()
    assert kinds(bare.files().fill(bare.named, bare.cached, -BASE, iter(lost))) == "f"


@pytest.mark.parametrize("data", [bytes(3 * PAGE), bytes(2 * PAGE) + b"end"])
def test_pages_that_say_nothing_are_none(tmp_path: Path, data: bytes) -> None:
    world = Mapped(tmp_path, data)
    for page in range(1, 3):
        world.hold(page)
    world.ours()
    assert "is not proven to be the file that was mapped: the dump holds no page" in refused(world)


@pytest.mark.parametrize("flags", [0, UPTODATE | DIRTY])
def test_pages_that_are_not_those_of_the_disk_prove_nothing(tmp_path: Path, flags: int) -> None:
    world = Mapped(tmp_path, elf(b"id", 3 * PAGE))
    world.hold(0, flags=flags)
    world.hold(1, flags=flags, data=b"something else")
    world.ours()
    assert "the dump holds no page" in refused(world)


def test_another_size(tmp_path: Path) -> None:
    world = Mapped(tmp_path, elf(b"id", 3 * PAGE))
    world.hold(0)
    world.ours(world.content + b"!")
    assert refused(world) == f"{tmp_path}/usr/lib/x.so is not the file that was mapped: it has 12289 bytes, not 12288"


@pytest.mark.parametrize(("theirs", "told"), [(b"\xab\xcd", "is abcd"), (None, "is absent")])
def test_another_build_id(tmp_path: Path, theirs: bytes | None, told: str) -> None:
    world = Mapped(tmp_path, elf(b"\x12\x34", 3 * PAGE))
    world.hold(0)
    world.ours(elf(theirs, 3 * PAGE))
    assert f"is not the file that was mapped: its build id {told}, not 1234" in refused(world)


@pytest.mark.parametrize("page", [0, 2, 5])
def test_another_page(tmp_path: Path, page: int) -> None:
    """Neither build id nor inode count then."""
    world = Mapped(tmp_path, elf(b"id", 6 * PAGE))
    world.hold(0)
    world.large(2, 2)
    world.hold(5)
    content = bytearray(world.content)
    content[page * PAGE + 4000] ^= 1
    file = world.ours(bytes(content))
    same = rootfiles.identity(os.open(file, os.O_RDONLY))
    world.set("struct inode", world.inode, inode_times(same) | {"i_ino": same.number})
    assert f"its page at offset {page * PAGE:#x} differs" in refused(world)


def test_pages_that_the_dump_lacks_are_no_contradiction(tmp_path: Path) -> None:
    world = Mapped(tmp_path, elf(b"id", 4 * PAGE))
    world.hold(0)
    world.hold(1, excluded=True)
    world.hold(2, data=b"newer, not yet on the disk", flags=UPTODATE | DIRTY)
    world.ours()
    assert kinds(world.mapped(world.files())) == "crcr"


def inode_times(identity: Identity, times: str = "6.11") -> dict[str, int]:
    second = 1_000_000_000
    found: dict[str, int] = {}
    for name, value in (("mtime", identity.mtime), ("ctime", identity.ctime)):
        seconds, nanoseconds = divmod(value, second)
        if times == "6.11":
            queried = 1 << 31 if name == "ctime" else 0  # I_CTIME_QUERIED
            found |= {f"i_{name}_sec": seconds, f"i_{name}_nsec": nanoseconds | queried}
        else:
            prefix = "__" if times == "6.7" or (times == "6.6" and name == "ctime") else ""
            found |= {f"{prefix}i_{name}.tv_sec": seconds, f"{prefix}i_{name}.tv_nsec": nanoseconds}
    return found


@pytest.mark.parametrize("times", TIMES)
def test_the_very_inode_is_proof(tmp_path: Path, times: str) -> None:
    """Even where the dump holds no page, as at makedumpfile's level 31."""
    world = Mapped(tmp_path, elf(b"id", 4 * PAGE), times=times)
    world.hold(0, excluded=True)
    world.hold(1, excluded=True, flags=UPTODATE | DIRTY)
    descriptor = os.open(world.ours(), os.O_RDONLY)
    same = rootfiles.identity(descriptor)
    os.close(descriptor)
    for change in ({"number": 1}, {"mtime": 1}, {"ctime": 1}, {"ctime": 1_000_000_000}):
        other = same._replace(**{key: getattr(same, key) + value for key, value in change.items()})
        world.set("struct inode", world.inode, inode_times(other, times) | {"i_ino": other.number})
        assert kinds(world.mapped(world.files())) == "xxff"
    world.set("struct inode", world.inode, inode_times(same, times) | {"i_ino": same.number})
    assert kinds(world.mapped(world.files())) == "rxrr"


def test_the_inode_of_a_file_that_is_no_program(tmp_path: Path) -> None:
    """Whoever makes up a dump may know as much of any file, and not its content."""
    world = Mapped(tmp_path, b"secret" * PAGE)
    world.hold(0, excluded=True)
    descriptor = os.open(world.ours(), os.O_RDONLY)
    same = rootfiles.identity(descriptor)
    os.close(descriptor)
    world.set("struct inode", world.inode, inode_times(same) | {"i_ino": same.number})
    assert "the dump holds no page" in refused(world)


def test_a_file_that_somebody_was_writing(tmp_path: Path) -> None:
    """Pages are no proof of the others then, unless the file is as old."""
    world = Mapped(tmp_path, elf(None, 4 * PAGE))
    world.hold(1)
    file = world.ours()
    os.utime(file, ns=(5, 7_000_000_005))
    world.set("struct inode", world.inode, {"i_writecount.counter": 1, "i_mtime_sec": 7, "i_mtime_nsec": 6})
    assert "that was open for writing, and the times of change differ" in refused(world)
    world.set("struct inode", world.inode, {"i_mtime_nsec": 5})
    assert kinds(world.mapped(world.files())) == "rcrr"
    world.set("struct inode", world.inode, {"i_mtime_nsec": 6, "i_writecount.counter": -1})  # it is being executed
    assert kinds(world.mapped(world.files())) == "rcrr"


def test_one_sentence_for_many(tmp_path: Path) -> None:
    world = Mapped(tmp_path, elf(b"id", 2 * PAGE))
    files = world.files()
    named = []
    for number in range(5):
        path = b"/lib/%d.so" % number
        world.ours(path=path)
        named.append(MappedFile(path, 1, stat.S_IFREG, len(world.content)))
        assert kinds(world.mapped(files, named=named[-1])) == "ff"
    (sentence,) = files.remarks(named)
    assert sentence.startswith(f"in {tmp_path}, each of /lib/0.so, /lib/1.so, /lib/2.so and 2 more is not proven")
    assert len(list(files.remarks(named[:1]))) == 1
    assert list(files.remarks([])) == []


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    world = Mapped(tmp_path, elf(b"id", 3 * PAGE))
    world.hold(0)
    file = world.ours()
    files = world.files()
    extents = list(world.mapped(files))
    assert kinds(iter(extents)) == "crr"
    file.write_bytes(world.content)
    os.utime(file, ns=(1, 1))
    found = list(pieces(iter(extents), sum(each.run.length for each in extents), PAGE))
    assert [piece.run.provenance for piece in found[1:]] == [Provenance.UNREADABLE] * 2
    assert "changed during the run" in found[1].run.detail
    file.unlink()
    assert "No such file" in list(pieces(iter(extents), sum(each.run.length for each in extents), PAGE))[1].run.detail


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    world = Mapped(tmp_path / "nowhere", b"x")
    with pytest.raises(TargetError, match="No such file"):
        world.files()


def test_damage(tmp_path: Path) -> None:
    """The file's structures are not in the dump: nothing is given, and nothing raised."""
    world = Mapped(tmp_path, elf(b"id", 3 * PAGE))
    world.hold(0)
    world.ours()
    files = world.files()
    world.lost.add(physical(world.inode) >> 12)
    assert kinds(files.fill(world.named, world.cached, -BASE, iter([missing(BASE, PAGE, FILE)]))) == "f"
    assert "open for writing" in "".join(files.remarks([world.named]))
    again = world.files()
    world.lost.add(physical(world.mapping) >> 12)
    assert kinds(again.fill(world.named, world.cached, -BASE, iter([missing(BASE, PAGE, FILE)]))) == "f"


# Files beneath a directory


def open_text(root: Path, path: bytes) -> str:
    directory = os.open(root, os.O_PATH)
    try:
        descriptor = open_in_root(directory, path)
        with open(descriptor) as file:
            return file.read()
    finally:
        os.close(directory)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """DIR with links of all kinds, and a secret beside it."""
    root = tmp_path / "DIR"
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/x").write_text("right")
    (root / "etc").mkdir()
    (tmp_path / "secret").write_text("wrong")
    (tmp_path / "usr").mkdir()
    for name, target in {
        "lib": "usr/lib",
        "lib64": "/usr/lib",
        "usr/lib/relative": "x",
        "usr/lib/absolute": "/usr/lib/x",
        "usr/lib/up": "../../../../usr/lib/x",
        "usr/lib/chain": "/lib64/absolute",
        "usr/lib/dots": "./.././lib//x",
        "etc/secret": str(tmp_path / "secret"),
        "etc/beside": "../../secret",
        "etc/dir": "../usr/lib",
        "etc/root": "/",
        "etc/loop": "loop",
        "etc/one": "two",
        "etc/two": "one",
        "etc/dangling": "nothing",
        "etc/null": "/dev/null",
        "etc/parent": "..",
    }.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "etc/fifo")
    return root


@pytest.mark.parametrize(
    "path",
    [
        b"/usr/lib/x", b"//usr//lib/x", b"/lib/x", b"/lib64/x", b"/lib/relative", b"/lib/absolute", b"/lib/up",
        b"/lib/chain", b"/lib/dots", b"/etc/dir/x", b"/etc/root/lib/x", b"/etc/parent/lib/x",
    ],
)  # fmt: skip
def test_links_lead_beneath_the_directory(tree: Path, path: bytes) -> None:
    assert open_text(tree, path) == "right"


@pytest.mark.parametrize(
    "path",
    [
        b"", b"/", b"/etc/secret", b"/etc/beside", b"/etc/loop", b"/etc/one", b"/etc/dangling", b"/etc/null",
        b"/etc/fifo", b"/etc/dir", b"/etc/root", b"/etc/parent", b"/usr/lib", b"/usr/lib/x/y", b"/nowhere",
        b"/usr/../usr/lib/x", b"/../secret", b"/./usr/lib/x", b"/usr/lib/x\0", b"/" + b"n" * 300,
        b"/" + b"etc/root/" * 60 + b"usr/lib/x",
    ],
)  # fmt: skip
def test_nothing_else_is_opened(tree: Path, path: bytes) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError):  # noqa: PT011
        open_text(tree, path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_reading_needs_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"short")
    root = os.open(tmp_path, os.O_PATH)
    reader = rootfiles._RootFile(root, b"/x", "x", Identity(0, 0, 0, 0))
    with pytest.raises(FaultError, match="changed during the run"):
        reader.read(0, 10)
    os.close(root)
