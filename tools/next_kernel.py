# SPDX-License-Identifier: LGPL-2.1-or-later
"""Try kgcore on the newest kernel that Debian has, before its users do: ``python3 -m tools.next_kernel``.

Takes the newest of sid and experimental, audits it, and says what changed since the last one that is tested; boots it
in QEMU with a few victims, memory in zram and in zswap among it; and compares kgcore's cores of them with the kernel's
own. docs/kernels.md says what came out. It exits with 1 if something is not as it should be.
"""

import argparse
import datetime as dt
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kgcore.errors import KgcoreError
from kgcore.views.backtrace import backtrace
from tests.vmcore import test_recovery as recovery
from tests.vmcore.conftest import CACHE, Extractor, Fixture, Victim
from tests.vmcore.corefile import Core
from tests.vmcore.differences import compare
from tests.vmcore.test_truth import expected
from tests.vmcore_fixtures.make import kernel_guests
from tests.vmcore_fixtures.make import kernels as debian
from tests.vmcore_fixtures.make.__main__ import build
from tests.vmcore_fixtures.make.common import BuildError, Unavailable
from tests.vmcore_fixtures.make.packages import Suite, install_host_tools
from tests.vmcore_fixtures.make.recipes import Recipe
from tests.vmcore_fixtures.make.supplies import Supplies
from tools import kernels
from tools.audit import audited, changes

__all__ = ("guest", "main", "newest")

SUITES = ("sid", "experimental")
FLAVOUR = "full"  # experimental has no other


def newest() -> str:
    """Return the suite that has the newest kernel.

    :raises BuildError: none has a kernel.
    """
    found = ""
    version = ""
    for suite in SUITES:
        try:
            there = Suite.of(suite).field(f"linux-image-{debian.FLAVOURS[FLAVOUR]}", "Version")
        except BuildError:
            continue
        if (
            not version
            or not subprocess.run(["dpkg", "--compare-versions", there, "gt", version], check=False).returncode
        ):
            found, version = suite, there
    if not found:
        raise Unavailable(f"neither of {' and '.join(SUITES)} has a kernel")
    return found


def guest(suite: str) -> Recipe:
    """Return the recipe of a guest: that of the fixtures, if they have one with this kernel."""
    known = (recipe for recipe in kernel_guests.RECIPES if (recipe.suite, recipe.flavour) == (suite, FLAVOUR))
    return next(known, None) or kernel_guests.kernel_guest(f"k-{suite}", suite, FLAVOUR, "the newest kernel")


def compared(fixture: Fixture) -> Iterator[tuple[bool, str]]:
    """Compare kgcore's cores and kernel stacks with the kernel's: whether each is right, and a sentence."""
    right, threads, complete = [], 0, 0
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        extractor = Extractor(Path(folder))
        try:
            for victim in fixture.victims.values():
                if victim.core is None:
                    continue
                try:
                    found = list(_differences(fixture, victim, extractor))
                    source = extractor.source(fixture.dump())
                    for trace in backtrace(source, victim.pid, all_threads=True, kernel=True).threads:
                        threads += 1
                        complete += trace.kernel is not None and trace.kernel.end.kind == "outermost"
                except KgcoreError as error:
                    found = [error.message]
                if found:
                    wrong.append(f"{victim.name}: {'; '.join(map(str, found[:3]))}")
                else:
                    right.append(victim.name)
        finally:
            extractor.close()
    yield not wrong, f"{len(right)} of {len(right) + len(wrong)} cores are as the kernel's own"
    yield from ((False, line) for line in wrong)
    yield complete == threads, f"{complete} of {threads} kernel stacks are complete"


def _differences(fixture: Fixture, victim: Victim, extractor: Extractor) -> Iterator[object]:
    """Compare a core with the kernel's, as tests/vmcore/test_built_kernels.py does."""
    special = expected(fixture, victim)
    assert victim.core is not None
    if special.from_disk:
        path, _ = extractor(fixture.dump(), victim.pid, mask=None, vendor_note=False)
    else:
        path, report = extractor(
            fixture.dump(), victim.pid, swap=fixture.swaps, mask=None, missing="zero", vendor_note=False
        )
        missing = recovery.pages(report)
        if missing != recovery.nowhere(victim):
            yield f"{len(missing)} pages are missing"
        pages = special.pages | frozenset(missing)
        special = replace(special, pages=pages, tracer_died=victim.name.endswith("_child"))
    yield from compare(Core(victim.core), Core(path), special)


def booted(suite: str) -> Fixture:
    """Make the guest, with the newest kernel.

    :raises BuildError: it could not be made.
    """
    install_host_tools()
    recipe = guest(suite)
    done: list[bool] = []
    supplies = Supplies(update=True)
    supplies.as_ready([recipe], lambda recipe, lacking: done.append(build(recipe, lacking, force=False)))
    if not all(done) or not (CACHE / recipe.name / "manifest.toml").exists():
        raise BuildError("the guest could not be made: its log is in the fixtures' cache")
    return Fixture(CACHE / recipe.name)


def said(suite: str, *, boot: bool) -> Iterator[tuple[bool, str]]:
    """Yield what came out: whether each is as it should be, and a sentence."""
    kernel = debian.kernel(suite, FLAVOUR, update=True)
    before = debian.kernel("sid" if suite != "sid" else "trixie", FLAVOUR)
    found = audited(kernel.directory / "vmlinuz")
    lost = [f"{one.what}: {one.lost}" for one in found if one.state == "absent" and one.lost]
    yield True, f"kernel {kernel.release}, compared with {before.release}"
    yield not lost, f"{len(lost)} of the {len(found)} things that kgcore needs are absent with a loss"
    yield from ((False, f"lacks {line}") for line in lost)
    yield from ((True, line) for line in changes(audited(before.directory / "vmlinuz"), found))
    if boot:
        fixture = booted(suite)
        yield True, f"it boots and can be dumped, in QEMU {fixture.manifest['qemu']}"
        yield from compared(fixture)


def main() -> int:
    """Parse the arguments, try the kernel, write down what came out."""
    parser = argparse.ArgumentParser(prog="python3 -m tools.next_kernel", description=__doc__)
    parser.add_argument("--suite", help=f"that of a kernel to take (default: the newest of {', '.join(SUITES)})")
    parser.add_argument("--no-boot", action="store_true", help="audit it only; write nothing down")
    options = parser.parse_args()
    lines: list[tuple[bool, str]] = []
    try:
        suite = options.suite or newest()
        for good, line in said(suite, boot=not options.no_boot):
            print(f"{'    ' if good else ' !! '}{line}", flush=True)
            lines.append((good, line))
    except (BuildError, KgcoreError) as error:
        print(f" !! {error}", file=sys.stderr)
        return 1
    if not options.no_boot:
        release = re.sub(r"^kernel (\S+),.*", r"\1", lines[0][1])
        today = dt.datetime.now(dt.UTC).date().isoformat()
        words = [line if good else f"**{line}**" for good, line in lines[1:]]
        kernels.save(kernels.load() | {"next": {"date": today, "release": release, "suite": suite, "said": words}})
    return 0 if all(good for good, _ in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
