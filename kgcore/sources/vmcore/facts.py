# SPDX-License-Identifier: LGPL-2.1-or-later
"""Gather the facts for ``kgcore info``: what a dump is, what it holds, and what that means for cores."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeVar

from drgn import FaultError, Object
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.printk import get_dmesg

from kgcore.errors import KgcoreError
from kgcore.model.memory import Provenance
from kgcore.model.process import VM_READ, VM_WRITE, Vma
from kgcore.sources.vmcore.damage import DAMAGE, guarded
from kgcore.sources.vmcore.dumpfile import FrameState
from kgcore.sources.vmcore.dumpfile.frames import counted
from kgcore.sources.vmcore.dumpfile.levels import LEVEL_CACHE, LEVEL_USER_DATA, left_out
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.memory.backing import Backing, UserFiles
from kgcore.sources.vmcore.memory.pages import VmcoreMemory
from kgcore.sources.vmcore.memory.swapuse import SwapUse, read_swap, zswap_bytes
from kgcore.sources.vmcore.opening.target import Target
from kgcore.sources.vmcore.opening.whichkernel import KernelSeen
from kgcore.sources.vmcore.task.tasks import Tasks, is_kernel_thread
from kgcore.text import human_size

__all__ = ("DumpFacts", "UserMemory", "read_facts")

UserMemory = Literal["yes", "partly", "no", "unknown"]

_SAMPLE = 64  # processes to check

# kernel/panic.c; arch/x86/mm/fault.c; lib/bug.c; arch/x86/kernel/dumpstack.c
_PANICS = (
    rb"Kernel panic - .*",
    rb"BUG: (?:kernel NULL pointer dereference|unable to handle).*",
    rb"[Kk]ernel BUG at.*",
    rb"Oops: .*",
)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class DumpFacts:
    """The facts that ``kgcore info`` prints. None and "": the dump does not say.

    :ivar format: of the file (``ELF64``, ``kdump`` ...), or ``running guest``, ``running kernel``.
    :ivar compression: of the file's pages.
    :ivar level: makedumpfile's ``-d``.
    :ivar size: bytes of the files, including holes.
    :ivar stored: bytes of RAM whose contents are in the dump.
    :ivar excluded: bytes of RAM that were left out when the dump was made.
    :ivar cut_off: bytes of RAM that should be in the dump, but the file ends before them.
    :ivar missing_bytes: how many bytes the file is too short, at least.
    :ivar release: of the kernel.
    :ivar build: the kernel's version string (``#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1``).
    :ivar levels: of page tables: 4 or 5; on a 32-bit kernel 2, or 3 with PAE.
    :ivar crash_time: seconds since 1970; None if the kernel did not crash, or the dump does not say when.
    :ivar panic: the panic message; None: no panic.
    :ivar cpus: number of CPUs online.
    :ivar types: where types came from; symbols have the same source, or with BTF the kernel's kallsyms.
    :ivar user_memory: whether the memory of processes is in the dump.
    :ivar meaning: what this means for cores, in a sentence.
    :ivar notices: further remarks, as sentences.
    :ivar kernels: the kernels found in the dump's memory; empty if the header named the kernel and no search was done.
    :ivar swap: the swap spaces, and how much of all processes is in each; None: the dump does not say.
    :ivar zswap: bytes of swap that zswap holds in memory, uncompressed; None: no zswap, or the dump does not say.
    """

    format: str
    compression: str
    level: int | None
    size: int | None
    stored: int
    excluded: int
    cut_off: int
    missing_bytes: int
    release: str
    build: str
    architecture: str
    levels: int | None
    crash_time: int | None
    panic: str | None
    cpus: int | None
    types: str
    user_memory: UserMemory
    meaning: str
    notices: tuple[str, ...] = ()
    kernels: tuple[KernelSeen, ...] = ()
    swap: tuple[SwapUse, ...] | None = None
    zswap: int | None = None


@guarded("the dump cannot be described")
def read_facts(target: Target, files: tuple[str, ...] = ()) -> DumpFacts:
    """Return the facts of a dump; those of the kernel that cannot be read are None or "".

    :param files: the files of the dump.
    """
    kernel = Kernel(target)
    prog = target.prog
    dump = target.dump
    pages, page = _count(target), target.page_size
    level = dump.dump_level if dump else None
    user_memory: UserMemory = _soft(lambda: _user_memory(kernel), "unknown")
    if user_memory == "unknown" and level is not None and level & LEVEL_USER_DATA:
        user_memory = "no"
    panic = _soft(lambda: _panic_message(get_dmesg(prog)), None)
    time = target.vmcoreinfo.get("CRASHTIME", "")
    swap = _soft(lambda: read_swap(kernel), None)
    zswap = _soft(lambda: zswap_bytes(kernel), None)
    return DumpFacts(
        format=target.describe()["format"],
        compression=dump.compression if dump else "none",
        level=level,
        size=sum(os.stat(file).st_size for file in files) if files else None,
        stored=pages[FrameState.STORED] * page,
        excluded=pages[FrameState.EXCLUDED] * page,
        cut_off=pages[FrameState.CUT_OFF] * page,
        missing_bytes=dump.missing_bytes if dump else 0,
        release=target.release,
        build=_soft(lambda: _text(prog["init_uts_ns"].name.version), ""),
        architecture=kernel.architecture.name,
        levels=_soft(lambda: len(kernel.machine.paging_mode.levels), None),
        crash_time=int(time) if re.fullmatch("[0-9]{1,11}", time) else None,  # up to the year 5138
        panic=panic.decode(errors="backslashreplace") if panic else None,
        cpus=_soft(lambda: sum(1 for _ in for_each_online_cpu(prog)), None),
        types=target.types,
        user_memory=user_memory,
        meaning=_meaning(
            user_memory,
            level,
            bool(pages[FrameState.CUT_OFF]),
            _but_for(swap, zswap, live=target.live),
            live=target.live,
        ),
        notices=target.messages,
        kernels=target.kernels,
        swap=swap,
        zswap=zswap,
    )


def _soft(get: Callable[[], _T], default: _T) -> _T:
    """Return a fact, or the default if the dump is damaged there."""
    try:
        return get()
    except DAMAGE:
        return default


def _text(array: Object) -> str:
    return str(array.string_().decode(errors="backslashreplace"))


def _panic_message(log: bytes) -> bytes | None:
    """Return the kernel's crash message: the panic, else the fault that led to it. (drgn has this since 0.0.33.)"""
    for pattern in _PANICS:
        if found := re.search(pattern, log):
            return found.group()
    return None


def _count(target: Target) -> dict[FrameState, int]:
    """Count page frames by state; all 0 for a running machine, where the states are unknown."""
    return dict.fromkeys(FrameState, 0) if target.live else counted(target.frames)


def _user_memory(kernel: Kernel) -> UserMemory:
    """Tell whether user memory is in the dump: check the top page of the stack, which every process has written.

    A sample of processes is enough. Not every format has the dump level, and it does not tell what was cut off.
    """
    found = list(islice(_stack_pages(kernel), _SAMPLE))
    if not found:
        return "unknown"
    return "yes" if all(found) else "partly" if any(found) else "no"


def _stack_pages(kernel: Kernel) -> Iterator[bool]:
    """Yield for each process whether its stack's top page is in the dump; skip processes that have it in swap."""
    leaders, _ = Tasks(kernel).leaders()
    backing, page = Backing(kernel, UserFiles()), kernel.page_size
    for task in leaders:
        try:
            if is_kernel_thread(task) or not task.mm:
                continue
            start = task.mm.start_stack.value_() & -page
            memory = VmcoreMemory(backing, task.mm)
            vma = Vma(start, start + page, VM_READ | VM_WRITE, anon=True)
            provenance = next(iter(memory.runs(vma, start, start + page))).provenance
        except (FaultError, KgcoreError):
            continue
        if provenance in (Provenance.PRESENT, Provenance.EXCLUDED, Provenance.UNREADABLE):
            yield provenance is Provenance.PRESENT


def _but_for(swap: Sequence[SwapUse] | None, zswap: int | None, *, live: bool) -> str:
    """Return the sentence on what cores lack even if the dump has all memory."""
    if swap is None:
        return f"cores are complete, except for what {'is' if live else 'was'} swapped out"
    used = sum(space.used for space in swap)
    if not used:
        return "cores are complete: nothing was swapped out"
    elsewhere = [space for space in swap if space.used and space.kind != "zram"]
    outside = sum(space.used for space in elsewhere) - (zswap or 0)
    if outside <= 0:
        return f"cores are complete: the {human_size(used)} that were swapped out are in the dump (zram, zswap)"
    options = " ".join(f"--swap {space.name}=IMAGE" for space in elsewhere)
    return f"cores are complete, except for what was swapped out: at most {human_size(outside)} ({options})"


def _meaning(user_memory: UserMemory, level: int | None, cut_off: bool, but_for: str, *, live: bool) -> str:
    if live:
        return but_for
    if user_memory == "no" and not cut_off:
        made = left_out(level if level is not None and level & LEVEL_USER_DATA else None)
        return f"{made}: cores have threads, registers and the list of mappings, but hardly any memory"
    if user_memory == "unknown":
        return "no process has memory to check; the report of a core says what it lacks"
    if user_memory != "yes" or cut_off:
        return "some memory of processes is missing: cores list what they lack"
    if level is not None and level & LEVEL_CACHE:
        return f"{left_out(level)}: cores have all other memory, and list these pages as missing"
    return but_for
