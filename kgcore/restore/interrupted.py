# SPDX-License-Identifier: LGPL-2.1-or-later
"""Say what becomes of the system calls that threads were in."""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kgcore.arch import ARCHES, RESUMING
from kgcore.restore.need import Need, NeededThread
from kgcore.restore.words import Refusal

__all__ = ("Interrupted", "first_registers", "interrupted")

_ABSOLUTE = 1  # TIMER_ABSTIME
# include/uapi/linux/rseq.h: where struct rseq has rseq_cs, and struct rseq_cs
_RSEQ_CS, _SECTION = 8, struct.Struct("<IIQQQ")
_CLOCK_REALTIME = 0
# Commands of futex(2) whose deadline is absolute: FUTEX_LOCK_PI, WAIT_BITSET, WAIT_REQUEUE_PI, LOCK_PI2
_FUTEX_ABSOLUTE = frozenset((9, 11, 13))
_FUTEX_COMMAND, _FUTEX_REALTIME = 0x7F, 256
_CHILDREN = frozenset(("wait4", "waitid", "vfork"))
_WRITES = frozenset(
    "write writev sendto sendmsg sendmmsg sendfile splice tee vmsplice copy_file_range pwrite64 pwritev".split()
)
_NO_MATTER = frozenset(("pwrite64", "pwritev"))  # what is written again is the same at the same place
_RELATIVE = frozenset(
    "nanosleep poll select ppoll pselect6 epoll_wait epoll_pwait epoll_pwait2 rt_sigtimedwait".split()
)
# They change the mask for the moment, by the address of the new one in this argument
_MASKS = {"rt_sigsuspend": 0, "ppoll": 3, "epoll_pwait": 4, "epoll_pwait2": 4, "pselect6": 5, "io_pgetevents": 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """A thread that was in a system call.

    :ivar tid: its id.
    :ivar call: the call's name.
    :ivar remark: what may be seen of that it starts again; "": nothing.
    :ivar deadline: it waits until a time of CLOCK_MONOTONIC or CLOCK_BOOTTIME.
    :ivar refused: why it cannot start again.
    """

    tid: int
    call: str
    remark: str = ""
    deadline: bool = False
    refused: Refusal | None = None


def interrupted(need: Need, thread: NeededThread) -> Interrupted | None:
    """Say what becomes of the call that a thread was in; None: it was in none, or its call had ended."""
    how = RESUMING[need.view]
    again = how.again(thread.registers)
    if again is None:
        return None
    number = again[how.request]
    name = how.waits.get(number, f"system call {number}")
    values = _arguments(need, thread.registers)
    word, why, hint = _trouble(name, thread, values)
    refused = None
    if word:
        refused = Refusal(word=word, what=f"thread {thread.tid} was in {name}(): {why}", hint=hint)
    return Interrupted(
        tid=thread.tid,
        call=name,
        remark="a time that it waits for begins anew" if _is_relative(name, values) else "",
        deadline=_has_deadline(name, values),
        refused=refused,
    )


def _is_relative(name: str, values: tuple[int, ...]) -> bool:
    """Whether it waits for some time from its start on, as far as its arguments show."""
    if name == "clock_nanosleep":
        return not values[1] & _ABSOLUTE
    if name == "futex":
        return bool(values[3]) and values[1] & _FUTEX_COMMAND not in _FUTEX_ABSOLUTE
    return name in _RELATIVE


def first_registers(need: Need, thread: NeededThread, read: Callable[[int, int], bytes | None]) -> Mapping[str, int]:
    """Return the registers with which a thread goes on.

    A restart is to a restartable sequence what the kernel's taking the CPU away is: it begins at its abort handler.

    :param read: bytes of the core's memory; None: it lacks them.
    """
    how = RESUMING[need.view]
    again = how.again(thread.registers)
    if again is not None:
        return again
    area = thread.state.rseq
    pointer = read(area.address + _RSEQ_CS, 8) if area is not None and area.address else None
    section = read(int.from_bytes(pointer, "little"), _SECTION.size) if pointer and any(pointer) else None
    if section is not None:
        _, _, start, length, abort = _SECTION.unpack(section)
        ip = ARCHES[need.view].ip
        if start <= thread.registers[ip] < start + length:
            return {**thread.registers, ip: abort}
    return thread.registers


def _arguments(need: Need, registers: Mapping[str, int]) -> tuple[int, ...]:
    """Return the arguments of a system call."""
    return tuple(registers[name] for name in RESUMING[need.view].arguments)


def _trouble(name: str, thread: NeededThread, values: tuple[int, ...]) -> tuple[str, str, str]:
    """Return the word of a refusal, why, and what would allow it; empty words: nothing is wrong."""
    if name in _CHILDREN:
        return "children", "its children are not in the core", ""
    if name == "restart_syscall":
        return "restart", "what is left of its time is known to the dead kernel alone", ""
    if name in _WRITES - _NO_MATTER:
        return "write", "a part of it may have been written already", "--allow write"
    if name in ("clone", "clone3", "fork"):
        return "children", "it was making a process or thread", ""
    if name in _MASKS and values[_MASKS[name]] and thread.state.blocked is None:
        return "unknown", "the core does not know which signals it blocks afterwards", "--allow unknown"
    return "", "", ""


def _has_deadline(name: str, values: tuple[int, ...]) -> bool:
    if name == "clock_nanosleep":
        return bool(values[1] & _ABSOLUTE) and values[0] != _CLOCK_REALTIME
    if name == "futex":
        command = values[1] & _FUTEX_COMMAND
        return command in _FUTEX_ABSOLUTE and bool(values[3]) and not values[1] & _FUTEX_REALTIME
    return name == "futex_waitv" and bool(values[3])
