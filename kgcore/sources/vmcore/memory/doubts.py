# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether an empty page-table entry still proves that its page was never touched.

It does if the address space is whole and nobody was changing it. The OOM reaper frees a process's pages while its
threads wait to exit; khugepaged removes a whole page table for a moment; to rewrite an entry, the kernel clears it
first. The pages behind these entries look as if they were never touched, but they are missing, not zeros.

Only private pages are in doubt. Pages of files and shared memory are in the page cache, with any page-table entry.
"""

from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from typing import NamedTuple

from drgn import FaultError, Object, Type, TypeKind, offsetof

from kgcore.errors import BrokenDump
from kgcore.model.process import VM_HUGETLB, VM_SHARED, Vma
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.structs import Structs
from kgcore.sources.vmcore.task import registers
from kgcore.sources.vmcore.task.tasks import comm, is_kernel_thread

__all__ = ("CHANGING", "Doubts")

CHANGING = "the kernel was changing the page table"
_HUGE_PAGE = 1 << 21
_END = 1 << 64
# The same in 4.9 to 7.2, include/linux/sched/coredump.h and, since 6.18, mm_types.h.
_MMF_OOM_SKIP = 1 << 21
_MMF_UNSTABLE = 1 << 22
# kernel/locking/rwsem.c: RWSEM_READER_OWNED, and with it the flags below the owner's address
_READER_OWNED = 1
_OWNER_FLAGS = 7
_HAS_WAITERS = 1  # kernel/locking/rtmutex_common.h: RT_MUTEX_HAS_WAITERS
# Members of spinlock_t, each with the flags in it; the second with CONFIG_PREEMPT_RT, where a task owns it
_LOCKS = {"rlock.raw_lock.val.counter": 0, "lock.owner": _HAS_WAITERS}
_MADV_COLLAPSE = 25


class _Doubt(NamedTuple):
    """Addresses whose empty entries prove nothing, and why."""

    start: int
    end: int
    why: str


class Doubts:
    """Reasons to doubt the empty page-table entries of one address space."""

    def __init__(self, kernel: Kernel, mm: Object) -> None:
        """
        :param mm: ``struct mm_struct *``
        """
        self._kernel = kernel
        self._mm = mm
        self._locked: dict[int, bool] = {}

    @property
    def sentence(self) -> str:
        """Return what is wrong with the address space as a whole; "" if nothing is."""
        if self._reaped:
            return f"{self._reaped}: empty page-table entries may have held data"
        return f"{self._exiting}: empty page-table entries may have held data" if self._exiting else ""

    def concern(self, vma: Vma) -> bool:
        """Tell whether a mapping may have had private pages: with the first one, the kernel sets ``anon_vma``."""
        return not vma.flags & VM_SHARED and (vma.anon or bool(self._exiting))

    def split(self, vma: Vma, address: int, length: int) -> Iterator[tuple[int, int, str]]:
        """Split a range of empty entries into (start, end, why they prove nothing); "" where they do prove it."""
        at, end = address, address + length
        for low, high, why in self._ranges(vma):
            low, high = min(max(at, low), end), min(max(at, high), end)
            if low < high:
                if at < low:
                    yield at, low, ""
                yield low, high, why
                at = high
        if at < end:
            yield at, end, ""

    def _ranges(self, vma: Vma) -> tuple[_Doubt, ...]:
        """Return the doubtful ranges of a mapping, disjoint and ascending."""
        if not self.concern(vma):
            return ()
        if self._exiting:
            return (_Doubt(0, _END, self._exiting),)
        if self._reaped and not vma.flags & VM_HUGETLB:  # __oom_reap_task_mm() leaves those alone
            return (_Doubt(0, _END, self._reaped),)
        return (self._writer,) if self._writer is not None else ()

    # The address space as a whole

    @cached_property
    def _exiting(self) -> str:
        """Return why the address space is doubtful if it was being torn down, else "".

        When no user is left, exit_mmap() unmaps everything and on its way clears ``anon_vma``, too.
        """
        with suppress(LookupError, AttributeError, FaultError):
            if int(self._mm.mm_users.counter.value_()) <= 0:
                return "the address space was being torn down"
        return ""

    @cached_property
    def _reaped(self) -> str:
        """Return why the address space is doubtful if its memory may have been reaped, else "".

        __oom_reap_task_mm(), mm/oom_kill.c, reaps it for the OOM reaper and process_mrelease(); a failed dup_mmap()
        (6.12) sets the same flags. MMF_OOM_SKIP alone says that the OOM killer skips it; usually it was reaped.
        """
        with suppress(LookupError, AttributeError):
            try:
                flags = self._kernel.mm_flags(self._mm)
            except FaultError:
                return "the dump does not say whether the OOM reaper took its memory"
            if flags & (_MMF_UNSTABLE | _MMF_OOM_SKIP):
                return "the OOM reaper or process_mrelease() was taking the memory of this process"
        return ""

    # Who holds mmap_lock for writing

    @cached_property
    def _writer(self) -> _Doubt | None:
        """Return the doubt that a writer of the address space casts, if there was one."""
        try:
            owner = self._owner
        except (LookupError, AttributeError, FaultError):
            return None
        if not owner:
            return None
        task = Object(self._kernel.prog, "struct task_struct *", owner & ~_OWNER_FLAGS)
        try:
            return self._changed_by(task)
        except (FaultError, BrokenDump, LookupError, AttributeError, KeyError):
            return _Doubt(0, _END, "an unknown thread was changing the address space")

    @property
    def _owner(self) -> int:
        """The address of the task that holds mmap_lock for writing, with flags below it; 0: none.

        :raises LookupError, AttributeError, FaultError: it is not known.
        """
        has = self._kernel.target.has_member
        # da1c55f1b272 "mmap locking API: rename mmap_sem to mmap_lock" (5.8)
        lock = self._mm.mmap_lock if has("struct mm_struct", "mmap_lock") else self._mm.mmap_sem
        if not has("struct rw_semaphore", "owner"):
            # CONFIG_PREEMPT_RT: a writer holds a mutex (kernel/locking/rwbase_rt.c), in a struct rwbase_rt since
            # 943f0edb754f "locking/rt: Add base code for RT rw_semaphore and rwlock" (5.15). So does a reader for a
            # moment, when it has to wait.
            mutex = lock.rwbase.rtmutex if has("struct rw_semaphore", "rwbase") else lock.rtmutex
            return int(mutex.owner.value_()) & _END - 1 & ~_HAS_WAITERS
        holder = lock.owner
        # 94a9717b3c40 "locking/rwsem: Make rwsem->owner an atomic_long_t" (5.3)
        pointer = holder.type_.kind is TypeKind.POINTER
        owner = int((holder if pointer else holder.counter).value_()) & _END - 1
        # A writer clears the word when it is done; a reader leaves it.
        return 0 if owner & _READER_OWNED else owner

    def _changed_by(self, task: Object) -> _Doubt | None:
        """Return the doubt that this writer casts.

        :param task: ``struct task_struct *``, the thread that holds mmap_lock for writing.
        :raises FaultError, BrokenDump, LookupError, AttributeError: what it was doing is unknown.
        """
        kernel_thread = is_kernel_thread(task)
        name = comm(task).decode(errors="replace")
        if kernel_thread and name == "khugepaged":
            # collapse_huge_page(), mm/khugepaged.c: takes the page table away, copies the pages, and maps the copy.
            at = int(self._kernel.prog["khugepaged_scan"].address.value_()) & -_HUGE_PAGE
            return _Doubt(at, at + _HUGE_PAGE, "khugepaged was moving it")
        anything = _Doubt(0, _END, f"{name} ({int(task.pid.value_())}) was changing the address space")
        if kernel_thread or task.mm.value_() != self._mm.value_():
            return anything  # dup_mmap() holds the new one's, too
        found = self._kernel.task(task)
        values = registers.user_registers(self._kernel, found, int(found["pid"]), None).registers.values
        width = self._kernel.machine.system_call_width(task, values)
        calls = self._kernel.architecture.system_calls[width]
        none = (1 << 8 * width) - 1
        number = values[calls.number] & none & ~calls.ignored
        if number == none & ~calls.ignored or number in calls.quiet:
            return None  # no system call but a fault: the stack grew
        if number == calls.madvise:
            start, length, advice = (values[name] for name in calls.arguments[:3])
            if advice != _MADV_COLLAPSE:
                return None
            return anything._replace(start=start & -_HUGE_PAGE, end=start + length)
        return anything

    # Who holds a page table's own lock

    def changing(self, table: int) -> bool:
        """Tell whether the kernel was writing to a page table of one of the two lowest levels.

        The kernel clears and rewrites entries under the table's lock (``ptlock_ptr()``, include/linux/mm.h): to move or
        swap pages (try_to_migrate_one(), try_to_unmap_one(), mm/rmap.c), to copy them (wp_page_copy(), mm/memory.c),
        or to change their protection (change_pte_range(), mm/mprotect.c). Kernels for fewer than four CPUs do not have
        this lock; the answer is then no.

        :param table: its physical address.
        """
        known = self._locked.get(table)
        if known is None:
            known = False
            with suppress(FaultError, LookupError, AttributeError):
                page = self._kernel.machine.frame_to_page(table >> self._kernel.page_shift)
                known = self._is_locked(page)
            self._locked[table] = known
        return known

    def _is_locked(self, page: int) -> bool:
        """Tell whether the lock of a page table is taken.

        :param page: address of its ``struct page``.
        :raises LookupError, FaultError: the kernel has no locks, or this one is not in the dump.
        """
        holders, locks = self._locks
        lock = page + self._ptl[1] if holders is None else int(holders.read(page)["ptl"])
        if not lock:
            return False
        found = locks.read(lock)
        return any(int(found[name]) & ~flags for name, flags in _LOCKS.items() if name in found)

    @cached_property
    def _ptl(self) -> tuple[str, int, Type]:
        """The structure that has the member ``ptl``, its offset there, and its type.

        :raises LookupError: the kernel has no such locks.
        """
        # 7e5f42ae4a93 "mm: create ptdesc equivalents for pgtable_{pte,pmd}_page_{ctor,dtor}" (6.6) and its series
        name = "struct ptdesc" if self._kernel.target.has_type("struct ptdesc") else "struct page"
        kind = self._kernel.prog.type(name)
        return name, offsetof(kind, "ptl"), Object(self._kernel.prog, name, address=0).ptl.type_

    @cached_property
    def _locks(self) -> tuple[Structs | None, Structs]:
        """Return the reader of pointers to page-table locks, and that of the locks.

        A lock that is larger than a long is apart (ALLOC_SPLIT_PTLOCKS, include/linux/mm_types_task.h): with lock
        debugging, and with CONFIG_PREEMPT_RT.

        :raises LookupError, FaultError: the kernel has no locks.
        """
        name, _, kind = self._ptl
        apart = kind.kind is TypeKind.POINTER
        lock = kind.type if apart else kind
        return self._kernel.structs(name, "ptl") if apart else None, self._kernel.structs(lock.type_name(), *_LOCKS)
