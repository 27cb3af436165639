# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's counters of process memory."""

from functools import cached_property
from typing import NamedTuple

from drgn import Object, TypeKind
from drgn.helpers.linux.percpu import per_cpu_ptr

from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.kernelreads import kernel_bytes
from kgcore.sources.vmcore.task.tasks import Tasks

__all__ = ("Counters", "Usage")

_KINDS = "MM_FILEPAGES", "MM_ANONPAGES", "MM_SWAPENTS", "MM_SHMEMPAGES"
_CACHED = 1 << 12  # pages of per-CPU memory


class Usage(NamedTuple):
    """Memory of a process, in bytes.

    :ivar size: of all mappings.
    :ivar hugetlb: resident; not included in the others.
    """

    size: int
    file: int
    anon: int
    swap: int
    shmem: int
    hugetlb: int

    @property
    def rss(self) -> int:
        """Resident bytes, as of ``get_mm_rss()``."""
        return self.file + self.anon + self.shmem


class Counters:
    """Reads the counters of ``struct mm_struct``, plus what CPUs and threads have not added to them yet."""

    def __init__(self, kernel: Kernel, tasks: Tasks) -> None:
        self._kernel = kernel
        self._page_size = kernel.page_size
        self._tasks = tasks
        constant = kernel.target.constant
        self._kinds = [constant(name) for name in _KINDS]
        numbers = [number for number in self._kinds if number is not None]
        # A percpu_counter each since f1a7941243c1 "mm: convert mm's rss stats into percpu_counter" (6.2)
        self._per_cpu = kernel.prog.type("struct mm_struct").member("rss_stat").type.kind is TypeKind.ARRAY
        # Before that, with more than three possible CPUs, each thread keeps recent counts to itself.
        self._per_thread = kernel.target.has_member("struct task_struct", "rss_stat")
        if self._per_cpu:
            names = [name for kind in numbers for name in (f"rss_stat[{kind}].count", f"rss_stat[{kind}].counters")]
            # Without CONFIG_SMP, struct percpu_counter is the count alone (include/linux/percpu_counter.h).
            self._shares = kernel.target.has_member("struct percpu_counter", "counters")
        else:
            names = [f"rss_stat.count[{kind}].counter" for kind in numbers]
        self._mms = kernel.structs("struct mm_struct", "total_vm", "hugetlb_usage.counter", *names)
        self._threads = kernel.structs("struct task_struct", *(f"rss_stat.count[{kind}]" for kind in numbers))
        self._pages: dict[int, bytes] = {}

    def usage(self, task: int, mm: int, threads: int) -> Usage:
        """Return the memory of a process.

        :param task: address of a ``struct task_struct``
        :param mm: address of its ``struct mm_struct``, not 0
        :param threads: how many threads it has.
        :raises FaultError: the counters are not in the dump.
        """
        found = self._mms.read(mm)
        own = self._own(task, threads) if self._per_thread else []
        file, anon, swap, shmem = (
            # A counter may be negative for a moment, while another CPU or thread holds part of it.
            max(0, 0 if kind is None else self._count(found, kind, own)) * self._page_size
            for kind in self._kinds
        )
        huge = found.get("hugetlb_usage.counter", 0) * self._page_size
        return Usage(found["total_vm"] * self._page_size, file, anon, swap, shmem, max(0, huge))

    def _own(self, task: int, threads: int) -> list[Members]:
        if threads == 1:
            return [self._threads.read(task)]
        group, _ = self._tasks.threads(Object(self._kernel.prog, "struct task_struct *", task))
        return [self._threads.read(thread.value_()) for thread in group]

    def _count(self, mm: Members, kind: int, own: list[Members]) -> int:
        if not self._per_cpu:
            name = f"rss_stat.count[{kind}]"
            return sum((int(thread[name]) for thread in own), int(mm[f"{name}.counter"]))
        count = int(mm[f"rss_stat[{kind}].count"])
        if not self._shares:
            return count
        counters = mm[f"rss_stat[{kind}].counters"]
        return sum((self._s32(counters + offset) for offset in self._offsets), count)

    @cached_property
    def _offsets(self) -> tuple[int, ...]:
        """Return the offset from a per-CPU pointer to the memory of each CPU."""
        nowhere = Object(self._kernel.prog, "void *", 0)
        return tuple(int(per_cpu_ptr(nowhere, cpu).value_()) for cpu in self._kernel.cpus)

    def _s32(self, address: int) -> int:
        """Read a CPU's share of a counter; the shares of thousands of processes lie in the same few pages."""
        address &= (1 << 8 * self._kernel.word_size) - 1
        page_size = self._page_size
        page, at = address & -page_size, address % page_size
        data = self._pages.get(page)
        if data is None:
            if len(self._pages) >= _CACHED:
                self._pages.clear()
            data = self._pages[page] = kernel_bytes(self._kernel.prog, page, page_size)
        return int.from_bytes(data[at : at + 4], "little", signed=True)
