# SPDX-License-Identifier: LGPL-2.1-or-later
"""The best oracle that is always at hand: cores that this machine's own kernel writes, and their way back into values.

What is read here is read with ``struct`` and the numbers of include/uapi/linux/elf.h, apart from kgcore's own packers.
"""

import resource
import shutil
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from kgcore.arch.x86.x86_64 import GREGS
from kgcore.filters.base import Keep, Peek
from kgcore.model.memory import Provenance
from kgcore.model.process import (
    CoreDialect,
    FpuState,
    MappedFile,
    ProcessImage,
    PsInfo,
    RegisterNote,
    RegisterSet,
    RegisterSource,
    TaskIds,
    TaskTimes,
    Thread,
    Vma,
    XsaveLayout,
)
from tests.builders import PAGE, FakeMemory

VICTIM = r"""
#include <immintrin.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static __thread int mine = 7;
static pthread_barrier_t barrier;

static void deepest(void) { raise(SIGSEGV); }
static void deeper(void) { deepest(); }

static void *thread(void *arg)
{
	mine = 8;
	pthread_barrier_wait(&barrier);
	for (;;)
		pause();
	return arg;
}

int main(void)
{
	pthread_t id;
	char *page = mmap(0, 5 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(page + 4096, 'x', 4096);
	mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, 0);
	pthread_barrier_init(&barrier, 0, 2);
	pthread_create(&id, 0, thread, 0);
	pthread_barrier_wait(&barrier);
	usleep(100000);
	__asm__ volatile("pcmpeqd %%xmm7, %%xmm7" ::: "xmm7");
	deeper();
	return 0;
}
"""


class KernelCore(NamedTuple):
    path: Path
    program: Path


def make_kernel_core(directory: Path) -> KernelCore:
    """Have a process crash and the kernel write its core; skip if it does not do so here."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if pattern.startswith("|") or "/" in pattern:
        pytest.skip(f"cores go elsewhere on this machine: core_pattern is {pattern!r}")
    source, program = directory / "victim.c", directory / "victim"
    source.write_text(VICTIM)
    subprocess.run(["gcc", "-g", "-O0", "-pthread", "-o", program, source], check=True)

    def unlimited() -> None:
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    subprocess.run([program, "--one", "two words"], cwd=directory, preexec_fn=unlimited, check=False)
    cores = sorted(directory.glob("core*"))
    if not cores:
        pytest.skip("the kernel wrote no core here")
    return KernelCore(cores[0], program)


NT_PRSTATUS = 1
_OF_THE_PROCESS = {3, 6, 0x46494C45, 0x53494749, 0x205}  # PRPSINFO, AUXV, FILE, SIGINFO, X86_XSAVE_LAYOUT


class RecordedFilter(NamedTuple):
    """Keeps what the kernel kept."""

    lengths: Mapping[int, int]

    def __call__(self, vma: Vma, peek: Peek) -> Keep:
        return Keep(self.lengths[vma.start], "as the kernel")

    def describe(self) -> Mapping[str, int | bool | str]:
        return {"name": "recorded"}


class Parsed(NamedTuple):
    image: ProcessImage
    memory: FakeMemory
    keep: RecordedFilter
    without_signal: bytes  # the core itself, less what the signal left in it


def parse_core(path: Path) -> Parsed:
    """A 64-bit core of a kernel since 6.12 as the process that it is of."""
    core = bytearray(path.read_bytes())
    headers = _headers(core)
    loads = [header for header in headers if header[0] == 1]
    note_header = next(header for header in headers if header[0] == 4)

    notes = _notes(core)
    desc = {kind: bytes(core[offset : offset + size]) for _, kind, offset, size in notes}

    for _, kind, offset, _ in notes:
        if kind == 1:  # si_signo and pr_cursig; what zap_process() made pending
            core[offset : offset + 4] = bytes(4)
            core[offset + 12 : offset + 14] = bytes(2)
        elif kind == 0x53494749:
            core[offset : offset + 128] = bytes(128)

    files = _files(desc[0x46494C45])
    vmas = tuple(_vma(load, files) for load in loads)
    layout_desc = desc[0x205]
    components = [struct.unpack_from("<4I", layout_desc, at) for at in range(0, len(layout_desc), 16)]
    layout = XsaveLayout(
        user_size=len(desc[0x202]),
        user_features=struct.unpack_from("<Q", desc[0x202], 464)[0],
        offsets={i: offset for i, _, offset, _ in components},
        sizes={i: size for i, size, _, _ in components},
    )
    auxv = [struct.unpack_from("<QQ", desc[6], at) for at in range(0, len(desc[6]), 16)]
    image = ProcessImage(
        tgid=struct.unpack_from("<i", desc[3], 24)[0],
        arch="x86_64",
        page_size=struct.unpack_from("<Q", desc[0x46494C45], 8)[0],
        threads=_threads(core, notes),
        psinfo=_psinfo(desc[3]),
        vmas=vmas,
        auxv=tuple(auxv),
        dump_filter=0x33,
        dialect=CoreDialect(note_align=note_header[7]),
        xsave=layout,
    )
    memory = FakeMemory(
        content={load[3]: bytes(core[load[2] : load[2] + load[5]]) for load in loads if load[5]},
        piece=16 * PAGE,
    )
    return Parsed(image, memory, RecordedFilter({load[3]: load[5] for load in loads}), bytes(core))


def with_ready_notes(parsed: Parsed) -> Parsed:
    """The same with each thread's register sets as the notes that the kernel made, and nothing that they could be made
    of."""
    core = parsed.without_signal
    threads: list[Thread] = []
    for owner, kind, at, size in _notes(core):
        if kind == NT_PRSTATUS:
            threads.append(replace(parsed.image.threads[len(threads)], fpu=None, ioperm=None, shstk=False))
        elif kind not in _OF_THE_PROCESS:
            note = RegisterNote(kind, owner, core[at : at + size])
            threads[-1] = replace(threads[-1], regsets=(*threads[-1].regsets, note))
    return parsed._replace(image=replace(parsed.image, threads=tuple(threads)))


def missing_page(parsed: Parsed, address: int) -> Parsed:
    """The same with a page missing."""
    page = address & ~(PAGE - 1)
    memory = FakeMemory(
        {(page, page + PAGE): (Provenance.SWAPPED, "swap 0")}, parsed.memory.content, piece=parsed.memory.piece
    )
    return parsed._replace(memory=memory)


def _headers(core: bytes | bytearray) -> list[tuple[int, ...]]:
    phnum = struct.unpack_from("<H", core, 56)[0]
    return [struct.unpack_from("<IIQQQQQQ", core, 64 + 56 * index) for index in range(phnum)]


def _notes(core: bytes | bytearray) -> list[tuple[bytes, int, int, int]]:
    """(owner, type, offset of desc, size)"""
    notes = []
    header = next(header for header in _headers(core) if header[0] == 4)
    at, end = header[2], header[2] + header[5]
    while at < end:
        namesz, descsz, kind = struct.unpack_from("<III", core, at)
        desc_at = at + 12 + (namesz + 3 & ~3)
        notes.append((bytes(core[at + 12 : at + 11 + namesz]), kind, desc_at, descsz))
        at = desc_at + (descsz + 3 & ~3)
    return notes


def _files(desc: bytes) -> dict[int, tuple[int, bytes]]:
    count = struct.unpack_from("<Q", desc)[0]
    names = desc[16 + 24 * count :].split(b"\0")
    rows = [struct.unpack_from("<QQQ", desc, 16 + 24 * index) for index in range(count)]
    return {start: (pgoff, name) for (start, _, pgoff), name in zip(rows, names, strict=False)}


def _vma(load: tuple[int, ...], files: dict[int, tuple[int, bytes]]) -> Vma:
    p_flags, start, memsz = load[1], load[3], load[6]
    pgoff, name = files.get(start, (0, None))
    flags = (1 if p_flags & 4 else 0) | (2 if p_flags & 2 else 0) | (4 if p_flags & 1 else 0)
    return Vma(
        start, start + memsz, flags, pgoff=pgoff, file=MappedFile(name, 1, 0o100755, 0) if name is not None else None
    )


def _threads(core: bytearray, notes: list[tuple[bytes, int, int, int]]) -> tuple[Thread, ...]:
    threads: list[Thread] = []
    for _, kind, at, size in notes:
        if kind == 1:
            sigpend, sighold, pid, ppid, pgrp, sid, *times = struct.unpack_from("<QQ4i8Q", core, at + 16)
            pairs = [sec * 10**9 + usec * 1000 for sec, usec in zip(times[::2], times[1::2], strict=True)]
            values = dict(zip(GREGS, struct.unpack_from("<27Q", core, at + 112), strict=True))
            thread = Thread(
                task=0,
                tid=pid,
                comm=b"",
                state=0,
                flags=0,
                ids=TaskIds(pid, ppid, pgrp, sid),
                times=TaskTimes(*pairs),
                sigpend=sigpend,
                sighold=sighold,
                regs=RegisterSet(values, RegisterSource.ENTRY_FRAME),
            )
            threads.append(thread)
        elif kind == 0x202:
            image = bytes(core[at : at + size])
            layout_pkru = struct.unpack_from("<I", image, 2688)[0] if len(image) >= 2692 else None
            threads[-1] = replace(threads[-1], fpu=FpuState(image, pkru=layout_pkru))
    return tuple(threads)


def _psinfo(desc: bytes) -> PsInfo:
    state, _, _, nice, flags, uid, gid, pid, ppid, pgrp, sid = struct.unpack_from("<BBBb4xQII4i", desc)
    return PsInfo(
        state=1 << (state - 1) if state else 0,
        nice=nice,
        flags=flags,
        uid=uid,
        gid=gid,
        ids=TaskIds(pid, ppid, pgrp, sid),
        comm=desc[40:56].rstrip(b"\0"),
        psargs=desc[56:136].rstrip(b"\0"),
    )
