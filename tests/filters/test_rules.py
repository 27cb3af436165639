# SPDX-License-Identifier: LGPL-2.1-or-later
"""The user's rules: what they name, which one decides, and that nothing redacted is in a core."""

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest

from kgcore.check.core import check_core
from kgcore.coredump.pipeline import Options, prepare, write
from kgcore.filters.base import Keep
from kgcore.filters.rules import Rule, RuledFilter, cut_at_rules, redactions
from kgcore.model.memory import Provenance
from kgcore.model.process import ProcessImage, Vma
from kgcore.sinks.files import FileSink
from kgcore.sinks.streams import StreamSink
from tests.builders import PAGE, make_file, make_image, make_vma
from tests.fake_source import COMPLETE, FakeSource
from tests.victims_here import ptrace_or_skip
from tests.vmcore.corefile import Core

HEAP = make_vma(0x10000, 4, anon=True)
LIBRARY = make_vma(0x40000, 8, file=make_file(b"/usr/lib/libc.so.6"))
DELETED = make_vma(0x80000, 2, file=make_file(b"/dev/shm/pool (deleted)", nlink=0))
STACK = make_vma(0xA0000, 3, anon=True)
CALLED = make_vma(0xC0000, 4, anon=True, anon_name=b"glibc: malloc/arena")
SHARED = make_vma(0xD0000, 4, file=make_file(b"/dev/zero (deleted)", nlink=0), anon_name=b"my memory")


def image() -> ProcessImage:
    return make_image(vmas=(HEAP, LIBRARY, DELETED, STACK), start_brk=0x11000, brk=0x14000, start_stack=0xA2000)


class Everything:
    """Keeps all memory."""

    def __call__(self, vma: Vma, peek: object) -> Keep:
        return Keep(vma.end - vma.start, "all")

    def describe(self) -> dict[str, int | bool | str]:
        return {"name": "everything"}


def named(text: str) -> list[Vma]:
    """The mappings that a rule is about."""
    rule, process = Rule("exclude", text), image()
    return [vma for vma in process.vmas if rule.fits(vma, process.name_of(vma))]


@pytest.mark.parametrize(
    ("text", "vmas"),
    [
        ("name:[heap]", [HEAP]),
        ("name:[stack]", [STACK]),
        ("name:[*]", [HEAP, STACK]),
        ("name:libc*", [LIBRARY]),
        ("name:/usr/*", [LIBRARY]),
        ("file:pool", [DELETED]),
        ("file:/dev/shm/*", [DELETED]),
        ("file:[heap]", []),
        ("name:heap", []),
        ("size:>12K", [HEAP, LIBRARY]),
        ("size:>=12288", [HEAP, LIBRARY, STACK]),
        ("size:<12K", [DELETED]),
        ("size:<=8K", [DELETED]),
        ("addr:41000-42000", [LIBRARY]),
        ("addr:0x13fff-0x80001", [HEAP, LIBRARY, DELETED]),
    ],
)
def test_what_a_rule_names(text: str, vmas: list[Vma]) -> None:
    assert named(text) == vmas


@pytest.mark.parametrize(
    "text",
    [
        *("", "heap", "name:", "file:", "size:1G", "size:>1X", "size:>"),
        *("addr:5", "addr:9-5", "addr:x-y", "addr:0-" + "f" * 18),
    ],
)
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rule"):
        Rule("exclude", text)
    done = subprocess.run(
        [sys.executable, "-m", "kgcore", "--exclude", text, "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "is not a rule: expected " in done.stderr


@pytest.mark.parametrize(
    ("text", "vmas"),
    [
        ("name:[anon:*]", [CALLED]),
        ("name:[anon:glibc: malloc/arena]", [CALLED]),
        ("name:[anon*]", [CALLED, SHARED]),
        ("name:[anon_shmem:my*]", [SHARED]),
        ("name:arena]", []),
        ("name:my memory", []),
        ("file:[anon*]", []),
        ("file:/dev/zero*", [SHARED]),
        ("name:zero*", [SHARED]),
    ],
)
def test_what_a_process_called_its_memory(text: str, vmas: list[Vma]) -> None:
    rule, process = Rule("exclude", text), make_image(vmas=(*image().vmas, CALLED, SHARED))
    assert [vma for vma in process.vmas if rule.fits(vma, process.name_of(vma))] == vmas


def decisions(*rules: Rule) -> dict[int, str]:
    process = cut_at_rules(image(), rules)
    ruled = RuledFilter(Everything(), rules, process)
    return {vma.start: ruled(vma, lambda *_: None).reason for vma in process.vmas}


def test_the_first_rule_decides() -> None:
    exclude, only = Rule("exclude", "size:>12K"), Rule("only", "name:[*]")
    assert decisions(exclude, only) == {
        HEAP.start: "excluded-by-rule",
        LIBRARY.start: "excluded-by-rule",
        DELETED.start: "not-only",
        STACK.start: "all",
    }
    assert decisions(only, exclude)[HEAP.start] == "all"
    assert decisions(exclude)[DELETED.start] == "all"


def test_an_address_rule_cuts_mappings() -> None:
    rule = Rule("redact", "addr:41800-43001")
    process = cut_at_rules(image(), [rule])
    parts = [vma for vma in process.vmas if LIBRARY.start <= vma.start < LIBRARY.end]
    assert [(vma.start, vma.end, vma.pgoff) for vma in parts] == [
        (0x40000, 0x41000, 0),
        (0x41000, 0x44000, 1),
        (0x44000, 0x48000, 4),
    ]
    assert [(run.address, run.length) for run in redactions(RuledFilter(Everything(), (rule,), process))] == [
        (0x41000, 0x3000)
    ]


def test_a_redacted_core(tmp_path: Path) -> None:
    """The bytes are zeros, the rest is what it was, and every account says so."""
    path, plain = tmp_path / "core", tmp_path / "plain"
    source = FakeSource()
    with prepare(source, COMPLETE) as prepared:
        write(prepared, FileSink(str(plain)))
    whole = Core(plain)
    load = next(load for load in whole.loads if load.p_filesz > PAGE)
    start, end = load.p_vaddr + PAGE, load.p_vaddr + 2 * PAGE
    rule = Rule("redact", f"addr:{start:x}-{end:x}")
    with prepare(source, COMPLETE, Options(rules=(rule,))) as prepared:
        report = write(prepared, FileSink(str(path)))
    core = Core(path)
    assert whole.read(start, PAGE) != bytes(PAGE)
    assert core.read(start, PAGE) == bytes(PAGE)
    assert core.read(load.p_vaddr, PAGE) == whole.read(load.p_vaddr, PAGE)
    assert core.read(end, load.p_filesz - 2 * PAGE) == whole.read(end, load.p_filesz - 2 * PAGE)
    assert report.complete
    assert report.account.parts[Provenance.REDACTED] == PAGE
    assert "4.00 KiB redacted" in report.account.words()
    verdict = check_core(path)
    assert (verdict.ok, verdict.complete) == (True, True)
    assert verdict.facts["redacted"] == PAGE
    assert "redacted: 4.00 KiB of memory are zeros in its place" in verdict.lines()


def test_a_stream_gets_none_of_it(tmp_path: Path) -> None:
    stream = BytesIO()
    source = FakeSource()
    with prepare(source, COMPLETE) as prepared:
        write(prepared, FileSink(str(tmp_path / "plain")))
    whole = Core(tmp_path / "plain")
    with prepare(source, COMPLETE, Options(rules=(Rule("redact", "size:>0"),))) as prepared:
        write(prepared, StreamSink(stream))
    pages = [whole.read(load.p_vaddr, PAGE) for load in whole.loads if load.p_filesz]
    assert [page for page in pages if any(page)]
    assert not [page for page in pages if any(page) and page in stream.getvalue()]


SECRET = "open sesame, said the forty thieves"
KEEPER = f"""
import ctypes, mmap, time
page = mmap.mmap(-1, 4 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at, letter in enumerate(reversed({SECRET[::-1]!r})):  # so that it is nowhere else as a whole
    page[mmap.PAGESIZE + at] = ord(letter)
print(ctypes.addressof(ctypes.c_char.from_buffer(page)) + mmap.PAGESIZE, flush=True)
time.sleep(1000)
"""


def test_a_secret_of_a_living_process(tmp_path: Path) -> None:
    """It is in the core, unless a rule keeps it out: by its address, or with all other memory."""
    ptrace_or_skip()
    with subprocess.Popen([sys.executable, "-c", KEEPER], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = int(process.stdout.readline())

            def held(*options: str) -> bool:
                path = tmp_path / "core"
                words = ["live", "-v", "0", "-o", str(path), "--force", *options, str(process.pid)]
                done = subprocess.run([sys.executable, "-m", "kgcore", *words], capture_output=True, check=False)
                assert (done.returncode, done.stderr) == (0, b"")
                assert check_core(path).ok
                return bytes(SECRET, "ascii") in path.read_bytes()

            assert held()
            for action in ("exclude", "redact"):
                assert not held(f"--{action}", f"addr:{address:x}-{address + 1:x}")
                assert held(f"--{action}", f"addr:{address - PAGE:x}-{address:x}")
                assert not held(f"--{action}", "size:>0")
            assert not held("--only", "name:[stack]")
            assert held("--only", f"addr:{address:x}-{address + 1:x}")
        finally:
            process.kill()
