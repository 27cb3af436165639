# SPDX-License-Identifier: LGPL-2.1-or-later
"""VMCOREINFO text: parsing it, and finding it in memory."""

import pytest

from kgcore.sources.vmcore.symbols.vmcoreinfo import at, candidates, number, parse, symbol

TEXT = b"""OSRELEASE=6.1.0-13-amd64
PAGESIZE=4096
SYMBOL(init_uts_ns)=ffffffff82bf9b60
OFFSET(uts_namespace.name)=4
SYMBOL(swapper_pg_dir)=ffffffff82a10000
"""


def test_parse() -> None:
    info = parse(TEXT + b"no equals\nX=a=b\nX=c\n\0junk=1\n")
    assert info["OSRELEASE"] == "6.1.0-13-amd64"
    assert info["X"] == "a=b"
    assert "junk" not in info
    assert symbol(info, "init_uts_ns") == 0xFFFF_FFFF_82BF_9B60
    assert symbol(info, "missing") is None
    assert number(info, "OFFSET(uts_namespace.name)") == 4


def test_damaged_values_are_none() -> None:
    info = parse(b"SYMBOL(a)=xyz\nNUMBER(b)=\xff\n")
    assert symbol(info, "a") is None
    assert number(info, "NUMBER(b)") is None


def memory(*pieces: bytes) -> bytes:
    return b"".join(piece.ljust(4096, b"\0") for piece in pieces)


@pytest.mark.parametrize("lead", [b"", b"N" * 24], ids=["text page", "note page"])
def test_candidates(lead: bytes) -> None:
    data = memory(b"", lead + TEXT, b"x" * 100 + TEXT, b"OSRELEASE=%s\n", TEXT.replace(b"swapper_pg_dir", b"other"))
    assert list(candidates([(0x10000, data)], lambda _address, _size: b"")) == [(0x11000 + len(lead), TEXT)]


def test_candidate_that_goes_on_in_the_next_piece() -> None:
    filler = b"A=" + b"x" * 3000 + b"\n"
    text = TEXT.replace(b"PAGESIZE", filler + filler + b"PAGESIZE")
    data = memory(text[:4096], text[4096:])
    found = candidates([(0, data[:4096]), (4096, data[4096:])], lambda address, size: data[address : address + size])
    assert list(found) == [(0, text)]
    assert at(0, lambda address, size: data[address : address + size]) == text
    assert at(4096, lambda address, size: data[address : address + size]) is None
