# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damaged and hostile cores: refused by name or read as far as they go, in bounded memory, never with a traceback."""

import io
import json
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgcore.coredump.pipeline import Options
from kgcore.errors import KgcoreError, TargetError
from kgcore.filters.rules import Rule
from kgcore.library import open_core
from kgcore.sources.corefile.ownnote import OWNER, TYPE, read_own_note
from tests.sources.corefile.cores import Trickle, content, filtered

SMALL = content("k61-small-core.169")
SMALL_32 = content("k61-686pae-small-core.117")
HEAD = 8192  # bytes: headers and notes begin there
MEMORY = 400 << 20


def ehdr(phnum: int, phoff: int = 64, shoff: int = 0, machine: int = 62) -> bytes:
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    return ident + struct.pack("<HHIQQQIHHHHHH", 4, machine, 1, 0, phoff, shoff, 0, 64, 56, phnum, 64, 0, 0)


def phdr(kind: int, offset: int, vaddr: int, filesz: int, memsz: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, 4, offset, vaddr, 0, filesz, memsz, 4096)


HOSTILE = {
    "4 G program headers": (
        ehdr(0xFFFF, shoff=64) + struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 1, 0, 0xFFFFFFFF, 0, 0),
        "4294967295 program headers",
    ),
    "program headers beyond the end": (ehdr(1000), "ends within its 1000 program headers"),
    "program headers far away": (ehdr(10, phoff=1 << 63), "ends within its 10 program headers"),
    "no section with their number": (ehdr(0xFFFF, shoff=1 << 40), "is not there"),
    "notes of 2 GiB": (ehdr(1) + phdr(4, 120, 0, 2 << 30, 0), "2.00 GiB of notes"),
    "many notes of 255 MiB": (ehdr(9) + phdr(4, 120, 0, 255 << 20, 0) * 9, "of notes"),
    "a note without end": (
        ehdr(1) + phdr(4, 120, 0, 16, 0) + struct.pack("<III4x", 4, 1 << 31, 1),
        "longer than what it stands in",
    ),
    "segments that overlap": (
        ehdr(2) + phdr(1, 4096, 0x1000, 4096, 8192) + phdr(1, 8192, 0x2000, 4096, 4096),
        "overlaps",
    ),
    "a segment without end": (ehdr(1) + phdr(1, 4096, (1 << 64) - 4096, 4096, 8192), "beyond the end"),
    "a segment far in the file": (ehdr(1) + phdr(1, (1 << 64) - 4096, 0x1000, 4096, 4096), "beyond the end"),
    "more in the file than in memory": (ehdr(1) + phdr(1, 4096, 0x1000, 8192, 4096), "more bytes in the file"),
    "parts of pages": (ehdr(1) + phdr(1, 4096, 0x1001, 100, 4096), "within a page"),
    "another machine": (ehdr(1, machine=183), "cores of aarch64 are not supported"),
    "a short NT_PRSTATUS": (
        ehdr(1) + phdr(4, 120, 0, 24, 0) + struct.pack("<III8s4x", 5, 4, 1, b"CORE"),
        "NT_PRSTATUS has 4 bytes",
    ),
    "NT_FILE with more rows than bytes": (
        ehdr(1) + phdr(4, 120, 0, 36, 0) + struct.pack("<III8sQQ", 5, 16, 0x46494C45, b"CORE", 1 << 60, 4096),
        "NT_FILE",
    ),
    "nothing behind its name": (b"\x7fELF", "no ELF file"),
    "text": (b"hello, world, this is no core\n", "no ELF file"),
}


# Of a stream the end is not known
_OF_STREAMS = {
    "4 G program headers": "only its end says",
    "no section with their number": "ends within its 1 program headers",
}


@pytest.mark.parametrize("stream", [False, True], ids=["file", "stream"])
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_heads_are_refused_by_name(tmp_path: Path, what: str, stream: bool) -> None:
    data, words = HOSTILE[what]
    path = tmp_path / "core"
    path.write_bytes(data)
    core: Any = Trickle(data) if stream else path
    with pytest.raises(TargetError) as caught:
        filtered(core)
    assert (_OF_STREAMS.get(what, words) if stream else words) in str(caught.value)


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def refused_in_little_memory(tmp_path: Path, core: Path) -> str:
    """What the command says of it, with so little memory."""
    words = [sys.executable, "-m", "kgcore", "filter", str(core), "-o", str(tmp_path / "new")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, preexec_fn=limited)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()
    return done.stderr


def test_terabytes_of_holes_cost_nothing(tmp_path: Path) -> None:
    core = tmp_path / "core"
    with core.open("wb") as file:
        file.write(ehdr(1) + phdr(4, 4096, 0, 127 << 20, 0))
        file.truncate(8 << 40)
    assert "notes" in refused_in_little_memory(tmp_path, core)


def test_a_bomb_costs_nothing(tmp_path: Path) -> None:
    """A few KiB that unpack to as many notes as one may have."""
    core = tmp_path / "core.gz"
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    with core.open("wb") as file:
        file.write(packer.compress(ehdr(1) + phdr(4, 4096, 0, 127 << 20, 0)))
        for _ in range(128):
            file.write(packer.compress(bytes(1 << 20)))
        file.write(packer.flush())
    assert core.stat().st_size < 1 << 20
    assert "notes" in refused_in_little_memory(tmp_path, core)


OPTIONS = (
    Options(mask=None),
    Options(mask=0x11),
    Options(mask=0, rules=(Rule("redact", "size:<64K"), Rule("exclude", "addr:400000-500000"))),
)


def damaged(whole: bytes, cuts: list[tuple[int, bytes]], end: int | None) -> bytes:
    data = bytearray(whole)
    for at, piece in cuts:
        data[at : at + len(piece)] = piece[: max(0, len(data) - at)]
    return bytes(data[: len(data) if end is None else end])


WORDS = st.sampled_from([0, 1, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])


@settings(max_examples=300, deadline=None)
@given(
    whole=st.sampled_from(["SMALL", "SMALL_32"]),
    cuts=st.lists(st.tuples(st.integers(0, HEAD), st.binary(max_size=8) | WORDS.map(lambda n: struct.pack("<Q", n)))),
    end=st.none() | st.integers(0, HEAD),
    options=st.sampled_from(OPTIONS),
    stream=st.booleans(),
)
def test_damaged_heads(
    whole: str, cuts: list[tuple[int, bytes]], end: int | None, options: Options, stream: bool
) -> None:
    """It is refused with a reason, or what comes out is a core that is read again."""
    data = damaged({"SMALL": SMALL, "SMALL_32": SMALL_32}[whole], cuts, end)
    core: Any = Trickle(data) if stream else io.BytesIO(data)
    try:
        found, _ = filtered(core, options)
    except KgcoreError:
        return
    again, _ = filtered(io.BytesIO(found), options)
    assert again == found


def own_core(note: bytes) -> bytes:
    """A core with a thread, a page and a KGCORE note."""
    status = struct.pack("<III8s", 5, 336, 1, b"CORE") + bytes(336)
    vendor = struct.pack("<III8s", 7, len(note), TYPE, OWNER) + note + bytes(-len(note) % 4)
    head = ehdr(3) + phdr(4, 232, 0, len(status), 0) + phdr(1, 8192, 0x1000, 4096, 4096)
    head += phdr(4, 232 + len(status), 0, len(vendor), 0)
    return (head + status + vendor).ljust(8192, b"\0") + b"x" * 4096


GOOD: dict[str, Any] = {
    "format": 1,
    "kgcore": "1",
    "source": {"format": "x"},
    "kernel": "",
    "tgid": 1,
    "filter": {},
    "missing_policy": "omit",
    "missing": [],
    "threads": [{"tid": 1, "registers": "cpu-note", "unknown": ["ip"], "fpu": "none", "cpu": 3}],
    "vmas": [["0x1000", "0x2000", "0x3", "anon-private", 4096]],
    "kinds": ["a:heap of \\xff"],
    "warnings": ["w"],
}


def test_a_note_that_fits_is_used() -> None:
    with open_core(io.BytesIO(own_core(json.dumps(GOOD).encode()))) as source, source.process(1) as process:
        image = process.image
    (thread,) = image.threads
    assert (thread.tid, thread.cpu, thread.regs.source.value, set(thread.regs.unknown)) == (1, 3, "cpu-note", {"ip"})
    (vma,) = image.vmas
    assert (vma.flags, vma.anon, vma.anon_name, vma.kinds) == (3, True, b"heap of \xff", ())
    assert image.warnings == ("w",)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"threads": []},
        {"threads": [{}]},
        {"vmas": []},
        {"vmas": [["0x1000", "0x3000", "0x3", "x", 0]]},
        {"vmas": [["0x1000", "0x2000", "0x3", "x", 8192]]},
        {"vmas": [["0x2000", "0x1000", "0x3", "x", 4096]]},
        {"kinds": []},
        {"kinds": ["z"]},
        {"kinds": [7]},
        {"missing": [["0x1000", "0x2000", "present", ""]]},
        {"missing": [["0x1001", "0x2000", "swapped", ""]]},
        {"state": []},
        {"process": []},
        {"source": {"x": 1}},
        {"tgid": "1"},
    ],
    ids=str,
)
def test_a_note_that_does_not_fit_is_not_used(change: dict[str, Any]) -> None:
    with open_core(io.BytesIO(own_core(json.dumps(GOOD | change).encode()))) as source, source.process(0) as process:
        image = process.image
    assert [text.partition(":")[0] for text in image.warnings] == ["its KGCORE note was not used"]
    assert image.vmas[0].start == 0x1000


@settings(max_examples=200, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=8))
def test_any_content_of_a_note(value: Any) -> None:
    for key in GOOD:
        with pytest.raises(ValueError, match=r"."):
            read_own_note(json.dumps({**GOOD, key: value, "format": 3}).encode(), (), 1)


def test_notes_that_are_too_large() -> None:
    for desc in (b"[" * (1 << 23), b"\xff", b"[" * 100_000, b"{}"):
        with pytest.raises(ValueError, match=r"too large|cannot be read"):
            read_own_note(desc, (), 1)
