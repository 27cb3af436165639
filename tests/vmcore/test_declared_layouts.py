# SPDX-License-Identifier: LGPL-2.1-or-later
"""Layouts of modules that kgcore declares, each wrong in one thing, on real dumps: no byte of a page may be wrong.

A kernel whose vendor added, removed, widened or moved a member is the same to kgcore as a declaration that lacks, has,
and so on, that member. So each declaration is changed in each such way, and all pages of some swap spaces are read
by it. What comes out is what the right layout gives, or missing with a reason.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

import pytest

pytest.importorskip("drgn")

from kgcore.model.memory import Provenance
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.kernel import modulelayouts, moduletypes
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.modulelayouts import Member, ModuleLayouts
from kgcore.sources.vmcore.kernel.moduletypes import ModuleTypes
from kgcore.sources.vmcore.memory.physical import PhysicalMemory
from kgcore.sources.vmcore.memory.swap.layers import Layer
from kgcore.sources.vmcore.memory.swap.spaces import Spaces, SwapSpace
from kgcore.sources.vmcore.memory.swap.zram import Zram
from kgcore.sources.vmcore.memory.swap.zramtable import Proof
from kgcore.sources.vmcore.memory.swap.zswap import Zswap
from kgcore.sources.vmcore.opening.target import Target, open_target
from tests.vmcore.conftest import Fixture, need, some

PAGE = 4096
ZERO = Provenance.ZERO
ZRAM = {"k510-zram": ("zram_lzo", "zram_writeback"), "k510-rt": ("zram_lz4", "zram_zstd")}
VARIANT = {"k510-zram": 0, "k510-rt": 1}
"""The variant of zram's layouts that is right there."""

Slot: TypeAlias = tuple[int, int]
Changes: TypeAlias = Callable[[ModuleLayouts], Iterator[tuple[str, ModuleLayouts]]]
Found: TypeAlias = dict[Slot, tuple[Provenance, bytes | str]]


# What may be wrong


def changed(members: tuple[Member, ...]) -> Iterator[tuple[str, tuple[Member, ...]]]:
    """Yield members with one thing wrong, and what that is."""
    for at in range(len(members) + 1):
        before, after = members[:at], members[at:]
        for kind in ("unsigned long", "u8"):
            yield f"{kind} before {_named(after)}", (*before, f"{kind} added", *after)
        if not after:
            return
        member, rest = after[0], after[1:]
        yield f"no {_named(after)}", (*before, *rest)
        yield f"{_named(after)} last", (*before, *rest, member)
        if rest:
            yield f"{_named(after)} behind {_named(rest)}", (*before, rest[0], member, *rest[1:])
        if isinstance(member, str):
            yield f"wide {_named(after)}", (*before, *_wide(member), *rest)
        else:
            what, inner = member
            for name, other in changed(inner):
                yield name, (*before, (what, other), *rest)


def _named(members: tuple[Member, ...]) -> str:
    if not members:
        return "the end"
    return members[0] if isinstance(members[0], str) else members[0][0]


def _wide(member: str) -> tuple[Member, ...]:
    """A member of twice the size, or with more behind it."""
    for narrow, wide in (("unsigned int ", "unsigned long "), ("int ", "long "), ("bool ", "unsigned long ")):
        if member.startswith(narrow) and ":" not in member:
            return (member.replace(narrow, wide, 1),)
    return member, "unsigned long more"


def wrong_layouts(right: ModuleLayouts) -> Iterator[tuple[str, ModuleLayouts]]:
    for tag, members in right.structs.items():
        for what, other in changed(members):
            yield f"{tag}: {what}", replace(right, structs={**right.structs, tag: other})


def wrong_constants(right: ModuleLayouts) -> Iterator[tuple[str, ModuleLayouts]]:
    """Each constant forced to its neighbour's value; one missing before it, and one added."""
    for tag, values in right.enums.items():
        for name in values:
            for step in (-1, 1):
                yield f"{name} {step:+}", _with(right, tag, {**values, name: max(0, values[name] + step)})
                behind = {each: value + step for each, value in values.items() if value >= values[name]}
                yield f"all from {name} {step:+}", _with(right, tag, {**values, **behind})


def _with(right: ModuleLayouts, tag: str, values: Mapping[str, int]) -> ModuleLayouts:
    return replace(right, enums={**right.enums, tag: values})


# Reading


class Reader:
    """The slots of some victims, by any layouts."""

    def __init__(self, fixture: Fixture, target: Target, victims: tuple[str, ...], layer: type[Zram | Zswap]) -> None:
        self.kernel = Kernel(target)
        self.physical = PhysicalMemory(self.kernel)
        self.layer = layer
        self.spaces = Spaces(self.kernel)
        self.slots = sorted(
            {
                (number, slot)
                for name in victims
                for mapping in fixture.victims[name].said["mappings"]
                for number, slot in zip(mapping["swap_type"], mapping["swap_offset"], strict=True)
            }
        )

    def read(self) -> Found:
        layer: Layer = self.layer(self.kernel, self.physical, ModuleTypes(self.kernel.target))
        found: Found = {}
        for number in sorted({number for number, _ in self.slots}):
            space = self.spaces.get(number)
            assert isinstance(space, SwapSpace)
            wanted = [slot for other, slot in self.slots if other == number]
            for slots in layer.find(space, wanted[0], wanted[-1] - wanted[0] + 1):
                what = slots.place.reader.read(slots.place.at, PAGE) if slots.place else slots.detail
                for slot in range(slots.first, slots.first + slots.length):
                    found[number, slot] = slots.provenance, what
        return found


def judge(found: Found, right: Found) -> list[str]:
    """What is wrong: other bytes, zeros that are none, or nothing at all."""
    wrong = []
    for slot, (provenance, what) in found.items():
        known = right.get(slot)
        if isinstance(what, bytes) or provenance is ZERO:
            if known is None or (provenance is ZERO, what) != (known[0] is ZERO, known[1]):
                wrong.append(f"{slot}: {provenance.value}")
        elif not what:
            wrong.append(f"{slot}: {provenance.value} without a reason")
    return wrong + [f"{slot}: nothing" for slot in right.keys() - found.keys()]


@pytest.fixture(scope="module", params=some(ZRAM, ("k510-rt",)))
def zram(request: pytest.FixtureRequest) -> Iterator[tuple[str, Reader]]:
    fixture = need(request.param)
    with open_target(DumpLocation(core=str(fixture.dump()), symbols_from="btf")) as target:
        yield request.param, Reader(fixture, target, ZRAM[request.param], Zram)


@pytest.fixture(scope="module")
def zswap() -> Iterator[Reader]:
    fixture = need("k510-zswap")
    victims = tuple(name for name in fixture.victims if name.startswith("zswap_z3fold"))
    with open_target(DumpLocation(core=str(fixture.dump()), symbols_from="btf")) as target:
        yield Reader(fixture, target, victims, Zswap)


def declare(monkeypatch: pytest.MonkeyPatch, module: str, *variants: ModuleLayouts) -> None:
    monkeypatch.setattr(moduletypes, "LAYOUTS", {**modulelayouts.LAYOUTS, module: variants})


def outcomes(
    reader: Reader, module: str, cases: Iterator[tuple[str, ModuleLayouts]], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], int, int]:
    """What was wrong by which layout; by how many layouts something was missing, and by how many all was right."""
    right = reader.read()
    assert sum(isinstance(what, bytes) for _, what in right.values()) > 400
    wrong: list[str] = []
    less = good = 0
    for name, layouts in cases:
        declare(monkeypatch, module, layouts)
        found = reader.read()
        wrong += [f"{name}: {text}" for text in judge(found, right)[:3]]
        less += found != right
        good += found == right
    return wrong, less, good


# Tests


def test_the_right_variant_is_chosen(zram: tuple[str, Reader], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes first; and without it the disk is refused, with what to give."""
    name, reader = zram
    variants = modulelayouts.LAYOUTS["zram"]
    right = reader.read()
    assert sum(isinstance(what, bytes) for _, what in right.values()) > 400
    declare(monkeypatch, "zram", *reversed(variants))
    assert reader.read() == right
    declare(monkeypatch, "zram", variants[1 - VARIANT[name]])
    ((provenance, reason),) = set(reader.read().values())
    assert provenance is Provenance.UNREADABLE
    assert isinstance(reason, str)
    assert re.search(r"its table takes (\d+|more) pages of memory and should take \d+", reason)
    assert "give both vmlinux and zram.ko of it" in reason


@pytest.mark.parametrize("kind", [wrong_layouts, wrong_constants], ids=["members", "constants"])
@pytest.mark.parametrize("module", ["zram", "zsmalloc"])
def test_zram(zram: tuple[str, Reader], module: str, kind: Changes, monkeypatch: pytest.MonkeyPatch) -> None:
    name, reader = zram
    right = modulelayouts.LAYOUTS[module][VARIANT[name] if module == "zram" else 0]
    wrong, less, good = outcomes(reader, module, kind(right), monkeypatch)
    assert wrong == []
    # A change of what nobody reads costs nothing; of zsmalloc no constant is read.
    assert less > (10 if module == "zram" or kind is wrong_layouts else -1)
    assert good > (10 if kind is wrong_layouts else 1)


def test_z3fold(zswap: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    (right,) = modulelayouts.LAYOUTS["z3fold"]
    wrong, less, good = outcomes(zswap, "z3fold", wrong_layouts(right), monkeypatch)
    assert wrong == []
    assert less > 10
    assert good > 10


def test_without_the_proof(zram: tuple[str, Reader], monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is for: by a wrong size of the entries, pages of others and zeros came out."""
    name, reader = zram
    right = reader.read()
    monkeypatch.setattr(Proof, "check", lambda _self, _disk: True)
    declare(monkeypatch, "zram", modulelayouts.LAYOUTS["zram"][1 - VARIANT[name]])
    assert len(judge(reader.read(), right)) > 100
