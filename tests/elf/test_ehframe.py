# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether there is an unwind entry: of programs of this machine, pyelftools is asked the same by the sections."""

import io
import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from kgcore.elf import ehframe
from kgcore.elf.ehframe import Entry

unwind_entry = partial(ehframe.unwind_entry, page_size=4096)


def reader(data: bytes, missing: range = range(0)) -> Any:
    def read(at: int, size: int) -> bytes | None:
        return None if missing.start < at + size and at < missing.stop else data[at : at + size]

    return read


@pytest.fixture(scope="module")
def program() -> tuple[bytes, ELFFile]:
    """The C library that runs this."""
    maps = Path("/proc/self/maps").read_text().split()
    path = next((Path(word) for word in maps if re.search(r"/libc(\.so\.6|-[0-9.]+\.so)$", word)), None)
    if path is None:
        pytest.skip("no C library is mapped")
    elf = ELFFile(io.BytesIO(path.read_bytes()))
    if elf.get_section_by_name(".eh_frame_hdr") is None:
        pytest.skip("it has no .eh_frame_hdr")
    return path.read_bytes(), elf


@cache
def functions(elf: ELFFile) -> list[tuple[int, int]]:
    """Begin and end of what has an entry, in the image."""
    first = next(segment for segment in elf.iter_segments() if segment["p_type"] == "PT_LOAD")["p_vaddr"] & -4096
    found = [entry for entry in elf.get_dwarf_info().EH_CFI_entries() if isinstance(entry, FDE)]
    spans = [(entry["initial_location"] - first, entry["address_range"]) for entry in found]
    return sorted((begin, begin + size) for begin, size in spans)


def test_every_function(program: tuple[bytes, ELFFile]) -> None:
    data, elf = program
    spans = functions(elf)
    assert len(spans) > 1000
    for begin, end in spans[:: max(1, len(spans) // 300)]:
        assert unwind_entry(reader(data), begin) is Entry.YES
        assert unwind_entry(reader(data), end - 1) is Entry.YES
    ends = {end for _, end in spans} - {begin for begin, _ in spans}
    outside = [end for end in sorted(ends) if not any(begin <= end < stop for begin, stop in spans)]
    assert outside
    assert {unwind_entry(reader(data), end) for end in outside[:50]} == {Entry.NO}


def test_before_the_first_and_behind_the_last(program: tuple[bytes, ELFFile]) -> None:
    data, elf = program
    spans = functions(elf)
    assert unwind_entry(reader(data), spans[0][0] - 1) is Entry.NO
    assert unwind_entry(reader(data), spans[-1][1]) is Entry.NO


@pytest.mark.parametrize("section", [".eh_frame_hdr", ".eh_frame"])
def test_what_is_missing(program: tuple[bytes, ELFFile], section: str) -> None:
    data, elf = program
    there = elf.get_section_by_name(section)
    assert there is not None
    missing = range(there["sh_offset"], there["sh_offset"] + there["sh_size"])
    begin, _ = functions(elf)[700]
    assert unwind_entry(reader(data, missing), begin) is Entry.MISSING
    behind = range(elf["e_shoff"], len(data))  # section headers are not needed
    assert unwind_entry(reader(data, behind), begin) is Entry.YES


def test_a_header_that_is_missing() -> None:
    assert unwind_entry(reader(b"", range(4096)), 0x1000) is Entry.MISSING


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 1 << 63))
def test_nonsense(data: bytes, offset: int) -> None:
    assert unwind_entry(reader(data), offset) is Entry.UNKNOWN
    assert unwind_entry(reader(b"\x7fELF\2\1" + data), offset) in (Entry.UNKNOWN, Entry.NO)


@settings(deadline=None)
@given(st.data())
def test_damage(program: tuple[bytes, ELFFile], data: st.DataObject) -> None:
    original, elf = program
    there = elf.get_section_by_name(".eh_frame_hdr")
    assert there is not None
    raw = bytearray(original)
    for _ in range(8):
        at = data.draw(st.integers(0, 800) | st.integers(there["sh_offset"], there["sh_offset"] + 64))
        raw[at] = data.draw(st.integers(0, 255))
    assert unwind_entry(reader(bytes(raw)), 0x2000) in Entry
