# SPDX-License-Identifier: LGPL-2.1-or-later
"""Say on which kernels kgcore was tried: docs/kernels.md.

The kernels are those of the fixtures' recipes; docs/kernels.json says which tests ran on which of them, and is updated
from a run of the tests: ``KGCORE_RECORD=DIR ./dev test``, then ``python3 -m tools.kernels --record DIR --types``.
"""

import argparse
import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kgcore.model.layouts import Layout
from kgcore.sources.vmcore.kernel.layouts import Use
from tests.vmcore.layouts.kernels import KERNELS
from tests.vmcore_fixtures.make import built_guests, edge_guests, kdump
from tests.vmcore_fixtures.make.built_kernels import PREFIX
from tests.vmcore_fixtures.make.catalogue import RECIPES

__all__ = ("COLUMNS", "merged", "page", "recipes")

ROOT = Path(__file__).resolve().parents[1]
KNOWN = ROOT / "docs" / "kernels.json"
PAGE = ROOT / "docs" / "kernels.md"

ANY, OWN_TYPES = "any test", "any test with the dump's own types"
COLUMNS: dict[str, tuple[tuple[str, ...], tuple[Use, ...]]] = {
    "opens": ((ANY,), (Use.OPENING, Use.PROCESSES)),
    "without vmlinux": ((OWN_TYPES,), (Use.OPENING, Use.OWN_TYPES)),
    "cores": (
        ("test_truth.py", "test_abi.py", "test_i386.py", "test_built_kernels.py"),
        (Use.CORES, Use.REGISTERS, Use.MEMORY, Use.NAMES),
    ),
    "stacks": (("test_bt.py", "test_built_kernels.py::test_kernel_stacks"), (Use.STACKS,)),
    "swap": (
        ("test_recovery.py", "test_zram.py", "test_zswap.py", "test_built_kernels.py::test_patterns"),
        (Use.SWAP,),
    ),
}
"""What a column says: the tests that show it, and what of the table of layouts it takes."""

_SUITES = {
    "bullseye": "Debian 11",
    "bookworm": "Debian 12",
    "trixie": "Debian 13",
    "trixie-backports": "Debian 13 backports",
    "sid": "Debian sid",
    "experimental": "Debian experimental",
}


def recipes() -> dict[str, Any]:
    """Return the recipes of all fixtures, by name."""
    return RECIPES | kdump.RECIPES | edge_guests.RECIPES | built_guests.RECIPES


def kernels() -> dict[str, str]:
    """Return all kernels of recipes, by key: a suite and a flavour; each with its name for people."""
    keys = dict.fromkeys((recipe.suite, recipe.flavour) for recipe in recipes().values())
    order = [*_SUITES, *(suite for suite, _ in keys if suite not in _SUITES)]
    found = {}
    for suite, flavour in sorted(keys, key=lambda key: (order.index(key[0]), key[1].startswith(PREFIX), key[1])):
        name = _SUITES.get(suite, suite)
        if flavour.startswith(PREFIX):
            notes = [each.note for each in recipes().values() if each.flavour == flavour and each.note]
            name += f"'s source, built: {notes[0] if notes else flavour.removeprefix(PREFIX)}"
        else:
            name += f", {flavour}"
        found[f"{suite} {flavour}"] = name
    return found


def merged(known: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], today: str) -> dict[str, Any]:
    """Return what is known of kernels, with what a run of the tests has shown.

    A column is said to have run if tests of it passed on a fixture of the kernel and none failed.

    :param known: by kernel: ``release``, ``date``, and ``ran``, the columns.
    :param rows: as tests/vmcore/record.py writes them.
    """
    passed: dict[str, dict[str, set[str]]] = {}
    failed: dict[str, set[str]] = {}
    for row in rows:
        if (recipe := recipes().get(row["fixture"])) is None:
            continue
        key = f"{recipe.suite} {recipe.flavour}"
        for column, (tests, _) in COLUMNS.items():
            if column == "swap" and not recipe.swap_mib:
                continue
            if {row["test"], f"{row['test']}::{row['function']}"} & {*tests} or (
                ANY in tests or (OWN_TYPES in tests and row["own_types"])
            ):
                if row["passed"]:
                    passed.setdefault(key, {}).setdefault(row["release"], set()).add(column)
                elif ANY not in tests:
                    failed.setdefault(key, set()).add(column)
    found = dict(known)
    for key, releases in passed.items():
        release = max(releases, key=lambda each: len(releases[each]))
        was = found.get(key, {})
        # A run of few tests says nothing of the others.
        before = set(was["ran"]) if was.get("release") == release and "ran" in was else set()
        ran = [column for column in COLUMNS if column in (releases[release] | before) - failed.get(key, set())]
        if (was.get("release"), was.get("ran")) != (release, ran):
            found[key] = was | {"release": release, "date": today, "ran": ran}
    return dict(sorted(found.items()))


def by_types(found: Iterable[Layout]) -> list[str]:
    """Return the columns for which a kernel has all that is needed, as far as its types tell."""
    all_found = tuple(found)
    lost = {layout.use for layout in all_found if layout.state == "absent" and layout.lost}
    had = {layout.use for layout in all_found if layout.state == "found"}
    words = {column: {use.value for use in uses} for column, (_, uses) in COLUMNS.items()}
    return [column for column, uses in words.items() if uses & had and not uses & lost]


def audited(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of kernels, with an audit of the files of those that are in the fixtures' cache."""
    from kgcore.errors import KgcoreError
    from tests.vmcore_fixtures.make.common import cache_dir
    from tools.audit import audited as audit

    found = dict(known)
    for key in kernels():
        suite, flavour = key.split()
        name = f"suite-{suite}" if flavour == "cloud" else f"suite-{suite}-{flavour}"
        if flavour.startswith(PREFIX):
            name = f"built-{flavour.removeprefix(PREFIX)}"
        record = cache_dir() / "kernels" / f"{name}.json"
        if not record.exists():
            continue
        release = json.loads(record.read_text())["release"]
        folder = cache_dir() / "kernels" / release
        for file in (folder / "vmlinuz", folder / "vmlinux"):
            try:
                found[key] = found.get(key, {}) | {"types": by_types(audit(file)), "audited": release}
                break
            except KgcoreError:
                continue
    return dict(sorted(found.items()))


def _row(name: str, known: Mapping[str, Any]) -> str:
    cells = []
    for column in COLUMNS:
        if column in known.get("ran", ()):
            cells.append("**ran**")
        else:
            cells.append("types only" if column in known.get("types", ()) else "not tried")
    release = known.get("release") or known.get("audited") or ""
    return f"| {' | '.join((name, release, *cells, known.get('date', '')))} |"


def page(known: Mapping[str, Any]) -> str:
    """Return docs/kernels.md."""
    return "\n".join(_lines(known)) + "\n"


def _lines(known: Mapping[str, Any]) -> Iterator[str]:
    yield _HEAD
    yield f"| kernel | release | {' | '.join(COLUMNS)} | last changed |"
    yield "|" + "---|" * (len(COLUMNS) + 3)
    for key, name in kernels().items():
        yield _row(name, known.get(key, {}))
    yield _TESTS
    for column, (tests, _) in COLUMNS.items():
        words = " or ".join(test if test in (ANY, OWN_TYPES) else f"`{test}`" for test in tests)
        yield f"| {column} | {words} |"
    yield _DECLARED
    for kernel in KERNELS:
        yield f"| {kernel.name} | {kernel.source} | {kernel.unproven} |"
    yield _NEXT
    following = known.get("next")
    if following:
        yield f"It last ran on {following['date']}, on **{following['release']}** of {following['suite']}:"
        yield ""
        yield from (f"- {line}" for line in following["said"])
    else:
        yield "It has not run yet."


_HEAD = """\
# Kernels

On which kernels kgcore was tried. `python3 -m tools.kernels` makes this page of the recipes of the
test fixtures and of `docs/kernels.json`, where runs of the tests are written down.

- **ran**: tests compared what kgcore says of a dump of this kernel with what the kernel and its
  processes said themselves, and passed;
- types only: the kernel's types and symbols have all that kgcore needs for it
  (`python3 -m tools.audit`), but nobody compared;
- not tried: neither.

For a kernel that is not here, `kgcore info --layouts` says what to expect of a dump, and
`python3 -m tools.audit vmlinuz` of the kernel alone ([info.md](info.md#layouts)).
"""
_TESTS = """
A column ran if, of these tests in `tests/vmcore/`, some passed on a fixture with the kernel and
none failed:

| column | tests |
|---|---|"""
_DECLARED = """
## Kernels that cannot be had here

They are tested with made-up structures, as their published sources declare them
(`tests/vmcore/layouts/kernels.py`): tasks, mappings, pages, swap entries. What a vendor may have
changed, and nobody could read here, is not proven.

| kernel | read in | not proven |
|---|---|---|"""
_NEXT = """
## The next kernel

`python3 -m tools.next_kernel` takes the newest kernel that Debian has, audits it, boots it, and
compares kgcore's cores of it with the kernel's own
([CONTRIBUTING.md](../CONTRIBUTING.md#a-new-kernel)).
"""


def load() -> dict[str, Any]:
    """Return docs/kernels.json."""
    return dict(json.loads(KNOWN.read_text())) if KNOWN.exists() else {}


def save(known: Mapping[str, Any]) -> None:
    """Write docs/kernels.json and the page."""
    KNOWN.write_text(json.dumps(known, indent=1) + "\n")
    PAGE.write_text(page(known))


def main() -> None:
    """Parse the arguments, write the page."""
    parser = argparse.ArgumentParser(prog="python3 -m tools.kernels", description=__doc__)
    parser.add_argument("--record", type=Path, metavar="DIR", help="what KGCORE_RECORD named in a run of the tests")
    parser.add_argument("--types", action="store_true", help="audit the kernels in the fixtures' cache")
    options = parser.parse_args()
    known = load()
    if options.record:
        rows = [row for path in sorted(options.record.glob("*.json")) for row in json.loads(path.read_text())]
        known = merged(known, rows, dt.datetime.now(dt.UTC).date().isoformat())
    if options.types:
        known = audited(known)
    save(known)


if __name__ == "__main__":
    main()
