# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables of open files, and rows of ``kgcore ps``, in dumps that lie."""

import io
import random
import struct
from contextlib import suppress

import pytest

pytest.importorskip("drgn")

from kgcore.cli import render
from kgcore.cli.commands.files import _put_json
from kgcore.cli.console import Console
from kgcore.errors import KgcoreError
from kgcore.model.summary import ProcessSummary
from kgcore.sources.base import OpenFiles, TaskRef
from kgcore.views.openfiles import OpenFileTable, table_of
from tests.vmcore.conftest import need
from tests.vmcore.hostile import Baseline, Damage, Machine, watchdog

SEEDS = 120
PATIENCE = 20
PAGE = 4096
GUESTS = ("k510-files", "k61-files", "k612-files", "k72-files")


def everything(machine: Machine) -> tuple[list[ProcessSummary], OpenFiles | None]:
    """All that the two commands do."""
    source = machine.source()
    rows: list[ProcessSummary] = []
    found = None
    with suppress(KgcoreError):  # a list that breaks off is still one
        rows.extend(source.processes())
    try:
        process = source.process(machine.fixture.victims["openfiles"].pid)
        found = process.open_files()
    except KgcoreError:
        return rows, None
    shown(rows, table_of(process, found, source.describe(), contents=True))
    return rows, found


def shown(rows: list[ProcessSummary], table: OpenFileTable) -> None:
    out = io.StringIO()
    render.show_processes(rows, out)
    render.show_open_files(table.rows, out)
    _put_json(table, Console(out, out))
    assert "\x1b" not in out.getvalue()


@pytest.fixture(scope="module", params=GUESTS)
def base(request: pytest.FixtureRequest) -> Baseline:
    machine = Machine(need(request.param))
    with machine.recording() as reads:
        rows, found = everything(machine)
    assert found is not None
    assert len(rows) > 50
    assert len(found.files) == 98
    structures = sorted(read for read in reads if read[1] < PAGE)
    frames = sorted({frame for at, size in reads for frame in range(at // PAGE, (at + size - 1) // PAGE + 1)})
    words = {
        word
        for at, size in structures
        for (word,) in struct.iter_unpack("<Q", machine.read(at & ~7, max(size, 8) & ~7))
        if word >= 0xFFFF800000000000
    }
    with machine.recording() as reads:
        machine.source().process(machine.fixture.victims["openfiles"].pid).open_files()
    own = sorted(read for read in reads if read[1] < PAGE)
    return Baseline(machine, structures, {"openfiles": own}, frames, sorted(words))


def test_corrupted(base: Baseline) -> None:
    """Something comes out, and no other exception, and not after an endless walk."""
    victim, whole = base.machine.fixture.victims["openfiles"], 0
    for seed in range(SEEDS):
        rng = random.Random(seed)
        base.machine.damage = base.corrupted(rng, victim)
        try:
            with watchdog(PATIENCE):
                _, found = everything(base.machine)
        finally:
            base.machine.damage = Damage()
        whole += found is not None and len(found.files) > 90
    assert whole > SEEDS / 3, "most damage costs a few descriptors at most"


def test_lost(base: Baseline) -> None:
    """Where pages are merely lost, what does come out is right, and that something is lost is told."""
    clean_rows, clean = everything(base.machine)
    assert clean is not None
    known = {file.fd: file for file in clean.files}
    rows_by_pid = {row.pid: row for row in clean_rows}
    for seed in range(SEEDS // 2):
        base.machine.damage = base.unreadable(random.Random(seed))
        try:
            with watchdog(PATIENCE):
                rows, found = everything(base.machine)
        finally:
            base.machine.damage = Damage()
        for row in rows:
            assert row.pid in rows_by_pid
            assert row.comm in (b"", rows_by_pid[row.pid].comm)
            assert row.cgroup in (None, rows_by_pid[row.pid].cgroup)
            assert row.pids in ((), rows_by_pid[row.pid].pids)
        if found is None:
            continue
        for file in found.files:
            was = known[file.fd]
            assert (file.offset, file.flags) == (was.offset, was.flags)
            assert file.path in (None, was.path)
        assert found.lost or len(found.files) == len(known)


def test_a_table_of_garbage(base: Baseline) -> None:
    """All bits set, in a table that claims to be as large as can be."""
    machine = base.machine
    source = machine.source()
    task = source._machine.tasks.find(TaskRef.parse(str(machine.fixture.victims["openfiles"].pid)))
    table = task.files.fdt
    pages: dict[int, bytearray] = {}

    def put(address: int, data: bytes) -> None:
        at = address - machine.page_offset
        page = pages.setdefault(at // PAGE, bytearray(machine.clean(at // PAGE)))
        page[at % PAGE : at % PAGE + len(data)] = data

    bits = table.open_fds.value_()
    put(bits, b"\xff" * 128)
    put(table.max_fds.address_of_().value_(), struct.pack("<I", 0xFFFFFFFF))
    machine.damage = Damage({frame: bytes(data) for frame, data in pages.items()})
    try:
        with watchdog(3 * PATIENCE):
            _, found = everything(machine)
    finally:
        machine.damage = Damage()
    assert found is not None
    assert found.lost
    assert {file.fd for file in found.files} >= {0, 1, 2, 3, 1000}


def test_contents_of_a_damaged_file_end(base: Baseline) -> None:
    """A size that no file has is refused."""
    machine = base.machine
    source = machine.source()
    pid = machine.fixture.victims["openfiles"].pid
    (file,) = (file for file in source.process(pid).open_files().files if file.fd == 10)
    task = source._machine.tasks.find(TaskRef.of(pid))
    size = task.files.fdt.fd[10].f_inode.i_size.address_of_().value_() - machine.page_offset
    page = bytearray(machine.clean(size // PAGE))
    struct.pack_into("<q", page, size % PAGE, 1 << 62)
    machine.damage = Damage({size // PAGE: bytes(page)})
    try:
        with pytest.raises(KgcoreError, match="implausible file size"):
            machine.source().process(pid).contents(file)
    finally:
        machine.damage = Damage()
