# SPDX-License-Identifier: LGPL-2.1-or-later
import ctypes
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgcore.arch import ARCHES
from kgcore.arch.base import prpsinfo_note, prstatus_note
from kgcore.arch.x86.ia32 import GREGS
from kgcore.arch.x86.kernels import x86_64_task
from kgcore.check.core import check_core
from kgcore.coredump.pipeline import dump
from kgcore.elf.layout import ElfClass
from kgcore.model.process import VM_EXEC, VM_READ, FpuState
from kgcore.sinks.files import FileSink
from kgcore.sources.base import TaskRef
from tests.builders import FakeSource, make_image, make_regs, make_thread, make_vma
from tests.compiler import output

IA32, I386, X32, MIXED = (ARCHES[name] for name in ("ia32", "i386", "x32", "ia32-in-64"))
ROWS = {row.type: row for row in IA32.regsets}
PRFPREG, TLS, IOPERM, XSTATE, PRXFPREG = 2, 0x200, 0x201, 0x202, 0x46E62B7F
PI = bytes.fromhex("35c26821a2da0fc90040")
ZERO = bytes(10)
DENORMAL = b"\1".ljust(10, b"\0")
UNNORMAL = bytes(8) + b"\xff\x3f"
INFINITY = bytes.fromhex("0000000000000080ff7f")
VALID, TAG_ZERO, SPECIAL, EMPTY = range(4)


@pytest.mark.parametrize("name", ["ia32", "ia32-in-64", "i386"])
def test_rows_in_the_order_of_the_view(name: str) -> None:
    arch = ARCHES[name]
    assert [(row.owner, row.type) for row in arch.regsets] == [
        (b"CORE", PRFPREG),
        (b"LINUX", PRXFPREG),
        (b"LINUX", XSTATE),
        (b"LINUX", TLS),
        (b"LINUX", IOPERM),
    ]
    assert [(row.owner, row.type) for row in arch.extra] == [(b"LINUX", 0x205)]


@pytest.mark.parametrize(
    ("elf_class", "long_mode", "name", "machine", "prstatus", "prpsinfo"),
    [
        (64, True, "x86_64", 62, 336, 136),
        (64, False, "ia32-in-64", 3, 336, 136),
        (32, True, "x32", 62, 296, 124),
        (32, False, "ia32", 3, 144, 124),
    ],
)
def test_the_kernel_decides_twice(
    elf_class: ElfClass, long_mode: bool, name: str, machine: int, prstatus: int, prpsinfo: int
) -> None:
    arch = ARCHES[x86_64_task(elf_class, long_mode)]
    assert (arch.name, arch.elf_class, arch.machine) == (name, elf_class, machine)
    assert len(prstatus_note(arch, make_thread(), True)) == prstatus
    assert len(prpsinfo_note(arch, make_image().psinfo)) == prpsinfo


def test_gregs_are_the_lower_halves() -> None:
    regs = make_regs(ax=0xFFFFFFFF_FFFFFFDA, orig_ax=(1 << 64) - 1, gs=0x10063, cs=0x23)
    values = dict(zip(GREGS, IA32.gregs(make_thread(regs=regs)), strict=True))
    assert values["ax"] == 0xFFFFFFDA
    assert values["orig_ax"] == 0xFFFFFFFF
    assert (values["gs"], values["cs"]) == (0x63, 0x23)
    desc = prstatus_note(IA32, make_thread(regs=regs), True)
    assert struct.unpack_from("<17I", desc, 72) == tuple(values.values())
    assert struct.unpack_from("<i", desc, 140) == (1,)


def test_a_64_bit_structure_with_32_bit_registers() -> None:
    desc = prstatus_note(MIXED, make_thread(), True)
    assert struct.unpack_from("<17I", desc, 112) == IA32.gregs(make_thread())
    assert desc[112 + 68 : 328] == bytes(216 - 68)
    assert struct.unpack_from("<i", desc, 328) == (1,)


def test_ids_of_16_bits() -> None:
    psinfo = replace(make_image().psinfo, uid=70000, gid=65535)
    for arch in (IA32, X32):
        assert struct.unpack_from("<HH", prpsinfo_note(arch, psinfo), 8) == (65534, 65535)
    assert struct.unpack_from("<II", prpsinfo_note(MIXED, psinfo), 16) == (70000, 65535)


# Floating point


def fxsave(stack: list[bytes], *, top: int, used: int, fop: int = 0x123) -> bytes:
    """An FXSAVE image, as a processor in 32-bit mode leaves it. ``used``: a bit per physical register."""
    pointers = (0xAAAA0001, 0x73, 0xAAAA0002, 0x7B)
    head = struct.pack("<HHBxH6I", 0x37F, top << 11, used, fop, *pointers, 0x1F80, 0xFFFF)
    return b"".join((head, *(value.ljust(16, b"\x77") for value in stack))).ljust(512, b"\0")


def prfpreg(fx: bytes, name: str = "ia32") -> tuple[tuple[int, ...], list[bytes]]:
    """NT_PRFPREG of a machine without XSAVE: the seven words, and the stack."""
    thread = make_thread(fpu=FpuState(fx), regs=make_regs(cs=0x23, ds=0x2B))
    desc = ARCHES[name].regsets[0].build(make_image(xsave=None), thread)
    assert desc is not None
    assert len(desc) == 108
    return struct.unpack_from("<7I", desc), [desc[28 + 10 * number :][:10] for number in range(8)]


def test_prfpreg() -> None:
    stack = [PI, ZERO, DENORMAL, UNNORMAL, INFINITY, PI, PI, PI]
    # ST(0) is physical register 6; 6, 7, 0, 1, 2 are in use
    words, values = prfpreg(fxsave(stack, top=6, used=0b11000111))
    assert values == stack
    tags = {6: VALID, 7: TAG_ZERO, 0: SPECIAL, 1: SPECIAL, 2: SPECIAL, 3: EMPTY, 4: EMPTY, 5: EMPTY}
    tag_word = sum(tag << 2 * number for number, tag in tags.items())
    assert words == (
        0xFFFF037F,
        0xFFFF3000,
        0xFFFF0000 | tag_word,
        0xAAAA0001,
        0x23,  # the thread's CS
        0xAAAA0002,
        0xFFFF002B,  # and DS
    )


def test_a_32_bit_kernel_knows_the_selectors() -> None:
    words, _ = prfpreg(fxsave([ZERO] * 8, top=0, used=0), "i386")
    assert words[2:] == (0xFFFFFFFF, 0xAAAA0001, 0x1230073, 0xAAAA0002, 0x7B)


def test_the_other_notes_are_those_of_64_bit_tasks() -> None:
    image = make_image()
    thread = make_thread(ioperm=bytes(8192))
    theirs = {row.type: row for row in ARCHES["x86_64"].regsets}
    assert ROWS[PRXFPREG].build(image, thread) == theirs[PRFPREG].build(image, thread)
    for number in (XSTATE, IOPERM):
        assert ROWS[number].build(image, thread) == theirs[number].build(image, thread)
    nothing = make_thread(fpu=FpuState(b"short"))
    assert [row.type for row in IA32.regsets if row.build(image, nothing) is not None] == []
    assert "is cut short" in IA32.remarks(image, nothing)[0]


X87 = r"""
#include <stdio.h>

static unsigned char fx[512] __attribute__((aligned(16))), fsave[108];
static unsigned char values[][10] = {
	{1}, {0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x7f}, {0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff}, {0, 0, 0, 0, 0, 0, 0, 0x80},
};

int main(void)
{
	for (int free = 0; free < 8; free++) {
		__asm__ volatile("fninit\n\t"
				 "fldpi\n\tfldz\n\tfld1\n\tfchs\n\tfldz\n\tfchs\n\t"
				 "fldt (%0)\n\tfldt 10(%0)\n\tfldt 20(%0)\n\tfldt 30(%0)" : : "r"(values), "m"(values));
		for (int i = 0; i < free; i++)
			__asm__ volatile("ffree %%st(0)\n\tffree %%st(3)\n\tfincstp" ::: "memory");
		__asm__ volatile("fxsave %0\n\tfnsave %1" : "=m"(fx), "=m"(fsave));
		fwrite(fx, sizeof fx, 1, stdout);
		fwrite(fsave, sizeof fsave, 1, stdout);
	}
	return 0;
}
"""


def test_the_processor_itself_agrees(tmp_path: Path) -> None:
    """FNSAVE stores what NT_PRFPREG imitates."""
    done = output(tmp_path, X87, "-O1")
    assert len(done) == 8 * 620
    seen = set()
    for at in range(0, len(done), 620):
        words, stack = prfpreg(done[at : at + 512])
        fsave = done[at + 512 : at + 620]
        assert [word & 0xFFFF for word in words[:3]] == [word & 0xFFFF for word in struct.unpack_from("<3I", fsave)], (
            f"round {at // 620}"
        )
        assert stack == [fsave[28 + 10 * number :][:10] for number in range(8)]
        seen.add(words[2])
    assert len(seen) > 4


# Segments


class Desc(ctypes.LittleEndianStructure):
    """struct desc_struct, arch/x86/include/asm/desc_defs.h"""

    _pack_ = 1
    _fields_ = (
        ("limit0", ctypes.c_uint16),
        ("base0", ctypes.c_uint16),
        *(
            (name, ctypes.c_uint32, bits)
            for name, bits in zip(
                "base1 type s dpl p limit1 avl l d g base2".split(), (8, 4, 1, 2, 1, 4, 1, 1, 1, 1, 8), strict=True
            )
        ),
    )


class UserDesc(ctypes.LittleEndianStructure):
    """struct user_desc, arch/x86/include/uapi/asm/ldt.h"""

    _fields_ = (
        ("entry_number", ctypes.c_uint32),
        ("base_addr", ctypes.c_uint32),
        ("limit", ctypes.c_uint32),
        *(
            (name, ctypes.c_uint32, bits)
            for name, bits in zip(
                "seg_32bit contents read_exec_only limit_in_pages seg_not_present useable lm".split(),
                (1, 2, 1, 1, 1, 1, 1),
                strict=True,
            )
        ),
    )


def expected_tls(entry: int, raw: int) -> bytes:
    """fill_user_desc(), arch/x86/kernel/tls.c"""
    desc = Desc.from_buffer_copy(raw.to_bytes(8, "little"))
    told = UserDesc(
        entry,
        desc.base0 | desc.base1 << 16 | desc.base2 << 24,
        desc.limit0 | desc.limit1 << 16,
        desc.d,
        desc.type >> 2,
        not desc.type & 2,
        desc.g,
        not desc.p,
        desc.avl,
        desc.l,
    )
    return bytes(told)


# Base 0xf7dc4580; G, D, AVL and limit 0xfffff; present, for users, data, writable, accessed
FLAT = 0xF7_DF_F3_DC_4580_FFFF


@settings(deadline=None)
@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=3, max_size=3), st.sampled_from((6, 12)))
def test_tls_is_ptraces_view_of_the_descriptors(descriptors: list[int], first: int) -> None:
    thread = make_thread(tls=tuple(enumerate(descriptors, first)))
    note = ROWS[TLS].build(make_image(), thread)
    if not any(descriptors):
        assert note is None
    else:
        assert note == b"".join(expected_tls(*segment) for segment in thread.tls)


def test_tls_of_the_c_library() -> None:
    """A flat data segment as set_thread_area() makes it; the two others are empty."""
    note = ROWS[TLS].build(make_image(), make_thread(tls=((12, FLAT), (13, 0), (14, 0))))
    assert note is not None
    assert struct.unpack_from("<4I", note) == (12, 0xF7DC4580, 0xFFFFF, 0x51)  # as it asked for it
    assert struct.unpack_from("<4I", note, 16) == (13, 0, 0, 0b101000), "read-only and not present"
    assert ROWS[TLS].build(make_image(), make_thread(tls=((12, 0), (13, 0), (14, 0)))) is None
    assert ROWS[TLS].build(make_image(), make_thread()) is None


# Whole cores

VMAS = (
    make_vma(0x8048000, 2, VM_READ | VM_EXEC),
    make_vma(0xF7F00000, 4, anon=True),
    make_vma(0xFFFDD000, 33, anon=True),
)


def written(tmp_path: Path, name: str) -> Path:
    core = tmp_path / "core"
    stack = [PI, ZERO, DENORMAL, PI, PI, PI, PI, PI]
    fpu = FpuState(fxsave(stack, top=6, used=0b11000001)[:512] + struct.pack("<QQ", 3, 0).ljust(2696 - 512, b"\0"))
    regs = make_regs(cs=0x23 if name == "ia32" else 0x33)
    image = make_image(
        arch=name,
        vmas=VMAS,
        auxv=((3, 0x8048034), (0, 0)),
        threads=(make_thread(regs=regs, fpu=fpu, tls=((12, FLAT), (13, 0), (14, 0))),),
    )
    dump(FakeSource(image), TaskRef("1", pid=1), lambda image: FileSink(core))
    return core


@pytest.mark.parametrize(("name", "machine"), [("ia32", "i386"), ("x32", "x32")])
def test_check_knows_it(tmp_path: Path, name: str, machine: str) -> None:
    verdict = check_core(written(tmp_path, name))
    assert verdict.problems == ()
    assert verdict.complete
    assert (verdict.facts["class"], verdict.facts["machine"]) == (32, machine)
    assert verdict.facts["segments"] == len(VMAS)


@pytest.mark.parametrize("name", ["ia32", "x32"])
def test_gdb_reads_every_register_as_we_meant_it(tmp_path: Path, name: str) -> None:
    if shutil.which("gdb") is None:
        pytest.skip("no gdb")
    core = written(tmp_path, name)
    e_names = {"ax": "eax", "ip": "eip", "di": "edi", "orig_ax": "orig_eax", "gs": "gs"}
    r_names = {"ax": "rax", "r15": "r15", "orig_ax": "orig_rax", "fs_base": "fs_base", "gs": "gs"}
    names = e_names if name == "ia32" else r_names
    asked = [f'-ex=printf "{ours} %lx\\n", ${theirs}' for ours, theirs in names.items()]
    asked += ["-ex=p/x $fctrl", "-ex=p/x $ftag", "-ex=p $st0", "-ex=x/wx 0xf7f01000"]
    told = subprocess.run(
        ["gdb", "-nx", "-batch", *asked, "-core", core], capture_output=True, text=True, check=False
    ).stdout
    values = make_regs().values
    for ours in names:
        assert f"{ours} {values[ours]:x}\n" in told
    assert "= 0x37f\n" in told
    assert f"= {0b01_00_11_11_11_11_11_10:#x}\n" in told
    assert "= 3.14159265358979" in told
    assert "0xf7f01000:\t0xf7f01000" in told
