# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that runs: k61's kernel with victims, and a QMP socket for kgcore beside the one that tests use."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.vmcore_fixtures.make import initramfs, qemu
from tests.vmcore_fixtures.make.common import run
from tests.vmcore_fixtures.make.kernels import kernel
from tests.vmcore_fixtures.make.recipes import CMDLINE, HUGE_PAGES, SPIN, THREADS, Recipe

RECIPE = Recipe("live", "bookworm", (*THREADS, *SPIN), ram=384, append="isolcpus=1", setup=HUGE_PAGES)
DISKS = {"disk": 64 << 20, "output": 1 << 30}


@dataclass
class LiveGuest:
    """A running guest with the victims ``threads`` and ``spin``."""

    guest: qemu.Guest
    socket: str
    work: Path

    @property
    def status(self) -> str:
        return str(self.guest.qmp("query-status")["status"])

    def finish(self) -> None:
        """Let the guest's script end, so that what it knows of its victims comes out (:meth:`said`)."""
        self.guest.send("go\n")
        self.guest.wait_for("DONE", 120)
        self.guest.wait_end(60)
        target = self.work / "out"
        target.mkdir()
        run(["tar", "-x", "--no-same-owner", "-f", self.work / "output", "-C", target], timeout=120)

    def said(self, name: str) -> dict[str, Any]:
        path = self.work / "out" / "truth" / "victims" / f"{name}.json"
        return dict(json.loads(path.read_text(errors="surrogateescape")))

    def core(self, pid: int) -> Path:
        """The core that the guest's kernel wrote of a victim."""
        return self.work / "out" / "cores" / f"core.{pid}"


@contextmanager
def boot(work: Path, suite: str = "bookworm", recipe: Recipe = RECIPE, cpus: int = 2) -> Iterator[LiveGuest]:
    """Boot it (4 s), until its victims are ready; it is gone behind the block."""
    found = kernel(suite)
    initrd = initramfs.build(recipe, found, work, work / "sysroot")
    socket = f"{work}/kgcore.qmp"
    arguments = [
        "-machine",
        "pc",
        "-cpu",
        recipe.cpu,
        "-smp",
        str(cpus),
        "-m",
        str(recipe.ram),
        "-device",
        "vmcoreinfo",
    ]
    arguments += ["-kernel", str(found.directory / "vmlinuz"), "-initrd", str(initrd)]
    arguments += ["-append", f"{CMDLINE} {recipe.append}"]
    arguments += ["-qmp", f"unix:{socket},server=on,wait=off"]
    for name, size in DISKS.items():
        with (work / name).open("wb") as disk:
            disk.truncate(size)
        arguments += ["-drive", f"file={work / name},format=raw,if=none,id={name},cache=unsafe"]
        arguments += ["-device", f"virtio-blk-pci,drive={name}"]
    run([shutil.which("mkfs.ext4") or "mkfs.ext4", "-q", "-F", "-E", "nodiscard", work / "disk"])
    with qemu.Guest(arguments, work / "serial.log") as guest:
        try:
            guest.wait_for("READY", recipe.boot_timeout)
            yield LiveGuest(guest, socket, work)
        finally:
            guest._process.kill()
            guest._process.communicate()  # closes its pipes, which a warning would be about
