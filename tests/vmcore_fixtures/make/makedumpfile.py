# SPDX-License-Identifier: LGPL-2.1-or-later
"""makedumpfile: the host's, or one of another suite unpacked privately with its libraries.

Debian 12's is built without zstd and snappy (it writes uncompressed pages instead, silently); newer kernels want a
newer one anyway.
"""

from __future__ import annotations

import re
import shutil
import struct
from pathlib import Path

from .common import BuildError, cache_dir, run, say
from .dumps import Dump
from .packages import Suite, locked
from .recipes import Derived

HOST = "host"
OPTIONS = {"none": [], "zlib": ["-c"], "lzo": ["-l"], "snappy": ["-p"], "zstd": ["-z"], "elf": ["-E"]}
# The bits of disk_dump_header.status.
STATUS = {"zlib": 1, "lzo": 2, "snappy": 4, "zstd": 0x20}
# Status is behind signature, version, utsname (6 x 65) and a timeval aligned to 8.
STATUS_OFFSET = 408 + 16


class Makedumpfile:
    """A makedumpfile to run."""

    def __init__(self, command: list[str], label: str) -> None:
        self.command = command
        version = re.search(r"version (\S+)", run(["sh", "-c", '"$@" -v 2>&1 || :', "sh", *command]))
        self.version = f"makedumpfile {version[1] if version else 'unknown'} ({label})"

    @staticmethod
    def of(suite: str) -> Makedumpfile:
        """The host's own (suite "host"), or that of a Debian suite."""
        if suite == HOST:
            return Makedumpfile(["makedumpfile"], HOST)
        root = cache_dir() / "tools" / f"makedumpfile-{suite}"
        with locked(f"makedumpfile-{suite}"):
            if not root.exists():
                _unpack(suite, root)
        loader = root / "usr/lib64/ld-linux-x86-64.so.2"
        libraries = root / "usr/lib/x86_64-linux-gnu"
        return Makedumpfile(
            [
                str(loader),
                "--library-path",
                f"{libraries}:{root / 'lib/x86_64-linux-gnu'}",
                str(root / "usr/bin/makedumpfile"),
            ],
            suite,
        )

    def derive(self, source: Path, wanted: Derived) -> Dump:
        """Make one variant; a failure is recorded, not raised: which kernels it understands is a fact of its own."""
        target = source.with_name(wanted.file)
        options = [*OPTIONS[wanted.compressor], "-d", str(wanted.level)]
        form = "makedumpfile-elf" if wanted.compressor == "elf" else "makedumpfile"
        compressor = "none" if wanted.compressor == "elf" else wanted.compressor
        error = ""
        try:
            if wanted.flattened:
                form += "-flattened"
                shell = 'out=$1; shift; exec "$@" > "$out"'
                run(["sh", "-c", shell, "sh", target, *self.command, *options, "-F", source], timeout=600)
            else:
                run([*self.command, *options, source, target], timeout=600)
                if compressor != "none":
                    _check_compressor(target, compressor)
        except BuildError as problem:
            target.unlink(missing_ok=True)
            error = str(problem)
        return Dump(wanted.file, form, wanted.level, compressor, self.version, error)

    def unflatten(self, source: Path, target: Path) -> None:
        """Rearrange a flattened dump into an ordinary file."""
        run(["sh", "-c", 'in=$1; shift; exec "$@" < "$in"', "sh", source, *self.command, "-R", target], timeout=600)


def _check_compressor(path: Path, compressor: str) -> None:
    with path.open("rb") as handle:
        status: int = struct.unpack_from("<I", handle.read(1024), STATUS_OFFSET)[0]
    if not status & STATUS[compressor]:
        raise BuildError(f"this makedumpfile is built without {compressor}")


def _unpack(suite: str, root: Path) -> None:
    packages = Suite.of(suite).with_libraries("makedumpfile", skip=frozenset({"perl"}))
    say(f"{suite}: unpacking makedumpfile")
    temporary = root.with_name(f".{root.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    for package in packages:
        package.extract(temporary)
    root.parent.mkdir(exist_ok=True)
    temporary.rename(root)
