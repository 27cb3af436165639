# SPDX-License-Identifier: LGPL-2.1-or-later
"""What notes say of x86 CPUs: NT_PRSTATUS of both widths, and QEMU's own kind, which both have."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace

from kgcore.arch.cpunotes import CpuNotes, CpuRegisters, Note
from kgcore.arch.x86.ia32 import GREGS as GREGS_32
from kgcore.arch.x86.x86_64 import GREGS as GREGS_64
from kgcore.model.process import RegisterSource

__all__ = ("ENTRY_FRAME_32", "ENTRY_FRAME_64", "NOTES_32", "NOTES_64")

# struct pt_regs, arch/x86/include/asm/ptrace.h: the same words in all releases, and the first ones of struct
# user_regs_struct (with FRED the upper halves of cs and ss hold other things).
ENTRY_FRAME_64 = GREGS_64[:21]
ENTRY_FRAME_32 = GREGS_32
_SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")
# QEMU, target/i386/arch_dump.c: QEMUCPUState: version, size, 18 registers, 10 segments, 5 control registers, and since
# version 2.12 kernel_gs_base
_QEMU_GPRS = ("ax", "bx", "cx", "dx", "si", "di", "sp", "bp",
              "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "ip", "flags")  # fmt: skip
_QEMU_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr", "gdt", "idt")
_QEMU_SIZE = 432
# A system call number has no place in a note about a CPU that was in user mode.
_NO_SYSCALL = (1 << 64) - 1


@dataclass(frozen=True)
class _X86Notes(CpuNotes):
    """
    :ivar per_cpu: the segment whose base is the kernel's per-CPU memory, while a CPU is in the kernel.
    :ivar swapped: ``swapgs`` keeps the other one of the user's and the kernel's: MSR_KERNEL_GS_BASE.
    """

    per_cpu: str
    swapped: bool

    def user_mode(self, values: Mapping[str, int]) -> bool:
        return values["cs"] & 3 == 3

    def cleaned(self, values: dict[str, int]) -> dict[str, int]:
        """Selectors are 16 bits; the rest of the word is somebody else's."""
        return {name: value & 0xFFFF if name in _SEGMENTS else value for name, value in values.items()}

    def hypervisor(self, desc: bytes) -> CpuRegisters:
        """The bases of FS and GS are those of the CPU, in kernel mode the kernel's GS. (Of a 32-bit kernel
        its FS, of which the note has the selector only.)"""
        values = self.registers(desc)
        user_mode = self.user_mode(values)
        bases = () if user_mode or "gs_base" not in values else (values["gs_base"],)
        return CpuRegisters(values, RegisterSource.CPU_NOTE, user_mode, bases=bases)

    def is_own(self, note: Note) -> bool:
        """QEMU's."""
        return note.name == b"QEMU" and note.type == 0 and len(note.desc) >= _QEMU_SIZE

    def own(self, desc: bytes, source: RegisterSource) -> CpuRegisters:
        values = dict(zip(_QEMU_GPRS, struct.unpack_from("<18Q", desc, 8), strict=True))
        bases = {}
        for number, name in enumerate(_QEMU_SEGMENTS):
            selector, _, _, _, base = struct.unpack_from("<IIIIQ", desc, 152 + number * 24)
            bases[name] = base
            if name in _SEGMENTS:
                values[name] = selector
        cr3 = struct.unpack_from("<5Q", desc, 392)[3]
        values["fs_base"] = bases["fs"]
        values["gs_base"] = bases["gs"]
        values["orig_ax"] = _NO_SYSCALL
        # MSR_KERNEL_GS_BASE: the kernel's while the CPU is in user mode, and the user's while it is in the kernel
        # (swapgs); for some instructions at the kernel's door it is not yet, or not any more, so.
        spare: tuple[int, ...] = ()
        if self.swapped and len(desc) >= _QEMU_SIZE + 8:
            spare = struct.unpack_from("<Q", desc, _QEMU_SIZE)
        user_mode = self.user_mode(values)
        found = spare if user_mode else (bases[self.per_cpu], *spare)
        tables = {"gdt": bases["gdt"], "idt": bases["idt"]}
        return CpuRegisters(self.cleaned(values), source, user_mode, root=cr3, bases=found, tables=tables)

    def with_kernel_base(self, cpu: CpuRegisters, base: int | None) -> CpuRegisters:
        """Of two bases the other one is the user's."""
        if cpu.user_mode or "gs_base" not in cpu.values:
            return cpu
        values = dict(cpu.values)
        del values["gs_base"]
        if len(cpu.bases) == 2 and base in cpu.bases:
            values["gs_base"] = cpu.bases[cpu.bases[0] == base]
        return replace(cpu, values=values)


NOTES_64 = _X86Notes(8, GREGS_64, per_cpu="gs", swapped=True)
NOTES_32 = _X86Notes(4, GREGS_32, per_cpu="fs", swapped=False)
