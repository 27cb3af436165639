# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page of ``kgcore map --html`` in a real browser: what is drawn, how large, in which colour; what never runs."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("drgn")

from kgcore.model.memory import Provenance
from kgcore.model.process import VM_READ
from kgcore.text import human_size
from kgcore.views.addressmap import Kind
from tests.builders import PAGE, FakeMemory, make_file, make_image, make_regs, make_thread, make_vma
from tests.views.test_mappage import HOSTILE, page_of
from tests.vmcore.browser import Browser, chromium
from tests.vmcore.conftest import MAIN, find, main_dump, need
from tests.vmcore.tools import kgcore, serving

START = 0x7F0000000000

# Of each mapping: the rectangles that are drawn of it, as they are on the screen.
DRAWN = """
return [...document.querySelectorAll("div.region a")].map(link => ({
  row: link.getAttribute("href").slice(1),
  title: link.querySelector("title").textContent,
  rects: [...link.querySelectorAll(":scope > rect:not(.edge):not(.mark)")].map(rect => {
    const box = rect.getBoundingClientRect(), line = rect.ownerSVGElement.getBoundingClientRect();
    const style = getComputedStyle(rect);
    return {kind: rect.getAttribute("class"), left: box.left - line.left, width: box.width, line: line.width,
            top: box.top, height: box.height, fill: style.fill};
  })}));
"""
ROWS = """
return [...document.querySelectorAll("tbody tr")].map(row => ({
  id: row.id,
  cells: [...row.cells].map(cell => cell.textContent),
  rects: [...row.querySelectorAll("rect")].map(rect => {
    const box = rect.getBoundingClientRect();
    const whole = rect.ownerSVGElement.getBoundingClientRect();
    return {kind: rect.getAttribute("class"), width: box.width, whole: whole.width};
  })}));
"""
MARKS = """
return [...document.querySelectorAll("svg.mark path")].map(path => {
  const box = path.getBoundingClientRect(), line = path.closest(".line > svg").getBoundingClientRect();
  return {title: path.textContent, at: (box.left + box.right) / 2 - line.left, line: line.width,
          width: box.width, height: box.height, fill: getComputedStyle(path).fill};
});
"""
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("browser")) as found:
        yield found


def show(browser: Browser, page: Path) -> None:
    """It asks for nothing but itself, and there is nothing to complain of."""
    assert browser.open(page) == [page.as_uri()]
    assert browser.complaints() == []


def cases() -> Iterator[Any]:
    for name in MAIN:
        fixture = find(name)
        if fixture is None:
            yield pytest.param(name, "", "threads", id=f"{name}-not-built")
            continue
        for victim in ("threads", "memory"):
            yield pytest.param(name, main_dump(fixture), victim, id=f"{name}-{victim}")
        yield pytest.param(name, "vmcore.d31-zstd", "memory", id=f"{name}-memory-level-31")


@pytest.mark.parametrize(("name", "file", "victim"), list(cases()))
def test_what_is_drawn_is_what_the_json_says(
    name: str, file: str, victim: str, browser: Browser, tmp_path: Path
) -> None:
    """In the picture and in the table each mapping is as wide as its memory, kind by kind."""
    fixture = need(name)
    words = ("map", "-c", fixture.dump(file), fixture.victims[victim].pid)
    done = kgcore(*words, "--html", "map.html", cwd=tmp_path)
    if done.status and (name, file) == ("k72", "vmcore.d31-zstd"):
        # tests/vmcore/test_dumps.py: LOSES_KERNEL_MEMORY
        assert "not in the dump" in done.remarks[0]
        return
    assert (done.status, done.lines, done.remarks) == (0, ["Saved map.html"], [])
    told = json.loads(kgcore(*words, "--json", cwd=tmp_path).raw)
    show(browser, tmp_path / "map.html")
    drawn: dict[str, list[dict[str, Any]]] = {}  # of each row, with a link on each line that it reaches
    for link in browser.run(DRAWN):
        drawn.setdefault(link["row"], []).append(link)
    rows = browser.run(ROWS)
    assert len(rows) == len(told["vmas"])
    lines = line_bytes(browser)
    colours: dict[str, set[str]] = {}
    for row, vma in zip(rows, told["vmas"], strict=True):
        range_ = f"{vma['start']:012x}-{vma['end']:012x}"
        assert row["cells"][:2] == [range_, human_size(vma["end"] - vma["start"])]
        account = {
            kind.value: sum(size.values()) if isinstance(size, dict) else size
            for kind in Kind
            for size in [vma["account"][kind.value]]
        }
        assert row["cells"][7:] == [human_size(size) if size else "" for size in account.values()]
        whole = vma["end"] - vma["start"]
        in_row = widths(row["rects"])
        assert row["rects"][0]["whole"] > 80
        for kind, size in account.items():
            assert in_row.get(kind, 0) == pytest.approx(row["rects"][0]["whole"] * size / whole, abs=0.2), kind
        links = drawn[row["id"]]
        assert all(link["title"].startswith(range_) for link in links)
        shapes = [rect for link in links for rect in link["rects"]]
        found = widths(shapes)
        scale = shapes[0]["line"] / lines[row["id"]]
        for kind, size in account.items():
            assert found.get(kind, 0) == pytest.approx(size * scale, abs=0.5), kind
        for rect in shapes:
            assert 0 <= rect["left"] <= rect["left"] + rect["width"] <= rect["line"] + 0.01
            assert rect["height"] == 20
            colours.setdefault(rect["kind"], set()).add(rect["fill"])
    assert all(len(found) == 1 for found in colours.values())
    assert len(set.union(*colours.values())) == len(colours) >= 4  # each kind has one of its own
    for mark, stack in marks(browser, told):
        assert mark["title"] == f"thread {stack['tid']}: stack pointer {stack['sp']:#x}"
        assert (mark["width"], mark["height"]) > (8, 20)
    assert browser.run(OVERFLOW) == 0
    assert browser.complaints() == []


def widths(rects: list[dict[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for rect in rects:
        found[rect["kind"]] = found.get(rect["kind"], 0) + rect["width"]
    return found


def line_bytes(browser: Browser) -> dict[str, int]:
    """How many bytes a line stands for, by row: as the addresses in front of lines say, and the head of one line."""
    regions = browser.run(
        """return [...document.querySelectorAll("div.region")].map(region => ({
          head: region.querySelector("h3 .mono").textContent,
          starts: [...region.querySelectorAll(".line code")].map(code => code.textContent),
          rows: [...region.querySelectorAll("a")].map(link => link.getAttribute("href").slice(1))}))"""
    )
    found = {}
    for region in regions:
        start, end = (int(part, 16) for part in region["head"].split("-"))
        starts = [int(text, 16) for text in region["starts"]]
        assert starts[0] == start
        size = starts[1] - start if len(starts) > 1 else end - start
        assert starts == list(range(start, end, size))
        found.update(dict.fromkeys(region["rows"], size))
    return found


def marks(browser: Browser, told: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, int]]]:
    found = browser.run(MARKS)
    stacks = [stack for vma in told["vmas"] for stack in vma["stack_of"]]
    assert stacks
    return list(zip(found, stacks, strict=True))


def test_ranges_lie_where_they_are(browser: Browser, tmp_path: Path) -> None:
    ranges = {
        (START + 2 * PAGE, START + 3 * PAGE): (Provenance.SWAPPED, "slot 7"),
        (START + 6 * PAGE, START + 8 * PAGE): (Provenance.ZRAM, ""),
    }
    thread = make_thread(77, regs=make_regs(sp=START + 5 * PAGE))
    image = make_image(vmas=(make_vma(START, 10, anon=True),), threads=(thread,))
    page = tmp_path / "map.html"
    page.write_text(page_of(image, FakeMemory(ranges)))
    show(browser, page)
    (item,) = browser.run(DRAWN)
    line = item["rects"][0]["line"]
    places = [(rect["kind"], round(rect["left"] / line, 3), round(rect["width"] / line, 3)) for rect in item["rects"]]
    assert places == [
        ("present", 0, 0.2),
        ("missing", 0.2, 0.1),
        ("present", 0.3, 0.3),
        ("recovered", 0.6, 0.2),
        ("present", 0.8, 0.2),
    ]
    (mark,) = browser.run(MARKS)
    assert mark["at"] / mark["line"] == pytest.approx(0.5, abs=0.002)
    # Under the mouse is what the eye sees there: nothing lies over it.
    under = """const line = document.querySelector(".line > svg").getBoundingClientRect();
      const at = x => document.elementFromPoint(line.left + line.width * x, line.top + 25);
      return arguments[0].map(x => at(x).className.baseVal)"""
    browser.run("document.querySelector('.region').scrollIntoView({block: 'center'})")
    assert browser.run(under, [0.1, 0.25, 0.45, 0.7, 0.9]) == ["present", "missing", "present", "recovered", "present"]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_nothing_of_a_name_runs(number: int, browser: Browser, tmp_path: Path) -> None:
    name = HOSTILE[number]
    image = make_image(
        vmas=(make_vma(START, 4, file=make_file(b"/" + name)), make_vma(START + 8 * PAGE, 64, anon=True)),
        warnings=(name.decode("utf-8", "replace"),),
    )
    page = tmp_path / "map.html"
    page.write_text(page_of(replace(image, psinfo=replace(image.psinfo, comm=name)), mask=0x7F))
    show(browser, page)
    assert browser.run("return document.scripts.length + document.images.length + frames.length") == 0
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    assert len(browser.run(ROWS)) == 2
    assert browser.run(OVERFLOW) == 0
    assert browser.requests() == []
    assert browser.complaints() == []


def test_the_policy_would_stop_a_script(browser: Browser, tmp_path: Path) -> None:
    """If a name did get out, in spite of all: the policy keeps it from running, loading and sending."""
    page = tmp_path / "map.html"
    with serving({}) as (url, requests):
        address = url + "/"
        got_out = (
            f"<script>window.ran = 1</script><img src='{address}' onerror='window.ran = 2'>"
            f"<link rel=stylesheet href='{address}'><iframe src='{address}'></iframe>"
            "<p style='color: red' id=styled>x</p>"
        )
        page.write_text(page_of(make_image()).replace("<main>", f"<main>{got_out}"))
        browser.open(page)
        assert requests == []
    assert browser.run("return window.ran") is None
    colour = browser.run("return getComputedStyle(document.getElementById('styled')).color")
    assert colour != "rgb(255, 0, 0)"
    text = "\n".join(browser.complaints())
    for directive in ("script-src", "img-src", "frame-src", "style-src"):
        assert directive in text or "default-src" in text
    assert text.count("Content Security Policy") >= 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_in_light_and_in_darkness(scheme: str, browser: Browser, tmp_path: Path) -> None:
    """Contrast as WCAG wants it of text (4.5), and enough between what is drawn and the page."""
    memory = FakeMemory({(START + i * PAGE, START + (i + 1) * PAGE): (place, "") for i, place in enumerate(Provenance)})
    page = tmp_path / "map.html"
    thread = make_thread(regs=make_regs(sp=START))
    page.write_text(page_of(make_image(vmas=(make_vma(START, 16, anon=True),), threads=(thread,)), memory))
    browser.prefer(prefers_color_scheme=scheme)
    show(browser, page)
    colours = browser.run(
        """const style = (pick, key) => getComputedStyle(document.querySelector(pick))[key];
        return {page: style("body", "backgroundColor"), card: style(".card", "backgroundColor"),
          ink: style("body", "color"), soft: style(".soft", "color"), stack: style("td .stack", "color"),
          present: style("rect.present", "fill"), recovered: style("rect.recovered", "fill"),
          zero: style("rect.zero", "fill"), missing: style("rect.missing", "fill")}"""
    )
    browser.prefer()
    assert (luminance(colours["page"]) < 0.1) == (scheme == "dark")
    for text in ("ink", "soft", "stack"):
        for ground in ("page", "card"):
            assert contrast(colours[text], colours[ground]) >= 4.5
    for kind in ("present", "recovered", "missing"):
        assert contrast(colours[kind], colours["card"]) >= 2.8, kind
        assert contrast(colours[kind], colours["zero"]) >= 1.5, kind


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_click_leads_to_the_row(browser: Browser, tmp_path: Path) -> None:
    """Without any script."""
    page = tmp_path / "map.html"
    page.write_text(page_of(make_image()))
    show(browser, page)
    plain = browser.run("return getComputedStyle(document.getElementById('m1')).backgroundColor")
    browser.run(
        "document.querySelector(\"a[href='#m1'] rect\").dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    assert browser.run("return location.hash") == "#m1"
    assert browser.run("return getComputedStyle(document.getElementById('m1')).backgroundColor") != plain


def test_many_mappings(browser: Browser, tmp_path: Path) -> None:
    """The page stays one that a browser shows at once, and the sums are right."""
    fixture = need("k61-many")
    for victim in ("manyvmas", "manythreads"):
        done = kgcore(
            "map", "-c", fixture.dump(), "--html", f"{victim}.html", fixture.victims[victim].pid, cwd=tmp_path
        )
        assert (done.status, done.remarks) == (0, [])
        assert (tmp_path / f"{victim}.html").stat().st_size < 4 << 20
        show(browser, tmp_path / f"{victim}.html")
        rows = browser.run(ROWS)
        assert len(rows) < 3000
        counts = [int(row["cells"][6].split()[0]) if " mappings: " in row["cells"][6] else 1 for row in rows]
        (total,) = browser.run("return [...document.querySelectorAll('tfoot tr')].map(row => row.cells[6].textContent)")
        assert total == f"{sum(counts)} mappings"
        maps = (fixture.victims[victim].proc / "maps").read_text().splitlines()
        assert sum(counts) == len(maps)
        assert browser.run(OVERFLOW) == 0


def test_printed_it_keeps_its_colours_and_fits(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "map.html"
    long = make_file(b"/usr/lib/x86_64-linux-gnu/libsomething.so.1.2.3", mode=0o100755)
    page.write_text(page_of(make_image(vmas=(make_vma(START, 1 << 20, VM_READ, file=long), *make_image().vmas))))
    show(browser, page)
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    a4 = {"width": int((297 - 20) / 25.4 * 96), "height": 700, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", a4)
    try:
        assert browser.run(OVERFLOW) == 0
        style = browser.run("return getComputedStyle(document.querySelector('rect.present')).printColorAdjust")
        assert style == "exact"
        printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": False})
        assert len(printed["data"]) > 10_000
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.prefer()
