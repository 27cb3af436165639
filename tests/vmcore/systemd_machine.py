# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine whose first process is Debian's systemd, with the kgcore of this tree: boots, runs a script, and is off."""

import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.vmcore.conftest import Fixture, need
from tests.vmcore.tools import ROOT
from tests.vmcore_fixtures.make import kdump, qemu
from tests.vmcore_fixtures.make.common import run
from tests.vmcore_fixtures.make.recipes import CMDLINE

NAME = "k612-systemd"
UNITS = "etc/systemd/system"
PATIENCE = 150
# What pip makes of pyproject.toml's entry point.
COMMAND = """#!/usr/bin/python3
import sys
sys.path.insert(0, "/opt/kgcore")
from kgcore.cli.main import entry
entry()
"""
_DISKS = {"root": 768 << 20, "script": 0, "output": 512 << 20}


@dataclass(frozen=True)
class Outcome:
    """What came of a script.

    :ivar status: its exit status.
    :ivar transcript: what it printed, standard error included.
    :ivar output: what it left in /run/output.
    :ivar console: all that came over the serial line.
    """

    status: int
    transcript: str
    output: Path
    console: str


class Machine:
    """A machine that keeps its root file system from one boot to the next.

    :param work: an empty directory.
    :param files: what is put into the root file system beside kgcore: by path there, the file here.
    :param enabled: units among them that are enabled, by path: ``sockets.target.wants/kgcore.socket``.
    """

    def __init__(self, work: Path, files: Mapping[str, Path], enabled: Iterable[str] = ()) -> None:
        self._work = work
        self._fixture: Fixture = need(NAME)
        self._boots = 0
        tree = work / "tree"
        shutil.copytree(self._fixture.path / "root", tree, symlinks=True)
        shutil.copytree(ROOT / "kgcore", tree / "opt/kgcore/kgcore", ignore=shutil.ignore_patterns("__pycache__"))
        kdump.compile_all(tree, tree / "opt/kgcore")
        (tree / "usr/local/bin/kgcore").write_text(COMMAND)
        (tree / "usr/local/bin/kgcore").chmod(0o755)
        for name, path in files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tree / name)
        for name in enabled:
            link = tree / UNITS / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(f"/{UNITS}/{link.name}")
        with (work / "root").open("wb") as disk:
            disk.truncate(_DISKS["root"])
        run(["mkfs.ext4", "-q", "-F", "-E", "nodiscard", "-d", tree, work / "root"])
        shutil.rmtree(tree)

    def boot(self, script: str, *, files: Iterable[Path] = (), ending: str = "poweroff -f -f") -> Outcome:
        """Boot it, run a shell script as root when all units are up, and wait until it is off.

        :param files: what the script is to find beside it, in its working directory.
        :param ending: how the machine ends; ``systemctl poweroff`` lets all units stop.
        """
        self._boots += 1
        work = self._work / f"boot{self._boots}"
        work.mkdir()
        (work / "text").write_text(script)
        (work / "ending").write_text(ending + "\n")
        with tarfile.open(work / "script", "w") as archive:
            archive.add(work / "text", "script")
            archive.add(work / "ending", "ending")
            for path in files:
                archive.add(path, path.name)
        with (work / "output").open("wb") as disk:
            disk.truncate(_DISKS["output"])
        os.link(self._work / "root", work / "root")
        with qemu.Guest(self._arguments(work), work / "serial.log") as guest:
            try:
                guest.wait_for("DONE", PATIENCE)
                guest.wait_end(PATIENCE)
                console = guest.text
            finally:
                guest._process.kill()
                guest._process.communicate()  # closes its pipes, which a warning would be about
        output = work / "out"
        output.mkdir()
        run(["tar", "-x", "--no-same-owner", "-f", work / "output", "-C", output])
        (work / "output").unlink()
        transcript = (output / "transcript").read_text(errors="replace").partition("@@BEGIN@@\n")[2]
        return Outcome(int((output / "status").read_text()), transcript, output, console)

    def _arguments(self, work: Path) -> list[str]:
        manifest = self._fixture.manifest
        # One CPU: with two, QEMU may run an int3 of the kernel's patching of its own code, and the boot panics.
        arguments = ["-machine", "pc", "-cpu", manifest["cpu"], "-smp", "1", "-m", str(manifest["ram_mib"])]
        arguments += ["-kernel", str(self._fixture.path / "vmlinuz"), "-initrd", str(self._fixture.path / "initrd")]
        arguments += ["-append", f"{CMDLINE} systemd.show_status=no"]
        for name in _DISKS:
            arguments += ["-drive", f"file={work / name},format=raw,if=none,id={name},cache=unsafe"]
            arguments += ["-device", f"virtio-blk-pci,drive={name}"]
        return arguments
