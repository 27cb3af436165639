# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is measured. Each part yields figures; none knows of the others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from tests.vmcore_fixtures.make.common import say

from . import dumps
from .daemon import requests, serving
from .daemon import standing as standing_by_daemon
from .dumps import Dumps, GuestRecipe
from .live import busy, reservation, standing
from .measure import ROOT, Failed, Series, peak_mib, ratio, rounds, scratch, timed
from .peers import Command, Peers
from .startup import OPEN

FORMATS = ("elf", "zlib", "lzo", "zstd")
# Bytes that a core has at least.
LEAST = {"small": 10 << 20, "ordinary": 1 << 30, "large": 2 << 30}
_REQUESTS = 200  # in all rounds
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    :ivar part: the part that it belongs to.
    :ivar name: what was measured.
    :ivar value: the number.
    :ivar unit: of the number: "s", "MiB", or "x" for a ratio.
    :ivar limit: what is aimed at; 0 if nothing is.
    :ivar runs: single values, where there are several.
    """

    part: str
    name: str
    value: float
    unit: str
    limit: float = 0
    runs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Bench:
    """What every part is given.

    :ivar runs: rounds that count.
    :ivar output: where cores are written.
    :ivar root: where the dumps are; None for the cache.
    """

    runs: int
    output: Path
    root: Path | None
    peers: Peers

    def dumps(self, recipe: GuestRecipe) -> Dumps:
        """The dumps of a guest, made now if they are not there."""
        return dumps.get(recipe, self.root)

    def rounds(
        self, commands: Mapping[str, Command | None], before: Callable[[], None] | None = None
    ) -> dict[str, Series]:
        """Times of those commands that there are."""
        return rounds(
            {name: command for name, command in commands.items() if command}, self.runs, self.output, before=before
        )

    def peak(self, command: Command) -> float:
        """Memory that a command takes."""
        with scratch(self.output) as place:
            return peak_mib(command, place)


def kgcore(found: Dumps, form: str, name: str, *options: str) -> Command:
    """kgcore without a vmlinux, as a user runs it; the core goes to the directory where it is run."""
    words = (sys.executable, "-m", "kgcore", "-c", str(found.files[form]), *options, str(found.pids[name]))
    return Command(words, least=0 if "--dry-run" in options else LEAST.get(name, 0))


@cache
def has_option(option: str) -> bool:
    """Whether this kgcore has an option."""
    said = subprocess.run(
        [sys.executable, "-m", "kgcore", "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    if option not in said.stdout:
        say(f"going on without what needs {option}: this kgcore has it not")
        return False
    return True


def _peers(bench: Bench, found: Dumps, form: str, name: str) -> dict[str, Command | None]:
    what = found.vmlinux, found.files[form], found.pids[name], LEAST[name]
    return {
        "crash": bench.peers.crash_gcore(*what),
        "drgn's gcore.py": bench.peers.drgn(*what),
    }


def _compared(part: str, what: str, times: Mapping[str, Series], limits: Mapping[str, float]) -> Iterator[Figure]:
    """Seconds of all, and kgcore as a ratio to each of the others."""
    for name, series in times.items():
        yield Figure(part, f"{what}: {name}", series.median, "s", limits.get(name, 0), tuple(series.seconds))
    for name, series in times.items():
        if name != "kgcore":
            yield Figure(
                part, f"{what}: kgcore / {name}", ratio(times["kgcore"], series), "x", limits.get(f"/{name}", 0)
            )


def whole(bench: Bench) -> Iterator[Figure]:
    """The whole process of 2 GiB."""
    found = bench.dumps(dumps.LARGE)
    for form in FORMATS:
        with scratch(bench.output) as place:
            commands: dict[str, Command | None] = {"kgcore": kgcore(found, form, "large")}
            if form == "elf":
                # As many bytes as kgcore writes, from a file that is in the page cache as the dump is.
                timed(kgcore(found, form, "large", "-o", "core"), place)
                commands["cp"] = Command(("cp", "--sparse=never", str(place / "core"), "copy"), least=LEAST["large"])
            commands |= _peers(bench, found, form, "large")
            if has_option("--jobs"):
                commands["kgcore --jobs 1"] = kgcore(found, form, "large", "--jobs", "1")
            times = bench.rounds(commands)
        yield from _compared("whole", form, times, {"/crash": 0.30})
        if "cp" in times:
            over = [a - 1.5 * b for a, b in zip(times["kgcore"].seconds, times["cp"].seconds, strict=True)]
            yield Figure("whole", f"{form}: kgcore - 1.5 cp", sorted(over)[len(over) // 2], "s", 1.0)


def jobs(bench: Bench) -> Iterator[Figure]:
    """1 GiB of ordinary pages only, with all jobs and with one."""
    if not has_option("--jobs"):
        raise Failed("this kgcore has no --jobs")
    found = bench.dumps(dumps.LARGE)
    for form in FORMATS:
        commands = {
            "kgcore": kgcore(found, form, "ordinary"),
            "--jobs 1": kgcore(found, form, "ordinary", "--jobs", "1"),
        }
        limit = 0 if form == "elf" else 0.65
        yield from _compared("jobs", f"{form}, ordinary pages", bench.rounds(commands), {"/--jobs 1": limit})


def small(bench: Bench) -> Iterator[Figure]:
    """A process of 10 MiB."""
    found = bench.dumps(dumps.LARGE)
    for form in FORMATS:
        commands = {"kgcore": kgcore(found, form, "small"), **_peers(bench, found, form, "small")}
        yield from _compared("small", form, bench.rounds(commands), {"kgcore": 1.2, "/crash": 0.2})


def memory(bench: Bench) -> Iterator[Figure]:
    """Peak memory of kgcore's processes; once each, for looking costs time, so no time is taken."""
    found = bench.dumps(dumps.LARGE)
    for form in FORMATS:
        for name in ("small", "large"):
            peak = bench.peak(kgcore(found, form, name))
            yield Figure("memory", f"{form}, {name} process: kgcore", peak, "MiB", 160)
        crash = bench.peers.crash_gcore(found.vmlinux, found.files[form], found.pids["large"], LEAST["large"])
        if crash:
            yield Figure("memory", f"{form}, large process: crash", bench.peak(crash), "MiB")
    found = bench.dumps(dumps.MANY)
    for name in found.pids:
        yield Figure("memory", f"{name}: kgcore", bench.peak(kgcore(found, "elf", name)), "MiB", 160)


def _growing(
    bench: Bench, part: str, kind: str, counts: tuple[int, ...], limits: Mapping[int, float]
) -> Iterator[Figure]:
    found = bench.dumps(dumps.MANY)
    times = bench.rounds({f"{count}": kgcore(found, "elf", f"{kind}{count}") for count in counts})
    for count in counts:
        series = times[f"{count}"]
        yield Figure(part, f"{count} {kind}", series.median, "s", limits.get(count, 0), tuple(series.seconds))
    for less, more in pairwise(counts):
        yield Figure(part, f"{more} / {less} {kind}", ratio(times[f"{more}"], times[f"{less}"]), "x", 2.0)


def vmas(bench: Bench) -> Iterator[Figure]:
    """Many mappings."""
    yield from _growing(bench, "vmas", "vmas", dumps.VMAS, {70_000: 5.0})


def threads(bench: Bench) -> Iterator[Figure]:
    """Many threads."""
    yield from _growing(bench, "threads", "threads", dumps.THREADS, {5_000: 5.0})


def plan(bench: Bench) -> Iterator[Figure]:
    """The plan of a process of 64 GiB, and of half of that."""
    found = bench.dumps(dumps.RESERVED)
    commands = {f"{gib} GiB": kgcore(found, "synthetic", f"reserve{gib}", "--dry-run") for gib in dumps.RESERVED_GIB}
    times = bench.rounds(commands)
    less, more = commands
    for name, command in commands.items():
        limit = 10.0 if name == more else 0
        yield Figure("plan", f"--dry-run, {name}", times[name].median, "s", limit, tuple(times[name].seconds))
        yield Figure("plan", f"--dry-run, {name}", bench.peak(command), "MiB", 160)
    yield Figure("plan", f"{more} / {less}", ratio(times[more], times[less]), "x", 2.0)


def startup(bench: Bench) -> Iterator[Figure]:
    """Until a task is found: the dump opened, types, symbols. crash lists one task."""
    found = bench.dumps(dumps.LARGE)
    dump, pid = found.files["zlib"], str(found.pids["small"])

    def open_only(kind: str, *symbols: str) -> Command:
        return Command((sys.executable, "-c", OPEN, kind, pid, str(dump), *symbols))

    commands = {
        "kgcore": open_only("btf"),
        "kgcore, DWARF": open_only("dwarf", str(found.vmlinux)),
        "crash": bench.peers.start_crash(found.vmlinux, dump, f"ps {pid}\n"),
    }
    yield from _compared("startup", "zlib", bench.rounds(commands), {})


def freeze(bench: Bench) -> Iterator[Figure]:
    """A living process of 1 GiB with 16 busy threads: how long it stands still, beside gdb's gcore (and CRIU)."""
    with busy(bench.output, 1024) as victim:
        found = standing(bench.output, victim, bench.runs)
    for name, series in found.items():
        still, whole = series.still, series.whole
        yield Figure("freeze", f"{name}: stands still", still.median, "s", 0, tuple(still.seconds))
        yield Figure("freeze", f"{name}: the whole dump", whole.median, "s", 0, tuple(whole.seconds))
    ours = found["fork"]
    yield Figure("freeze", "fork / stop: stands still", ratio(ours.still, found["stop"].still), "x", 0.10)
    if "gdb" in found:
        yield Figure("freeze", "fork / gdb: stands still", ratio(ours.still, found["gdb"].still), "x", 0.05)
        yield Figure("freeze", "fork / gdb: the whole dump", ratio(ours.whole, found["gdb"].whole), "x", 0.5)
    seconds, blocks, grown = reservation(bench.output)
    yield Figure("freeze", "64 GiB reserved, 4 MiB written: the whole dump", seconds, "s")
    yield Figure("freeze", "the same: its core on the disk", blocks / (1 << 20), "MiB", 32)
    yield Figure("freeze", "the same: RSS has grown by", grown / 1024, "MiB", 0.5)


def daemon(bench: Bench) -> Iterator[Figure]:
    """Requests to a warm daemon, beside as many kgcore live; and how long a busy process stands still for either."""
    with serving(bench.output) as path:
        times = requests(bench.output, path, _REQUESTS // bench.runs, bench.runs)
        for name, series in times.items():
            what = f"{_REQUESTS // bench.runs} dumps, {name}"
            yield Figure("daemon", what, series.median, "s", 0, tuple(series.seconds))
        yield Figure("daemon", "daemon / live", ratio(times["daemon"], times["live"]), "x", 0.2)
        with busy(bench.output, 1024) as victim:
            found = standing_by_daemon(bench.output, path, victim, bench.runs)
    for name, stood in found.items():
        yield Figure("daemon", f"{name}: stands still", stood.still.median, "s", 0, tuple(stood.still.seconds))
    yield Figure("daemon", "daemon / live: stands still", ratio(found["daemon"].still, found["live"].still), "x", 1.0)


def cold(bench: Bench) -> Iterator[Figure]:
    """The whole process with nothing of the dump in the page cache, beside reading the file. Needs root."""
    found = bench.dumps(dumps.LARGE)
    for form in FORMATS:
        commands = {
            "kgcore": kgcore(found, form, "large"),
            "cat": Command(("sh", "-c", 'cat "$1" > /dev/null', "sh", str(found.files[form]))),
        }
        yield from _compared("cold", form, bench.rounds(commands, before=_drop_caches), {})


def _drop_caches() -> None:
    DROP_CACHES.write_text("3\n")


PARTS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    part.__name__: part for part in (startup, small, whole, jobs, vmas, threads, plan, memory, freeze, daemon, cold)
}
# Only when asked for.
EXTRA = frozenset({"cold"})
