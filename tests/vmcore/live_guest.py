# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that runs: k61's kernel with victims, and a QMP socket for kgcore beside the one that tests use."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.vmcore_fixtures.make import initramfs, qemu
from tests.vmcore_fixtures.make.common import BuildError, run
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
def boot(work: Path, suite: str = "bookworm", recipe: Recipe = RECIPE, cpus: str = "2") -> Iterator[LiveGuest]:
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
        cpus,
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


def slots(guest: qemu.Guest) -> list[dict[str, Any]]:
    """The places for CPUs, ascending."""
    found: list[dict[str, Any]] = guest.qmp("query-hotpluggable-cpus")
    return sorted(found, key=lambda slot: [slot["props"][f"{level}-id"] for level in ("socket", "core", "thread")])


def plug(guest: qemu.Guest, number: int) -> None:
    """Add a CPU."""
    slot = slots(guest)[number]
    guest.qmp("device_add", driver=slot["type"], id=f"added-{number}", **slot["props"])


def unplug(guest: qemu.Guest, number: int) -> None:
    """Remove a CPU, and wait until the guest has let it go."""
    path = slots(guest)[number].get("qom-path")
    if path is None:
        raise BuildError(f"QEMU has no CPU {number}")
    guest.qmp("device_del", id=path)
    for _ in range(200):
        if "qom-path" not in slots(guest)[number]:
            return
        time.sleep(0.1)
    raise BuildError("the guest does not let its CPU go")


def told_by_qemu(text: str) -> list[dict[str, int]]:
    """General registers of each CPU in 64-bit mode, by the core's names, from ``info registers -a``."""
    found = []
    for block in text.split("CPU#")[1:]:
        if "RFL=" not in block:
            continue  # nobody has started that one
        values = {name.strip(): int(value, 16) for name, value in re.findall(r"\b(R\w\w?) *=([0-9a-f]{16})", block)}
        regs = {name[1:].lower() if name[1] in "ABCDSI" else name.lower(): value for name, value in values.items()}
        regs["flags"] = int(re.search(r"RFL=(\w+)", block)[1], 16)  # type: ignore[index]
        for segment in ("cs", "ss", "ds", "es", "fs", "gs"):
            selector, base = re.search(rf"{segment.upper()} *=(\w+) (\w+)", block).groups()  # type: ignore[union-attr]
            regs[segment] = int(selector, 16)
            if segment in ("fs", "gs"):
                regs[f"{segment}_base"] = int(base, 16)
        found.append(regs)
    return found
