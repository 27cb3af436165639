# SPDX-License-Identifier: LGPL-2.1-or-later
"""Unwind kernel stacks with the kernel's own ORC tables, which are in every dump: no debug package is needed.

The rules are those of ``unwind_next_frame()`` in arch/x86/kernel/unwind_orc.c, with one exception: without an entry,
the kernel guesses; here the trace ends.
"""

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from drgn import FaultError, Object
from drgn.helpers.linux.list import list_for_each_entry

from kgcore.arch.cpunotes import CpuRegisters
from kgcore.arch.x86.kernels import X86_64_KERNEL
from kgcore.model.traces import OUTERMOST, End
from kgcore.sources.vmcore.kernelreads import in_words

if TYPE_CHECKING:
    from kgcore.sources.vmcore.kernel.kernel import Kernel

__all__ = ("OrcUnwinder", "State")

_FRAME = "struct inactive_task_frame"

_MAX_FRAMES = 256
_MAX_ENTRIES = 1 << 22
_MAX_MODULES = 4096
_ENTRY = struct.Struct("<hhH")  # struct orc_entry: sp_offset, bp_offset, and bit fields
_PROBED = 4096  # entries
_WORD = 8
_SCANNED = 1024  # bytes of a function's frame
_CALL, _CALL_NEAR = struct.Struct("<Bi"), 0xE8

# struct pt_regs, and the part of it that the CPU writes (IRET_FRAME_OFFSET)
_PT_REGS = X86_64_KERNEL.entry_frame
_IRET = _PT_REGS[-5:]

# ORC_REG_*, arch/x86/include/asm/orc_types.h: the numbers of 6.12, and those of 7.2. No type says which numbers a
# kernel uses, but its table does: the most frequent register is the stack pointer.
_OLD_REGISTERS = ("undefined", "prev_sp", "dx", "di", "bp", "sp", "r10", "r13", "bp-indirect", "sp-indirect")
_NEW_REGISTERS = ("undefined", "ax", "dx", "sp", "bp", "di", "r10", "r13", "prev_sp", "sp-indirect", "bp-indirect")


@dataclass(slots=True)
class State:
    """A position in a stack.

    :ivar exact: ``ip`` is an instruction that was interrupted, not a return address.
    :ivar registers: the known values of other registers.
    :ivar user_mode: the position is in user mode: the kernel stack ends here.
    """

    ip: int
    sp: int
    bp: int
    exact: bool = False
    registers: Mapping[str, int] = field(default_factory=dict)
    user_mode: bool = False


class _Table(NamedTuple):
    """A table of entries, sorted by address.

    :ivar addresses: of the entries' addresses, each stored relative to its own place.
    :ivar entries: address of the entries.
    :ivar size: number of entries.
    """

    addresses: int
    entries: int
    size: int


class _Entry(NamedTuple):
    sp_offset: int
    bp_offset: int
    sp_reg: str
    bp_reg: str
    kind: str


class _Stop(Exception):
    """Ends a trace, with the reason."""

    def __init__(self, end: End) -> None:
        super().__init__(end.text)
        self.end = end


class OrcUnwinder:
    """The ORC unwinder of one kernel."""

    def __init__(self, kernel: "Kernel") -> None:
        self._kernel = kernel
        self._prog = kernel.prog

    @cached_property
    def available(self) -> bool:
        """Whether this kernel has ORC tables (CONFIG_UNWINDER_ORC) of a known layout."""
        known = self._kernel.target.has_type("struct orc_entry")
        return known and self._vmlinux is not None and self._registers is not None

    def interrupted(self, cpu: CpuRegisters) -> State:
        """Return the state of a CPU that was in the kernel."""
        values = cpu.values
        return State(values["ip"], values["sp"], values["bp"], True, values, cpu.user_mode)

    def asleep(self, task: Object) -> State:
        """Return the state of a task off the CPU: where ``__switch_to_asm()`` switched it out.

        :param task: ``struct task_struct *``
        """
        sp = task.thread.sp.value_()
        frame = Object(self._prog, _FRAME, address=sp)
        size = self._prog.type(_FRAME).size or 0
        ip = frame.ret_addr.value_()
        return State(ip, sp + size, frame.bp.value_(), exact=ip in self._forked)

    @cached_property
    def _forked(self) -> tuple[int, ...]:
        """Where a task starts that has never run: a function's first instruction, not a return address.

        ``ret_from_fork_asm`` since 3aec4ecb3d1f "x86: Rewrite ret_from_fork() in C" (6.6), ``ret_from_fork`` before.
        __unwind_start() in arch/x86/kernel/unwind_orc.c makes the same exception.
        """
        found = map(self._kernel.target.symbol_address, ("ret_from_fork_asm", "ret_from_fork"))
        return tuple(address for address in found if address is not None)

    def unwind(self, state: State) -> tuple[list[tuple[int, bool]], End]:
        """Unwind from a state.

        :return: the calls, each with its instruction pointer and whether that is exact; and why the trace ends.
        """
        calls = [(state.ip, state.exact)]
        try:
            for _ in range(_MAX_FRAMES):
                self._step(state)
                if state.user_mode:
                    return calls, OUTERMOST
                calls.append((state.ip, state.exact))
        except _Stop as stop:
            return calls, stop.end
        except FaultError as error:
            return calls, End("memory", f"a part of the kernel stack is not in the dump: {in_words(error)}")
        return calls, End("limit", f"more than {_MAX_FRAMES} frames")

    def _step(self, state: State) -> None:
        ip = state.ip if state.exact else state.ip - 1
        entry = self._find(ip)
        if entry is None or entry.kind == "undefined":
            if self._find_call(state):
                return
            raise _Stop(End("unwind-information", f"the kernel has no unwind information for {state.ip:#x}"))
        if entry.kind == "end":
            raise _Stop(OUTERMOST)
        sp = self._previous_sp(state, entry)
        registers = state.registers
        if entry.kind == "call":
            state.ip, state.sp = self._word(sp - _WORD), sp
            state.exact, state.registers = False, {}
        else:
            names = _PT_REGS if entry.kind == "regs" else _IRET
            values = struct.unpack(f"<{len(names)}Q", self._read(sp, len(names) * _WORD))
            found = dict(zip(names, values, strict=True))
            state.ip, state.sp, state.exact = found["ip"], found["sp"], True
            state.registers = found if entry.kind == "regs" else {**registers, **found}
            if found["cs"] & 3:
                state.user_mode = True
                return
        if entry.bp_reg == "prev_sp":
            state.bp = self._word(sp + entry.bp_offset)
        elif entry.bp_reg == "bp":
            state.bp = self._word(state.bp + entry.bp_offset)
        elif "bp" in state.registers:
            state.bp = state.registers["bp"]

    def _find_call(self, state: State) -> bool:
        """Step out of a function without ORC entries, if its caller is certain; tell whether it was.

        The caller is certain if a word on the stack is a return address right behind a call of this function.
        ``__crash_kexec()``, where every crash under kdump ends, has no entries (STACK_FRAME_NON_STANDARD).
        """
        if not state.exact or not self._in_vmlinux(state.ip):
            return False
        try:
            function = self._prog.symbol(state.ip).address
        except LookupError:
            return False
        for number, (word,) in enumerate(struct.iter_unpack("<Q", self._words(state.sp))):
            if self._in_vmlinux(word):
                opcode, distance = _CALL.unpack(self._read(word - _CALL.size, _CALL.size))
                if opcode == _CALL_NEAR and word + distance == function:
                    # Keep bp: if it is not the caller's, the next step finds nothing and ends the trace.
                    state.ip, state.sp, state.exact = word, state.sp + (number + 1) * _WORD, False
                    return True
        return False

    def _words(self, sp: int) -> bytes:
        """Read the words that a function may have on the stack, up to the end of the stack's mapping."""
        page = self._kernel.page_size
        first = min(_SCANNED, page - sp % page) // _WORD * _WORD
        words = self._read(sp, first)
        with suppress(FaultError):
            words += self._read(sp + first, (_SCANNED - first) // _WORD * _WORD)
        return words

    def _in_vmlinux(self, ip: int) -> bool:
        start, end = map(self._kernel.target.symbol_address, ("_stext", "_etext"))
        return start is not None and end is not None and start <= ip < end

    def _previous_sp(self, state: State, entry: _Entry) -> int:
        kind = entry.sp_reg
        if kind == "sp":
            return state.sp + entry.sp_offset
        if kind == "bp":
            return state.bp + entry.sp_offset
        if kind == "sp-indirect":
            return self._word(state.sp) + entry.sp_offset
        if kind == "bp-indirect":
            return self._word(state.bp + entry.sp_offset)
        if kind in state.registers:
            return state.registers[kind]
        raise _Stop(End("unwind-information", f"the register {kind} at {state.ip:#x} is unknown"))

    def _word(self, address: int) -> int:
        return int.from_bytes(self._read(address, _WORD), "little")

    def _read(self, address: int, size: int) -> bytes:
        """Read kernel memory.

        :param address: any integer, also out of range: it is computed from values in the dump.
        :raises FaultError: it is not in the dump.
        """
        return bytes(self._prog.read(address & (1 << 64) - 1, size))

    # The tables

    def _find(self, ip: int) -> _Entry | None:
        if self._vmlinux is not None and self._in_vmlinux(ip):
            return self._look_up(self._vmlinux, ip)
        for table, first, last in self._modules:
            if first <= ip <= last:
                return self._look_up(table, ip)
        return None

    @cached_property
    def _vmlinux(self) -> _Table | None:
        names = ("__start_orc_unwind_ip", "__stop_orc_unwind_ip", "__start_orc_unwind")
        first, last, entries = map(self._kernel.target.symbol_address, names)
        if first is None or last is None or entries is None or not 0 < last - first <= 4 * _MAX_ENTRIES:
            return None
        return _Table(first, entries, (last - first) // 4)

    @cached_property
    def _modules(self) -> list[tuple[_Table, int, int]]:
        """The modules' tables, each with the first and the last address in it. The last entry is a terminator."""
        return list(self._read_modules())

    def _read_modules(self) -> Iterator[tuple[_Table, int, int]]:
        try:
            for count, module in enumerate(
                list_for_each_entry("struct module", self._prog["modules"].address_of_(), "list")
            ):
                if count >= _MAX_MODULES:
                    return
                arch = module.arch
                table = _Table(arch.orc_unwind_ip.value_(), arch.orc_unwind.value_(), arch.num_orcs.value_())
                if 0 < table.size <= _MAX_ENTRIES:
                    yield table, self._address(table, 0), self._address(table, table.size - 1)
        except (FaultError, LookupError, AttributeError, TypeError):
            return  # the kernel has no modules, or the list is damaged from here on

    def _address(self, table: _Table, index: int) -> int:
        at = table.addresses + 4 * index
        return at + int.from_bytes(self._read(at, 4), "little", signed=True)

    def _look_up(self, table: _Table, ip: int) -> _Entry:
        """Return the entry of an address: the last one that begins at or before it."""
        low, high = 0, table.size  # the entry is in [low, high)
        while high - low > 1:
            middle = (low + high) // 2
            if self._address(table, middle) <= ip:
                low = middle
            else:
                high = middle
        sp_offset, bp_offset, bits = self._raw(table, low, 1)[0]
        return _Entry(sp_offset, bp_offset, self._register(bits & 15), self._register(bits >> 4 & 15), self._kind(bits))

    def _raw(self, table: _Table, first: int, count: int) -> list[tuple[int, int, int]]:
        size = _ENTRY.size
        return list(_ENTRY.iter_unpack(self._read(table.entries + first * size, count * size)))

    def _register(self, number: int) -> str:
        names = self._registers or ()
        return names[number] if number < len(names) else f"number {number}"

    @cached_property
    def _registers(self) -> tuple[str, ...] | None:
        """The names of the register numbers."""
        if self._vmlinux is None:
            return None
        count = min(_PROBED, self._vmlinux.size)
        try:
            entries = self._raw(self._vmlinux, (self._vmlinux.size - count) // 2, count)
        except FaultError:
            return None
        most = Counter(bits & 15 for _, _, bits in entries if bits & 15).most_common(1)
        number = most[0][0] if most else None
        return {5: _OLD_REGISTERS, 3: _NEW_REGISTERS}.get(number) if number is not None else None

    @cached_property
    def _kind(self) -> Callable[[int], str]:
        """Decodes an entry's kind from its bit fields, ``type`` and (before 6.4) ``end``.

        fb799447ae29 "x86,objtool: Split UNWIND_HINT_EMPTY in two" (6.4) gave the type a third bit and two new first
        values, and removed ``end``. ``signal`` (ffb1b4a41016, 6.3) only repeats what the type says.
        """
        # The type information says where the bit field is.
        members = {member.name: member for member in self._prog.type("struct orc_entry").members or ()}
        if "end" in members:
            end = 1 << members["end"].bit_offset - 32

            def old(bits: int) -> str:
                if not bits & 15:
                    return "end" if bits & end else "undefined"
                return ("call", "regs", "regs-partial", "undefined")[bits >> 8 & 3]

            return old
        return lambda bits: ("undefined", "end", "call", "regs", "regs-partial", *["undefined"] * 3)[bits >> 8 & 7]
