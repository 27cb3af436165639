# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every fixture promises of its processes, checked against what /proc said just before the dump."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SPINNER = "spin"
EVERYTHING = "everything"  # a victim that has told what it has before all of it was swapped out
KIB_PER_PAGE = 4
# One mapping of /proc/PID/smaps: the first line, and how much of it is swapped out.
MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) [^\n]*\n(?:\w[^\n]*\n)*?Swap: +(\d+) kB", re.MULTILINE)


def broken(truth: Path, told: Mapping[str, Any]) -> Iterator[str]:
    """Each thing that is not as a victim said when it was ready, as a line.

    :param truth: /proc of the guest, with a directory for each victim.
    :param told: what it said.
    """
    name, proc = told["name"], truth / str(told["pid"])
    for thread in (proc / "task").iterdir():
        state = (thread / "stat").read_bytes().rpartition(b") ")[2][:1].decode()
        runs = any(one["tid"] == int(thread.name) and one.get("role") == SPINNER for one in told.get("threads", ()))
        if (state == "R") != runs:
            yield f"{name}: thread {thread.name} is in state {state}"
    # The guest's script notes beside the victim's words which swap device was preferred when it was ready.
    preferred = truth.parent / "victims" / f"{name}.preferred"
    if preferred.exists():
        wanted = int(preferred.read_text())
        other = {number for one in told.get("mappings", ()) for number in one.get("swap_type", ())} - {wanted}
        if other:
            yield f"{name}: pages went to swap device {min(other)}, and {wanted} was preferred"
    smaps = proc / "smaps"
    if not smaps.exists():  # of very many mappings there are none
        return
    found = [tuple(map(int, (start, end, size), (16, 16, 10)))
             for start, end, size in MAPPING.findall(smaps.read_text(errors="replace"))]  # fmt: skip
    # Of shared memory smaps counts what is in no page table, too. Neighbours may be one mapping to the kernel.
    said = [one for one in told.get("mappings", ()) if "swapped" in one and one["kind"].startswith("anon-private")]
    spans = [(one["addr"], one["addr"] + one["length"]) for one in said]
    out = sum(size for low, high, size in found if any(low < end and start < high for start, end in spans))
    pages = sum(len(one["swapped"]) for one in said)
    if out < KIB_PER_PAGE * pages or (out > KIB_PER_PAGE * pages and EVERYTHING not in name):
        yield f"{name}: {out} kB are swapped out, and it said {pages} pages"
