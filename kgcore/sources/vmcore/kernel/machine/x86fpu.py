# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the floating-point and extended registers that x86 kernels save, and their layout in memory."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from drgn import FaultError, Object, offsetof

from kgcore.errors import BrokenDump
from kgcore.model.process import XsaveLayout
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.kernelreads import kernel_bytes

if TYPE_CHECKING:
    from kgcore.sources.vmcore.kernel.kernel import Kernel

__all__ = ("X86Fpu",)

_NT_X86_XSTATE = 0x202
# No XSAVE area comes near this; AMX's is 11 KiB (arch/x86/kernel/fpu/xstate.c).
_MAX_XSAVE = 1 << 16


class X86Fpu:
    """The saved FPU states of one kernel.

    :param regsets: the variable with the ``struct user_regset`` of ptrace(): arch/x86/kernel/ptrace.c.
    :param smallest: bytes of the smallest image that its CPUs save.
    """

    def __init__(self, kernel: "Kernel", regsets: str, smallest: int) -> None:
        self._kernel = kernel
        self._target = kernel.target
        self._prog = kernel.prog
        self._regsets = regsets
        self._smallest = smallest

    def image(self, task: Members) -> bytes:
        """Return the whole saved ``union fpregs_state`` of a user task.

        :raises FaultError: it is not in the dump.
        :raises BrokenDump: its size is implausible.
        """
        if self._target.has_member("struct fpu", "fpstate"):
            # 87d0e5be0fac "x86/fpu: Provide struct fpstate" (5.16)
            if self._target.has_member("struct thread_struct", "fpu"):
                state = task["thread.fpu.fpstate"]
            else:
                # cb7ca40a3882 "x86/fpu: Make task_struct::thread constant size" (6.16): struct fpu is behind the task.
                state = self._kernel.structs("struct fpu", "fpstate").read(task.address + self._task_size)["fpstate"]
            length = self._kernel.structs("struct fpstate", "size").read(state)["size"]
            state += self._fpstate_regs
        else:
            state = task.address + self._fpu_state
            length = self._kernel.read_u32("fpu_kernel_xstate_size") or 512
        if not self._smallest <= length <= _MAX_XSAVE:
            raise BrokenDump(f"FPU state of {length} bytes", address=task.address)
        return kernel_bytes(self._prog, state, length)

    @cached_property
    def _task_size(self) -> int:
        return self._prog.type("struct task_struct").size or 0

    @cached_property
    def _fpstate_regs(self) -> int:
        return int(offsetof(self._prog.type("struct fpstate"), "regs"))

    @cached_property
    def _fpu_state(self) -> int:
        return int(offsetof(self._prog.type("struct task_struct"), "thread.fpu.state"))

    def xsave_layout(self) -> XsaveLayout | None:
        """Return the layout of this machine's XSAVE area, as the kernel detected it; None if the CPU has no XSAVE.

        :raises FaultError: the layout is not in the dump.
        """
        words = self._xstate_regset_words()
        if not words:
            return None
        if words * 8 > _MAX_XSAVE:
            raise BrokenDump(f"NT_X86_XSTATE of {words * 8} bytes")
        count = self._target.constant("XFEATURE_MAX") or 11
        offsets = self._u32_array("xstate_offsets", count)
        sizes = {
            number: size
            for number, size in enumerate(self._u32_array("xstate_sizes", count))
            if number >= 2 and 0 < size <= _MAX_XSAVE
        }
        # The kernel leaves the offsets of supervisor features at -1: they are in the compacted format only, between the
        # others (setup_xstate_cache(), setup_xstate_features()).
        in_note = {
            number: offsets[number]
            for number, size in sizes.items()
            if 576 <= offsets[number] < words * 8 and size <= words * 8 - offsets[number]
        }
        aligned, strange = self._aligned(sizes, in_note, count)
        return XsaveLayout(
            user_size=words * 8,
            # update_regset_xstate_info() keeps the mask of user features in this array (regset.c, xstate.c).
            user_features=self._kernel.read_u64("xstate_fx_sw_bytes") or 0,
            offsets=in_note,
            sizes={number: size for number, size in sizes.items() if number not in strange},
            aligned=aligned,
            init_image=self._init_image(words * 8),
        )

    def _xstate_regset_words(self) -> int:
        """Return ``n`` in the NT_X86_XSTATE row of the regsets (arch/x86/kernel/ptrace.c); 0 without XSAVE."""
        address = self._target.symbol_address(self._regsets)
        if address is None:
            return 0
        table = Object(self._prog, "struct user_regset *", address)
        for row in range(5):
            if table[row].core_note_type.value_() == _NT_X86_XSTATE:
                return int(table[row].n.value_())
        return 0

    def _u32_array(self, name: str, count: int) -> list[int]:
        address = self._target.symbol_address(name)
        if address is None:
            return [0] * count
        raw = self._prog.read(address, 4 * count)
        return [int.from_bytes(raw[at : at + 4], "little") for at in range(0, len(raw), 4)]

    def _aligned(
        self, sizes: Mapping[int, int], in_note: Mapping[int, int], count: int
    ) -> tuple[frozenset[int], frozenset[int]]:
        """Return the features that the compacted format aligns to 64 bytes, and those of which it is unknown.

        6.1 and later have ``xstate_flags`` (bit 1: CPUID.0xD ECX[1]); older kernels have the compacted offsets
        instead, which show the alignment (arch/x86/kernel/fpu/xstate.c), if not of all features: 4.18 leaves those of
        supervisor features out.
        """
        if self._target.symbol_address("xstate_flags") is not None:
            flags = self._u32_array("xstate_flags", count)
            return frozenset(number for number in range(2, count) if flags[number] & 2), frozenset()
        offsets = self._u32_array("xstate_comp_offsets", count)
        aligned: set[int] = set()
        strange: set[int] = set()
        end = 576
        for number, size in sizes.items():
            at = offsets[number]
            if not 576 <= at <= _MAX_XSAVE:
                at = end
            elif at != end:
                (aligned if at == (end + 63) & ~63 else strange).add(number)
            end = at + size
        if strange and all(offsets[number] == at for number, at in in_note.items()):
            return frozenset(), frozenset()  # no XSAVES, no compacted format: these are the places in the note
        return frozenset(aligned), frozenset(strange)

    def _init_image(self, size: int) -> bytes:
        """Return ``init_fpstate``, the state of components that were never used; b"" if it is not in the dump."""
        address = self._target.symbol_address("init_fpstate")
        if address is None:
            return b""
        if self._target.has_type("struct fpstate"):
            address = Object(self._prog, "struct fpstate *", address).regs.address_of_().value_()
        try:
            return bytes(self._prog.read(address, size))
        except FaultError:
            return b""
