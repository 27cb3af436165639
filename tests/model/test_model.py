# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a process image answers by itself."""

from itertools import chain

from tests.builders import make_image, make_vma

PAGE = 4096


def test_the_mapping_at_an_address() -> None:
    """Neighbours, a hole, the vsyscall page; each boundary and its neighbours, against a search of all mappings."""
    vmas = (make_vma(0x1000), make_vma(0x2000, 3), make_vma(0x9000), make_vma(0xFFFFFFFFFF600000))
    image = make_image(vmas=vmas)
    ends = chain.from_iterable((vma.start, vma.end) for vma in vmas)
    for address in (0, *(end + by for end in ends for by in (-1, 0, 1, PAGE)), (1 << 64) - 1):
        assert image.vma_at(address) == next((vma for vma in vmas if vma.start <= address < vma.end), None)
    assert make_image(vmas=()).vma_at(0x1000) is None
