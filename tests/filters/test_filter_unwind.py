# SPDX-License-Identifier: LGPL-2.1-or-later
"""What of a process goes into the core that is only unwound: its stacks and what tells the files, and no heap."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from kgcore.filters.unwind import MAPPED, STACK, UnwindFilter, cut_out_stacks
from kgcore.model.process import VM_DONTDUMP, VM_EXEC, VM_READ, VM_WRITE, MappedFile, Vma

GIB = 1 << 30
RED_ZONE = 128
PAGE = 4096
RW = VM_READ | VM_WRITE
HEAP = Vma(0x10000000, 0x10000000 + 100 * GIB, RW, anon=True)


def kept(vmas: tuple[Vma, ...], sps: list[int]) -> int:
    cut, stacks = cut_out_stacks(vmas, sps, PAGE, RED_ZONE)
    decide = UnwindFilter(stacks, PAGE)
    return sum(decide(vma, lambda vma, address, size: b"\x7fELF"[:size]).length for vma in cut)


def test_a_heap_stays_out() -> None:
    assert kept((HEAP,), []) == 0


def test_a_stack_in_the_heap_is_cut_out_of_it() -> None:
    sp = HEAP.start + 50 * GIB + 40
    cut, stacks = cut_out_stacks((HEAP,), [sp], PAGE, RED_ZONE)
    assert [(vma.start, vma.end) for vma in cut] == [
        (HEAP.start, sp - 40 - PAGE),
        (sp - 40 - PAGE, sp - 40 + STACK),
        (sp - 40 + STACK, HEAP.end),
    ]
    assert stacks == {sp - 40 - PAGE}
    assert kept((HEAP,), [sp]) == STACK + PAGE


def test_a_stack_marked_dontdump_is_still_unwound() -> None:
    stack = Vma(0x1000000, 0x1800000, RW | VM_DONTDUMP, anon=True)
    assert kept((stack,), [0x1700000]) == 0x1800000 - 0x16FF000


def test_what_tells_the_files_is_kept() -> None:
    file = MappedFile(b"/lib/x.so", 1, 0o100755, 0x9000)
    header = Vma(0x1000, 0x3000, VM_READ, file=file)
    text = Vma(0x3000, 0x5000, VM_READ | VM_EXEC, pgoff=2, file=file)
    data = Vma(0x5000, 0x7000, RW, pgoff=4, file=file, anon=True)
    large = Vma(0x10000, 0x10000 + MAPPED + PAGE, RW, pgoff=6, file=file, anon=True)
    vdso = Vma(1 << 46, (1 << 46) + PAGE, VM_READ | VM_EXEC, name="[vdso]")
    assert [kept((vma,), []) for vma in (header, text, data, large, vdso)] == [PAGE, 0, 0x2000, 0, PAGE]


def test_offsets_in_files_follow() -> None:
    file = MappedFile(b"/memfd:stacks (deleted)", 0, 0o100777, 1 << 30)
    cut, _ = cut_out_stacks(
        (Vma(0x10000000, 0x10000000 + GIB, RW, pgoff=7, file=file),), [0x10000000 + 16 * PAGE], PAGE, RED_ZONE
    )
    assert [(vma.start - 0x10000000) // PAGE - vma.pgoff for vma in cut] == [-7] * 3


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 1 << 16), st.integers(1, 1 << 13)), min_size=1, max_size=8),
    st.lists(st.integers(0, (1 << 64) - 1) | st.integers(0, 1 << 34), max_size=12),
)
def test_cutting_loses_nothing(sizes: list[tuple[int, int]], sps: list[int]) -> None:
    vmas, at = [], 0
    for gap, length in sizes:
        vmas.append(Vma((at + gap) * PAGE, (at + gap + length) * PAGE, RW, anon=True))
        at += gap + length
    cut, stacks = cut_out_stacks(vmas, sps, PAGE, RED_ZONE)
    assert all(vma.start < vma.end and not (vma.start | vma.end) % PAGE for vma in cut)
    assert all(one.end <= other.start for one, other in pairwise(cut))
    assert sum(vma.end - vma.start for vma in cut) == sum(vma.end - vma.start for vma in vmas)
    for sp in sps:
        inside = [vma for vma in cut if vma.start <= sp < vma.end]
        assert all(vma.start in stacks for vma in inside)
