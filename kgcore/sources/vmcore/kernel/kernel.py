# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where x86 kernels differ from release to release: one function per question, the newest layout first.

Layouts are probed (does the member, type or symbol exist?), since distributions backport; the few things that types
and symbols do not hold (numbers of thread flags, padding of a program header) go by the release, and say so.
"""

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, cached_property, partial

from drgn import FaultError, Object, offsetof

from kgcore.arch import Architecture
from kgcore.arch.paging import PagingMode
from kgcore.arch.x86.kernels import X86_64_KERNEL, x86_64_task
from kgcore.arch.x86.paging import X86_64_4LEVEL, X86_64_5LEVEL
from kgcore.errors import BrokenDump
from kgcore.model.process import CoreDialect, XsaveLayout
from kgcore.sources.vmcore.kernel.structs import Members, Structs
from kgcore.sources.vmcore.kernelreads import kernel_bytes
from kgcore.sources.vmcore.opening.target import Target
from kgcore.sources.vmcore.opening.translation import KernelMemory, encryption_bit

__all__ = ("Kernel",)

# include/linux/sched.h; the same in all releases.
PF_KTHREAD = 0x00200000

_NT_X86_XSTATE = 0x202
_USER_CS = 0x33  # arch/x86/include/asm/segment.h
_MM_CONTEXT_HAS_VSYSCALL = 1 << 1
# include/linux/mm_types.h, include/linux/sched/coredump.h: MMF_DUMP_FILTER_SHIFT, and nine filter bits.
_MMF_DUMP_FILTER_SHIFT = 2
_MMF_DUMP_FILTER_MASK = 0x1FF
# No XSAVE area comes near this; AMX's is 11 KiB (arch/x86/kernel/fpu/xstate.c).
_MAX_XSAVE = 1 << 16
# Of struct task_struct, all releases' and both kernels' together
_TASK = (
    "__state", "state", "blocked.sig[0]", "comm", "flags", "group_leader", "mm", "on_cpu", "pending.signal.sig[0]",
    "pid", "real_parent", "signal", "stack", "static_prio", "stime", "tgid", "thread.ds", "thread.es",
    "thread.features", "thread.fpu.fpstate", "thread.fs", "thread.fsbase", "thread.fsindex", "thread.gs",
    "thread.gsbase", "thread.gsindex", "thread.io_bitmap", "thread.io_bitmap_ptr", "thread.pkru", "thread.tls_array",
    "thread_info.flags", "thread_pid", "utime",
)  # fmt: skip


class Kernel:
    """The crashed kernel's answers. Cheap to make: each probe happens when first asked for, once."""

    architecture: Architecture = X86_64_KERNEL
    _min_fpu = 512  # bytes of FXSAVE's image
    # struct user_regset of what ptrace() shows: arch/x86/kernel/ptrace.c
    _regsets = "x86_64_regsets"

    def __init__(self, target: Target) -> None:
        self.target = target
        self.prog = target.prog
        self.page_shift, self.page_size = target.page_shift, target.page_size  # PAGE_SHIFT, PAGE_SIZE
        # As Target's probes: a cache of this object's own
        self.structs: Callable[..., Structs] = cache(partial(Structs, self.prog))

    @property
    def word_size(self) -> int:
        """Bytes of a long, and of a pointer."""
        return self.architecture.word_size

    def task(self, task: Object) -> Members:
        """What a ``struct task_struct *`` points to."""
        return self._tasks.read(task.value_())

    @cached_property
    def _tasks(self) -> Structs:
        return self.structs("struct task_struct", *_TASK)

    @cached_property
    def version(self) -> tuple[int, int]:
        """Release as two numbers; for what cannot be probed. (0, 0) if the release is not to be understood."""
        match = re.match(r"(\d+)\.(\d+)", self.target.release)
        return (int(match[1]), int(match[2])) if match else (0, 0)

    def read_word(self, name: str) -> int | None:
        """A global variable of an unsigned long's size; None if the kernel has none of that name.

        :raises FaultError: it is not in the dump.
        """
        address = self.target.symbol_address(name)
        return None if address is None else int(self.prog.read_word(address))

    def word_at(self, raw: bytes, at: int) -> int:
        """An unsigned long in memory that was read."""
        return int.from_bytes(raw[at : at + self.word_size], "little")

    def read_u64(self, name: str) -> int | None:
        """A 64-bit global variable; None if the kernel has none of that name.

        :raises FaultError: it is not in the dump.
        """
        address = self.target.symbol_address(name)
        return None if address is None else int(self.prog.read_u64(address))

    @cached_property
    def cpus(self) -> tuple[int, ...]:
        """The numbers of all CPUs there may be.

        :raises FaultError: the mask of them is not in the dump.
        """
        words = self.prog["__cpu_possible_mask"].bits.value_()
        width = 8 * self.word_size
        return tuple(word * width + bit for word, bits in enumerate(words) for bit in range(width) if bits >> bit & 1)

    # Tasks

    @cached_property
    def thread_size(self) -> int:
        """THREAD_SIZE: bytes of a kernel stack.

        The linker script gives the first task's stack just that size (INIT_TASK_DATA,
        include/asm-generic/vmlinux.lds.h); the symbols were renamed by
        8f69cba096b5 "x86: Rename __{start,end}_init_task to __{start,end}_init_stack" (6.10).
        """
        for name in ("init_stack", "init_task"):
            start, end = self.target.symbol_address(f"__start_{name}"), self.target.symbol_address(f"__end_{name}")
            if start is not None and end is not None and 0 < end - start <= 1 << 20:
                return end - start
        return 16384  # without KASAN, which makes it 32 KiB

    @cached_property
    def pt_regs_padding(self) -> int:
        """TOP_OF_KERNEL_STACK_PADDING: bytes above ``struct pt_regs`` on a kernel stack.

        65c9cc9e2c14 "x86/fred: Reserve space for the FRED stack frame" (6.9): 16 with CONFIG_X86_FRED. ``struct
        pt_regs`` has the new members with and without that option, so the option's own code is what to look for.
        """
        return 16 if self.target.symbol_address("fred_entry_from_user") is not None else 0

    def task_state(self, task: Members) -> int:
        """The task's state word.

        2f064a59a11f "sched: Change task_struct::state" (5.14) made it ``__state``.
        """
        new = self.target.has_member("struct task_struct", "__state")
        return int(task["__state" if new else "state"]) & 0xFFFFFFFF

    @cached_property
    def dumps_sharers(self) -> bool:
        """Cores also have the threads of *other* processes that share the ``mm_struct`` (vfork, CLONE_VM).

        Until 0258b5fd7c71 "coredump: Limit coredumps to a single thread group" (5.16); the same series moved
        ``core_state`` out of ``struct mm_struct``.
        """
        return self.target.has_member("struct mm_struct", "core_state")

    def need_fpu_load(self, task: Members) -> bool:
        """TIF_NEED_FPU_LOAD: the FPU registers of a running task are saved in memory, not live in its CPU.

        Bit 14 from 5f409e20b794 "x86/fpu: Defer FPU state load until return to userspace" (5.2) on; bit 19 since
        da3f033a9fbf "x86: Use generic TIF bits" (6.18). They are macros, so the release has to tell.
        """
        bit = 19 if self.version >= (6, 18) else 14
        return bool(task["thread_info.flags"] >> bit & 1)

    def forced_tf(self, task: Members) -> bool:
        """TIF_FORCED_TF (arch/x86/include/asm/thread_info.h: bit 24 in 4.9 to 7.2)."""
        return bool(task["thread_info.flags"] >> 24 & 1)

    @cached_property
    def fsgsbase(self) -> bool:
        """X86_FEATURE_FSGSBASE: user space may set FS and GS bases itself, so the stored ones always count.

        Word 9, bit 0 of ``boot_cpu_data.x86_capability`` (arch/x86/include/asm/cpufeatures.h).
        """
        try:
            return bool(self.prog["boot_cpu_data"].x86_capability[9].value_() & 1)
        except (FaultError, LookupError):
            return True  # 5.9 and later on every CPU since 2012

    @cached_property
    def lazy_gs(self) -> bool:
        """Of a 32-bit kernel: see there."""
        return False

    def shadow_stack(self, task: Members) -> bool:
        """ARCH_SHSTK_SHSTK of ``thread.features``.

        Since 2d39a6add422 "x86/shstk: Add user-mode shadow stack support" (6.6).
        """
        if not self.target.has_member("struct thread_struct", "features"):
            return False
        return bool(task["thread.features"] & 1)

    def io_bitmap(self, task: Members) -> bytes | None:
        """The I/O permission bitmap (1 = denied), 8192 bytes; None if the task has none.

        In a ``struct io_bitmap`` since 5.5 (arch/x86/include/asm/io_bitmap.h).
        """
        if not self.target.has_member("struct thread_struct", "io_bitmap"):
            old = task["thread.io_bitmap_ptr"]
            return kernel_bytes(self.prog, old, 8192) if old else None
        if not task["thread.io_bitmap"]:
            return None
        bitmap = Object(self.prog, "struct io_bitmap *", task["thread.io_bitmap"])
        return kernel_bytes(self.prog, bitmap.bitmap.address_of_().value_(), 8192) if bitmap.max else None

    # Floating point

    def fpu_image(self, task: Members) -> bytes:
        """The saved ``union fpregs_state`` of a user task, whole.

        :raises FaultError: it is not in the dump.
        :raises BrokenDump: its size is absurd.
        """
        if self.target.has_member("struct fpu", "fpstate"):
            # 87d0e5be0fac "x86/fpu: Provide struct fpstate" (5.16)
            if self.target.has_member("struct thread_struct", "fpu"):
                state = task["thread.fpu.fpstate"]
            else:
                # cb7ca40a3882 "x86/fpu: Make task_struct::thread constant size" (6.16): struct fpu is behind the task.
                state = self.structs("struct fpu", "fpstate").read(task.address + self._task_size)["fpstate"]
            length = self.structs("struct fpstate", "size").read(state)["size"]
            state += self._fpstate_regs
        else:
            state = task.address + self._fpu_state
            length = self._read_u32("fpu_kernel_xstate_size") or 512
        if not self._min_fpu <= length <= _MAX_XSAVE:
            raise BrokenDump(f"FPU state of {length} bytes", address=task.address)
        return kernel_bytes(self.prog, state, length)

    @cached_property
    def _task_size(self) -> int:
        return self.prog.type("struct task_struct").size or 0

    @cached_property
    def _fpstate_regs(self) -> int:
        return int(offsetof(self.prog.type("struct fpstate"), "regs"))

    @cached_property
    def _fpu_state(self) -> int:
        return int(offsetof(self.prog.type("struct task_struct"), "thread.fpu.state"))

    def _read_u32(self, name: str) -> int | None:
        value = self.read_u64(name)
        return None if value is None else value & 0xFFFFFFFF

    def xsave_layout(self) -> XsaveLayout | None:
        """What the kernel found out about this machine's XSAVE area; None if the CPU has no XSAVE.

        :raises FaultError: that is not in the dump.
        """
        words = self._xstate_regset_words()
        if not words:
            return None
        if words * 8 > _MAX_XSAVE:
            raise BrokenDump(f"NT_X86_XSTATE of {words * 8} bytes")
        count = self.target.constant("XFEATURE_MAX") or 11
        offsets = self._u32_array("xstate_offsets", count)
        sizes = self._u32_array("xstate_sizes", count)
        flags = self._u32_array("xstate_flags", count)
        known = {
            number
            for number in range(2, count)
            if 576 <= offsets[number] < words * 8 and 0 < sizes[number] <= words * 8 - offsets[number]
        }
        return XsaveLayout(
            user_size=words * 8,
            # update_regset_xstate_info() keeps the mask of user features in this array (regset.c, xstate.c).
            user_features=self.read_u64("xstate_fx_sw_bytes") or 0,
            offsets={number: offsets[number] for number in sorted(known)},
            sizes={number: sizes[number] for number in sorted(known)},
            aligned=frozenset(self._aligned(flags, count)),
            init_image=self._init_image(words * 8),
        )

    def _xstate_regset_words(self) -> int:
        """``n`` of the NT_X86_XSTATE row of the regsets (arch/x86/kernel/ptrace.c); 0 without XSAVE."""
        address = self.target.symbol_address(self._regsets)
        if address is None:
            return 0
        table = Object(self.prog, "struct user_regset *", address)
        for row in range(5):
            if table[row].core_note_type.value_() == _NT_X86_XSTATE:
                return int(table[row].n.value_())
        return 0

    def _u32_array(self, name: str, count: int) -> list[int]:
        address = self.target.symbol_address(name)
        if address is None:
            return [0] * count
        raw = self.prog.read(address, 4 * count)
        return [int.from_bytes(raw[at : at + 4], "little") for at in range(0, len(raw), 4)]

    def _aligned(self, flags: list[int], count: int) -> Iterator[int]:
        """Features that the compacted format aligns to 64 bytes.

        ``xstate_flags`` (bit 1: CPUID.0xD ECX[1]) is in 6.1 and later; kernels before hold the compacted offsets
        instead, from which the alignment follows (arch/x86/kernel/fpu/xstate.c).
        """
        if self.target.symbol_address("xstate_flags") is not None:
            yield from (number for number in range(2, count) if flags[number] & 2)
            return
        offsets = self._u32_array("xstate_comp_offsets", count)
        sizes = self._u32_array("xstate_sizes", count)
        end = 576
        for number in range(2, count):
            if not 576 <= offsets[number] <= _MAX_XSAVE:
                continue
            if offsets[number] != end:
                yield number
            end = offsets[number] + sizes[number]

    def _init_image(self, size: int) -> bytes:
        """``init_fpstate``: the state of a component that was never used."""
        address = self.target.symbol_address("init_fpstate")
        if address is None:
            return b""
        if self.target.has_type("struct fpstate"):
            address = Object(self.prog, "struct fpstate *", address).regs.address_of_().value_()
        try:
            return bytes(self.prog.read(address, size))
        except FaultError:
            return b""

    def dialect(self) -> CoreDialect:
        """How this kernel writes its own cores."""
        return CoreDialect(
            # 60592fb6b67c "coredump, vmcore: Set p_align to 4 for PT_NOTE" (6.5) leaves nothing to probe.
            note_align=4 if self.version >= (6, 5) else 0,
            # eb6f51723f03 "x86/fpu: Make copy_xstate_to_kernel() usable for [x]fpregs_get()" (5.14)
            raw_fpregs=self.target.symbol_address("copy_xstate_to_uabi_buf") is None,
            # ba386777a30b "x86/elf: Add a new FPU buffer layout info to x86 core files" (6.12)
            xsave_layout=self.target.symbol_address("elf_coredump_extra_notes_write") is not None,
        )

    # Programs

    def arch(self, mm: Object, cs: int) -> str:
        """Which of :data:`kgcore.arch.ARCHES` the kernel would write a core for.

        :param cs: code segment of the dumping thread.
        """
        compat = self.compat_program(mm)
        # Without a code segment that can be, the program's usual one
        return x86_64_task(32 if compat else 64, self.long_mode(cs) if cs & 3 == 3 else not compat)

    def compat_program(self, mm: Object) -> bool:
        """Whether it is a 32-bit program, ia32 or x32: of the ELF class that its cores have, too.

        ``mm->binfmt`` writes the core (do_coredump(), fs/coredump.c), and fs/compat_binfmt_elf.c is binfmt_elf.c once
        more for such programs.
        """
        handler = mm.binfmt.value_()
        formats = {self.target.symbol_address(name): name for name in ("elf_format", "compat_elf_format")}
        if handler and handler in formats:
            return formats[handler] == "compat_elf_format"
        # The end of the address space, as TIF_ADDR32 had it at exec()
        return 0 < int(mm.task_size.value_()) < 1 << 32

    def long_mode(self, cs: int) -> bool:
        """``user_64bit_mode()`` (arch/x86/include/asm/ptrace.h): a user's code segment is a 64-bit one."""
        return cs in (_USER_CS, self._other_user_cs)

    @cached_property
    def _other_user_cs(self) -> int:
        """The one that Xen gives its paravirtualised guests (CONFIG_PARAVIRT_XXL)."""
        address = self.target.symbol_address("pv_info")
        if address is None or not self.target.has_member("struct pv_info", "extra_user_64bit_cs"):
            return _USER_CS
        try:
            return int(Object(self.prog, "struct pv_info *", address).extra_user_64bit_cs.value_())
        except FaultError:
            return _USER_CS

    # Address spaces

    def dump_filter(self, mm: Object) -> int:
        """The process's ``coredump_filter``: bits 0 to 8."""
        return self.filter_of(self.mm_flags(mm))

    @staticmethod
    def filter_of(flags: int) -> int:
        """The same, of flags that were read."""
        return flags >> _MMF_DUMP_FILTER_SHIFT & _MMF_DUMP_FILTER_MASK

    def mm_flags(self, mm: Object) -> int:
        """MMF_*; ``mm->flags`` became a bitmap, ``mm_flags_t``, in 6.18."""
        flags = mm.flags
        if self.target.has_type("mm_flags_t"):
            flags = flags.member_("__mm_flags")[0]
        return int(flags.value_())

    def gate_vma(self, mm: Object) -> Object | None:
        """The VMA that every 64-bit process has beyond its own: ``[vsyscall]``; None if this one has not.

        ``get_gate_vma()``, arch/x86/entry/vsyscall/vsyscall_64.c.
        """
        address = self.target.symbol_address("gate_vma")
        if address is None:
            return None
        context = mm.context
        if self.target.has_member("mm_context_t", "flags"):
            # Since 5.11 (arch/x86/include/asm/mmu.h)
            if not context.flags.value_() & _MM_CONTEXT_HAS_VSYSCALL:
                return None
        elif context.ia32_compat.value_():
            return None
        # An unnamed enum {EMULATE, XONLY, NONE} since bd49e16e3339 "x86/vsyscall: Add a new vsyscall=xonly mode"
        # (5.3), without XONLY before.
        mode = self._read_u32("vsyscall_mode")
        if mode is not None and mode == self._vsyscall_none():
            return None
        return Object(self.prog, "struct vm_area_struct *", address)

    def _vsyscall_none(self) -> int:
        try:
            enumerators = self.prog["vsyscall_mode"].type_.enumerators
        except (LookupError, AttributeError, TypeError):
            enumerators = None
        for enumerator in enumerators or ():
            if enumerator.name == "NONE":
                return int(enumerator.value)
        return 2 if self.version >= (5, 3) else 1  # BTF has no types of variables

    @cached_property
    def user_end(self) -> int:
        """TASK_SIZE_MAX: no mapping of a process goes beyond (arch/x86/include/asm/page_64_types.h)."""
        return (1 << (56 if self.five_level else 47)) - self.page_size

    def auxv(self, mm: Object, word_size: int) -> tuple[int, ...]:
        """``mm->saved_auxv`` as words of the program: two share an unsigned long if it is a 32-bit one.

        RHEL 8.6 moved it to ``mm->mm_rh``.
        """
        array = mm.saved_auxv
        if self.target.has_member("struct mm_struct", "mm_rh") and self.target.has_member(
            "struct mm_struct_rh", "saved_auxv"
        ):
            array = mm.mm_rh.saved_auxv
        values = [int(value) for value in array.value_()]
        raw = struct.pack(f"<{len(values)}{'Q' if self.word_size == 8 else 'I'}", *values)
        return struct.unpack(f"<{len(raw) // word_size}{'Q' if word_size == 8 else 'I'}", raw)

    def root_table(self, mm: Object) -> int:
        """Physical address of the process's top page table (``mm->pgd``)."""
        return self.direct_map_to_phys(mm.pgd.value_())

    def direct_map_to_phys(self, address: int) -> int:
        """Physical address of memory in the kernel's direct map.

        ``page_offset_base`` holds where KASLR put the map (021182e52fe0, 4.8); without it the map lies at its
        classic place.

        :raises BrokenDump: the address is not in the direct map.
        """
        base = self.page_offset
        if not base <= address < base + (1 << 52):
            raise BrokenDump(f"{address:#x} is not in the kernel's direct map", address=address)
        return address - base

    @cached_property
    def page_offset(self) -> int:
        fallback = 0xFF11000000000000 if self.five_level else 0xFFFF888000000000
        return self.read_u64("page_offset_base") or fallback

    @cached_property
    def paging_mode(self) -> PagingMode:
        """How the tables of processes are to be walked."""
        return X86_64_5LEVEL if self.five_level else X86_64_4LEVEL

    @cached_property
    def five_level(self) -> bool:
        """Whether page tables have five levels: NUMBER(pgtable_l5_enabled) of VMCOREINFO."""
        return self.target.vmcoreinfo.get("NUMBER(pgtable_l5_enabled)", "0").strip() == "1"

    @cached_property
    def encryption_mask(self) -> int:
        """``sme_me_mask``: the page-table bit of encrypted memory (AMD); 0 without.

        Not in VMCOREINFO before 5.1, where what opened the dump has found it out, or the kernel's variable has it.
        """
        if memory := KernelMemory.of(self.prog):
            return memory.translation.encryption
        number = encryption_bit(self.target.vmcoreinfo)
        with suppress(FaultError):
            number = self.read_u64("sme_me_mask") if number is None else number
        return (number or 0) & (1 << 52) - 1

    # struct page

    @cached_property
    def vmemmap(self) -> int:
        fallback = 0xFFD4000000000000 if self.five_level else 0xFFFFEA0000000000
        return self.read_u64("vmemmap_base") or fallback

    @cached_property
    def page_struct_size(self) -> int:
        return self.prog.type("struct page").size or 64

    def page_to_phys(self, page: int) -> int:
        """Physical address of the memory that a ``struct page`` (or folio) at that address describes."""
        return (page - self.vmemmap) // self.page_struct_size << self.page_shift

    def frame_to_page(self, frame: int) -> int:
        """Address of the ``struct page`` of a page frame."""
        return self.vmemmap + frame * self.page_struct_size

    def is_page(self, page: int) -> bool:
        """Whether there may be a ``struct page`` at an address."""
        return page >= self.vmemmap

    @cached_property
    def swap_cluster_slots(self) -> int:
        """SWAPFILE_CLUSTER, mm/swap.h: slots of swap space that one table describes (6.18)."""
        try:
            return (self.prog.type("struct swap_table").size or 0) // 8 or 512
        except LookupError:
            return 512  # with CONFIG_THP_SWAP

    @property
    def swap_type_shift(self) -> int:
        """SWP_TYPE_SHIFT, include/linux/swapops.h: what of a ``swp_entry_t`` is offset, below the 5 bits of type.

        This is how the kernel keeps them everywhere but in page tables; an xarray takes one bit from a word.
        """
        return 8 * self.word_size - 1 - 5

    def swap_type(self, entry: int) -> int:
        """``swp_type()``: the number of the swap space."""
        return entry >> self.swap_type_shift

    def swap_offset(self, entry: int) -> int:
        """``swp_offset()``."""
        return entry & (1 << self.swap_type_shift) - 1

    def page_flags(self, frame: int, count: int) -> tuple[int, ...]:
        """``flags`` of the ``struct page`` of adjacent page frames.

        :raises FaultError: they are not in the dump.
        """
        size = self.page_struct_size
        raw = self.prog.read(self.frame_to_page(frame), count * size)
        return tuple(self.word_at(raw, at) for at in range(0, len(raw), size))  # the first member

    @cached_property
    def zero_pages(self) -> tuple[tuple[int, int], ...]:
        """The shared pages of zeros, 4 KiB and 2 MiB: physical address and size, ascending.

        ``huge_zero_page`` was renamed ``huge_zero_folio`` by 5691753d73a2 "mm: convert huge_zero_page to
        huge_zero_folio" (6.10); ``huge_zero_pfn`` is in both.
        """
        found = []
        small = self.target.symbol_address("empty_zero_page")
        if small is not None:
            with suppress(FaultError):
                found.append((self.kernel_image_to_phys(small), self.page_size))
        with suppress(FaultError):
            pfn = self.read_word("huge_zero_pfn")
            if pfn is not None and 0 < pfn < 1 << 40:
                found.append((pfn << self.page_shift, 1 << 21))
        return tuple(sorted(found))

    def kernel_image_to_phys(self, address: int) -> int:
        """Physical address of the kernel's own text or data (``__START_KERNEL_map`` + ``phys_base``)."""
        base = self.target.constant("phys_base")  # VMCOREINFO has it
        if base is None:
            base = self.read_u64("phys_base") or 0
        return address - 0xFFFFFFFF80000000 + base & (1 << 64) - 1
