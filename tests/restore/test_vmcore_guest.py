# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process goes on out of a crashed machine's memory, on this machine: another kernel, another CPU."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.restore.going_on import KGCORE, SOURCE, compiled, needs_ids, restart
from tests.vmcore.conftest import CACHE, MAIN, need, some
from tests.vmcore_fixtures.make import initramfs, qemu

pytestmark = needs_ids

PLACE = "/tmp/place"
INIT = f"""#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev; mount -t tmpfs tmpfs /tmp
echo 20000 > /proc/sys/kernel/ns_last_pid # an id that is likely to be free here
mkdir {PLACE}; cd {PLACE}
/items < /dev/null > out 2>&1 &
until grep -q ready out; do sleep 0.2; done
cat out
echo @@PID@@$(pidof items)@@
echo @@END@@
sleep 100000
"""
PATIENCE = 240


class Taken(NamedTuple):
    """What was taken out of the dump: the core, and a directory that has the files of the process."""

    core: Path
    place: Path
    program: Path


@pytest.fixture(scope="module", params=some(MAIN, ("k61",)))
def taken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Taken:
    release = need(request.param, committed=False).manifest["release"]
    kernel = CACHE.parent / "kernels" / release / "vmlinuz"
    busybox = shutil.which("busybox")
    if not kernel.exists() or busybox is None or shutil.which(qemu.QEMU) is None:
        pytest.skip("no kernel, no busybox or no QEMU for a guest")
    work = tmp_path_factory.mktemp("guest")
    program = compiled(SOURCE, work / "items", "-O1", "-g", "-static", "-pthread")
    root = work / "root"
    for name in ("bin", "proc", "sys", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy2(busybox, root / "bin" / "busybox")
    shutil.copy2(program, root / "items")
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    initrd = initramfs.pack(root, work / "initrd")
    # Protection keys few machines have.
    arguments = ["-machine", "pc", "-cpu", "max,-la57,-pku", "-smp", "2", "-m", "256", "-device", "vmcoreinfo"]
    arguments += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", "console=ttyS0 panic=-1 loglevel=3"]
    with qemu.Guest(arguments, work / "serial.log") as guest:
        try:
            guest.wait_for("END", PATIENCE)
            guest.qmp("stop")
            guest.dump(work / "vmcore", "elf")
            text = guest.text
        finally:
            guest._process.kill()
            guest._process.communicate()
    pid = text.partition("@@PID@@")[2].partition("@@")[0]
    dump = ("-c", str(work / "vmcore"))
    core, place = work / "core", work / "place"
    (place / "inside").mkdir(parents=True)
    done = subprocess.run([*KGCORE, *dump, "-f", "127", "-o", core, pid], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    # What only the memory of that machine had.
    for number, name in ((1, "out"), (4, "file"), (7, "append")):
        words = [*KGCORE, "files", *dump, "--extract", str(number), "-o", str(place / name), pid]
        subprocess.run(words, check=True, capture_output=True)
    return Taken(core, place, program)


def test_everything_is_as_it_was(taken: Taken) -> None:
    """By its own account, item by item, but for what no dump has: the thread that was running has old floating-point
    registers, which is refused until it is allowed."""
    options = ("--map", f"/items={taken.program}", "--map", f"{PLACE}={taken.place}")
    (taken.place / "go").touch()
    refused = restart(taken.core, *options)
    assert refused.returncode == 1, refused.stderr
    assert "refused (stale-fpu)" in refused.stderr
    assert (taken.place / "out").read_bytes() == b"ready\n"
    done = restart(taken.core, "--allow", "stale-fpu", *options)
    assert done.returncode == 42, done.stderr
    lines = (taken.place / "out").read_text().splitlines()
    assert lines[0] == "ready"
    assert len(lines) > 40
    assert [line for line in lines[1:] if not line.startswith("ok ")] == []
    assert os.listdir(taken.place / "inside") == []
