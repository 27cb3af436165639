# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finding a symbol table of every layout in a made-up kernel image."""

import struct
from dataclasses import dataclass

import pytest

from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.symbols.kallsyms import Read, amended, locate
from kgcore.sources.vmcore.symbols.vmcoreinfo import parse

BASE = 0xFFFF_FFFF_8100_0000


@dataclass(frozen=True)
class Layout:
    """A layout of the table.

    :ivar word: bytes of an ``unsigned long``.
    :ivar marker: of the number and of a marker.
    :ivar addresses: offsets from the base, the same beside per-CPU variables, from their own place, or addresses.
    :ivar sequence: kallsyms_seqs_of_names stands before the tokens.
    :ivar behind: addresses stand behind the tokens.
    """

    word: int = 8
    align: int = 8
    marker: int = 4
    addresses: str = "offsets"
    sequence: bool = False
    behind: bool = False


LAYOUTS = {
    "5.0": Layout(),
    "5.0, per-CPU variables": Layout(addresses="per-cpu"),
    "4.20": Layout(marker=8),
    "4.20, per-CPU variables": Layout(marker=8, addresses="per-cpu"),
    "absolute": Layout(addresses="absolute"),
    "4.20, absolute": Layout(marker=8, addresses="absolute"),
    "6.2": Layout(addresses="per-cpu", sequence=True),
    "6.4": Layout(addresses="per-cpu", behind=True),
    "7.0": Layout(align=4, addresses="place", behind=True),
    "32-bit": Layout(word=4, align=4),
    "32-bit, absolute": Layout(word=4, align=4, addresses="absolute"),
    "32-bit, 6.2": Layout(word=4, align=4, sequence=True),
    "32-bit, 6.4": Layout(word=4, align=4, behind=True),
}
BASE_32 = 0xC100_0000


def image(
    symbols: int, *, before: int = 1 << 17, layout: Layout = LAYOUTS["5.0"], long: bool = False
) -> tuple[bytes, dict[str, int]]:
    """Kernel memory with a table of that many symbols, and where its parts are."""
    base = BASE if layout.word == 8 else BASE_32
    word, marker = ("Q", "I")[layout.word == 4], ("Q", "I")[layout.marker == 4]
    tokens = [b"%c" % code if chr(code).isalnum() else b"t%d" % code for code in range(256)]
    names, markers = bytearray(), []
    for number in range(symbols):
        if number % 256 == 0:
            markers.append(len(names))
        length = 300 if long and number == 300 else 1 + number % 9
        names += bytes([length] if length < 128 else [length & 127 | 128, length >> 7])
        names += bytes(48 + (number + i) % 10 for i in range(length))
    core = {
        "kallsyms_num_syms": struct.pack(f"<{marker}", symbols),
        "kallsyms_names": bytes(names),
        "markers": struct.pack(f"<{len(markers)}{marker}", *markers),
        "sequence": bytes(number >> shift & 255 for number in range(symbols) for shift in (16, 8, 0)),
        "kallsyms_token_table": b"".join(token + b"\0" for token in tokens),
        "kallsyms_token_index": struct.pack("<256H", *(sum(len(t) + 1 for t in tokens[:i]) for i in range(256))),
    }
    if not layout.sequence:
        del core["sequence"]
    addresses = {"kallsyms_addresses": struct.pack(f"<{symbols}{word}", *range(base, base + symbols))}
    if layout.addresses != "absolute":
        offsets = [-1 - number for number in range(symbols)] if layout.addresses == "per-cpu" else list(range(symbols))
        addresses = {
            "kallsyms_offsets": struct.pack(f"<{symbols}i", *offsets),
            "kallsyms_relative_base": struct.pack(f"<{word}", base),
        }
    if layout.addresses == "place":
        del addresses["kallsyms_relative_base"]
    data = bytearray(b"\xcc" * before)
    data += b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00"  # digits that are no token table
    places = {}
    for name, part in (core | addresses if layout.behind else addresses | core).items():
        data += (b"\xcc" if name == "kallsyms_offsets" else b"\0") * (-len(data) % layout.align)
        places[name] = place = base + len(data)
        if layout.addresses == "place" and name == "kallsyms_offsets":
            part = struct.pack(f"<{symbols}i", *(base - place - 4 * at for at in range(symbols)))
        data += part
    del places["markers"]
    places.pop("sequence", None)
    return bytes(data + bytes(1 << 15)), places


def reader(data: bytes, base: int = BASE) -> Read:
    def read(address: int, size: int) -> bytes:
        return data[address - base :][:size] if address >= base else b""

    return read


@pytest.mark.parametrize("symbols", [600, 768, 769, 5000])
def test_locates_every_part(symbols: int) -> None:
    data, places = image(symbols)
    assert dict(locate(reader(data), BASE)) == places


@pytest.mark.parametrize("symbols", [600, 767, 768, 769, 5001])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout(name: str, symbols: int) -> None:
    layout = LAYOUTS[name]
    base = BASE if layout.word == 8 else BASE_32
    data, places = image(symbols, layout=layout)
    assert dict(locate(reader(data, base), base, layout.word)) == places


@pytest.mark.parametrize("name", ["5.0", "6.2", "6.4", "7.0"])
def test_names_of_more_than_127_tokens(name: str) -> None:
    data, places = image(700, layout=LAYOUTS[name], long=True)
    assert dict(locate(reader(data), BASE)) == places


@pytest.mark.parametrize("name", LAYOUTS)
def test_addresses_without_that_of_the_text(name: str) -> None:
    """Offsets that do not lead to ``_stext`` are not believed: a table of another kernel, or no offsets at all."""
    layout = LAYOUTS[name]
    base = BASE if layout.word == 8 else BASE_32
    data, _ = image(700, layout=layout)
    with pytest.raises(BrokenDump, match="not found"):
        locate(reader(data, base), base + 8 * 700, layout.word)


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


def test_nothing_to_amend_without_relative_offsets() -> None:
    names = ("names", "num_syms", "token_table", "token_index", "addresses")
    info = parse("".join(f"SYMBOL(kallsyms_{name})=ffffffff82000000\n" for name in names).encode())
    assert not amended(info, reader(b""))


def test_no_text_to_search() -> None:
    with pytest.raises(BrokenDump, match="text"):
        amended(parse(b"OSRELEASE=5.10.0\n"), reader(b""))
