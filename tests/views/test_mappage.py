# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page of ``kgcore map --html``, as a parser sees it. (tests/vmcore/test_map_page.py: as a browser does.)"""

import base64
import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgcore.coredump.plan import make_plan
from kgcore.filters.coredump import CoredumpFilter
from kgcore.model.memory import Provenance
from kgcore.model.process import VM_READ, ProcessImage, Vma
from kgcore.text import human_size, printable
from kgcore.views.addressmap import by_kind, make_map
from kgcore.views.maplayout import regions
from kgcore.views.mappage import map_page
from tests.builders import PAGE, FakeMemory, make_file, make_image, make_regs, make_thread, make_vma

START = 0x7F0000000000
VOID = {"meta", "br", "link", "img", "input", "hr", "base", "source", "embed"}
TAGS = set(
    "html head meta title style body header main section footer h1 h2 h3 p ul li i b small span div code bdi a "
    "svg defs pattern rect path text table thead tbody tfoot tr th td".split()
)
ATTRIBUTES = set(
    "lang charset http-equiv content name class id href tabindex scope role aria-label aria-hidden x y width height d "
    "overflow patternunits patterntransform stroke-width".split()
)


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list["Element | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag: str, **attributes: str) -> list["Element"]:
        found = []
        for child in self.children:
            if isinstance(child, Element):
                if child.tag == tag and attributes.items() <= child.attributes.items():
                    found.append(child)
                found += child.all(tag, **attributes)
        return found


class Tree(HTMLParser):
    """Builds the tree, and is strict: each tag is closed in its turn, and nothing is left open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self._open = [self.root]
        self.feed(page)
        self.close()
        assert self._open == [self.root]

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data!r}")


def page_of(image: ProcessImage, memory: FakeMemory | None = None, mask: int = 0x33) -> str:
    memory = memory or FakeMemory()
    plan = make_plan(image, CoredumpFilter(mask, page_size=PAGE), memory)
    return map_page(make_map(plan, {"format": "made <up>", "kernel": "6.1"}), plan, memory)


def tree(page: str) -> Element:
    return Tree(page).root


def harmless(root: Element, page: str) -> None:
    """Nothing in it runs, and nothing in it makes a browser ask anybody for anything."""
    assert page.isascii()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", page)
    for element in every(root):
        assert element.tag in TAGS
        assert set(element.attributes) <= ATTRIBUTES, element.attributes
        assert element.attributes.get("href", "#").startswith("#m") or element.tag != "a"
        for value in element.attributes.values():
            assert "javascript:" not in value.lower()
    (style,) = root.all("style")
    assert not re.search(r"@import|url\((?!#hatch\))", style.text)
    digest = base64.b64encode(hashlib.sha256(style.text.encode()).digest()).decode()
    (policy,) = (meta for meta in root.all("meta") if "http-equiv" in meta.attributes)
    assert policy.attributes["http-equiv"] == "Content-Security-Policy"
    assert policy.attributes["content"].split("; ")[:2] == ["default-src 'none'", f"style-src 'sha256-{digest}'"]


def every(element: Element) -> list[Element]:
    found = []
    for child in element.children:
        if isinstance(child, Element):
            found += [child, *every(child)]
    return found


def cells(root: Element) -> list[list[str]]:
    (body,) = root.all("tbody")
    return [[cell.text for cell in row.all("td")] for row in body.all("tr")]


HOSTILE = [
    b'"><script>alert(1)</script>',
    b"' onload='alert(1)",
    b"</title></style></svg></table><img src=x onerror=alert(1)>",
    b"<!--",
    b"]]>",
    b"&lt;&#60;&",
    b"\xff\xfe\x00\x1b[2J\r\n",
    "\u202egnp.exe \u2066\u200b".encode(),
    "\ud800".encode("utf-8", "surrogatepass"),
    "שלום 日本語 \U0001f600".encode(),
    b"javascript:alert(1)",
    b"{{7*7}}${7*7}",
    b"a" * 4096,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(name: bytes) -> None:
    vmas = (make_vma(START, 2, VM_READ, file=make_file(b"/" + name)), make_vma(START + 4 * PAGE, 2, name="[vdso]"))
    image = make_image(vmas=vmas, warnings=(name.decode("utf-8", "surrogateescape"),))
    page = page_of(replace(image, psinfo=replace(image.psinfo, comm=name)))
    root = tree(page)
    harmless(root, page)
    assert cells(root)[0][6] == printable(b"/" + name)
    assert root.all("h1")[0].text == f"Process 4321 {printable(name)}"
    assert root.all("title")[0].text == f"Memory of process 4321 ({printable(name)})"
    assert root.all("ul", **{"class": "notes"})[0].text.endswith(printable(name))
    for char in root.text:
        assert char == "\n" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


@st.composite
def spaces(draw: st.DrawFn) -> tuple[ProcessImage, FakeMemory]:
    """Address spaces of any shape with any names."""
    vmas: list[Vma] = []
    ranges = {}
    at = draw(st.sampled_from([0, 0x400000, START]))
    for _ in range(draw(st.integers(0, 12))):
        at += draw(st.sampled_from([0, 0, PAGE, 1 << 20, 1 << 30, 1 << 40]))
        pages = draw(st.sampled_from([1, 2, 7, 512, 1 << 18]))
        file = make_file(draw(st.none() | st.binary(max_size=40))) if draw(st.booleans()) else None
        vmas.append(make_vma(at, pages, anon=draw(st.booleans()), file=file))
        for _ in range(draw(st.integers(0, 3))):
            first = draw(st.integers(0, pages - 1))
            place = draw(st.sampled_from(list(Provenance)))
            ranges[at + first * PAGE, at + (first + 1) * PAGE] = (place, draw(st.text(max_size=8)))
        at = vmas[-1].end
    inside = st.sampled_from(vmas).map(lambda vma: vma.end - 8) if vmas else st.just(0)
    threads = tuple(make_thread(tid + 1, regs=make_regs(sp=draw(inside))) for tid in range(draw(st.integers(1, 4))))
    return make_image(vmas=tuple(vmas), threads=threads), FakeMemory(ranges)


@settings(max_examples=150, deadline=None)
@given(spaces(), st.sampled_from([0, 0x33, 0x7F]))
def test_any_address_space(space: tuple[ProcessImage, FakeMemory], mask: int) -> None:
    """The page is well-formed and harmless, the table's text are the numbers and names of the map, and what is drawn is
    as long as what it stands for."""
    image, memory = space
    plan = make_plan(image, CoredumpFilter(mask, page_size=PAGE), memory)
    found = make_map(plan)
    page = map_page(found, plan, memory)
    root = tree(page)
    harmless(root, page)
    rows = cells(root)
    assert [row[6] for row in rows] == [area.title() for area in found.areas]
    assert [row[0] for row in rows] == [f"{area.vma.start:012x}-{area.vma.end:012x}" for area in found.areas]
    assert [row[1] for row in rows] == [human_size(area.size) for area in found.areas]
    for row, area in zip(rows, found.areas, strict=True):
        account = area.vma.account
        sizes = [account.present, sum(account.recovered.values()), account.zero, account.redacted]
        sizes += [sum(account.missing.values()), account.filtered]
        assert row[7:] == [human_size(size) if size else "" for size in sizes]
    ids = {element.attributes["id"] for element in every(root) if "id" in element.attributes}
    assert {link.attributes["href"][1:] for link in root.all("a")} <= ids
    for element in every(root):
        for name in ("x", "width"):
            value = element.attributes.get(name, "")
            assert not value.endswith("%") or -1e-9 <= float(value[:-1]) <= 100
    drawn = regions(found, plan, memory)
    for region in drawn:
        assert 1 <= len(region.lines) <= 26
        for item in region.items:
            assert region.start <= item.start < item.end <= region.end
            assert [piece.start for piece in item.pieces[1:]] == [piece.end for piece in item.pieces[:-1]]
            assert sum(piece.end - piece.start for piece in item.pieces) == item.account.total
            sums: dict[str, int] = {}
            for piece in item.pieces:
                sums[piece.kind.value] = sums.get(piece.kind.value, 0) + piece.end - piece.start
            assert sums == {kind.value: size for kind, size in by_kind(item.account).items()}


def test_ranges_are_drawn_where_they_are() -> None:
    ranges = {
        (START + 2 * PAGE, START + 3 * PAGE): (Provenance.SWAPPED, "on /dev/<sda>"),
        (START + 6 * PAGE, START + 8 * PAGE): (Provenance.ZRAM, ""),
    }
    root = tree(page_of(make_image(vmas=(make_vma(START, 10, anon=True),), threads=()), FakeMemory(ranges)))
    (link,) = root.all("a")
    drawn = [
        (rect.attributes["class"], rect.attributes["x"], rect.attributes["width"])
        for rect in link.all("rect")
        if rect.attributes["class"] != "edge"
    ]
    assert drawn == [
        ("present", "0%", "20%"),
        ("missing", "20%", "10%"),
        ("present", "30%", "30%"),
        ("recovered", "60%", "20%"),
        ("present", "80%", "20%"),
    ]
    (missing,) = link.all("rect", **{"class": "missing"})
    assert missing.text == "missing: 4.00 KiB, swapped (on /dev/<sda>)\n7f0000002000-7f0000003000"


def test_regions_lie_far_apart() -> None:
    starts = (0x400000, 0x402000, 0x1000000, START, START + 0x100000)
    image = make_image(vmas=tuple(make_vma(start, 1, anon=True) for start in starts), threads=())
    root = tree(page_of(image))
    heads = [region.all("h3")[0].text for region in root.all("div", **{"class": "card region"})]
    assert [head[:25] for head in heads] == [
        "000000400000-000000403000",
        "000001000000-000001001000",
        "7f0000000000-7f0000101000",
    ]
    assert [gap.text for gap in root.all("p", **{"class": "gap"})] == ["12.0 MiB not mapped", "127 TiB not mapped"]


@pytest.mark.parametrize("apart", [0, 1 << 24])
def test_a_hundred_thousand_mappings_are_a_page_of_bounded_size(apart: int) -> None:
    name = b"/" + b"<\xff>" * 1000
    file = make_file(name)
    vmas = tuple(make_vma(0x10000 + i * (2 * PAGE + apart), 1, anon=True, file=file) for i in range(100_000))
    threads = tuple(make_thread(i + 1, regs=make_regs(sp=vmas[i * 17].start + 8)) for i in range(3000))
    page = page_of(make_image(vmas=vmas, threads=threads))
    assert len(page) < 8 << 20
    root = tree(page)
    rows = cells(root)
    assert 500 < len(rows) < 4000
    assert sum(int(row[6].split()[0]) if " mappings: " in row[6] else 1 for row in rows) == len(vmas)
    assert len(root.all("rect")) < 100_000


def test_a_mapping_with_very_many_ranges() -> None:
    ranges = {(START + i * 2 * PAGE, START + (i * 2 + 1) * PAGE): (Provenance.ZERO, "") for i in range(1000)}
    root = tree(page_of(make_image(vmas=(make_vma(START, 2000, anon=True),), threads=()), FakeMemory(ranges)))
    (link,) = root.all("a")
    assert [rect.attributes["width"] for rect in link.all("rect")] == ["50%", "50%"]
    assert "shown as sums" in link.all("title")[0].text
