# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state of a process in a vmcore, beside the book that it kept of itself: in guests of this test's own, which QEMU
dumps. The kernels are those of the fixtures."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from kgcore.library import open_vmcore
from kgcore.sources.base import HasState
from tests.statebook import CHECKS, Book, built
from tests.vmcore.conftest import CACHE, MAIN, need, some
from tests.vmcore_fixtures.make import initramfs, qemu

INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev; mount -t tmpfs tmpfs /tmp
cd /tmp
mkfifo in
/stateful /tmp/book < in > out &
exec 9> in
until grep -q ready out; do sleep 0.2; done
echo @@BOOK@@; cat book; echo @@END@@
sleep 100000
"""
PATIENCE = 240


@pytest.fixture(scope="module", params=some((*MAIN, "k-backports"), ("k510", "k72")))
def book(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Book]:
    release = need(request.param, committed=False).manifest["release"]
    kernel = CACHE.parent / "kernels" / release / "vmlinuz"
    busybox = shutil.which("busybox")
    if not kernel.exists() or busybox is None or shutil.which(qemu.QEMU) is None:
        pytest.skip("no kernel, no busybox or no QEMU for a guest")
    work = tmp_path_factory.mktemp("guest")
    initrd = initramfs.pack(_root(work, Path(busybox)), work / "initrd")
    arguments = ["-machine", "pc", "-cpu", "max,-la57", "-smp", "2", "-m", "256", "-device", "vmcoreinfo"]
    arguments += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", "console=ttyS0 panic=-1 loglevel=3"]
    with qemu.Guest(arguments, work / "serial.log") as guest:
        try:
            guest.wait_for("END", PATIENCE)
            guest.qmp("stop")
            guest.dump(work / "vmcore", "elf")
            text = guest.text
        finally:
            guest._process.kill()
            guest._process.communicate()  # closes its pipes, which a warning would be about
    said = json.loads(text.partition("@@BOOK@@")[2].partition("@@END@@")[0])
    with open_vmcore(work / "vmcore", symbols_from="btf") as source:
        process = source.process(said["pid"])
        assert isinstance(process, HasState)
        yield Book(said, process.state())


def _root(work: Path, busybox: Path) -> Path:
    """What is in the guest's first file system."""
    root = work / "root"
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc"):
        (root / name).mkdir(parents=True)
    shutil.copy2(busybox, root / "bin" / "busybox")
    built(root, "-static")
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    return root


@pytest.mark.parametrize("check", CHECKS)
def test_it_is_as_the_book_says(check: Callable[[Book], None], book: Book) -> None:
    check(book)
