# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine whose pages have 64 KiB, from the filter to the check of the core: nothing takes 4096 for it."""

import ast
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from kgcore.binaries.linkmap import link_names
from kgcore.check.core import check_core
from kgcore.check.verdict import Verdict
from kgcore.coredump.pipeline import Options, dump
from kgcore.coredump.plan import make_plan
from kgcore.errors import TargetError
from kgcore.filters.base import Keep
from kgcore.filters.coredump import CoredumpFilter
from kgcore.filters.unwind import STACK, UnwindFilter, cut_out_stacks
from kgcore.model.memory import Provenance
from kgcore.model.process import VM_EXEC, VM_READ, VM_WRITE, ProcessImage, Vma
from kgcore.sinks.streams import MemorySink
from kgcore.sources.base import TaskRef
from kgcore.sources.vmcore.dumpfile import DumpFile, FrameState
from kgcore.sources.vmcore.dumpfile.pagesize import usual_page_shift
from kgcore.views.addressmap import make_map
from tests.builders import FakeMemory, FakeSource, make_file, make_image
from tests.sources.vmcore.dumpfile.test_dumpfile import elf, kdump, note, opened, states

RED_ZONE = 128
PAGE = 1 << 16
TEXT, HEAP, STACKS = 0x400000, 0x10000000, 0x7FFD00000000
REF = TaskRef("1", pid=1)


def image(**values: Any) -> ProcessImage:
    """Text whose first page is kept for its headers, data from page 3 of the file on, a heap with a hole, a stack."""
    vmas = (
        Vma(TEXT, TEXT + 3 * PAGE, VM_READ | VM_EXEC, file=make_file()),
        Vma(TEXT + 3 * PAGE, TEXT + 4 * PAGE, VM_READ | VM_WRITE, file=make_file(), pgoff=3, anon=True),
        Vma(HEAP, HEAP + 8 * PAGE, VM_READ | VM_WRITE, anon=True),
        Vma(STACKS, STACKS + 2 * PAGE, VM_READ | VM_WRITE, anon=True),
    )
    return make_image(**{"page_size": PAGE, "vmas": vmas, "auxv": ((6, PAGE), (3, TEXT + 64), (0, 0)), **values})


def memory(**values: Any) -> FakeMemory:
    lost = {(HEAP + PAGE, HEAP + 2 * PAGE): (Provenance.SWAPPED, "swap 0")}
    return FakeMemory(page_size=PAGE, piece=2 * PAGE, **{"ranges": lost, **values})


def core(options: Options | None = None) -> bytes:
    sink = MemorySink()
    dump(FakeSource(image(), memory()), REF, lambda image: sink, options)
    return bytes(sink.data)


def checked(tmp_path: Path, data: bytes | bytearray) -> Verdict:
    (tmp_path / "core").write_bytes(data)
    return check_core(tmp_path / "core")


def file_note(data: bytes) -> tuple[int, ...]:
    """All words of NT_FILE before the names."""
    at = data.index(struct.pack("<I", 0x46494C45) + b"CORE\0") + 4 + 8
    (count,) = struct.unpack_from("<Q", data, at)
    return struct.unpack_from(f"<{2 + 3 * count}Q", data, at)


def test_the_headers_of_a_file_are_a_page() -> None:
    plan = make_plan(image(), CoredumpFilter(page_size=PAGE), memory())
    assert plan.vmas[0].keep == Keep(PAGE, "elf-header")
    assert [area.kept for area in make_map(plan).areas] == ["first-page", "whole", "whole", "whole"]
    assert [area.offset for area in make_map(plan).areas] == [0, 3 * PAGE, 0, 0]


@pytest.mark.parametrize("order", ["address", "importance", "size"])
def test_segments_are_whole_pages(tmp_path: Path, order: Any) -> None:
    path = tmp_path / "core"
    path.write_bytes(core(Options(order=order)))
    with path.open("rb") as file:
        loads = [segment.header for segment in ELFFile(file).iter_segments("PT_LOAD")]
    assert [load.p_align for load in loads] == [PAGE] * 5
    assert all((load.p_vaddr | load.p_offset | load.p_filesz | load.p_memsz) % PAGE == 0 for load in loads)
    assert (loads[0].p_filesz, loads[0].p_memsz) == (PAGE, 3 * PAGE)
    assert [(load.p_vaddr, load.p_filesz) for load in loads[2:4]] == [(HEAP, PAGE), (HEAP + 2 * PAGE, 6 * PAGE)]
    assert min(load.p_offset for load in loads) == PAGE


def test_nt_file_counts_in_pages() -> None:
    text, data = (TEXT, TEXT + 3 * PAGE, 0), (TEXT + 3 * PAGE, TEXT + 4 * PAGE, 3)
    assert file_note(core()) == (2, PAGE, *text, *data)


def test_the_core_is_well_formed(tmp_path: Path) -> None:
    verdict = checked(tmp_path, core())
    assert verdict.problems == ()
    assert verdict.complete is False
    assert verdict.facts["data"] == 11 * PAGE


def test_the_check_tells_pages_of_another_size(tmp_path: Path) -> None:
    """A core of 4 KiB pages whose NT_FILE says that they have 64."""
    sink = MemorySink()
    dump(FakeSource(make_image(), FakeMemory()), REF, lambda image: sink)
    data = bytearray(sink.data)
    assert checked(tmp_path, data).problems == ()
    at = data.index(struct.pack("<I", 0x46494C45) + b"CORE\0") + 4 + 8 + 8
    assert struct.unpack_from("<Q", data, at) == (4096,)
    struct.pack_into("<Q", data, at, PAGE)
    (problem,) = checked(tmp_path, data).problems
    assert problem == "6 of 6 PT_LOADs are not made of whole pages of 65536 bytes, the first of them at 0x400000"


def test_gdbs_cores_count_in_bytes(tmp_path: Path) -> None:
    """Then AT_PAGESZ tells."""
    data = bytearray(core())
    at = data.index(struct.pack("<I", 0x46494C45) + b"CORE\0") + 4 + 8 + 8
    struct.pack_into("<Q", data, at, 1)
    assert checked(tmp_path, data).problems == ()
    phdr = 64 + 56  # the first PT_LOAD
    struct.pack_into("<Q", data, phdr + 8, struct.unpack_from("<Q", data, phdr + 8)[0] + 0x1000)
    assert any("whole pages of 65536 bytes" in problem for problem in checked(tmp_path, data).problems)


def test_stacks_are_cut_out_at_pages() -> None:
    sp = HEAP + 4 * PAGE + 40
    large = Vma(HEAP, HEAP + 64 * STACK, VM_READ | VM_WRITE, anon=True)
    cut, stacks = cut_out_stacks((large,), [sp], PAGE, RED_ZONE)
    low = sp - RED_ZONE & -PAGE
    assert [(vma.start, vma.end) for vma in cut] == [
        (HEAP, low),
        (low, sp + STACK & -PAGE),
        (sp + STACK & -PAGE, large.end),
    ]
    text = image().vmas[0]
    assert UnwindFilter(stacks, PAGE)(text, lambda *_: None) == Keep(PAGE, "elf-header")
    mapped = Vma(TEXT, TEXT + 4 * STACK, VM_READ, file=make_file(), pgoff=7)
    parts, _ = cut_out_stacks((mapped,), [TEXT + 2 * PAGE], PAGE, RED_ZONE)
    assert [(part.start - TEXT) // PAGE for part in parts] == [part.pgoff - 7 for part in parts]


def test_names_in_memory_are_read_up_to_the_end_of_a_page() -> None:
    """The next one may be missing."""
    name = b"/usr/bin/" + b"x" * 100
    at = HEAP + PAGE - len(name) - 1
    content = {HEAP: bytes(PAGE - len(name) - 1) + name + b"\0"}
    process = image(auxv=((31, at), (9, TEXT), (0, 0)))
    assert [found.name for found in link_names(process, memory(content=content))] == [name]


# Dump files. Nobody here reads the kernels of such a machine, but its page frames are known.


def dump_of(tmp_path: Path, kind: str, size: int, machine: str = "aarch64") -> DumpFile:
    """Page frames 2 and 3 of 8."""
    if kind == "kdump":
        content = bytes(range(256)) * (size // 256)
        data = kdump(
            range(8), (2, 3), frames=8, content=lambda frame: content, page_size=size, machine=machine.encode()
        )
    else:
        text = f"OSRELEASE=6.1.0\nPAGESIZE={size}\n".encode()
        number = {"aarch64": 183, "x86_64": 62}[machine]
        data = elf([(2 * PAGE, 2 * PAGE, 2 * PAGE)], notes=note(b"VMCOREINFO", 0, text), machine=number)
    return opened(tmp_path, data)


@pytest.mark.parametrize("kind", ["kdump", "elf"])
def test_a_dump_says_how_large_its_pages_are(tmp_path: Path, kind: str) -> None:
    dump = dump_of(tmp_path, kind, PAGE)
    assert dump.page_shift == 16
    assert (2, 4, FrameState.STORED) in states(dump, 0, 8)
    buffer = bytearray(2 * PAGE)
    dump.fill([3 * PAGE, 2 * PAGE], memoryview(buffer))
    if kind == "kdump":
        assert buffer == bytes(range(256)) * (2 * PAGE // 256)


def test_pages_that_a_machine_does_not_have(tmp_path: Path) -> None:
    """A kdump file is laid out in them, which no x86 machine has written; of an ELF file it is a word in a note."""
    with pytest.raises(TargetError, match="its block size is not a page size of x86_64"):
        dump_of(tmp_path, "kdump", PAGE, "x86_64")
    dump = dump_of(tmp_path, "elf", PAGE, "x86_64")
    assert dump.page_shift == 12
    assert (32, 64, FrameState.STORED) in states(dump, 0, 128)


def test_a_dump_that_does_not_say(tmp_path: Path) -> None:
    assert opened(tmp_path, elf([(PAGE, PAGE, PAGE)])).page_shift == 12
    assert [usual_page_shift("x86_64", told) for told in (None, 4096, 65536, 0, 5)] == [12] * 5
    assert [usual_page_shift("aarch64", told) for told in (None, 16384, 65536, 1 << 30)] == [12, 14, 16, 12]


# No module has a page size of its own.

KGCORE = Path(__file__).parents[1] / "kgcore"
ARCHITECTURES = "arch/x86/"  # what the architectures of that package say of themselves
ALLOWED = {
    ("arch/linker.py", "_MAX_NAME"): "PATH_MAX",
    ("binaries/sysroot.py", "_PATH_MAX"): "PATH_MAX",
    ("check/segments.py", "_AT_ONCE"): "a count",
    ("coredump/writer.py", "_BLOCK"): "of a file system that the core is written to",
    ("daemon/protocol.py", "MAX_REQUEST"): "bytes of a message",
    ("model/process.py", "VM_UFFD_WP"): "a flag",
    ("restore/control.py", "_MOST_ERRNO"): "MAX_ERRNO",
    ("restore/need.py", "_MOST_PATH"): "bytes of a path",
    ("sinks/compressed.py", "most"): "bytes that a frame may add",
    ("sinks/files.py", "_BLOCK"): "of a file system that the core is written to",
    ("sources/inroot.py", "_MAX_STEPS"): "a count",
    ("sources/vmcore/dumpfile/elf.py", "_MAX_SECTION_NAMES"): "a limit",
    ("sources/vmcore/dumpfile/flattened.py", "_HEADER_SIZE"): "makedumpfile's MAX_SIZE_MDF_HEADER",
    ("sources/vmcore/dumpfile/kdump.py", "_LAST_DESCRIPTORS"): "a count",
    ("sources/vmcore/dumpfile/source.py", "BAD_PAGE"): "of a disk with bad sectors that the dump lies on",
    ("sources/vmcore/dumpfile/source.py", "_MOST_READS_OF_BAD"): "a count",
    ("sources/vmcore/dumpfile/unsupported.py", "HEAD_SIZE"): "bytes of a file that are looked at",
    ("sources/vmcore/dumpfile/unsupported.py", "_OTHERS"): "where swap areas that are no dump have their magic",
    ("sources/vmcore/kernel/trees.py", "_XA_SMALLEST_NODE"): "include/linux/xarray.h, on all architectures",
    ("sources/vmcore/memory/physical.py", "_PAGES_AT_ONCE"): "a count",
    ("sources/vmcore/memory/swap/zramtable.py", "ENTRIES_AT_ONCE"): "a count",
    ("sources/vmcore/memory/swap/zswap.py", "_CACHED"): "a count",
    ("sources/vmcore/opening/spaces/i386.py", "_CACHED_PAGES"): "a count",
    ("sources/vmcore/opening/whichkernel.py", "(_MAX_TEXTS, _MAX_CHECKED)"): "counts",
    ("sources/vmcore/process/openfiles.py", "_AT_ONCE"): "a count",
    ("sources/vmcore/process/openfiles.py", "_MAX_LOST"): "a count",
    (
        "sources/vmcore/process/summaries.py",
        "(_TASK_REPORT, _TASK_IDLE, _TASK_RTLOCK_WAIT, _TASK_FROZEN)",
    ): "include/linux/sched.h",
    ("sources/vmcore/task/counters.py", "_CACHED"): "a count",
    ("sources/vmcore/kernel/machine/x86_64.py", "(_CPU_NUMBER, _CPU_NUMBER_MASK)"): "VDSO_CPUNODE_BITS",
    ("sources/vmcore/kernel/machine/orc.py", "_MAX_MODULES"): "a count",
    ("sources/vmcore/kernel/machine/orc.py", "_PROBED"): "a count",
    ("sources/vmcore/task/vmas.py", "_NAME_MAX"): "a limit",
    ("views/addressmap.py", "_STEPS"): "a count",
    ("sources/live/descriptors.py", "_open_file"): "permission bits, S_ISUID and the like among them",
    ("views/openfiles.py", "_FLAGS"): "a flag of open()",
}


def literals(node: ast.AST, where: str = "") -> Iterator[str]:
    """The name of what is assigned, or of the function, in which 4096 or 4095 stands or a shift by 12 bits."""
    for child in ast.iter_child_nodes(node):
        inside = where
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inside = child.name
        elif isinstance(node, ast.Module) and isinstance(child, ast.Assign | ast.AnnAssign):
            inside = ast.unparse(child.targets[0] if isinstance(child, ast.Assign) else child.target)
        shift = child.right if isinstance(child, ast.BinOp) and isinstance(child.op, ast.LShift | ast.RShift) else None
        named = child.value if isinstance(child, ast.keyword) and "page_shift" in str(child.arg) else None
        named = child.value if isinstance(child, ast.Assign) and "PAGE_SHIFT" in inside else named
        twelve = any(isinstance(each, ast.Constant) and each.value == 12 for each in (shift, named))
        if twelve or (isinstance(child, ast.Constant) and type(child.value) is int and child.value in (4095, 4096)):
            yield inside
        yield from literals(child, inside)


def test_no_module_has_a_page_size_of_its_own() -> None:
    found = set()
    for path in KGCORE.rglob("*.py"):
        name = str(path.relative_to(KGCORE))
        if not name.startswith(ARCHITECTURES):
            found |= {(name, where) for where in literals(ast.parse(path.read_bytes()))}
    assert found == set(ALLOWED)


def test_the_search_finds_page_sizes() -> None:
    lines = (
        "_PAGE = 4096",
        "_PAGE_SHIFT = 12",
        "_MASK: int = 0xFFF",
        "def frame(at): return at >> 12",
        "x = f(page_shift=12)",
    )
    assert set(literals(ast.parse("\n".join(lines)))) == {"_PAGE", "_PAGE_SHIFT", "_MASK", "frame", "x"}
