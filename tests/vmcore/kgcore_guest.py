# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that runs, with the kgcore of this tree inside: it looks at processes of its own kernel."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests import statebook
from tests.vmcore.crash_guest import COMMAND
from tests.vmcore.tools import ROOT
from tests.vmcore_fixtures.make import initramfs, kdump, qemu
from tests.vmcore_fixtures.make.common import GUEST, VICTIMS, run
from tests.vmcore_fixtures.make.kernels import kernel
from tests.vmcore_fixtures.make.recipes import CMDLINE

# Its first process: the modules, and then all from the disk.
INIT = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod "/modules/$module.ko"; done
until [ -b /dev/vdb ]; do sleep 0.1; done
mount -t ext4 /dev/vda /disk
for part in proc sys dev; do mount --move /$part /disk/$part; done
exec switch_root /disk /bin/sh /script
"""
DISKS = {"root": 1 << 30, "output": 256 << 20}


@dataclass(frozen=True)
class Result:
    """What a guest left behind.

    :ivar directory: the directory ``/out`` of the guest.
    :ivar console: all that was said there.
    """

    directory: Path
    console: str


def run_script(
    work: Path, suite: str, script: str, *victims: str, files: Mapping[str, str] | None = None, patience: float = 300
) -> Result:
    """Boot a kernel, and have a shell script run there as root.

    :param suite: of Debian, whose cloud kernel it is.
    :param script: what it puts into ``/out`` comes home; ``until_it COMMAND`` waits, ``fail TEXT`` gives up.
    :param victims: programs that it finds in ``/victims``, beside ``stateful``.
    :param files: further files of its root directory.
    :param patience: seconds.
    """
    found = kernel(suite)
    _fill(work / "tree", script, victims)
    for name, text in (files or {}).items():
        (work / "tree" / name).write_text(text)
    first = work / "first"
    initramfs._base(first, found, GUEST / "init")
    (first / "init").write_text(INIT)
    (first / "disk").mkdir()
    initrd = initramfs.pack(first, work / "initrd")
    for name, size in DISKS.items():
        with (work / name).open("wb") as disk:
            disk.truncate(size)
    run(["mkfs.ext4", "-q", "-F", "-E", "nodiscard", "-d", work / "tree", work / "root"])
    shutil.rmtree(work / "tree")
    arguments = ["-machine", "pc", "-cpu", "max,-la57", "-smp", "2", "-m", "768"]
    arguments += ["-kernel", str(found.directory / "vmlinuz"), "-initrd", str(initrd), "-append", CMDLINE]
    for name in DISKS:
        arguments += ["-drive", f"file={work / name},format=raw,if=none,id={name},cache=unsafe"]
        arguments += ["-device", f"virtio-blk-pci,drive={name}"]
    with qemu.Guest(arguments, work / "serial.log") as guest:
        try:
            guest.wait_for("DONE", patience)
            guest.wait_end(60)
            console = guest.text
        finally:
            guest._process.kill()
            guest._process.communicate()  # closes its pipes, which a warning would be about
    run(["tar", "-x", "--no-same-owner", "-f", work / "output", "-C", work])
    for name in DISKS:
        (work / name).unlink()
    return Result(work / "out", console)


def _fill(tree: Path, script: str, victims: tuple[str, ...]) -> None:
    """The root file system: that of capture kernels, which has Python and what kgcore needs."""
    shutil.copytree(kdump.root(), tree, symlinks=True)
    shutil.copytree(ROOT / "kgcore", tree / "opt/kgcore/kgcore", ignore=shutil.ignore_patterns("__pycache__"))
    kdump.compile_all(tree, tree / "opt/kgcore")
    (tree / "usr/local/bin/kgcore").write_text(COMMAND)
    (tree / "usr/local/bin/kgcore").chmod(0o755)
    for part in ("victims", "sys", "out", "truth/victims", "disk/files"):
        (tree / part).mkdir(parents=True, exist_ok=True)
    statebook.built(tree / "victims", "-static")
    for name in victims:
        initramfs.compile_c(VICTIMS / f"{name}.c", tree / "victims" / name)
    head = "until_it() { t=0; until eval \"$1\"; do sleep 0.1; t=$((t + 1)); [ $t -lt 600 ] || fail \"$1\"; done; }\n"
    head += 'fail() { echo "@@FAIL $1@@"; poweroff -f; sleep 100; }\n'
    head += 'export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/\nmount -t tmpfs tmpfs /tmp\ncd /tmp\n'
    tail = "\ntar -cf /dev/vdb -C / out; sync\necho @@DONE@@\npoweroff -f\nsleep 100\n"
    (tree / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (tree / "script").write_text(head + script + tail)
