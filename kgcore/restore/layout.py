# SPDX-License-Identifier: LGPL-2.1-or-later
"""Give the half-made process its memory: the mappings of the core in the place of its own, and their bytes."""

import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress

from kgcore.elf.headers import EHDR, PHDR64
from kgcore.elf.layout import PT_LOAD
from kgcore.errors import NotRestarted
from kgcore.model.process import (
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_HUGEPAGE,
    VM_LOCKED,
    VM_MAYSHARE,
    VM_MERGEABLE,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_RAND_READ,
    VM_READ,
    VM_SEQ_READ,
    VM_WIPEONFORK,
    VM_WRITE,
)
from kgcore.ptrace import injection
from kgcore.ptrace.injection import Convention
from kgcore.restore.control import PAGE, SCRATCH, Control
from kgcore.restore.corefile import FinishedCore
from kgcore.restore.here import special_mappings
from kgcore.restore.mapped import Area
from kgcore.restore.objects import Objects
from kgcore.restore.plan import Plan
from kgcore.restore.vdso import of_calls
from kgcore.sources.live.procfs import mappings, read
from kgcore.system.regular import read_at

__all__ = ("lay_out", "take_away")

_PIECE = 1 << 20
_PROT = ((VM_READ, mmap.PROT_READ), (VM_WRITE, mmap.PROT_WRITE), (VM_EXEC, mmap.PROT_EXEC))
_MAP_FIXED_NOREPLACE, _MAP_GROWSDOWN, _MAP_NORESERVE = 0x100000, 0x100, 0x4000
_MREMAP = 3  # MREMAP_MAYMOVE | MREMAP_FIXED
# include/uapi/asm-generic/mman-common.h
_ADVICE = {
    VM_RAND_READ: 1,
    VM_SEQ_READ: 2,
    VM_DONTCOPY: 10,
    VM_MERGEABLE: 12,
    VM_HUGEPAGE: 14,
    VM_NOHUGEPAGE: 15,
    VM_DONTDUMP: 16,
    VM_WIPEONFORK: 18,
}
_OPTIONAL = VM_MERGEABLE | VM_HUGEPAGE | VM_NOHUGEPAGE  # a kernel may have been built without
_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
_MM_MAP = struct.Struct("=12QII")  # struct prctl_mm_map
_NO_FILE = 0xFFFFFFFF
_PF_X = 1
_AT_NULL, _AT_ENTRY, _AT_SYSINFO_EHDR, _AT_EXECFN = 0, 9, 33, 31
_MOST_WORDS = 1 << 18  # of argv or envp
_LOWEST = 1 << 16


def lay_out(control: Control, convention: Convention, plan: Plan, core: FinishedCore, objects: Objects) -> None:
    """Take the half-made process's mappings away, and give it those of the core.

    Where the core's vdso stays, the running kernel's is left in a place of its own: who looks for one finds it.

    :raises NotRestarted: that failed.
    :raises OSError: the core cannot be read.
    """
    pid = control.stub.pid
    vdso = special_mappings(pid)
    group = (vdso[0].start, vdso[-1].end) if vdso else (0, 0)
    size = PAGE + SCRATCH + PAGE + group[1] - group[0]
    hole = _hole(plan, pid, size, control.how.top)
    where = injection.site([pid], convention)
    control.stub.use(where.instruction)
    _trampoline(control, convention, hole)
    aside = hole + PAGE + SCRATCH + PAGE
    for one in vdso:
        control.call("keep the vdso", "mremap", one.start, one.end - one.start, one.end - one.start, _MREMAP,
                     aside + one.start - group[0])  # fmt: skip
    control.call("take its memory away", "munmap", 0, hole)
    control.call("take its memory away", "munmap", hole + size, control.how.top - hole - size)
    for area in plan.memory.areas:
        _map(control, area, objects)
    for area in plan.memory.areas:
        if area.write:
            _fill(control, area, core, objects)
    for area in plan.memory.areas:
        _advise(control, area)
    if plan.vdso == "moved":
        shift = plan.vdso_at - next(aside + one.start - group[0] for one in vdso if one.name == b"[vdso]")
        for one in vdso:
            at, length = aside + one.start - group[0], one.end - one.start
            control.call("place the vdso", "mremap", at, length, length, _MREMAP, at + shift)
    elif plan.vdso == "calls":
        _keep_vdso(control, plan, core)
    _set_bounds(control, plan, core, objects)


def _keep_vdso(control: Control, plan: Plan, core: FinishedCore) -> None:
    """Put the core's vdso where it was, with system calls for functions."""
    start = plan.need.words[_AT_SYSINFO_EHDR]
    one = next(one for one in plan.memory.special if one.start == start)
    content = core.read(start, one.end - start) or b""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED_NOREPLACE
    control.call("keep its vdso", "mmap", start, one.end - start, mmap.PROT_READ | mmap.PROT_EXEC, flags, -1, 0)
    control.write(start, of_calls(plan.need.view, content))


def take_away(control: Control) -> None:
    """Take the memory of the injected calls away: the last call."""
    control.call("take the last of its own memory away", "munmap", control.scratch - PAGE, PAGE + SCRATCH)


def _hole(plan: Plan, pid: int, size: int, top: int) -> int:
    """Return an address where neither the process nor the core has memory, far from both."""
    used = [(line.start, line.end) for line in mappings(read(f"/proc/{pid}/maps"))]
    used += [(one.start, one.end) for one in plan.need.mappings]
    best, at = (0, 0), _LOWEST
    for start, end in (*sorted(used), (top, top)):
        if start - at > best[1] - best[0]:
            best = at, min(start, top)
        at = max(at, end)
    if best[1] - best[0] < 2 * size:
        raise NotRestarted("cannot restart it: its memory leaves no room for what restarts it")
    return (best[0] + (best[1] - best[0] - size) // 2) & -PAGE


def _trampoline(control: Control, convention: Convention, hole: int) -> None:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED_NOREPLACE
    step = "have memory for system calls"
    control.call(step, "mmap", hole, PAGE, mmap.PROT_READ | mmap.PROT_EXEC, flags, -1, 0)
    control.call(step, "mmap", hole + PAGE, SCRATCH, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    control.write(hole, bytes.fromhex(convention.instruction))
    control.stub.use(hole)
    control.scratch = hole + PAGE


# Mappings


def _map(control: Control, area: Area, objects: Objects) -> None:
    one = area.mapped
    prot = sum(there for here, there in _PROT if one.flags & here)
    flags = _MAP_FIXED_NOREPLACE | (mmap.MAP_SHARED if one.flags & VM_MAYSHARE else mmap.MAP_PRIVATE)
    flags |= _MAP_GROWSDOWN if one.flags & VM_GROWSDOWN else 0
    flags |= _MAP_NORESERVE if one.flags & VM_NORESERVE else 0
    descriptor = -1
    if area.kind == "anonymous":
        flags |= mmap.MAP_ANONYMOUS
    else:
        descriptor = (objects.files if area.kind == "file" else objects.objects)[area.number]
    step = f"map {one.start:#x}-{one.end:#x}"
    found = control.call(step, "mmap", one.start, one.end - one.start, prot, flags, descriptor, one.offset)
    if found != one.start:
        raise NotRestarted(f"cannot restart it: {step}: it came to {found:#x}")


def _advise(control: Control, area: Area) -> None:
    one = area.mapped
    step = f"advise on {one.start:#x}-{one.end:#x}"
    for flag, advice in _ADVICE.items():
        if one.flags & flag:
            result = control.attempt(step, "madvise", one.start, one.end - one.start, advice)
            if result < 0 and not flag & _OPTIONAL:
                raise NotRestarted(f"cannot restart it: {step}: madvise: {os.strerror(-result)}")
    if one.flags & VM_LOCKED:
        control.call(step, "mlock2", one.start, one.end - one.start, 0)


def _fill(control: Control, area: Area, core: FinishedCore, objects: Objects) -> None:
    """Write the bytes that a mapping has not by itself."""
    one = area.mapped
    descriptor = objects.files[area.number] if area.kind == "file" else -1
    for start, end in core.stored(one.start, one.end):
        for at in range(start, end, _PIECE):
            size = min(_PIECE, end - at)
            data = core.read(at, size)
            if data is None:
                raise NotRestarted(f"cannot restart it: the core cannot be read at {at:#x}")
            if descriptor < 0:
                there = bytes(size)
            else:
                there = read_at(descriptor, size, one.offset + at - one.start).ljust(size, b"\0")
            for first, last in _differing(data, there):
                control.write(at + first, data[first:last])


def _differing(one: bytes, other: bytes) -> Iterator[tuple[int, int]]:
    """Yield runs of pages that are not the same."""
    if one == other:
        return
    start = -1
    for page in range(0, len(one), PAGE):
        if one[page : page + PAGE] != other[page : page + PAGE]:
            start = page if start < 0 else start
        elif start >= 0:
            yield start, page
            start = -1
    if start >= 0:
        yield start, len(one)


# What the kernel knows of the layout


def _set_bounds(control: Control, plan: Plan, core: FinishedCore, objects: Objects) -> None:
    """Tell the kernel where heap, arguments and the like are (PR_SET_MM_MAP)."""
    need, state = plan.need, plan.need.state
    auxv = b"".join(struct.pack("=2Q", *pair) for pair in need.auxv)
    code = _code(objects.files[plan.memory.program], need.words.get(_AT_ENTRY, 0))
    stack = _stack(core, plan, auxv)
    where = control.give(auxv, at=_MM_MAP.size + 8)
    words = (*code, state.start_brk or 0, state.brk or 0, *stack, where)
    content = _MM_MAP.pack(*words, len(auxv), _NO_FILE)
    address = control.give(content)
    control.call("tell where its heap is", "prctl", _PR_SET_MM, _PR_SET_MM_MAP, address, _MM_MAP.size, 0)


def _code(program: int, entry: int) -> tuple[int, int, int, int]:
    """Return where the program's code begins and ends, and its data, as load_elf_binary() counts them."""
    raw = read_at(program, EHDR[64].size, 0)
    header = EHDR[64].unpack(raw)
    table = read_at(program, min(header.e_phnum, 256) * PHDR64.size, header.e_phoff)
    bias = entry - header.e_entry
    loads = [one for one in PHDR64.unpack_all(table) if one.p_type == PT_LOAD]
    code = [one for one in loads if one.p_flags & _PF_X]
    if not code:
        raise NotRestarted("cannot restart it: the program has no code")
    return (
        min(one.p_vaddr for one in code) + bias,
        max(one.p_vaddr + one.p_filesz for one in code) + bias,
        max(one.p_vaddr for one in loads) + bias,
        max(one.p_vaddr + one.p_filesz for one in loads) + bias,
    )


def _stack(core: FinishedCore, plan: Plan, auxv: bytes) -> tuple[int, int, int, int, int]:
    """Return where its stack began, and its arguments and environment: they stand below the auxiliary vector.

    A program that has written there has lost them: then all are where its stack ends.
    """
    need = plan.need
    name = need.words.get(_AT_EXECFN, 0)
    stack = need.mapping_at(name)
    if stack is None:
        raise NotRestarted("cannot restart it: its stack is not known")
    lost = (stack.end - 8,) * 5
    start = max(stack.start, stack.end - (8 << 20))
    first = next((first for first, last in core.stored(start, stack.end) if last == stack.end), stack.end)
    data = core.read(first, stack.end - first) or b""
    at = data.rfind(auxv)
    if at < 0:
        return lost
    with suppress(ValueError, IndexError, struct.error):
        env_at, environment = _words_before(data, at)
        arg_at, arguments = _words_before(data, env_at)
        (count,) = struct.unpack_from("<Q", data, arg_at - 8)
        begin = arguments[0]
        middle = environment[0] if environment else name
        if count == len(arguments) and begin < middle <= name:
            return first + arg_at - 8, begin, middle, middle, name
    return lost


def _words_before(data: bytes, end: int) -> tuple[int, Sequence[int]]:
    """Return where an array of pointers begins that ends with a null one before a place, and the pointers."""
    if data[end - 8 : end] != bytes(8):
        raise ValueError("it does not end with a null pointer")
    at = end - 8
    found: list[int] = []
    while len(found) < _MOST_WORDS:
        (word,) = struct.unpack_from("<Q", data, at - 8)
        if word < _LOWEST:  # a null pointer, or the number of arguments
            break
        found.append(word)
        at -= 8
    return at, found[::-1]
