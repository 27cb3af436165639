# SPDX-License-Identifier: LGPL-2.1-or-later
"""Say what a kernel has of all that kgcore relies on, from its types alone, without a dump.

``python3 -m tools.audit FILE...``: raw BTF, a vmlinux or a vmlinuz each. With two of them and ``--changes``: what is
different in the second.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from kgcore.errors import KgcoreError
from kgcore.model.layouts import Layout
from kgcore.sources.vmcore.kernel.layouts import ROWS
from kgcore.sources.vmcore.kernel.layouts.audit import audit
from kgcore.sources.vmcore.kernel.machine import MACHINES
from kgcore.views.layouts import layout_lines
from tools.kernelfile import KernelFile

__all__ = ("audited", "changes", "main")


def audited(path: Path, modules: Path | None = None) -> tuple[Layout, ...]:
    """Compare the table of layouts with a kernel's file.

    :param modules: a directory with its modules.
    :raises KgcoreError: the file cannot be read.
    """
    kernel = KernelFile(path, modules)
    return audit((*ROWS, *MACHINES[kernel.architecture].layouts), kernel.names)


def changes(old: Sequence[Layout], new: Sequence[Layout]) -> Iterator[str]:
    """Yield what is different in a newer kernel: the way that it has a thing, names that came or went. Not places."""
    before = {layout.what: layout for layout in old}
    for layout in new:
        was = before.get(layout.what)
        if was is None:
            continue
        if (was.state, was.since) != (layout.state, layout.since):
            yield f"{layout.what}: was {_way(was)}, is {_way(layout)}"
            continue
        found = {name.name: name.found for name in was.names}
        for name in dict.fromkeys(layout.names):
            if name.found is not None and found.get(name.name, name.found) not in (None, name.found):
                yield f"{layout.what}: {'has' if name.found else 'no longer has'} {name.name}"


def _way(layout: Layout) -> str:
    return f"{layout.state} as in {layout.since}" if layout.since else layout.state


def main(words: Sequence[str] | None = None) -> int:
    """Print what was found; 1: a kernel lacks something that kgcore needs, 2: a file cannot be read."""
    parser = argparse.ArgumentParser(prog="python3 -m tools.audit", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="raw BTF, a vmlinux, or a vmlinuz")
    parser.add_argument("--modules", type=Path, metavar="DIR", help="its modules (default: modules/ beside FILE)")
    parser.add_argument("--all", action="store_true", help="say it of every name, as kgcore info --layouts does")
    parser.add_argument("--changes", action="store_true", help="compare each FILE with the one before")
    options = parser.parse_args(words)
    status = 0
    before: tuple[Layout, ...] = ()
    for path in options.files:
        try:
            found = audited(path, options.modules)
        except KgcoreError as error:
            print(f"{path}: {error.message}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr)
            status = 2
            continue
        print(f"{path}:")
        if options.all:
            print(*layout_lines(found), sep="\n")
        else:
            print(*_short(found), sep="\n")
        if options.changes and before:
            print("compared with the one before:", *(f"  {line}" for line in changes(before, found)), sep="\n")
        before = found
        if any(layout.needed and layout.state == "absent" for layout in found):
            status = max(status, 1)
    return status


def _short(found: Sequence[Layout]) -> Iterator[str]:
    """Yield what is not there."""
    for layout in found:
        if layout.state == "absent" and layout.lost:
            yield f"  absent   {layout.what}: {layout.lost}"
            yield from (f"             {name.name}: no" for name in layout.names if name.found is False and name.wanted)
        elif layout.state == "unknown":
            yield f"  unknown  {layout.what}"
    absent = sum(layout.state == "absent" for layout in found)
    unknown = sum(layout.state == "unknown" for layout in found)
    yield f"  {len(found)} things, {absent} absent, {unknown} unknown"


if __name__ == "__main__":
    sys.exit(main())
