# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that crashes with the hook of contrib/kdump installed as its README says, and the kgcore of this tree."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.vmcore.conftest import Fixture
from tests.vmcore.tools import ROOT
from tests.vmcore_fixtures.make import kdump, qemu
from tests.vmcore_fixtures.make.common import run
from tests.vmcore_fixtures.make.recipes import CMDLINE

HOOK = ROOT / "contrib" / "kdump"
DROP_IN = "etc/systemd/system/kdump-tools-dump.service.d/kgcore.conf"
# As the guest's scripts know them by their places: the first two are for the kernel that crashes.
DISKS = {"disk": 2 << 30, "output": 2 << 30, "root": 1 << 30, "vmcore": 2 << 30}
# What pip makes of pyproject.toml's entry point, but that it also tells (in KiB) how much memory it had at most.
COMMAND = """#!/usr/bin/python3.11
import resource, sys
sys.path.insert(0, "/opt/kgcore")
from kgcore.cli.main import entry
try:
    entry()
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


@dataclass(frozen=True)
class Run:
    """One run of the hook.

    :ivar status: the hook's exit status.
    :ivar directory: what it made below /var/crash.
    """

    status: int
    directory: Path

    @property
    def log(self) -> list[str]:
        return (self.directory / "log").read_text().splitlines()

    @property
    def peak(self) -> int:
        """KiB that kgcore had resident at most (of its processes the first)."""
        (line,) = (line for line in self.log if line.startswith("peak "))
        return int(line.split()[1])


@dataclass(frozen=True)
class Crash:
    """What came of a crash.

    :ivar victims: what each victim said of itself before it.
    :ivar vmcore: the whole of /proc/vmcore.
    :ivar dump: the directory of the dump that kdump-tools took after the hook, and their exit status.
    :ivar memory: KiB that the capture kernel had, that were available before the hook, and after that at the least.
    """

    victims: dict[str, dict[str, Any]]
    vmcore: Path
    fedora: Run
    debian: Run
    dump: tuple[Path, int]
    memory: tuple[int, int, int]
    console: str


def crash(fixture: Fixture, work: Path, fedora: str, debian: str) -> Crash:
    """Crash it, and bring home what its capture kernel wrote.

    :param fedora: the hook's configuration when it is run as Fedora does.
    :param debian: the same with Debian.
    """
    _install(fixture.path / "root", work / "tree", fedora, debian)
    for name, size in DISKS.items():
        with (work / name).open("wb") as disk:
            disk.truncate(size)
    run(["mkfs.ext4", "-q", "-F", "-E", "nodiscard", work / "disk"])
    run(["mkfs.ext4", "-q", "-F", "-E", "nodiscard", "-d", work / "tree", work / "root"])
    shutil.rmtree(work / "tree")
    with qemu.Guest(_arguments(fixture, work), work / "serial.log") as guest:
        try:
            guest.wait_for("READY", 300)
            guest.send("go\n")
            guest.wait_for("CAPTURE", 180)
            statuses = [int(guest.wait_for(rf"{part} (\d+)", 300)) for part in ("FEDORA", "DEBIAN", "SAVECORE")]
            total, first, least = map(int, guest.wait_for(r"MEMORY (\d+ \d+ \d+)", 60).split())
            size = int(guest.wait_for(r"VMCORE (\d+)", 300))
            guest.wait_for("DONE", 60)
            guest.wait_end(60)
        finally:
            guest._process.kill()
            guest._process.communicate()  # closes its pipes, which a warning would be about
    run(["tar", "-x", "--no-same-owner", "-f", work / "output", "-C", work, "truth"])
    run(["debugfs", "-R", f"rdump /var/crash {work}", work / "root"])
    with (work / "vmcore").open("r+b") as vmcore:
        vmcore.truncate(size)
    for name in ("disk", "output", "root"):
        (work / name).unlink()
    runs = sorted((work / "crash").glob("kgcore-*"))
    (dump,) = (work / "crash").glob("2*")
    return Crash(
        {path.stem: json.loads(path.read_text()) for path in (work / "truth/victims").glob("*.json")},
        work / "vmcore",
        Run(statuses[0], runs[0]),
        Run(statuses[1], runs[1]),
        (dump, statuses[2]),
        (total, first, least),
        (work / "serial.log").read_text(errors="replace"),
    )


def _install(prepared: Path, tree: Path, fedora: str, debian: str) -> None:
    """The root file system of the capture kernel, with kgcore and its hook."""
    shutil.copytree(prepared, tree, symlinks=True)
    shutil.copytree(ROOT / "kgcore", tree / "opt/kgcore/kgcore", ignore=shutil.ignore_patterns("__pycache__"))
    kdump.compile_all(tree, tree / "opt/kgcore")
    (tree / DROP_IN).parent.mkdir(parents=True)
    shutil.copyfile(HOOK / "systemd" / "kgcore.conf", tree / DROP_IN)
    shutil.copy(HOOK / "kgcore-kdump", tree / "usr/local/sbin/kgcore-kdump")
    (tree / "usr/local/bin/kgcore").write_text(COMMAND)
    (tree / "usr/local/bin/kgcore").chmod(0o755)
    (tree / "etc/kgcore-kdump.conf").write_text(fedora)
    (tree / "etc/kgcore-kdump.conf.debian").write_text(debian)


def _arguments(fixture: Fixture, work: Path) -> list[str]:
    manifest = fixture.manifest
    arguments = ["-machine", "pc", "-cpu", manifest["cpu"], "-smp", "2", "-m", str(manifest["ram_mib"])]
    arguments += ["-kernel", str(fixture.path / "vmlinuz"), "-initrd", str(fixture.path / "initrd")]
    arguments += ["-append", f"{CMDLINE} {manifest['append']}"]
    for name in DISKS:
        arguments += ["-drive", f"file={work / name},format=raw,if=none,id={name},cache=unsafe"]
        arguments += ["-device", f"virtio-blk-pci,drive={name}"]
    return arguments
