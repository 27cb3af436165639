# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the notes of a dump say of CPUs: QEMU's own kind, and NT_PRSTATUS, which QEMU and the crash path write.

Neither says which of the *kernel's* CPUs it is of: see :mod:`kgcore.sources.vmcore.task.cpus`.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace

from kgcore.model.process import RegisterSource
from kgcore.sources.vmcore.dumpfile import DumpNote

__all__ = ("NT_PRSTATUS", "PT_REGS", "CpuRegisters", "NoteLayout", "is_qemu", "note_layout", "pt_regs",
           "qemu_registers", "registers")  # fmt: skip

NT_PRSTATUS = 1
# struct pt_regs, arch/x86/include/asm/ptrace.h: the same 21 words in all releases (with FRED the upper halves of
# cs and ss hold other things).
_PT_REGS = ("r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di", "orig_ax",
            "ip", "cs", "flags", "sp", "ss")  # fmt: skip
# struct user_regs_struct, arch/x86/include/asm/user_64.h: pr_reg of NT_PRSTATUS
_USER_REGS = (*_PT_REGS, "fs_base", "gs_base", "ds", "es", "fs", "gs")
_SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")
# struct pt_regs of i386, and struct user_regs_struct, arch/x86/include/asm/user_32.h
_REGS_32 = tuple("bx cx dx si di bp ax ds es fs gs orig_ax ip cs flags sp ss".split())
PT_REGS: Mapping[str, tuple[str, ...]] = {"x86_64": _PT_REGS, "i386": _REGS_32}
# QEMU, target/i386/arch_dump.c: QEMUCPUState: version, size, 18 registers, 10 segments, 5 control registers, and since
# version 2.12 kernel_gs_base
_QEMU_GPRS = ("ax", "bx", "cx", "dx", "si", "di", "sp", "bp",
              "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "ip", "flags")  # fmt: skip
_QEMU_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr", "gdt", "idt")
_QEMU_SIZE = 432
# A system call number has no place in a note about a CPU that was in user mode.
_NO_SYSCALL = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class CpuRegisters:
    """What a note says of a CPU.

    :ivar values: registers at the interruption, user's or kernel's; ``fs_base`` and ``gs_base`` are the user's, and
        absent where the note does not tell them.
    :ivar pid: id of the task that ran there in the initial pid namespace, if the note tells.
    :ivar cr3: the page-table root, if the note tells.
    :ivar bases: one of these is where the CPU had the kernel's per-CPU memory, by which the kernel knows it.
    :ivar gdt: address of the CPU's table of segments, and ``idt`` that of its table of interrupts, if the note tells.
    """

    values: Mapping[str, int]
    source: RegisterSource
    pid: int | None = None
    cr3: int | None = None
    bases: tuple[int, ...] = ()
    gdt: int | None = None
    idt: int = 0

    @property
    def user_mode(self) -> bool:
        return self.values["cs"] & 3 == 3

    def with_kernel_base(self, base: int | None) -> "CpuRegisters":
        """The same, now that it is known which of the bases is the kernel's: of two the other is the user's."""
        if self.user_mode or "gs_base" not in self.values:
            return self
        values = dict(self.values)
        del values["gs_base"]
        if len(self.bases) == 2 and base in self.bases:
            values["gs_base"] = self.bases[self.bases[0] == base]
        return replace(self, values=values)


@dataclass(frozen=True, slots=True)
class NoteLayout:
    """Where a kernel's notes have what.

    :ivar user_regs: what of NT_PRSTATUS are registers, in order.
    :ivar pr_pid: where NT_PRSTATUS has the task; ``pr_reg``: and its registers.
    """

    word_size: int
    user_regs: tuple[str, ...]
    prstatus_size: int
    pr_pid: int
    pr_reg: int

    def is_prstatus(self, note: DumpNote) -> bool:
        return note.name == b"CORE" and note.type == NT_PRSTATUS and len(note.desc) == self.prstatus_size

    def crash_path(self, desc: bytes) -> CpuRegisters:
        """NT_PRSTATUS as the kernel writes it (crash_save_cpu(), kernel/kexec_core.c)."""
        (pid,) = struct.unpack_from("<i", desc, self.pr_pid)
        return CpuRegisters(self._registers(desc), RegisterSource.CPU_NOTE, pid=pid)

    def hypervisor(self, desc: bytes) -> CpuRegisters:
        """NT_PRSTATUS as QEMU and its like write it: ``pr_pid`` is some number of theirs, and the bases of FS and GS
        are whatever the CPU had, which in kernel mode is the kernel's GS (of a 32-bit kernel its FS, of which the
        note has the selector only)."""
        values = self._registers(desc)
        if values["cs"] & 3 == 3 or "gs_base" not in values:
            return CpuRegisters(values, RegisterSource.CPU_NOTE)
        return CpuRegisters(values, RegisterSource.CPU_NOTE, bases=(values["gs_base"],))

    def _registers(self, desc: bytes) -> dict[str, int]:
        return registers(self.user_regs, self.word_size, desc[self.pr_reg :])


_LAYOUTS = {
    "x86_64": NoteLayout(word_size=8, user_regs=_USER_REGS, prstatus_size=336, pr_pid=32, pr_reg=112),
    "i386": NoteLayout(word_size=4, user_regs=_REGS_32, prstatus_size=144, pr_pid=24, pr_reg=72),
}


def note_layout(architecture: str) -> NoteLayout:
    """That of a :attr:`kgcore.sources.vmcore.kernel.kernel.Kernel.architecture`."""
    return _LAYOUTS[architecture]


def registers(names: tuple[str, ...], word_size: int, raw: bytes) -> dict[str, int]:
    """Registers that lie one behind the other."""
    words = struct.unpack_from(f"<{len(names)}{'Q' if word_size == 8 else 'I'}", raw)
    return _truncated(dict(zip(names, words, strict=True)))


def pt_regs(values: Mapping[str, int]) -> bytes:
    """``struct pt_regs`` of x86_64 with these."""
    return struct.pack("<21Q", *(values[name] for name in _PT_REGS))


def is_qemu(note: DumpNote) -> bool:
    """Whether it is one of QEMU's own."""
    return note.name == b"QEMU" and note.type == 0 and len(note.desc) >= _QEMU_SIZE


def qemu_registers(desc: bytes, architecture: str, source: RegisterSource) -> CpuRegisters:
    """QEMU's own note of a CPU."""
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
    # MSR_KERNEL_GS_BASE: the kernel's while the CPU is in user mode, and the user's while it is in the kernel (swapgs);
    # for some instructions at the kernel's door it is not yet, or not any more, so.
    spare = struct.unpack_from("<Q", desc, _QEMU_SIZE) if len(desc) >= _QEMU_SIZE + 8 else ()
    in_kernel = values["cs"] & 3 != 3
    if architecture == "i386":
        found = (bases["fs"],) if in_kernel else ()
    else:
        found = (bases["gs"], *spare) if in_kernel else spare
    return CpuRegisters(_truncated(values), source, cr3=cr3, bases=found, gdt=bases["gdt"], idt=bases["idt"])


def _truncated(values: dict[str, int]) -> dict[str, int]:
    """Selectors are 16 bits; the rest of the word is somebody else's."""
    return {name: value & 0xFFFF if name in _SEGMENTS else value for name, value in values.items()}
