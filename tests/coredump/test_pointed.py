# SPDX-License-Identifier: LGPL-2.1-or-later
"""What stacks lead to: step by step, within a bound, whatever the words are."""

import struct
from typing import Any

import pytest

from kgcore.coredump import pointed
from kgcore.coredump.pointed import pointed_at
from kgcore.model.memory import Provenance
from kgcore.model.process import VM_EXEC, VM_READ
from tests.builders import PAGE, FakeMemory, make_file, make_image, make_vma

HEAP, TEXT, DATA, STACK = 0x10000000, 0x400000, 0x600000, 0x7FFD00000000
VMAS = (
    make_vma(TEXT, 4, VM_READ | VM_EXEC, file=make_file()),
    make_vma(DATA, 2, file=make_file(), pgoff=4, anon=True),
    make_vma(HEAP, 5000, anon=True),
    make_vma(STACK, 4, anon=True),
)


def found(words: dict[int, list[int]], ranges: Any = None, **values: Any) -> set[int]:
    """The pages beside the stack. All that is not said is zeros."""
    content: dict[int, bytes] = {}
    for address, values_ in words.items():
        page = bytearray(content.get(address & -PAGE, bytes(PAGE)))
        struct.pack_into(f"<{len(values_)}Q", page, address % PAGE, *values_)
        content[address & -PAGE] = bytes(page)
    memory = Zeros(content=content, ranges=ranges or {})
    pages = pointed_at(make_image(vmas=VMAS, **values), memory, [(STACK + PAGE, STACK + 4 * PAGE)])
    return {start for start, _ in pages if start < STACK}


class Zeros(FakeMemory):
    def _page(self, address: int) -> bytes:
        return self.content.get(address, bytes(PAGE))


def test_step_by_step() -> None:
    chain = {
        STACK + 2 * PAGE + 16: [HEAP + 8],
        HEAP + 3000: [HEAP + 10 * PAGE],  # beside what the stack points to: a whole page is looked at
        HEAP + 10 * PAGE + 248: [DATA + 100],
        DATA + 200: [HEAP + 20 * PAGE],
        HEAP + 20 * PAGE + 256: [HEAP + 30 * PAGE],  # not in that object any more
    }
    assert found(chain) == {HEAP, HEAP + 10 * PAGE, DATA, HEAP + 20 * PAGE}


def test_an_object_may_cross_a_border() -> None:
    assert found({STACK + PAGE: [HEAP + PAGE - 8], HEAP + PAGE: [HEAP + 9 * PAGE]}) >= {HEAP, HEAP + PAGE}


def test_what_is_below_the_stack_pointer_or_no_data_leads_nowhere() -> None:
    assert found({STACK: [HEAP], STACK + PAGE: [TEXT + 8, 1, (1 << 64) - 1, HEAP + 5000 * PAGE]}) == set()


def test_missing_pages() -> None:
    lost = {(HEAP, HEAP + PAGE): (Provenance.SWAPPED, "")}
    words = {STACK + PAGE: [HEAP, HEAP + PAGE], STACK + 2 * PAGE: [HEAP + 2 * PAGE]}
    assert found(words, lost) == {HEAP + PAGE, HEAP + 2 * PAGE}
    lost = {(STACK + PAGE, STACK + 2 * PAGE): (Provenance.SWAPPED, "")}
    assert found(words, lost) == {HEAP + 2 * PAGE}


def test_circles_and_lists_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = {HEAP + n * PAGE: [HEAP + (n + 1) * PAGE] for n in range(4999)}
    pages = found({STACK + PAGE: [HEAP], **endless})
    assert pages == {HEAP + n * PAGE for n in range(pointed._STEPS)}
    assert found({STACK + PAGE: [HEAP], HEAP: [HEAP, HEAP + 8, STACK + PAGE]}) == {HEAP}
    everything = {HEAP + n * PAGE: [HEAP + (n * 7 + k) % 5000 * PAGE for k in range(32)] for n in range(5000)}
    pages = found({STACK + PAGE: [HEAP], **everything})
    assert 1000 < len(pages) <= pointed._MOST // PAGE
    monkeypatch.setattr(pointed, "_WORDS", 2100)
    assert len(found({STACK + PAGE: [HEAP], **everything})) < 100


def test_words_of_32_bits() -> None:
    stack = struct.pack("<2I", HEAP + 4, 0)
    vmas = (make_vma(HEAP, 2, anon=True), make_vma(0xFFF00000, 2, anon=True))
    memory = Zeros(content={0xFFF00000: stack.ljust(PAGE, b"\0")})
    pages = pointed_at(make_image(arch="ia32", vmas=vmas), memory, [(0xFFF00000, 0xFFF02000)])
    assert list(pages) == [(HEAP, HEAP + PAGE)]
