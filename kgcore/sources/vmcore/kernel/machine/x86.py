# SPDX-License-Identifier: LGPL-2.1-or-later
"""What 32-bit and 64-bit x86 kernels have in common.

Code here probes for layouts (does the member, type or symbol exist?), the newest first, because distributions
backport. What types and symbols do not show (numbers of thread flags), the kernel's instructions do
(:mod:`kgcore.sources.vmcore.kernel.machine.x86code`).
"""

from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property, reduce
from itertools import islice
from operator import and_
from typing import ClassVar

from drgn import FaultError, Object, offsetof
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.percpu import per_cpu

from kgcore.arch.cpunotes import CpuRegisters, named_words
from kgcore.arch.x86.memorymap import MAX_PHYSICAL
from kgcore.model.process import CoreDialect, FpuState, XsaveLayout
from kgcore.model.siginfo import Fault
from kgcore.sources.vmcore.kernel.machine.base import PF_KTHREAD, Machine
from kgcore.sources.vmcore.kernel.machine.x86code import cleared_bit, function, stored_words, tested_bit
from kgcore.sources.vmcore.kernel.machine.x86fpu import X86Fpu
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.kernelreads import kernel_bytes

__all__ = ("X86", "descriptor_base")

_GDT_TLS_ENTRIES = 3  # arch/x86/include/asm/segment.h
_X86_TRAP_PF = 14
_CR3_FLAGS = 0x1FFF
_SAMPLE, _MANY = 16, 1024  # tasks that are looked at, and passed by
_ALWAYS_SET, _MOST_FLAGS = 1 << 1, (1 << 22) - 1  # X86_EFLAGS_FIXED; X86_EFLAGS_ID is the topmost
_P_ALIGN = {8: 48, 4: 28}  # offset in an Elf64_Phdr and an Elf32_Phdr
_ELF_MAGIC = b"\x7fELF"


class X86(Machine):
    """An x86 kernel, 32-bit or 64-bit."""

    task_members = (
        "thread.ds", "thread.es", "thread.features", "thread.fpu.fpstate", "thread.fs", "thread.fsbase",
        "thread.fsindex", "thread.gs", "thread.gsbase", "thread.gsindex", "thread.io_bitmap", "thread.io_bitmap_ptr",
        "thread.pkru", "thread.tls_array", "thread_info.flags",
    )  # fmt: skip
    fault_members = ("thread.cr2", "thread.error_code", "thread.trap_nr")
    usual_thread_size = 16384  # without KASAN, which makes it 32 KiB
    _tls_min: ClassVar[int]  # GDT_ENTRY_TLS_MIN
    _regsets: ClassVar[str]  # variable with the struct user_regset of ptrace(): arch/x86/kernel/ptrace.c
    _min_fpu: ClassVar[int]  # bytes of the smallest FPU image
    _entry_stacks: ClassVar[range]  # addresses of all CPUs' stacks on which interrupts of user mode begin

    # Registers of threads

    @cached_property
    def fpu(self) -> X86Fpu:
        return X86Fpu(self._kernel, self._regsets, self._min_fpu)

    def fpu_state(self, task: Members, cpu: int | None) -> FpuState:
        pkru = None
        if self._target.has_member("struct thread_struct", "pkru"):
            # 954436989cc5 "x86/fpu: Remove PKRU handling from switch_fpu_finish()" (5.14) and its series
            pkru = task["thread.pkru"]
        stale = cpu is not None and not self.need_fpu_load(task)
        return FpuState(self.fpu.image(task), stale, pkru)

    def xsave_layout(self) -> XsaveLayout | None:
        return self.fpu.xsave_layout()

    def need_fpu_load(self, task: Members) -> bool:
        """Tell whether the FPU registers of a running task are sure to be in memory, not live in its CPU."""
        bit = self._fpu_load_bit
        return bit is not None and bool(task["thread_info.flags"] >> bit & 1)

    @cached_property
    def _fpu_load_bit(self) -> int | None:
        """The number of TIF_NEED_FPU_LOAD, if it is certain.

        Bit 14 since 5f409e20b794 "x86/fpu: Defer FPU state load until return to userspace" (5.2); bit 19 since
        da3f033a9fbf "x86: Use generic TIF bits" (6.18). switch_fpu_return() clears it, and nothing else
        (fpregs_restore_userregs(), arch/x86/kernel/fpu/context.h). Kernel threads have it from their first moment on,
        and never return to user mode; of the thread flags, they usually have no other.
        """
        name, common = "switch_fpu_return", self._kernel_threads_flags
        if self._target.symbol_address(name) is None:
            return None
        code = function(self._target, name)
        if not code:  # not in the dump
            return common.bit_length() - 1 if common and common & common - 1 == 0 else None
        bit = cleared_bit(code, self._flags_at)
        return bit if bit is not None and common >> bit & 1 else None

    @property
    def _flags_at(self) -> int:
        return int(offsetof(self._prog.type("struct task_struct"), "thread_info.flags"))

    @cached_property
    def _kernel_threads_flags(self) -> int:
        """The thread flags that the first few kernel threads all have; 0: unknown."""
        try:
            flags = [int(task.thread_info.flags) for task in self._some_tasks(_SAMPLE) if int(task.flags) & PF_KTHREAD]
        except (FaultError, LookupError, AttributeError):
            return 0
        return reduce(and_, flags) if flags else 0

    def _some_tasks(self, most: int) -> Iterator[Object]:
        """Yield the leaders of the first few processes, and kernel threads.

        :raises FaultError, LookupError, AttributeError: the list of tasks cannot be read.
        """
        first = self._prog["init_task"].tasks.address_of_()
        yield from islice(list_for_each_entry("struct task_struct", first, "tasks"), most)

    @cached_property
    def entry_frames_fit(self) -> bool:
        found: list[bool] = []
        blank = False
        with suppress(FaultError, LookupError, AttributeError):
            for task in self._some_tasks(_MANY):
                if not int(task.flags) & PF_KTHREAD and task.mm:
                    with suppress(FaultError):  # some stacks are not in the dump
                        fits = self._from_user_mode(int(task.stack))
                        if fits is None:
                            blank = True
                        else:
                            found.append(fits)
                if len(found) == _SAMPLE:
                    break
        return 2 * sum(found) >= len(found) and (any(found) or not blank)

    def _from_user_mode(self, stack: int) -> bool | None:
        """Tell whether a kernel stack has a ``struct pt_regs`` of user mode at its end; None: it has zeros there, which
        in raw memory may stand for a page that the dump lacks."""
        names = self.architecture.entry_frame
        size = self._kernel.word_size * len(names)
        at = stack + self._kernel.thread_size - self.pt_regs_padding - size
        data = kernel_bytes(self._prog, at, size)
        if not any(data):
            return None
        raw = named_words(names, self._kernel.word_size, data)
        values = self.architecture.notes.cleaned(raw)
        return (
            self.architecture.notes.user_mode(values)
            and values["ss"] & 3 == 3
            and bool(values["flags"] & _ALWAYS_SET)
            and values["flags"] <= _MOST_FLAGS
            and values["ip"] < self.user_end
        )

    def forced_tf(self, task: Members) -> bool:
        """Tell whether a debugger set the trap flag (TIF_FORCED_TF)."""
        return bool(task["thread_info.flags"] >> self._forced_tf_bit & 1)

    @cached_property
    def _forced_tf_bit(self) -> int:
        """The number of TIF_FORCED_TF, which user_disable_single_step() tests and clears (arch/x86/kernel/step.c).

        arch/x86/include/asm/thread_info.h: bit 24 in 4.9 to 7.3.
        """
        bit = tested_bit(function(self._target, "user_disable_single_step")) if self._flags_at == 0 else None
        return 24 if bit is None else bit

    def shadow_stack(self, task: Members) -> bool:
        """Tell whether the thread has a user-mode shadow stack: ARCH_SHSTK_SHSTK in ``thread.features``.

        Exists since 2d39a6add422 "x86/shstk: Add user-mode shadow stack support" (6.6).
        """
        if not self._target.has_member("struct thread_struct", "features"):
            return False
        return bool(task["thread.features"] & 1)

    def io_bitmap(self, task: Members) -> bytes | None:
        """Return the I/O permission bitmap; None if the task does not have one.

        It is in a ``struct io_bitmap`` since 5.5 (arch/x86/include/asm/io_bitmap.h).
        """
        if not self._target.has_member("struct thread_struct", "io_bitmap"):
            old = task["thread.io_bitmap_ptr"]
            return kernel_bytes(self._prog, old, 8192) if old else None
        if not task["thread.io_bitmap"]:
            return None
        bitmap = Object(self._prog, "struct io_bitmap *", task["thread.io_bitmap"])
        return kernel_bytes(self._prog, bitmap.bitmap.address_of_().value_(), 8192) if bitmap.max else None

    def tls_segments(self, task: Members) -> tuple[tuple[int, int], ...]:
        """Return ``thread.tls_array`` as GDT entries: number and descriptor of each."""
        raw = task["thread.tls_array"]
        descriptors = (int.from_bytes(raw[at : at + 8], "little") for at in range(0, 8 * _GDT_TLS_ENTRIES, 8))
        return tuple(enumerate(descriptors, self._tls_min))

    # Programs

    def dialect(self) -> CoreDialect:
        by_mode, by_magic = self._elf_headers
        return CoreDialect(
            note_align=self._note_align,
            # eb6f51723f03 "x86/fpu: Make copy_xstate_to_kernel() usable for [x]fpregs_get()" (5.14)
            raw_fpregs=self._target.symbol_address("copy_xstate_to_uabi_buf") is None,
            # ba386777a30b "x86/elf: Add a new FPU buffer layout info to x86 core files" (6.12)
            xsave_layout=self._target.symbol_address("elf_coredump_extra_notes_write") is not None,
            header_by_mode=by_mode,
            header_by_magic=by_magic,
        )

    @cached_property
    def _note_align(self) -> int:
        """``p_align`` of PT_NOTE: 4 since 60592fb6b67c "coredump, vmcore: Set p_align to 4 for PT_NOTE" (6.5).

        elf_core_dump() stores it (fill_elf_note_phdr(), fs/binfmt_elf.c). Where that is not in the dump, a type of the
        same release tells (cf264e1329fb "cachestat: implement cachestat syscall"): no byte of memory depends on it.
        """
        size = self.architecture.word_size
        code = function(self._target, "elf_core_dump")
        if code:
            return 4 if 4 in stored_words(code, _P_ALIGN[size], size) else 0
        return 4 if self._target.has_type("struct cachestat") else 0

    @cached_property
    def _elf_headers(self) -> tuple[bool, bool]:
        """Whether cores have the first page of executable files, and that of files with an ELF magic.

        Only the magic counts until 429a22e776a2 "coredump: rework elf/elf_fdpic vma_dump_size() into common helper"
        (5.10; a07279c9a8cd of the same series added struct core_vma_metadata), then only the mode, and both since
        84158b7f6a06 "coredump: Also dump first pages of non-executable ELF libraries" (5.18, 5.10.110), which compares
        with the magic in dump_vma_snapshot(), and which 390031c94211 "coredump: Use the vma snapshot in
        fill_files_note" followed (``pgoff``). Where it is not certain, a core has both: a page too much harms nobody.
        """
        if not self._target.has_type("struct core_vma_metadata"):
            return not self._target.has_type("struct coredump_params"), True
        if self._target.has_member("struct core_vma_metadata", "pgoff"):
            return True, True
        code = [function(self._target, name) for name in ("dump_vma_snapshot", "do_coredump", "vfs_coredump")]
        return True, not any(code) or any(_ELF_MAGIC in each for each in code)

    def vdso(self, mm: Object) -> tuple[int, int]:
        """Return physical address and size of the vdso's image. See ``vdso_fault()``, arch/x86/entry/vdso/vma.c."""
        image = mm.context.vdso_image
        return self.kernel_image_to_phys(image.data.value_()), image.size.value_()

    def fault(self, task: Members) -> Fault | None:
        trap = task["thread.trap_nr"]
        if not trap:
            return None
        return Fault(trap, task["thread.error_code"], task["thread.cr2"] if trap == _X86_TRAP_PF else 0)

    # CPUs

    def current(self, cpu: int) -> Object | None:
        """Return ``current`` of a CPU.

        It is in struct pcpu_hot from e57ef2ed97c1 "x86: Put hot per CPU variables into a struct" (6.2) until 6.15.
        """
        if self._target.has_type("struct pcpu_hot"):
            return per_cpu(self._prog["pcpu_hot"], cpu).current_task
        return per_cpu(self._prog["current_task"], cpu).read_()

    def entering(self, cpu: CpuRegisters) -> bool:
        """Tell whether a CPU is in the kernel's entry path.

        It then runs entry code, or is on an entry stack, where interrupts of user mode begin, before sync_regs() copies
        the registers (arch/x86/entry/entry_64.S, arch/x86/include/asm/cpu_entry_area.h).
        """
        start, end = map(self._target.symbol_address, ("__entry_text_start", "__entry_text_end"))
        if cpu.user_mode or start is None or end is None:
            return False
        return start <= cpu.values["ip"] < end or cpu.values["sp"] in self._entry_stacks

    def is_root(self, register: int, root: int) -> bool:
        """Tell whether CR3 has the address of a top page table.

        CR3's bit 12 selects the user's copy of the tables (PTI), the bits below it are the PCID, and with SME it
        has the encryption bit.
        """
        return (register ^ root) & MAX_PHYSICAL - 1 & ~_CR3_FLAGS & ~self.encryption_mask == 0

    def _gdt_entry(self, gdt: int, number: int) -> tuple[int, int]:
        """Return a descriptor of a CPU's GDT, which user mode cannot change, and the descriptor's access byte.

        :raises FaultError: it is not in the dump.
        """
        descriptor = int.from_bytes(kernel_bytes(self._prog, gdt + 8 * number, 8), "little")
        return descriptor, descriptor >> 40 & 0xFF


def descriptor_base(descriptor: int) -> int:
    """Return a descriptor's base, as ``get_desc_base()`` (arch/x86/include/asm/desc.h) does: an unsigned int."""
    return descriptor >> 16 & 0xFFFFFF | descriptor >> 32 & 0xFF000000
