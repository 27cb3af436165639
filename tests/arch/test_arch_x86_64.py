# SPDX-License-Identifier: LGPL-2.1-or-later
import shutil
import subprocess
from pathlib import Path

import pytest

from kgcore.arch import ARCHES
from kgcore.arch.x86.x86_64 import GREGS
from kgcore.model.process import FpuState, XsaveLayout
from kgcore.sinks.files import FileSink
from tests.arch.test_xsave import COMPACTED, area
from tests.builders import FakeSource, make_image, make_regs, make_thread

X86_64 = ARCHES["x86_64"]
ROWS = {row.type: row for row in X86_64.regsets}
CET = XsaveLayout(user_size=2696, user_features=0x207, offsets={2: 576, 11: 0}, sizes={2: 256, 11: 16})


def test_rows_in_the_order_of_the_view() -> None:
    assert [(row.owner, row.type) for row in X86_64.regsets] == [
        (b"CORE", 2),
        (b"LINUX", 0x201),
        (b"LINUX", 0x202),
        (b"LINUX", 0x204),
    ]
    assert [(row.owner, row.type) for row in X86_64.extra] == [(b"LINUX", 0x205)]
    assert (X86_64.elf_class, X86_64.machine) == (64, 62)


def test_ioperm_is_the_whole_bitmap() -> None:
    image = make_image()
    assert ROWS[0x201].build(image, make_thread()) is None
    bitmap = bytes(range(256)) * 32
    assert ROWS[0x201].build(image, make_thread(ioperm=bitmap)) == bitmap
    # denied is what the kernel fills up with
    assert ROWS[0x201].build(image, make_thread(ioperm=bytes(8))) == bytes(8) + b"\xff" * 8184


def test_shadow_stack_note_needs_the_feature_and_the_state() -> None:
    ssp = (0x7FFFF0000000).to_bytes(8, "little")
    fpu = FpuState(area(0x803, COMPACTED | 0x807, bytes(256) + bytes(8) + ssp))
    image = make_image(xsave=CET)
    row = ROWS[0x204]
    assert row.build(image, make_thread(fpu=fpu, shstk=True)) == ssp
    assert row.build(image, make_thread(fpu=fpu)) is None
    assert row.build(image, make_thread(fpu=None, shstk=True)) is None
    assert row.build(make_image(xsave=None), make_thread(fpu=fpu, shstk=True)) is None


def test_gregs_are_truncated_as_ptrace_shows_them() -> None:
    thread = make_thread(regs=make_regs(ax=1 << 64 | 5, fs=0x12345))
    values = dict(zip(GREGS, X86_64.gregs(thread), strict=True))
    assert values["ax"] == 5
    assert values["fs"] == 0x2345


def test_remarks_tell_of_a_floating_point_state_that_is_cut_short() -> None:
    image = make_image()
    assert X86_64.remarks(image, make_thread()) == ()
    assert "is cut short" in X86_64.remarks(image, make_thread(fpu=FpuState(b"")))[0]
    assert "features 2" in X86_64.remarks(image, make_thread(fpu=FpuState(area(0x7))))[0]
    assert "not found" in X86_64.remarks(image, make_thread(fpu=None))[0]


def test_gdb_reads_every_register_as_we_meant_it(tmp_path: Path) -> None:
    if shutil.which("gdb") is None:
        pytest.skip("no gdb")
    from kgcore.coredump.pipeline import dump
    from kgcore.sources.base import TaskRef

    ymm = bytes(16 * 7) + b"\xab" * 16 + bytes(16 * 8)
    image = area(0x7, 0, b"").ljust(576, b"\0") + ymm
    thread = make_thread(fpu=FpuState(image.ljust(2696, b"\0")))
    core = tmp_path / "core"
    dump(FakeSource(make_image(threads=(thread,))), TaskRef("1", pid=1), lambda image: FileSink(core))
    names = {"ax": "rax", "ip": "rip", "r15": "r15", "fs_base": "fs_base", "orig_ax": "orig_rax", "gs": "gs"}
    asked = [f'-ex=printf "{name} %lx\\n", ${theirs}' for name, theirs in names.items()]
    asked += ["-ex=p/x $ymm7.v2_int128[1]", "-ex=p/x $xmm7.uint128", "-ex=p/x $mxcsr"]
    told = subprocess.run(
        ["gdb", "-nx", "-batch", *asked, "-core", core], capture_output=True, text=True, check=False
    ).stdout
    for name in names:
        assert f"{name} {thread.regs.values[name]:x}\n" in told
    assert "0x" + "ab" * 16 in told
    assert "0x" + "44" * 16 in told
