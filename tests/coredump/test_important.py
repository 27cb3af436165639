# SPDX-License-Identifier: LGPL-2.1-or-later
"""What matters most in a process's memory: made-up processes, whole, in parts and hostile."""

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgcore.coredump import plan
from kgcore.coredump.important import Group, Ranges, Span, group_of, important
from kgcore.filters.coredump import CoredumpFilter
from kgcore.model.dying import Dying
from kgcore.model.memory import Provenance
from kgcore.model.process import VM_EXEC, VM_READ, VM_SHARED, VM_WRITE, ProcessImage, RegisterNote
from tests.builders import PAGE, TGID, FakeMemory, make_file, make_image, make_regs, make_thread, make_vma

EXE, LD, HEAP, ARENA, STACKS, STACK = (
    0x555500000000,
    0x7F0000000000,
    0x560000000000,
    *(0x7F10 << 32, 0x7F20 << 32, 0x7FFD << 32),
)
MIB = 1 << 20
AUXV = ((3, EXE + 64), (4, 56), (5, 2), (7, LD), (0, 0))
LIBC = make_file(b"/usr/lib/x86_64-linux-gnu/libc.so.6")
LINKER = make_file(b"/usr/lib/ld.so")

VMAS = (
    make_vma(EXE, 1, VM_READ, file=make_file()),
    make_vma(EXE + PAGE, 1, VM_READ | VM_WRITE, file=make_file(), pgoff=1, anon=True),
    make_vma(HEAP, 100, anon=True),
    make_vma(LD, 1, VM_READ, file=LINKER),
    make_vma(LD + PAGE, 2, VM_READ | VM_WRITE, file=LINKER, pgoff=1, anon=True),
    make_vma(ARENA, 64 << 8, anon=True),
    make_vma(STACKS, 1, 0),  # guards it
    make_vma(STACKS + PAGE, 2048, anon=True),
    make_vma(STACK, 33, anon=True),
    make_vma(0x7FFE00000000, 2, VM_READ | VM_EXEC, name="[vdso]"),
)
END = STACK + 33 * PAGE
POINTER = STACKS + 2048 * PAGE  # struct pthread at the upper end of the second thread's stack
MAPS = LD + PAGE
TABLE = HEAP + 50 * PAGE  # of blocks of thread-local storage


def page(*parts: tuple[int, bytes]) -> bytes:
    data = bytearray(PAGE)
    for at, part in parts:
        data[at : at + len(part)] = part
    return bytes(data)


def phdr(kind: int, address: int, size: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, 4, 0, address - EXE, 0, size, size, 8)


def linked(debug: int = LD + 2 * PAGE, following: int = 0, version: int = 1, namespace: int = 0) -> dict[int, bytes]:
    """The linker's structures: one library, whose name is in the heap."""
    link_map = struct.pack("<5Q", 0, HEAP + 7 * PAGE, EXE + PAGE + 64, following, 0)
    return {
        EXE: page((0, b"\x7fELF"), (64, phdr(6, EXE + 64, 112) + phdr(2, EXE + PAGE, 48))),
        EXE + PAGE: page((0, struct.pack("<6Q", 5, 1, 21, debug, 0, 0))),
        MAPS: page((8, link_map)),
        LD + 2 * PAGE: page((0, struct.pack("<6Q", version, MAPS + 8, 0, 0, 0, namespace))),
        POINTER & -PAGE: page((POINTER % PAGE + 8, struct.pack("<Q", TABLE))),
        HEAP + 7 * PAGE: page((0, b"/lib/x.so\0")),
    }


def image(**values: Any) -> ProcessImage:
    threads = (
        make_thread(TGID, regs=make_regs(sp=STACK + 30 * PAGE, fs_base=0)),
        make_thread(TGID + 1, regs=make_regs(sp=POINTER - 9000, fs_base=POINTER, di=HEAP + 20 * PAGE)),
    )
    return make_image(**{"vmas": VMAS, "auxv": AUXV, "threads": threads, "start_stack": END - 8, **values})


def found(image_: ProcessImage, content: Any = None, **values: Any) -> dict[Group, set[int]]:
    """The pages of each group that are mapped."""
    memory = FakeMemory(content=linked() if content is None else content, **values)
    pages: dict[Group, set[int]] = {group: set() for group in Group}
    ranges = important(image_, memory)
    for vma in image_.vmas:
        for start, end, group in ranges.within(vma.start, vma.end):
            pages[group] |= set(range(start, end, PAGE))
    return pages


def pages(start: int, count: int) -> set[int]:
    return set(range(start, start + count * PAGE, PAGE))


def test_each_group() -> None:
    groups = found(image())
    assert groups[Group.HEADERS] == {EXE, LD} | pages(0x7FFE00000000, 2)
    assert groups[Group.STACK] == pages(STACK + 29 * PAGE, 4), "with the red zone"
    assert groups[Group.STACKS] == pages((POINTER - 9000 - 128) & -PAGE, 4), "up to its struct pthread"
    # The dynamic section, r_debug, a link_map and its name, and thread-local storage; below that is the stack
    assert groups[Group.LINKER] >= {EXE + PAGE, LD + PAGE, LD + 2 * PAGE, HEAP + 7 * PAGE, TABLE}
    assert groups[Group.LINKER] - {EXE + PAGE, LD + PAGE, LD + 2 * PAGE, HEAP + 7 * PAGE, TABLE} <= pages(
        POINTER - 5 * PAGE, 6
    )
    assert groups[Group.REGISTERS] == {HEAP + 20 * PAGE}


def test_the_thread_that_a_signal_hit_comes_first() -> None:
    groups = found(image(dying=Dying(11, "dumping-core", TGID + 1)))
    assert groups[Group.STACK] == pages((POINTER - 9000 - 128) & -PAGE, 4)
    assert groups[Group.STACKS] == pages(STACK + 29 * PAGE, 4)


def sp_at(sp: int, tid: int = TGID + 1, **regs: int) -> set[int]:
    """The stack of a thread, where it is alone."""
    values = {"fs_base": POINTER, **regs}
    one = image(threads=(make_thread(tid, regs=make_regs(sp=sp, **values)),))
    return found(one)[Group.STACK]


def test_stacks_and_where_they_end() -> None:
    assert sp_at(STACKS + 100 * PAGE) == pages(STACKS + 99 * PAGE, 1950), "up to struct pthread"
    assert sp_at(STACKS - 16) - {STACKS} == pages(STACKS + PAGE, 2048), "it ran over its stack, behind the guard"
    assert sp_at(STACKS + 16) - {STACKS} == pages(STACKS + PAGE, 2048), "into the guard"
    # In the heap it may end anywhere; where it came from, the whole stack of a thread matters.
    assert sp_at(ARENA + MIB) == pages(ARENA + MIB - PAGE, 257) | pages(STACKS + PAGE, 2048)
    assert sp_at(ARENA + MIB, TGID, fs_base=0) == pages(ARENA + MIB - PAGE, 257) | pages(STACK, 33)
    assert sp_at(ARENA + MIB, fs_base=ARENA + 4 * MIB) >= pages(ARENA + MIB - PAGE, 769), "now it is known"
    assert sp_at(0x1234, fs_base=0) == set(), "nowhere"
    many = tuple(
        make_thread(TGID + n, regs=make_regs(sp=ARENA + n * MIB // 4, fs_base=0, **dict.fromkeys(("di", "si"), 0)))
        for n in range(200)
    )
    everything = found(image(threads=many))
    assert len(everything[Group.STACKS]) < 200 * 22, "not a mebibyte for each"


def test_registers_that_are_not_known() -> None:
    regs = make_regs(sp=0, fs_base=POINTER)
    unknown = type(regs)(regs.values, regs.source, frozenset(("sp", "di")))
    assert found(image(threads=(make_thread(TGID + 1, regs=unknown),)))[Group.STACK] == pages(STACKS + PAGE, 2048)
    assert found(image(threads=()))[Group.STACK] == set()


def test_32_bit_threads_find_their_storage_by_a_segment() -> None:
    """By the kernel's descriptors, and by what ptrace gives."""
    base, vmas = 0xF7D00840, (make_vma(0xF7D00000, 2, anon=True), make_vma(0xFFF00000, 3, anon=True))
    desc = (base & 0xFFFFFF) << 16 | (base >> 24) << 56
    gdt = {"tls": ((12, desc), (13, 0))}
    note = {"regsets": (RegisterNote(0x200, b"LINUX", struct.pack("<8I", 12, base, 0, 0, 13, 0, 0, 0)),)}
    for values in (gdt, note):
        regs = make_regs(sp=0xFFF01000, gs=12 << 3 | 3)
        threads = (make_thread(TGID, regs=regs, **values),)
        groups = found(image(arch="ia32", vmas=vmas, threads=threads, start_stack=0xFFF02FFC), {})
        assert groups[Group.LINKER] == {0xF7D00000, 0xF7D01000} & groups[Group.LINKER]
        assert 0xF7D00000 in groups[Group.LINKER]
        other = make_thread(TGID, regs=make_regs(sp=0xFFF01000, gs=0x2B), **values)
        assert not found(image(arch="ia32", vmas=vmas, threads=(other,)), {})[Group.LINKER]


def test_libraries_of_threads_keep_their_variables() -> None:
    """libthread_db reads them. Those of other libraries may be large."""
    for file, kept in ((LIBC, True), (make_file(b"/lib/libother.so"), False)):
        data = make_vma(0x7F0100000000, 40, VM_READ | VM_WRITE, file=file, pgoff=9, anon=True)
        vmas = tuple(sorted((*VMAS, data), key=lambda vma: vma.start))
        content = linked()
        content[MAPS] = page((8, struct.pack("<5Q", 0, 0, data.start + 64, 0, 0)))
        groups = found(image(vmas=vmas), content)
        assert (pages(data.start, 32) <= groups[Group.LINKER]) == kept


HOLE = 0x111111111000


@pytest.mark.parametrize(
    ("content", "auxv"),
    [
        (linked(following=MAPS + 8), AUXV),  # a circle
        (linked(following=HOLE), AUXV),
        (linked(debug=HOLE), AUXV),
        (linked(debug=(1 << 64) - 8), AUXV),
        (linked(debug=1), AUXV),
        (linked(version=2, namespace=LD + 2 * PAGE), AUXV),
        (linked(version=2, namespace=HOLE), AUXV),
        (linked(), ((3, EXE + 64), (4, 56), (5, 65535), (0, 0))),
        (linked(), ((3, HOLE), (4, 56), (5, 2), (31, (1 << 64) - 1), (0, 0))),
        (linked(), ((3, (1 << 64) - 1), (4, 56), (5, 256), (7, 1 << 63), (31, 1), (0, 0))),
        (linked() | {EXE: page((64, phdr(6, EXE + 64, 112) + phdr(2, EXE + PAGE, (1 << 63) - 1)))}, AUXV),
        ({vma.start + n * PAGE: b"\xff" * PAGE for vma in VMAS for n in range(4)}, AUXV),
    ],
)
def test_what_lies_ends_soon_and_costs_no_more_than_it_must(content: Any, auxv: Any) -> None:
    asked = []

    class Counted(FakeMemory):
        def read(self, vma: Any, start: int, end: int) -> Any:
            asked.append(end - start)
            return super().read(vma, start, end)

    process = image(auxv=auxv)
    ranges = important(process, Counted(content=content))
    assert len(asked) < 100
    assert sum(asked) < MIB
    groups = found(process, content)
    assert groups[Group.STACK] == pages(STACK + 29 * PAGE, 4)
    assert groups[Group.HEADERS] >= {EXE, LD}
    assert sum(span.end - span.start for span in ranges.spans) < 2 * MIB


def test_a_list_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every word leads to the next, in a heap that is large enough."""
    nodes = b"".join(struct.pack("<5Q", 0, 0, 0, HEAP + 64 * (n + 1), 0).ljust(64, b"\0") for n in range(100 * 64))
    content = {HEAP: nodes} | linked() | {MAPS: page((8, struct.pack("<5Q", 0, 0, 0, HEAP, 0)))}
    monkeypatch.setattr("kgcore.arch.linker._MAX_LIBRARIES", 1000)
    groups = found(image(), content)
    assert len(pages(HEAP, 100) & groups[Group.LINKER]) in range(16, 21)


@pytest.mark.parametrize("lost", [EXE, EXE + PAGE, MAPS, LD + 2 * PAGE, POINTER & -PAGE])
def test_a_page_that_is_missing_only_means_that_less_is_found(lost: int) -> None:
    gone = {(lost, lost + PAGE): (Provenance.EXCLUDED, "")}
    less, whole = found(image(), ranges=gone), found(image())
    assert less != whole or lost in (LD + 2 * PAGE, MAPS, EXE + PAGE, POINTER & -PAGE)
    assert all(less[group] <= whole[group] for group in Group)
    assert less[Group.STACK] == whole[Group.STACK]


@pytest.mark.parametrize(("order", "asked"), [("address", 0), ("size", 0), ("importance", 1)])
def test_nobody_looks_for_it_without_need(order: Any, asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*words: Any) -> Ranges:
        calls.append(words)
        return Ranges(())

    monkeypatch.setattr(plan, "important", counted)
    plan.make_plan(image(), CoredumpFilter(page_size=PAGE), FakeMemory(), order=order)
    assert len(calls) == asked


def test_groups_of_mappings() -> None:
    shared = VM_READ | VM_WRITE | VM_SHARED
    assert group_of(make_vma(HEAP, anon=True)) is Group.ANONYMOUS
    assert group_of(make_vma(HEAP, file=make_file(), anon=True)) is Group.ANONYMOUS, "a program's variables"
    assert group_of(make_vma(HEAP, file=make_file())) is Group.FILES
    assert group_of(make_vma(HEAP, flags=shared, file=make_file(nlink=0))) is Group.SHARED
    assert group_of(make_vma(HEAP, flags=shared, file=make_file(), anon=True)) is Group.FILES
    assert group_of(make_vma(HEAP, name="[vdso]")) is Group.HEADERS


SPANS = st.builds(
    lambda start, length, group: Span(start * PAGE, (start + length) * PAGE, group),
    st.integers(0, 30),
    st.integers(0, 10),
    st.sampled_from(Group),
)


@settings(deadline=None)
@given(st.lists(SPANS, max_size=12), st.integers(0, 30), st.integers(1, 20))
def test_of_two_spans_the_more_important_one_has_what_both_had(spans: list[Span], start: int, length: int) -> None:
    wanted: dict[int, Group] = {}
    for span in sorted(spans, key=lambda span: -span.group):
        wanted |= dict.fromkeys(range(span.start, span.end, PAGE), span.group)
    ranges = Ranges(spans)
    for at in range(0, 50 * PAGE, PAGE):
        assert ranges.group(at) == wanted.get(at)
    low, high = start * PAGE, (start + length) * PAGE
    inside = {at: group for at, end, group in ranges.within(low, high) for at in range(at, end, PAGE)}
    assert inside == {at: group for at, group in wanted.items() if low <= at < high}
    for one, other in zip(ranges.spans, ranges.spans[1:], strict=False):
        assert one.end < other.start or (one.end == other.start and one.group != other.group)
    borders = ranges.borders(low, high)
    assert borders == sorted(set(borders))
    assert all(wanted.get(at) != wanted.get(at - PAGE) for at in borders)
