# SPDX-License-Identifier: LGPL-2.1-or-later
"""The campaign as a command.

::

    python3 -m tests.campaign --seed 1 --trials 10000               # at length; writes docs/reliability.md
    python3 -m tests.campaign --seed 1 --minutes 3 --report ''      # as in CI
    python3 -m tests.campaign --seed 1 --only 4711 --keep           # that trial again
"""

import argparse
import importlib
import json
import os
import pickle
import pkgutil
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import kgcore
from tests.campaign.material import Material, relocated
from tests.campaign.measured import ROOT
from tests.campaign.report import Tally
from tests.campaign.trial import Runner, built

_REPORT = ROOT / "docs" / "reliability.md"
_SHOWN = 40
_TOLD_EVERY = 250


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.campaign", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of all that is random (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=0, help="not longer than this")
    parser.add_argument("--lanes", type=int, default=len(os.sched_getaffinity(0)), help="side by side")
    parser.add_argument("--only", type=int, help="the number of a trial, to see what it does")
    parser.add_argument("--keep", action="store_true", help="with --only: what it wrote")
    parser.add_argument("--report", default=None, help="where the figures go; '' for nowhere (docs/reliability.md)")
    parser.add_argument("--material", type=Path, help="keep the undamaged inputs there, or take them from there")
    parser.add_argument("--lane", help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.lane:
        return lane(parsed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with tempfile.TemporaryDirectory(prefix="kgcore-campaign.") as directory:
        return campaign(parsed, Path(directory))


def campaign(parsed: argparse.Namespace, directory: Path) -> int:
    started = time.monotonic()
    source: Path = parsed.material or directory / "material"
    saved = source / "material.pickle"
    if not saved.exists():
        made = Material(source / "base")
        saved.write_bytes(pickle.dumps(made))
    material = pickle.loads(saved.read_bytes())
    injector = built(directory)
    notes = list(material.left_out)
    if injector is None:
        notes.append("system calls that fail, signals: there is no gcc")
    print(f"material made in {time.monotonic() - started:.0f} s", file=sys.stderr)
    if parsed.only is not None:
        parsed.lanes = 1
    environment = os.environ | ({"LD_PRELOAD": str(injector)} if injector else {})
    lanes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.campaign", "--lane", f"{number}/{parsed.lanes}/{directory}"]
            + ["--material", str(source)]
            + ["--seed", str(parsed.seed), "--trials", str(parsed.trials)]
            + (["--only", str(parsed.only)] if parsed.only is not None else [])
            + (["--keep"] if parsed.keep else []),
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment,
        )
        for number in range(parsed.lanes)
    ]
    tally = Tally(parsed.seed, notes)
    begun = time.monotonic()
    deadline = begun + parsed.minutes * 60 if parsed.minutes else None
    try:
        gather(lanes, tally, deadline, only=parsed.only is not None)
    except KeyboardInterrupt:  # the figures so far
        pass
    finally:
        for child in lanes:
            child.terminate()
            child.wait()
    tally.seconds = time.monotonic() - begun
    print("\n".join(tally.table()))
    report = _REPORT if parsed.report is None else parsed.report and Path(parsed.report)
    if report and parsed.only is None:
        tally.write(report)
    dead = [child.returncode for child in lanes if child.returncode not in (0, -15)]
    if dead:
        print(f"lanes ended with {dead}", file=sys.stderr)
    return int(bool(tally.failed or dead or not tally.tried))


def gather(lanes: list["subprocess.Popen[bytes]"], tally: Tally, deadline: float | None, *, only: bool) -> None:
    with selectors.DefaultSelector() as selector:
        for child in lanes:
            assert child.stdout is not None
            selector.register(child.stdout, selectors.EVENT_READ)
        while selector.get_map():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            for key, _ in selector.select(left):
                line = key.fileobj.readline()  # type: ignore[union-attr]
                if not line:
                    selector.unregister(key.fileobj)
                    continue
                row = json.loads(line)
                tally.add(row)
                if tally.tried % _TOLD_EVERY == 0:
                    print(f"{tally.tried} tried, {tally.failed} failed", file=sys.stderr, flush=True)
                if row["faults"] and tally.failed <= _SHOWN:
                    print(f"--- trial {row['number']}, {row['kind']}:{row['what']} {' '.join(row['words'])}")
                    print("\n".join(f"    {fault}" for fault in row["faults"]), flush=True)
                if only:
                    print(json.dumps(row, indent=2))


def lane(parsed: argparse.Namespace) -> int:
    """Some of the trials, in a process with the injector."""
    number, count, place = parsed.lane.split("/", 2)
    os.environ.pop("LD_PRELOAD", None)  # for what kgcore starts
    directory = Path(place) / f"lane.{number}"
    shutil.copytree(parsed.material / "base", directory / "base", symlinks=True, copy_function=copied)
    material = relocated(pickle.loads((parsed.material / "material.pickle").read_bytes()), directory / "base")
    import_everything()
    runner = Runner(material, parsed.seed, directory, keep=parsed.keep)
    numbers = [parsed.only] if parsed.only is not None else range(int(number), parsed.trials, int(count))
    for each in numbers:
        result = runner.run(each)
        row = asdict(result)
        if not result.faults and parsed.only is None:
            row["said"] = ""
        print(json.dumps(row), flush=True)
    if parsed.keep:
        kept = Path(tempfile.mkdtemp(prefix="kgcore-trial."))
        shutil.copytree(directory, kept / "lane", symlinks=True, copy_function=copied)
        print(f"kept in {kept}", file=sys.stderr)
    return 0


def copied(source: str, target: str) -> None:
    subprocess.run(["cp", "--reflink=auto", "--sparse=always", source, target], check=True)


def import_everything() -> None:
    """So that a trial is a fork, not the start of an interpreter."""
    for module in pkgutil.walk_packages(kgcore.__path__, "kgcore."):
        if module.name not in ("kgcore.__main__", "kgcore.plugin"):
            importlib.import_module(module.name)
    for name in (
        "drgn.helpers.linux",
        "rich.progress",
        "rich.table",
        "zstandard",
        "lz4.block",
        "tests.vmcore.corefile",
    ):
        with suppress(ImportError):
            importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(main())
