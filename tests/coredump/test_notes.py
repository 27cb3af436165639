# SPDX-License-Identifier: LGPL-2.1-or-later
import io
import struct
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from kgcore.arch import ARCHES, Arch
from kgcore.arch.base import auxv_note, file_note, prpsinfo_note, prstatus_note, siginfo_note
from kgcore.arch.x86.x86_64 import GREGS
from kgcore.check.core import check_core
from kgcore.coredump.notes import process_notes, remarks
from kgcore.coredump.pipeline import dump
from kgcore.elf.layout import Note
from kgcore.model.process import CoreDialect, FpuState, RegisterNote, RegisterSource, TaskTimes
from kgcore.sinks.files import FileSink
from tests.builders import FakeSource, make_file, make_fpu, make_image, make_regs, make_thread, make_vma
from tests.compiler import output

X86_64 = ARCHES["x86_64"]

IA32 = ARCHES["ia32"]
X32 = ARCHES["x32"]


def kinds(notes: list[Note]) -> list[tuple[str, int]]:
    return [(note.name.decode(), note.type) for note in notes]


def test_order_of_the_kernel() -> None:
    image = make_image(threads=(make_thread(ioperm=bytes(8192)), make_thread(4322), make_thread(4323, fpu=None)))
    regsets = [("CORE", 2), ("LINUX", 0x202)]
    assert kinds(list(process_notes(image, X86_64))) == [
        ("CORE", 1),
        ("CORE", 3),
        ("CORE", 0x53494749),
        ("CORE", 6),
        ("CORE", 0x46494C45),
        ("CORE", 2),
        ("LINUX", 0x201),
        ("LINUX", 0x202),
        ("CORE", 1),
        *regsets,
        ("CORE", 1),
        ("LINUX", 0x205),
    ]


# Register sets that a kernel handed over

UNKNOWN = RegisterNote(0x4711, b"VENDOR", b"\x01odd\xff")
FPREGSET = RegisterNote(2, b"CORE", b"\x2a" * 512)
XSTATE = RegisterNote(0x202, b"LINUX", b"\x2b" * 2440)


def regset_notes(*given: RegisterNote, **values: Any) -> list[tuple[int, bytes, bytes]]:
    """Of a thread that is not the first one, behind its NT_PRSTATUS."""
    image = make_image(threads=(make_thread(), make_thread(4322, regsets=given, **values)))
    notes = list(process_notes(image, X86_64))
    (start,) = (at for at, note in enumerate(notes) if note.type == 1 and at)
    return [(note.type, note.name, note.desc) for note in notes[start + 1 :] if note.type != 0x205]


def test_a_kernels_own_notes_are_kept_in_their_order() -> None:
    for given in permutations((UNKNOWN, FPREGSET, XSTATE)):
        for fpu in (None, make_fpu()):
            assert regset_notes(*given, fpu=fpu) == list(given)


def test_what_nobody_handed_over_is_made() -> None:
    made = {kind: desc for kind, _, desc in regset_notes()}
    assert regset_notes(XSTATE, UNKNOWN) == [XSTATE, UNKNOWN, (2, b"CORE", made[2])]
    (ioperm,) = (note for note in regset_notes(FPREGSET, XSTATE, ioperm=bytes(8192)) if note[0] == 0x201)
    assert ioperm[2] == bytes(8192)
    # Another owner's note of the same number is another note.
    other = XSTATE._replace(owner=b"VENDOR")
    assert regset_notes(other, FPREGSET) == [other, FPREGSET, (0x202, b"LINUX", made[0x202])]


def test_registers_of_a_kernel_are_not_doubted() -> None:
    image = make_image(threads=(make_thread(fpu=None, regsets=(FPREGSET, XSTATE)),))
    assert list(remarks(image, X86_64)) == []
    prstatus = next(process_notes(image, X86_64))
    assert struct.unpack_from("<i", prstatus.desc, 328)[0] == 1, "pr_fpvalid"
    lacking = make_image(threads=(make_thread(fpu=None, regsets=(UNKNOWN,)),))
    assert [text for _, text in remarks(lacking, X86_64)] == ["its floating-point state was not found"]


def test_a_core_with_a_kernels_own_notes_is_whole(tmp_path: Path) -> None:
    thread = make_thread(fpu=None, regsets=(FPREGSET, UNKNOWN, XSTATE))
    path = tmp_path / "core"
    report = dump(FakeSource(make_image(threads=(thread,))), 1, lambda image: FileSink(path))
    assert report.complete
    assert UNKNOWN.desc in path.read_bytes()
    assert b'"fpu":"saved"' in path.read_bytes()
    verdict = check_core(path)
    assert verdict.ok, verdict.problems
    assert verdict.complete


def test_older_kernels_have_no_xsave_layout() -> None:
    image = make_image(dialect=CoreDialect(xsave_layout=False))
    assert ("LINUX", 0x205) not in kinds(list(process_notes(image, X86_64)))


def test_no_vmas_no_file_note() -> None:
    assert ("CORE", 0x46494C45) not in kinds(list(process_notes(make_image(vmas=()), X86_64)))


@pytest.mark.parametrize(("fpu", "fpvalid"), [(None, 0), (FpuState(bytes(2696)), 1), (FpuState(b"short"), 0)])
def test_fpvalid_says_whether_there_is_a_prfpreg_note(fpu: FpuState | None, fpvalid: int) -> None:
    notes = list(process_notes(make_image(threads=(make_thread(fpu=fpu),)), X86_64))
    assert struct.unpack_from("<i", notes[0].desc, 328)[0] == fpvalid
    assert (("CORE", 2) in kinds(notes)) == bool(fpvalid)


def test_prstatus_trap_flag_of_the_kernel_is_hidden() -> None:
    for forced, flags in ((False, 0x346), (True, 0x246)):
        thread = make_thread(regs=make_regs(flags=0x346), forced_tf=forced)
        assert struct.unpack_from("<Q", prstatus_note(X86_64, thread, True), 112 + 18 * 8)[0] == flags


def test_prstatus_segments_have_16_bits() -> None:
    desc = prstatus_note(X86_64, make_thread(regs=make_regs(cs=0xDEAD0033)), True)
    assert struct.unpack_from("<Q", desc, 112 + 17 * 8)[0] == 0x33


C_PRSTATUS = r"""
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/procfs.h>
int main(void)
{
	elf_greg_t ia32[17] = {
		0x6666, 0xcccc, 0xdddd, 0xeeee, 0xffff, 0x5555, 0xbbbb, 0, 0, 0, 0, 0x11110, 0x12221, 0x33, 0x246, 0x15554, 0x2b
	};
	struct elf_prstatus s; struct elf_prpsinfo p; char all[sizeof s + sizeof p];
	memset(&s, 0, sizeof s); memset(&p, 0, sizeof p);
	s.pr_sigpend = 0x100; s.pr_sighold = (unsigned long)0x8000000000000200;
	s.pr_pid = 4321; s.pr_ppid = 1; s.pr_pgrp = 4321; s.pr_sid = 4321;
	s.pr_utime.tv_sec = 1; s.pr_utime.tv_usec = 500000;
	s.pr_stime.tv_sec = 2; s.pr_stime.tv_usec = 1;
	s.pr_cutime.tv_sec = 3; s.pr_cstime.tv_usec = 999999;
#ifdef __x86_64__
	for (int i = 0; i < ELF_NGREG; i++) s.pr_reg[i] = i < 17 ? 0x1111 * (i + 1) : s.pr_reg[i];
	s.pr_reg[17] = 0x33; s.pr_reg[18] = 0x246; s.pr_reg[19] = 0x1111 * 20; s.pr_reg[20] = 0x2b;
	s.pr_reg[21] = 0x1111 * 22; s.pr_reg[22] = 0x1111 * 23;
#else
	memcpy(s.pr_reg, ia32, sizeof s.pr_reg);
#endif
	s.pr_fpvalid = 1;
	p.pr_state = 1; p.pr_sname = 'S'; p.pr_nice = -5; p.pr_flag = 0x400000; p.pr_uid = 1000; p.pr_gid = 100;
	p.pr_pid = 4321; p.pr_ppid = 1; p.pr_pgrp = 4321; p.pr_sid = 4321;
	strcpy(p.pr_fname, "victim"); strcpy(p.pr_psargs, "./victim --now ");
	memcpy(all, &s, sizeof s); memcpy(all + sizeof s, &p, sizeof p);
	fwrite(all, sizeof all, 1, stdout);
	return 0;
}
"""


@pytest.mark.parametrize(("arch", "flag"), [(X86_64, "-m64"), (IA32, "-m32")])
def test_structures_are_those_of_the_c_compiler(tmp_path: Path, arch: Arch, flag: str) -> None:
    truth = output(tmp_path, C_PRSTATUS, flag)
    thread = make_thread(
        sigpend=0x100,
        sighold=0x8000000000000200,
        times=TaskTimes(1_500_000_999, 2_000_001_999, 3_000_000_000, 999_999_999),
    )
    ours = prstatus_note(arch, thread, True) + prpsinfo_note(arch, make_image().psinfo)
    assert ours == truth


def test_sizes_of_all_classes() -> None:
    psinfo = make_image().psinfo
    for arch, prstatus, prpsinfo in ((X86_64, 336, 136), (IA32, 144, 124), (X32, 296, 124)):
        assert len(prstatus_note(arch, make_thread(), True)) == prstatus
        assert len(prpsinfo_note(arch, psinfo)) == prpsinfo
    assert all(len(siginfo_note(arch, None)) == 128 for arch in (X86_64, IA32, X32))
    assert struct.unpack_from("<i", prstatus_note(IA32, make_thread(), True), 140)[0] == 1
    assert struct.unpack_from("<i", prstatus_note(X32, make_thread(), True), 288)[0] == 1
    assert struct.unpack_from("<HH", prpsinfo_note(IA32, replace(psinfo, uid=70000)), 8) == (65534, 100)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (0, (0, "R", 0)),
        (1, (1, "S", 0)),
        (2, (2, "D", 0)),
        (4, (3, "T", 0)),
        (8, (4, "Z", 1)),  # TASK_TRACED: the kernel's table is older than the state
        (0x10, (5, "W", 0)),
        (0x80, (8, ".", 0)),
        (0x102, (2, "D", 0)),  # TASK_KILLABLE
        (0x402, (2, "D", 0)),  # TASK_IDLE
    ],
)
def test_prpsinfo_state(state: int, told: tuple[int, str, int]) -> None:
    desc = prpsinfo_note(X86_64, replace(make_image().psinfo, state=state))
    assert (desc[0], chr(desc[1]), desc[2]) == told


@pytest.mark.parametrize(
    ("psargs", "field"),
    [
        (b"a\0bc\0", b"a bc "),
        (b"x" * 79 + b"y", b"x" * 79),
        (None, b""),
        (b"", b""),
    ],
)
def test_prpsinfo_args(psargs: bytes | None, field: bytes) -> None:
    desc = prpsinfo_note(X86_64, replace(make_image().psinfo, psargs=psargs, comm=b"0123456789abcdefgh"))
    assert desc[40:56] == b"0123456789abcde\0"
    assert desc[56:] == field.ljust(80, b"\0")


def test_values_that_fit_nowhere_do_not_stop_us() -> None:
    image = make_image()
    ids = replace(image.psinfo.ids, pid=-1, sid=1 << 40)
    prpsinfo_note(X86_64, replace(image.psinfo, ids=ids, nice=4000, flags=1 << 60, uid=1 << 31))
    thread = make_thread(ids=ids, times=TaskTimes(1 << 63, 0, 0, 0), sigpend=1 << 70, regs=make_regs(ip=1 << 65))
    prstatus_note(X86_64, thread, True)
    auxv_note(X86_64, ((1 << 64, 1 << 70),))


def test_file_note_has_an_entry_per_named_mapping() -> None:
    image = make_image(
        vmas=(
            make_vma(0x1000, 1, pgoff=3, file=make_file(b"/a")),
            make_vma(0x2000, 1, file=make_file(None)),
            make_vma(0x3000, 2, file=make_file(b"/\xff (deleted)")),
            make_vma(0x9000, 1),
            make_vma(0xA000, 1, file=make_file(b"/no\0file's name")),
        )
    )
    desc = file_note(X86_64, image)
    assert struct.unpack_from("<8Q", desc) == (2, 4096, 0x1000, 0x2000, 3, 0x3000, 0x5000, 0)
    assert desc[64:] == b"/a\0/\xff (deleted)\0"
    assert struct.unpack_from("<8I", file_note(IA32, image)) == (2, 4096, 0x1000, 0x2000, 3, 0x3000, 0x5000, 0)
    elf_structs = ELFFile(io.BytesIO(b"\x7fELF\2\1\1" + bytes(9) + b"\4\0\x3e\0" + bytes(44))).structs
    parsed = elf_structs.Elf_Nt_File.parse(desc)
    assert [bytes(name) for name in parsed["filename"]] == [b"/a", b"/\xff (deleted)"]


def test_auxv_words() -> None:
    assert auxv_note(X86_64, ((3, 0x40), (0, 0))) == struct.pack("<4Q", 3, 0x40, 0, 0)
    assert auxv_note(IA32, ((3, 0x40), (0, 0))) == struct.pack("<4I", 3, 0x40, 0, 0)


def test_remarks_name_what_is_not_to_be_trusted() -> None:
    none = replace(make_regs(), source=RegisterSource.UNAVAILABLE)
    some = replace(make_regs(), unknown=frozenset(("r12", "bx")))
    image = make_image(
        threads=(
            make_thread(1, regs=none),
            make_thread(2, regs=some),
            make_thread(3, fpu=FpuState(bytes(2696), stale=True)),
            make_thread(4, fpu=None),
            make_thread(5),
        )
    )
    told = dict(remarks(image, X86_64))
    assert sorted(told) == [1, 2, 3, 4]
    assert "bx, r12" in told[2]
    assert "older" in told[3]


def test_gregs_have_27_names() -> None:
    assert len(GREGS) == 27
    assert (GREGS.index("ip"), GREGS.index("fs_base"), GREGS.index("gs")) == (16, 21, 26)
