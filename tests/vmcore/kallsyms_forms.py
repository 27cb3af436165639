# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real kernel's symbol table (kallsyms) in the forms that other kernels have.

Names, tokens and addresses are the real ones. Some symbols are left out, so that a form that takes more room fits into
the place of the real table.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.opening.target import open_target
from tests.vmcore import reshape

COMMITTED = Path(__file__).parents[1] / "vmcore_fixtures"
_GROUP = 256
_OUT = 500  # symbols that are left out, for more room
_OUT_ABSOLUTE = 40_000
_ONE_CPU = ("relative", "place")
_PART_NAMES = ("names", "num_syms", "token_table", "token_index", "offsets", "relative_base")


@dataclass(frozen=True)
class Form:
    """What differs between kernels.

    :ivar wide: the number and the markers are words, as before 5.0.
    :ivar addresses: kind of the array of addresses: "per-cpu" (CONFIG_KALLSYMS_ABSOLUTE_PERCPU), "relative"
        (CONFIG_SMP=n), "absolute" (no CONFIG_KALLSYMS_BASE_RELATIVE) or "place" (since 7.0).
    :ivar behind: that array stands behind the token index, as since 6.4.
    :ivar align: bytes that arrays are aligned to.
    """

    wide: bool
    addresses: str
    behind: bool = False
    align: int = 8


class Table:
    """A kernel's own table.

    :ivar symbols: name as tokens, and address.
    """

    def __init__(self, read: Callable[[int, int], bytes], info: Mapping[str, str]) -> None:
        place = {name: int(info.get(f"SYMBOL(kallsyms_{name})", "0"), 16) for name in _PART_NAMES}
        self.start = int(info["SYMBOL(_stext)"], 16)
        (number,) = struct.unpack("<I", read(place["num_syms"], 4))
        self.index = read(place["token_index"], 512)
        tokens = read(place["token_table"], place["token_index"] - place["token_table"])
        ends = struct.unpack("<256H", self.index)[-1]
        self.tokens = tokens[: tokens.index(b"\0", ends) + 1]
        offsets = struct.unpack(f"<{number}i", read(place["offsets"], 4 * number))
        if place["relative_base"]:
            (self.base,) = struct.unpack("<Q", read(place["relative_base"], 8))
            found = [offset if offset >= 0 else self.base - 1 - offset for offset in offsets]
        else:
            self.base = self.start
            found = [place["offsets"] + 4 * at + offset for at, offset in enumerate(offsets)]
        names, at = read(place["names"], place["token_table"] - place["names"]), 0
        self.symbols = []
        for address in found:
            end = at + 1 + names[at]
            self.symbols.append((names[at:end], address))
            at = end
        self.first = min(value for name, value in place.items() if value)
        self.end = max(place["token_index"] + 512, place["offsets"] + 4 * number)

    def name(self, tokens: bytes) -> str:
        """What a symbol is called, behind the letter of its kind."""
        index = struct.unpack("<256H", self.index)
        return b"".join(self.tokens[index[t] : self.tokens.index(b"\0", index[t])] for t in tokens[1:]).decode()[1:]

    def kind(self, tokens: bytes) -> str:
        """The letter of nm for a symbol."""
        (at,) = struct.unpack_from("<H", self.index, 2 * tokens[1])
        return chr(self.tokens[at])

    def shorter(self, by: int) -> "list[tuple[bytes, int]]":
        """Leave out that many functions, of those that nobody needs: their names are the longest."""
        long = sorted(
            (at for at, (_, address) in enumerate(self.symbols) if address > self.start),
            key=lambda at: len(self.symbols[at][0]),
        )[-by:]
        out = set(long)
        return [each for at, each in enumerate(self.symbols) if at not in out]

    def built(self, form: Form, symbols: "list[tuple[bytes, int]]", at: int) -> tuple[bytes, dict[str, int]]:
        """The bytes of a table that is to lie at an address, and the addresses of its parts."""
        number = len(symbols)
        names, markers = bytearray(), []
        for count, (tokens, _) in enumerate(symbols):
            if count % _GROUP == 0:
                markers.append(len(names))
            names += tokens
        if form.addresses in ("relative", "place"):  # these have no per-CPU symbols with addresses from 0 on
            assert min(address for _, address in symbols) >= self.base
        word = "Q" if form.wide else "I"
        addresses: list[tuple[str, bytes]] = []
        if form.addresses == "absolute":
            addresses = [("addresses", struct.pack(f"<{number}Q", *(address for _, address in symbols)))]
        elif form.addresses == "place":
            addresses = [("offsets", b"")]
        else:
            values = [
                address if form.addresses == "per-cpu" and address < self.base
                else self.base - 1 - address if form.addresses == "per-cpu"
                else address - self.base
                for _, address in symbols
            ]  # fmt: skip
            addresses = [
                ("offsets", struct.pack(f"<{number}i", *values)),
                ("relative_base", struct.pack("<Q", self.base)),
            ]
        core = [
            ("num_syms", struct.pack(f"<{word}", number)),
            ("names", bytes(names)),
            ("markers", struct.pack(f"<{len(markers)}{word}", *markers)),
            ("token_table", self.tokens),
            ("token_index", self.index),
        ]
        data, places = bytearray(), {}
        for name, part in core + addresses if form.behind else addresses + core:
            data += bytes(-(at + len(data)) % form.align)
            places[f"kallsyms_{name}"] = place = at + len(data)
            if form.addresses == "place" and name == "offsets":
                part = struct.pack(f"<{number}i", *(address - place - 4 * n for n, (_, address) in enumerate(symbols)))
            data += part
        del places["kallsyms_markers"]
        return bytes(data), places


class Reformed:
    """A committed vmcore with its table in another form, and a VMCOREINFO that says nothing of it.

    :ivar path: the vmcore.
    :ivar info: the VMCOREINFO.
    :ivar known: address by name of all symbols that the table has now; those of all that it had are in ``table``.
    :ivar places: address of each part of the table.
    """

    def __init__(
        self,
        name: str,
        form: Form | None,
        directory: Path,
        keep: Callable[[str, str, int], bool] = lambda _name, _kind, _address: True,
    ) -> None:
        """
        :param form: None: there is no table.
        :param keep: whether a symbol of that name, kind and address stays in it.
        """
        source = COMMITTED / name / "vmcore"
        with open_target(DumpLocation(core=str(source), symbols_from="btf")) as target:
            self.table = Table(target.prog.read, target.vmcoreinfo)
            symbols = self.table.shorter(_OUT_ABSOLUTE if form and form.addresses == "absolute" else _OUT)
            if form and form.addresses in _ONE_CPU:
                symbols = [each for each in symbols if each[1] >= self.table.base]
            symbols = [
                (tokens, address)
                for tokens, address in symbols
                if keep(self.table.name(tokens), self.table.kind(tokens), address)
            ]
            self.known = {self.table.name(tokens): address for tokens, address in symbols}
            data, self.places = self.table.built(form, symbols, self.table.first + 8) if form else (b"", {})
            room = self.table.end - self.table.first
            assert len(data) + 8 <= room
            self.release = target.release
            self.btf: bytes = target.prog.read(
                target.prog.symbol("__start_BTF").address,
                target.prog.symbol("__stop_BTF").address - target.prog.symbol("__start_BTF").address,
            )
            self._offset = int(target.vmcoreinfo["KERNELOFFSET"], 16)
            text = target.prog["VMCOREINFO"].string_()
            base = int(target.vmcoreinfo["NUMBER(phys_base)"]) - 0xFFFFFFFF80000000
            start, end = base + self.table.first, base + self.table.end
            pages = {}
            new = (b"\xcc" * 8 + data).ljust(room, b"\xcc")
            for frame in range(start // 4096, -(-end // 4096)):
                page = bytearray(target.phys(frame * 4096, 4096))
                low, high = max(start, frame * 4096), min(end, (frame + 1) * 4096)
                page[low - frame * 4096 : high - frame * 4096] = new[low - start : high - start]
                pages[frame] = bytes(page)
        self.path = reshape.with_pages(source, directory / "vmcore", pages)
        self.info = directory / "vmcoreinfo"
        self.info.write_bytes(b"".join(line + b"\n" for line in text.split(b"\n") if b"kallsyms" not in line))

    def system_map(self, path: Path, *, moved: int = 0) -> Path:
        """The System.map of this kernel, as its build wrote it: without KASLR's offset.

        :param moved: how far all data lie elsewhere in it: it is another kernel's.
        """
        rows = []
        for tokens, address in self.table.symbols:
            kind, name = self.table.kind(tokens), self.table.name(tokens)
            at = address - self._offset if address >= self.table.start else address
            rows.append(f"{at + (moved if kind in 'dDbB' else 0):016x} {kind} {name}")
        path.write_text("\n".join(rows) + "\n")
        return path
