# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finding a symbol table of the layout before Linux 6.4 in a made-up kernel image."""

import struct

import pytest

from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.symbols.kallsyms import Read, amended, locate
from kgcore.sources.vmcore.symbols.vmcoreinfo import parse

BASE = 0xFFFF_FFFF_8100_0000


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def image(symbols: int, *, before: int = 1 << 17) -> tuple[bytes, dict[str, int]]:
    """Kernel memory with a table of that many symbols, and where its parts are."""
    tokens = [b"%c" % code if chr(code).isalnum() else b"t%d" % code for code in range(256)]
    names, markers = bytearray(), []
    for number in range(symbols):
        if number % 256 == 0:
            markers.append(len(names))
        length = 1 + number % 9
        names += bytes([length]) + bytes(48 + (number + i) % 10 for i in range(length))
    parts = {
        "kallsyms_offsets": struct.pack(f"<{symbols}i", *range(symbols)),
        "kallsyms_relative_base": struct.pack("<Q", BASE),
        "kallsyms_num_syms": struct.pack("<I", symbols),
        "kallsyms_names": bytes(names),
        "markers": struct.pack(f"<{len(markers)}I", *markers),
        "kallsyms_token_table": b"".join(token + b"\0" for token in tokens),
        "kallsyms_token_index": struct.pack("<256H", *(sum(len(t) + 1 for t in tokens[:i]) for i in range(256))),
    }
    data = bytearray(b"\xcc" * before)
    data += b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00"  # digits that are no token table
    data += b"\xcc" * (-len(data) % 8)
    places = {}
    for name, part in parts.items():
        places[name] = BASE + len(data)
        data += padded(part)
    del places["markers"]
    return bytes(data + bytes(1 << 15)), places


def reader(data: bytes) -> Read:
    def read(address: int, size: int) -> bytes:
        return data[address - BASE :][:size] if address >= BASE else b""

    return read


@pytest.mark.parametrize("symbols", [600, 768, 769, 5000])
def test_locates_every_part(symbols: int) -> None:
    data, places = image(symbols)
    assert dict(locate(reader(data), BASE)) == places


def test_beyond_the_first_piece() -> None:
    data, places = image(700, before=(1 << 20) - 100)
    assert dict(locate(reader(data), BASE)) == places


def test_damage_is_told() -> None:
    data, places = image(700)
    for name in ("kallsyms_num_syms", "kallsyms_names", "kallsyms_token_index"):
        broken = bytearray(data)
        broken[places[name] - BASE] ^= 0x40
        with pytest.raises(BrokenDump, match="kallsyms"):
            locate(reader(bytes(broken)), BASE)
    with pytest.raises(BrokenDump):
        locate(reader(b""), BASE)
    with pytest.raises(BrokenDump):
        locate(reader(bytes(1 << 20)), BASE)


def test_nothing_to_amend_when_vmcoreinfo_says_it() -> None:
    names = ("names", "num_syms", "token_table", "token_index", "offsets")
    info = parse("".join(f"SYMBOL(kallsyms_{name})=ffffffff82000000\n" for name in names).encode())
    assert not amended(info, reader(b""))


def test_no_text_to_search() -> None:
    with pytest.raises(BrokenDump, match="text"):
        amended(parse(b"OSRELEASE=5.10.0\n"), reader(b""))
