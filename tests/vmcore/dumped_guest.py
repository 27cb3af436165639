# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small guest of a test's own, with a kernel of the fixtures, which runs a few programs until QEMU dumps it."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.vmcore.conftest import CACHE, need
from tests.vmcore_fixtures.make import initramfs, qemu

INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev; mount -t tmpfs tmpfs /tmp
"""
PATIENCE = 240


def dumped(work: Path, fixture: str, script: str, programs: Iterable[Path], cpu: str = "max,-la57") -> str:
    """Boot it and dump it into ``work / "vmcore"``; return what it said.

    :param fixture: whose kernel it is.
    :param script: what its shell does, until it says ``@@END@@``.
    :param programs: what it finds in its root directory.
    """
    kernel = CACHE.parent / "kernels" / need(fixture, committed=False).manifest["release"] / "vmlinuz"
    busybox = shutil.which("busybox")
    if not kernel.exists() or busybox is None or shutil.which(qemu.QEMU) is None:
        pytest.skip("no kernel, no busybox or no QEMU for a guest")
    root = work / "root"
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc"):
        (root / name).mkdir(parents=True)
    shutil.copy2(busybox, root / "bin" / "busybox")
    for program in programs:
        shutil.copy2(program, root / program.name)
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (root / "init").write_text(f"{INIT}{script}sleep 100000\n")
    (root / "init").chmod(0o755)
    initrd = initramfs.pack(root, work / "initrd")
    arguments = ["-machine", "pc", "-cpu", cpu, "-smp", "2", "-m", "256", "-device", "vmcoreinfo"]
    arguments += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", "console=ttyS0 panic=-1 loglevel=3"]
    with qemu.Guest(arguments, work / "serial.log") as guest:
        try:
            guest.wait_for("END", PATIENCE)
            guest.qmp("stop")
            guest.dump(work / "vmcore", "elf")
            return guest.text
        finally:
            guest._process.kill()
            guest._process.communicate()  # closes its pipes, which a warning would be about
