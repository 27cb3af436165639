# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tools that kgcore is compared with, where they are installed. README.md says where they come from."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.vmcore_fixtures.make.common import BuildError, run, say
from tests.vmcore_fixtures.make.packages import Suite, locked

# Its crash is new enough for all kernels that the fixtures have.
CRASH_SUITE = "sid"


@dataclass(frozen=True)
class Command:
    """What to run.

    :ivar words: the command and its arguments.
    :ivar text: what it reads on standard input.
    :ivar least: bytes that it must write to count as done; crash's exit status says nothing.
    """

    words: tuple[str, ...]
    text: str = ""
    least: int = 0


@dataclass(frozen=True)
class Peers:
    """What there is to compare with.

    :ivar crash: how crash is started; empty if there is none.
    :ivar extension: its gcore extension, if there is one.
    :ivar drgn_gcore: drgn's contrib/gcore.py, if there is one.
    :ivar versions: what they say they are.
    :ivar lacking: what is not there, and why.
    """

    crash: tuple[str, ...] = ()
    extension: Path | None = None
    drgn_gcore: Path | None = None
    versions: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()

    def start_crash(self, vmlinux: Path, dump: Path, commands: str = "", least: int = 0) -> Command | None:
        """Crash, with commands to read."""
        words = (*self.crash, "-s", "--no_modules", str(vmlinux), str(dump))
        return Command(words, f"{commands}quit\n", least) if self.crash else None

    def crash_gcore(self, vmlinux: Path, dump: Path, pid: int, least: int) -> Command | None:
        """Crash, with its extension; it writes core.PID.COMM where it is run."""
        if self.extension is None:
            return None
        return self.start_crash(vmlinux, dump, f"extend {self.extension}\ngcore -v 0 {pid}\n", least)

    def drgn(self, vmlinux: Path, dump: Path, pid: int, least: int) -> Command | None:
        """drgn's contrib/gcore.py."""
        if self.drgn_gcore is None:
            return None
        drgn = [sys.executable, "-c", "import drgn.cli; drgn.cli._main()", "-q", "-c", str(dump), "-s", str(vmlinux)]
        return Command((*drgn, str(self.drgn_gcore), str(pid), f"core.{pid}"), least=least)


def find(place: Path) -> Peers:
    """Whatever there is of them: crash by its package, the others where README.md says to put their sources."""
    place.mkdir(parents=True, exist_ok=True)
    crash: tuple[str, ...] = ()
    extension, drgn_gcore = None, place / "drgn/contrib/gcore.py"
    versions: list[str] = []
    lacking: list[str] = []
    try:
        crash, header = _crash(place / f"crash-{CRASH_SUITE}")
        said = run(["sh", "-c", '"$@" --version | head -n 2', "sh", *crash]).split("\n")
        versions += [line for line in said if line.startswith("crash")]
        extension = _extension(place / "crash-gcore", header, versions)
    except BuildError as error:
        lacking.append(str(error).splitlines()[0])
    if drgn_gcore.exists():
        versions.append("drgn's contrib/gcore.py")
    else:
        lacking.append(f"drgn's contrib/gcore.py: not in {drgn_gcore}")
    for text in lacking:
        say(f"going on without {text}")
    return Peers(crash, extension, drgn_gcore if drgn_gcore.exists() else None, tuple(versions), tuple(lacking))


def _crash(root: Path) -> tuple[tuple[str, ...], Path]:
    """How to start crash, and the directory of its header: unpacked privately, or else the host's own."""
    with locked("benchmark-crash"):
        if not root.exists():
            try:
                _unpack(root)
            except BuildError as error:
                own = shutil.which("crash")
                if own is None:
                    raise
                say(f"going on with {own}: {error}")
                return (own,), Path("/usr/include/crash")
    libraries = root / "usr/lib/x86_64-linux-gnu"
    loader = str(libraries / "ld-linux-x86-64.so.2")
    return (loader, "--library-path", str(libraries), str(root / "usr/bin/crash")), root / "usr/include/crash"


def _unpack(root: Path) -> None:
    packages = Suite.of(CRASH_SUITE).with_libraries("crash", skip=frozenset({"binutils"}))
    temporary = root.with_name(f".{root.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    for package in packages:
        package.extract(temporary)
    temporary.rename(root)


def _extension(project: Path, header: Path, versions: list[str]) -> Path:
    """The extension, built from its sources for this crash: the structures in defs.h differ between releases."""
    source = project / "src"
    if not (source / "gcore.mk").exists():
        raise BuildError(f"crash's gcore extension: no sources in {project}")
    version = next(line for line in (source / "gcore.mk").read_text().splitlines() if line.startswith("VERSION="))
    versions.append(f"gcore extension {version.removeprefix('VERSION=')}")
    target = source / f"{header.parents[2].name}.so"
    if not target.exists():
        make: Sequence[str | Path] = ["make", "-f", "gcore.mk", f"INCDIR={header}", "TARGET=X86_64", "ARCH=SUPPORTED"]
        run(["make", "-f", "gcore.mk", "clean"], cwd=source)
        run([*make, "CFLAGS=-O2 -w"], cwd=source)
        (source / "gcore.so").rename(target)
    return target
