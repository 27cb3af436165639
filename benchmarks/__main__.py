# SPDX-License-Identifier: LGPL-2.1-or-later
"""python3 -m benchmarks: makes the dumps that it needs (the first time), measures, and prints a table."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tests.vmcore_fixtures.make.common import BuildError, say

from . import dumps, measure, peers
from .parts import EXTRA, PARTS, Bench, Figure


def main() -> int:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks", description=__doc__)
    parser.add_argument(
        "--runs", type=int, default=5, metavar="N", help="rounds that count (default 5, the least to quote)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="NAME", help=f"parts: {' '.join(PARTS)}")
    parser.add_argument(
        "--dump", type=Path, metavar="DIR", help="where the dumps are, or are to be made (default: the cache)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where cores are written (default: beside the dumps)"
    )
    options = parser.parse_args()
    place = dumps.directory(options.dump and options.dump.resolve())
    output: Path = options.output.resolve() if options.output else place / "output"
    output.mkdir(parents=True, exist_ok=True)
    figures: list[Figure] = []
    problems: list[str] = []
    try:
        bench = Bench(max(options.runs, 1), output, place, peers.find(place / "peers"))
        problems += bench.peers.lacking
        machine = measure.machine(output)
        for name in options.only or [name for name in PARTS if name not in EXTRA]:
            say(f"{name}: {PARTS[name].__doc__}")
            try:
                figures += PARTS[name](bench)
            except (measure.Failed, OSError) as error:
                problems.append(f"{name}: {error}")
                say(f"{name}: FAILED: {error}")
    except BuildError as error:
        say(f"FAILED: {error}")
        return 1
    _print(machine, bench, figures, problems)
    if options.json:
        told = {"machine": machine, "peers": bench.peers.versions, "runs": bench.runs, "problems": problems}
        options.json.write_text(json.dumps({**told, "figures": [asdict(each) for each in figures]}, indent=1) + "\n")
    return 1 if problems else 0


def _print(machine: dict[str, str], bench: Bench, figures: list[Figure], problems: list[str]) -> None:
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"beside {', '.join(bench.peers.versions) or 'nothing'}; medians of {bench.runs}\n")
    print(f"{'part':<8} {'figure':<48} {'median':>9}      {'aim':>6}  range")
    for each in figures:
        aim = f"{each.limit:6g}" if each.limit else f"{'':6}"
        verdict = "" if not each.limit else "  yes" if each.value <= each.limit else "  NO"
        spread = f"  {min(each.runs):.2f} to {max(each.runs):.2f}" if len(each.runs) > 1 else ""
        print(f"{each.part:<8} {each.name:<48} {each.value:9.2f} {each.unit:<4} {aim}{verdict:<5}{spread}".rstrip())
    for problem in problems:
        print(f"NOT MEASURED: {problem}")


if __name__ == "__main__":
    sys.exit(main())
