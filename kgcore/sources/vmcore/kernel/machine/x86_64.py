# SPDX-License-Identifier: LGPL-2.1-or-later
"""Architecture-specific parts of x86_64 kernels."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property

from drgn import FaultError, Object

from kgcore.arch.cpunotes import CpuRegisters
from kgcore.arch.paging import PagingMode
from kgcore.arch.x86.kernels import X86_64_KERNEL, x86_64_task
from kgcore.arch.x86.memorymap import (
    ENTRY_AREA,
    FIVE_LEVEL,
    FOUR_LEVEL,
    KERNEL_HALF,
    MAX_PHYSICAL,
    START_KERNEL_MAP,
    VSYSCALL,
    MemoryMap,
)
from kgcore.arch.x86.paging import X86_64_4LEVEL, X86_64_5LEVEL
from kgcore.errors import BrokenDump
from kgcore.model.process import VM_READ, Vma
from kgcore.sources.vmcore.kernel.machine.orc import OrcUnwinder
from kgcore.sources.vmcore.kernel.machine.sections import Sections, of_kernel
from kgcore.sources.vmcore.kernel.machine.x86 import X86, descriptor_base
from kgcore.sources.vmcore.kernel.machine.x86layouts import COMMON, X86_64_ONLY
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.kernelreads import kernel_bytes
from kgcore.sources.vmcore.opening.spaces.x86_64 import X86Space, encryption_bit
from kgcore.sources.vmcore.symbols import vmcoreinfo

__all__ = ("X86_64",)

# arch/x86/include/asm/segment.h: the code segments of 64-bit and of 32-bit user mode; GDT_ENTRY_CPUNODE, whose limit is
# node << 12 | CPU (named GDT_ENTRY_PER_CPU before 22245bdf0ad8 "x86/segments: Introduce the 'CPUNODE' naming to better
# document the segment CPU/node NR trick", 4.19)
_USER_CS, _USER32_CS = 0x33, 0x23
_CPU_NUMBER, _CPU_NUMBER_MASK = 15, 0xFFF
_PER_CPU_ACCESS = 0xF0  # present, DPL 3, not a system segment: user mode can read it
_LDT_ENTRIES = 8192
_MM_CONTEXT_HAS_VSYSCALL = 1 << 1
_TS_COMPAT = 2  # thread_info.status, arch/x86/include/asm/thread_info.h


class X86_64(X86):  # noqa: N801
    """A 64-bit kernel; its programs may be 64-bit, 32-bit or x32."""

    architecture = X86_64_KERNEL
    layouts = COMMON + X86_64_ONLY
    _tls_min = 12
    _regsets = "x86_64_regsets"
    _min_fpu = 512  # bytes of FXSAVE's image
    _entry_stacks = ENTRY_AREA

    # Address spaces

    @cached_property
    def five_level(self) -> bool:
        """Whether page tables have five levels: NUMBER(pgtable_l5_enabled) of VMCOREINFO."""
        return self._target.vmcoreinfo.get("NUMBER(pgtable_l5_enabled)", "0").strip() == "1"

    @property
    def _map(self) -> MemoryMap:
        return FIVE_LEVEL if self.five_level else FOUR_LEVEL

    @cached_property
    def paging_mode(self) -> PagingMode:
        return X86_64_5LEVEL if self.five_level else X86_64_4LEVEL

    @cached_property
    def encryption_mask(self) -> int:
        """``sme_me_mask`` (AMD).

        VMCOREINFO has it since 5.1. In older dumps it was found when the dump was opened, or the kernel's variable has
        it.
        """
        space = self._target.space
        if isinstance(space, X86Space) and space.encryption is not None:
            return space.encryption
        number = encryption_bit(self._target.vmcoreinfo)
        with suppress(FaultError):
            number = self._kernel.read_u64("sme_me_mask") if number is None else number
        return (number or 0) & MAX_PHYSICAL - 1

    @cached_property
    def user_end(self) -> int:
        return self._map.user_end

    @cached_property
    def page_offset(self) -> int:
        """Start of the direct map.

        ``page_offset_base`` has the address that KASLR chose (021182e52fe0, 4.8); without it, the address is fixed, and
        the kernel's page tables prove which one it is.

        :raises FaultError: ``page_offset_base`` is not in the dump, or nothing proves the address.
        """
        told = self._kernel.read_u64("page_offset_base")
        if told:
            return told
        space = self._target.space
        return space.direct_map if isinstance(space, X86Space) else self._map.direct_maps[0]

    def direct_map_to_phys(self, address: int) -> int:
        base = self.page_offset
        if not base <= address < base + MAX_PHYSICAL:
            raise BrokenDump(f"{address:#x} is not in the kernel's direct map", address=address)
        return address - base

    def kernel_image_to_phys(self, address: int) -> int:
        """Return the physical address of an address in the kernel's image.

        Computed from ``__START_KERNEL_map`` and ``phys_base``.
        """
        base = self._target.constant("phys_base")  # VMCOREINFO has it
        if base is None:
            base = self._kernel.read_u64("phys_base") or 0
        return address - START_KERNEL_MAP + base & (1 << 64) - 1

    def is_kernel_address(self, address: int) -> bool:
        return address >= KERNEL_HALF

    # struct page

    @cached_property
    def vmemmap(self) -> int:
        """Address of the first ``struct page`` if one array describes all memory (CONFIG_SPARSEMEM_VMEMMAP), else 0.

        ``vmemmap_base`` has it, or the VMCOREINFO of newer kernels; without both, the sections of memory have it, and
        without them it is fixed, the same in all kernels.

        :raises FaultError: ``vmemmap_base`` is not in the dump.
        """
        told = self._kernel.read_u64("vmemmap_base") or vmcoreinfo.symbol(self._target.vmcoreinfo, "vmemmap")
        if told:
            return told
        return self._sections.base or 0 if self._sections else self._map.vmemmap

    @cached_property
    def _sections(self) -> Sections:
        return of_kernel(self._kernel, static=False)

    def page_to_phys(self, page: int) -> int:
        if self.vmemmap:
            return (page - self.vmemmap) // self._kernel.page_struct_size << self.architecture.page_shift
        frame = self._sections.frame(page)
        if frame is None:
            raise FaultError("no struct page", page)
        return frame << self.architecture.page_shift

    def frame_to_page(self, frame: int) -> int:
        return self.vmemmap + frame * self._kernel.page_struct_size if self.vmemmap else self._sections.page(frame)

    def is_page(self, page: int) -> bool:
        return page >= self.vmemmap if self.vmemmap else self._sections.frame(page) is not None

    # Programs

    def task_arch(self, mm: Object, values: Mapping[str, int]) -> str:
        compat = self.compat_program(mm)
        cs = values["cs"]
        # If CS is not a user-mode selector, assume the program's usual code segment.
        return x86_64_task(32 if compat else 64, self.long_mode(cs) if cs & 3 == 3 else not compat)

    def compat_program(self, mm: Object) -> bool:
        """Tell whether a program is 32-bit (ia32 or x32), which is also the ELF class of its cores.

        ``mm->binfmt`` writes the core (do_coredump(), fs/coredump.c); fs/compat_binfmt_elf.c builds binfmt_elf.c again
        for these programs.
        """
        handler = mm.binfmt.value_()
        formats = {self._target.symbol_address(name): name for name in ("elf_format", "compat_elf_format")}
        if handler and handler in formats:
            return formats[handler] == "compat_elf_format"
        # The end of the address space, which exec() set by TIF_ADDR32
        return 0 < int(mm.task_size.value_()) < 1 << 32

    def long_mode(self, cs: int) -> bool:
        """Tell whether a user-mode code segment is 64-bit: ``user_64bit_mode()`` (arch/x86/include/asm/ptrace.h)."""
        return cs in (_USER_CS, self._other_user_cs)

    @cached_property
    def _other_user_cs(self) -> int:
        """The 64-bit user code segment of paravirtualised Xen guests (CONFIG_PARAVIRT_XXL); else the usual one."""
        address = self._target.symbol_address("pv_info")
        if address is None or not self._target.has_member("struct pv_info", "extra_user_64bit_cs"):
            return _USER_CS
        try:
            return int(Object(self._prog, "struct pv_info *", address).extra_user_64bit_cs.value_())
        except FaultError:
            return _USER_CS

    def gate(self, mm: Object) -> Vma | None:
        """Return the mapping ``[vsyscall]``, which 64-bit processes have; None if the process does not have it."""
        found = self.gate_vma(mm)
        if found is None:
            return None
        end = VSYSCALL + (1 << self.architecture.page_shift)
        return Vma(VSYSCALL, end, int(found.vm_flags.value_()), name="[vsyscall]")

    def gate_vma(self, mm: Object) -> Object | None:
        """Return the ``struct vm_area_struct *`` of ``[vsyscall]``; None if this process does not have it.

        See ``get_gate_vma()``, arch/x86/entry/vsyscall/vsyscall_64.c.
        """
        address = self._target.symbol_address("gate_vma")
        if address is None:
            return None
        context = mm.context
        if self._target.has_member("mm_context_t", "flags"):
            # Since 5.11 (arch/x86/include/asm/mmu.h)
            if not context.flags.value_() & _MM_CONTEXT_HAS_VSYSCALL:
                return None
        elif context.ia32_compat.value_():
            return None
        gate = Object(self._prog, "struct vm_area_struct *", address)
        mode = self._kernel.read_u32("vsyscall_mode")
        return None if mode is not None and self._no_vsyscall(mode, gate) else gate

    @staticmethod
    def _no_vsyscall(mode: int, gate: Object) -> bool:
        """Tell whether ``vsyscall_mode`` means NONE.

        It is an unnamed enum {EMULATE, XONLY, NONE} since bd49e16e3339 "x86/vsyscall: Add a new vsyscall=xonly mode"
        (5.3), without XONLY before. That mode alone makes the mapping unreadable (map_vsyscall()).
        """
        return mode == 2 or (mode == 1 and bool(gate.vm_flags.value_() & VM_READ))

    def system_call_width(self, task: Object, values: Mapping[str, int]) -> int:
        if values["cs"] == _USER32_CS:
            return 4
        with suppress(LookupError, AttributeError):
            if int(task.thread_info.status.value_()) & _TS_COMPAT:
                return 4  # int $0x80 from 64-bit code
        return 8

    # Registers of threads

    @cached_property
    def pt_regs_padding(self) -> int:
        """TOP_OF_KERNEL_STACK_PADDING.

        65c9cc9e2c14 "x86/fred: Reserve space for the FRED stack frame" (6.9): 16 with CONFIG_X86_FRED. ``struct
        pt_regs`` has the new members with and without this option, so kgcore looks for the option's code instead.
        """
        return 16 if self._target.symbol_address("fred_entry_from_user") is not None else 0

    @cached_property
    def fsgsbase(self) -> bool:
        """X86_FEATURE_FSGSBASE: user space may set FS and GS bases itself, so the stored bases are always valid.

        Word 9, bit 0 of ``boot_cpu_data.x86_capability`` (arch/x86/include/asm/cpufeatures.h).
        """
        try:
            return bool(self._prog["boot_cpu_data"].x86_capability[9].value_() & 1)
        except (FaultError, LookupError):
            return True  # 5.9 and later on every CPU since 2012

    def asleep(self, task: Members) -> Mapping[str, int]:
        """Return the segment registers and bases of a thread off the CPU (arch/x86/kernel/process_64.c)."""
        fs, gs = task["thread.fsindex"], task["thread.gsindex"]
        # Renamed by 296f781a4b7f "x86/asm/64: Rename thread_struct's fs and gs to fsbase and gsbase" (4.7)
        new = self._target.has_member("struct thread_struct", "fsbase")
        return {
            "fs_base": self._base(task, fs, task["thread.fsbase" if new else "thread.fs"]),
            "gs_base": self._base(task, gs, task["thread.gsbase" if new else "thread.gs"]),
            "ds": task["thread.ds"],
            "es": task["thread.es"],
            "fs": fs,
            "gs": gs,
        }

    def kept(self) -> tuple[str, ...]:
        return ("fs_base", "gs_base", "ds", "es", "fs", "gs")

    def _base(self, task: Members, selector: int, stored: int) -> int:
        """Return the base of FS or GS, as ``x86_fsbase_read_task()`` does.

        A selector that is not 0 decides, unless the CPU lets user space set the base.
        """
        if selector == 0 or self.fsgsbase:
            return stored
        index = selector >> 3
        if not selector & 4:
            return descriptor_base(dict(self.tls_segments(task)).get(index, 0))
        # a segment of the process's LDT
        ldt = Object(self._prog, "struct mm_struct *", task["mm"]).context.ldt
        if not ldt or index >= min(ldt.nr_entries.value_(), _LDT_ENTRIES):
            return 0
        raw = kernel_bytes(self._prog, ldt.entries.value_() + 8 * index, 8)
        return descriptor_base(int.from_bytes(raw, "little"))

    # CPUs

    @cached_property
    def only_base(self) -> int:
        """MSR_GS_BASE in kernel mode (cpu_kernelmode_gs_base(), arch/x86/include/asm/processor.h).

        That is the address of ``fixed_percpu_data``, ``irq_stack_union`` before e6401c130931 "x86/irq/64: Split the
        IRQ stack into its own pages" (5.2); 0 since 9d7de2aa8b41 "x86/percpu/64: Use relative percpu offsets" (6.15).
        """
        symbols = map(self._target.symbol_address, ("fixed_percpu_data", "irq_stack_union"))
        return next((address for address in symbols if address is not None), 0)

    def cpu_by_tables(
        self, cpu: CpuRegisters, offsets: Mapping[int, int], possible: Callable[[int], bool]
    ) -> int | None:
        """Return the number of a note's CPU; None: unknown.

        The limit of a segment in the CPU's GDT has it, for user space to read.
        """
        gdt = cpu.tables.get("gdt")
        if gdt is None or gdt < self.user_end:
            return None
        try:
            descriptor, access = self._gdt_entry(gdt, _CPU_NUMBER)
        except FaultError:
            return None
        number = descriptor & _CPU_NUMBER_MASK
        known = descriptor_base(descriptor) == 0 and access & _PER_CPU_ACCESS == _PER_CPU_ACCESS and possible(number)
        return number if known else None

    # Kernel stacks

    @cached_property
    def unwinder(self) -> OrcUnwinder:
        return OrcUnwinder(self._kernel)
