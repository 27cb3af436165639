# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hide the differences between kernel releases: one function per question, which tries the newest layout first.

Functions probe for layouts (does the member, type or symbol exist?), because distributions backport: the release
number decides nothing (tests/test_release.py).
:attr:`Kernel.machine` has the architecture-specific parts.
"""

import struct
from collections.abc import Callable
from contextlib import suppress
from functools import cache, cached_property, partial

from drgn import FaultError, Object, offsetof

from kgcore.model.process import CoreDialect
from kgcore.sources.vmcore.kernel.machine import machine_of
from kgcore.sources.vmcore.kernel.structs import Members, Structs
from kgcore.sources.vmcore.kernel.trees import is_radix
from kgcore.sources.vmcore.opening.target import Target

__all__ = ("Kernel",)

# include/linux/mm_types.h, include/linux/sched/coredump.h: MMF_DUMP_FILTER_SHIFT, and nine filter bits.
_MMF_DUMP_FILTER_SHIFT = 2
_MMF_DUMP_FILTER_MASK = 0x1FF
# Members of struct task_struct, of all releases together
_TASK = (
    "__state", "state", "blocked.sig[0]", "comm", "flags", "group_leader", "mm", "on_cpu", "pending.signal.sig[0]",
    "pid", "real_parent", "signal", "stack", "static_prio", "stime", "tgid", "pids[0].pid", "thread_pid", "utime",
)  # fmt: skip


class Kernel:
    """The kernel in the dump, with the differences between releases hidden.

    Cheap to make: each probe runs on first use, and only once.

    :ivar architecture: the kernel's.
    :ivar machine: the architecture-specific parts.
    :ivar word_size: bytes of a long, and of a pointer.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.prog = target.prog
        self.page_shift, self.page_size = target.page_shift, target.page_size  # PAGE_SHIFT, PAGE_SIZE
        self.architecture = target.architecture
        self.word_size = self.architecture.word_size
        self.machine = machine_of(self)
        # As with Target's probes, the cache belongs to this object.
        self.structs: Callable[..., Structs] = cache(partial(Structs, self.prog))

    def task(self, task: Object) -> Members:
        """Read the members of the task that a ``struct task_struct *`` points to."""
        return self._tasks.read(task.value_())

    @cached_property
    def _tasks(self) -> Structs:
        return self.structs("struct task_struct", *_TASK, *self.machine.task_members)

    def read_word(self, name: str) -> int | None:
        """Return the value of a global variable of an unsigned long's size; None if the kernel does not have it.

        :raises FaultError: it is not in the dump.
        """
        address = self.target.symbol_address(name)
        return None if address is None else int(self.prog.read_word(address))

    def word_at(self, raw: bytes, at: int) -> int:
        """Return the unsigned long at an offset of bytes that were read."""
        return int.from_bytes(raw[at : at + self.word_size], "little")

    def read_u64(self, name: str) -> int | None:
        """Return the value of a 64-bit global variable; None if the kernel does not have it.

        :raises FaultError: it is not in the dump.
        """
        address = self.target.symbol_address(name)
        return None if address is None else int(self.prog.read_u64(address))

    def read_u32(self, name: str) -> int | None:
        """Return the value of a 32-bit global variable, or the lower half of a 64-bit one; None as in read_u64()."""
        value = self.read_u64(name)
        return None if value is None else value & 0xFFFFFFFF

    @cached_property
    def smp(self) -> bool:
        """CONFIG_SMP: per-CPU memory of each CPU lies elsewhere (include/asm-generic/percpu.h)."""
        return self.target.symbol_address("__per_cpu_offset") is not None

    @cached_property
    def cpus(self) -> tuple[int, ...]:
        """The numbers of all possible CPUs.

        :raises FaultError: the mask of possible CPUs is not in the dump.
        """
        if not self.smp:
            return (0,)
        words = self.prog["__cpu_possible_mask"].bits.value_()
        width = 8 * self.word_size
        return tuple(word * width + bit for word, bits in enumerate(words) for bit in range(width) if bits >> bit & 1)

    # Tasks

    @cached_property
    def thread_size(self) -> int:
        """THREAD_SIZE: bytes of a kernel stack.

        The linker script gives the first task's stack exactly this size (INIT_TASK_DATA,
        include/asm-generic/vmlinux.lds.h); the symbols were renamed by
        8f69cba096b5 "x86: Rename __{start,end}_init_task to __{start,end}_init_stack" (6.10). So does its type
        (``union thread_union``, include/linux/sched.h), which BTF lacks.
        """
        sizes = []
        for name in ("init_stack", "init_task"):
            start, end = self.target.symbol_address(f"__start_{name}"), self.target.symbol_address(f"__end_{name}")
            if start is not None and end is not None:
                sizes.append(end - start)
        with suppress(LookupError):
            sizes.append(self.prog.type("union thread_union").size or 0)
        return next((size for size in sizes if self.page_size <= size <= 1 << 20), self.machine.usual_thread_size)

    @cached_property
    def thread_pid(self) -> str:
        """The member of ``struct task_struct`` with the task's ``struct pid *``.

        2c4704756cab "pids: Move the pgrp and session pid pointers from task_struct to signal_struct" (4.19)
        """
        new = self.target.has_member("struct task_struct", "thread_pid")
        return "thread_pid" if new else "pids[0].pid"  # PIDTYPE_PID

    def task_state(self, task: Members) -> int:
        """Return the task's state word.

        2f064a59a11f "sched: Change task_struct::state" (5.14) renamed it ``__state``.
        """
        new = self.target.has_member("struct task_struct", "__state")
        return int(task["__state" if new else "state"]) & 0xFFFFFFFF

    @cached_property
    def dumps_sharers(self) -> bool:
        """Whether cores also have the threads of *other* processes that share the ``mm_struct`` (vfork, CLONE_VM).

        True until 0258b5fd7c71 "coredump: Limit coredumps to a single thread group" (5.16); the same series moved
        ``core_state`` out of ``struct mm_struct``.
        """
        return self.target.has_member("struct mm_struct", "core_state")

    def dialect(self) -> CoreDialect:
        """Return how this kernel writes cores."""
        return self.machine.dialect()

    # Address spaces

    def dump_filter(self, mm: Object) -> int:
        """Return the process's ``coredump_filter``: bits 0 to 8."""
        return self.filter_of(self.mm_flags(mm))

    @staticmethod
    def filter_of(flags: int) -> int:
        """Return the ``coredump_filter`` in the value of ``mm->flags``."""
        return flags >> _MMF_DUMP_FILTER_SHIFT & _MMF_DUMP_FILTER_MASK

    def mm_flags(self, mm: Object) -> int:
        """Return ``mm->flags`` (MMF_*), which became a bitmap, ``mm_flags_t``, in 6.18."""
        flags = mm.flags
        if self.target.has_type("mm_flags_t"):
            flags = flags.member_("__mm_flags")[0]
        return int(flags.value_())

    def auxv(self, mm: Object, word_size: int) -> tuple[int, ...]:
        """Return ``mm->saved_auxv`` as words of the program: for a 32-bit program, two words share an unsigned long.

        RHEL 8.6 moved it to ``mm->mm_rh``, and called what stays in its place ``rh_reserved_saved_auxv``.
        """
        moved = self.target.has_member("struct mm_struct", "mm_rh") and self.target.has_member(
            "struct mm_struct_rh", "saved_auxv"
        )
        array = (mm.mm_rh if moved else mm).saved_auxv
        values = [int(value) for value in array.value_()]
        raw = struct.pack(f"<{len(values)}{'Q' if self.word_size == 8 else 'I'}", *values)
        return struct.unpack(f"<{len(raw) // word_size}{'Q' if word_size == 8 else 'I'}", raw)

    def anon_name(self, vma: Members) -> int:
        """Return the address of what a process called anonymous memory, as a string; 0: it has no such name.

        9a10064f5625 "mm: add a field to store names for private anonymous memory" (5.17) put a pointer in a union with
        what mappings of files have there; d09e8ca6cb93 "mm: anonymous shared memory naming" (6.2) took it out.

        :param vma: ``anon_name`` and ``vm_file`` of a ``struct vm_area_struct``.
        :raises FaultError: it is not in the dump.
        """
        if self._anon_names is None:
            return 0
        of_files, name = self._anon_names
        if vma["vm_file"] and not of_files:
            return 0
        return vma["anon_name"] + name if vma["anon_name"] else 0

    @cached_property
    def _anon_names(self) -> tuple[bool, int] | None:
        """Whether mappings of files have names, too, and the offset of a name; None: the kernel has none at all."""
        area = "struct vm_area_struct"
        # Android had it before: a pointer to user memory, and no such type.
        if not self.target.has_member(area, "anon_name") or not self.target.has_member("struct anon_vma_name", "name"):
            return None
        vma, name = self.prog.type(area), self.prog.type("struct anon_vma_name")
        shared = self.target.has_member(area, "shared") and offsetof(vma, "anon_name") == offsetof(vma, "shared")
        return not shared, offsetof(name, "name")

    # struct page

    @cached_property
    def page_struct_size(self) -> int:
        return self.prog.type("struct page").size or 64

    @cached_property
    def swap_cluster_slots(self) -> int:
        """SWAPFILE_CLUSTER, mm/swap.h: slots of swap space that one table describes (6.18)."""
        try:
            return (self.prog.type("struct swap_table").size or 0) // 8 or 512
        except LookupError:
            return 512  # with CONFIG_THP_SWAP

    @cached_property
    def swap_type_shift(self) -> int:
        """SWP_TYPE_SHIFT, include/linux/swapops.h: bits of a ``swp_entry_t`` that are offset; 5 bits of type follow.

        The kernel uses this format everywhere except in page tables; an xarray uses one bit of the word itself. Radix
        trees used two: 3159f943aafd "xarray: Replace exceptional entries" (4.20), in the same series as the xarray.
        """
        bits = 1
        with suppress(LookupError):  # without the type, nobody reads an entry in a tree
            bits = 2 if is_radix(self.prog, "struct address_space", "i_pages") else 1
        return 8 * self.word_size - bits - 5

    def swap_type(self, entry: int) -> int:
        """Return the number of a swap entry's swap space, as ``swp_type()`` does."""
        return entry >> self.swap_type_shift

    def swap_offset(self, entry: int) -> int:
        """Return a swap entry's offset in its swap space, as ``swp_offset()`` does."""
        return entry & (1 << self.swap_type_shift) - 1

    def page_flags(self, frame: int, count: int) -> tuple[int, ...]:
        """Return ``flags`` of each ``struct page`` of adjacent page frames.

        :raises FaultError: they are not in the dump.
        """
        size = self.page_struct_size
        raw = self.prog.read(self.machine.frame_to_page(frame), count * size)
        return tuple(self.word_at(raw, at) for at in range(0, len(raw), size))  # the first member

    def page_head(self, page: int) -> int:
        """Return the first ``struct page`` of the folio that a page belongs to, as ``compound_head()`` does.

        fc3f334ce2b9 "mm: rename the 'compound_head' field in the 'struct page' to 'compound_info'" (7.1): since its
        series the word may be a mask for the page's own address instead of a pointer.

        :param page: address of a ``struct page``.
        :raises FaultError: it is not in the dump.
        :raises LookupError: the kernel keeps the word elsewhere.
        """
        name = "compound_info" if self.target.has_member("struct page", "compound_info") else "compound_head"
        word = int(self.prog.read_word(page + offsetof(self.prog.type("struct page"), name)))
        if not word & 1:
            return page
        head = word - 1
        return head if head < page and self.machine.is_page(head) else page & word

    def page_words(self, page: int) -> tuple[int, int]:
        """Return ``flags`` and ``mapping`` of a ``struct page``.

        :raises FaultError: they are not in the dump.
        """
        mapping = offsetof(self.prog.type("struct page"), "mapping")
        return int(self.prog.read_word(page)), int(self.prog.read_word(page + mapping))

    @cached_property
    def zero_pages(self) -> tuple[tuple[int, int], ...]:
        """The shared zero pages, a small and a huge one: physical address and size of each, ascending.

        ``huge_zero_page`` was renamed ``huge_zero_folio`` by 5691753d73a2 "mm: convert huge_zero_page to
        huge_zero_folio" (6.10); ``huge_zero_pfn`` is in both.
        """
        found = []
        small = self.target.symbol_address("empty_zero_page")
        if small is not None:
            with suppress(FaultError):
                found.append((self.machine.kernel_image_to_phys(small), self.page_size))
        with suppress(FaultError):
            pfn = self.read_word("huge_zero_pfn")
            if pfn is not None and 0 < pfn < 1 << 40:
                mode = self.machine.paging_mode
                found.append((pfn << self.page_shift, 1 << mode.levels[-2].shift))
        return tuple(sorted(found))
