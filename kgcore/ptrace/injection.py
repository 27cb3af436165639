# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make system calls in a stopped thread, and leave it as it was: not one byte of its memory changes.

The thread is sent to a system call instruction that its vdso has, and stops at the entry and at the exit of the call.
These stops are no signals (PTRACE_SYSCALL), so nothing of how it handles SIGTRAP matters or changes. Its own signals
are blocked meanwhile. At the end it has its registers and its mask back and is stopped as before, so that the system
call that it was in, if any, is started again as after any stop.

It imports only the standard library, little of it: the guardian does.
"""

import errno
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from kgcore.ptrace import calls
from kgcore.ptrace.threads import Interrupted, stopped

__all__ = (
    "Convention",
    "Scratch",
    "Site",
    "System",
    "borrowed",
    "injecting",
    "site",
    "unfit",
)

_NT_PRSTATUS = 1
_ALL_SIGNALS = (1 << 64) - 1
_ATTEMPTS = 20  # of a call that the kernel wants to be started again
_RESTART = frozenset((-512, -513, -514, -516))  # -ERESTARTSYS and the like, include/linux/errno.h
_MOST_VDSO = 1 << 20  # bytes
_MOST_REGSET = 1 << 16  # bytes
_ALIGNED = 64


class Convention(NamedTuple):
    """How programs of an architecture and width make system calls, as offsets in their NT_PRSTATUS register set.

    :ivar size: bytes of the register set, and ``word`` those of a register.
    :ivar ip: the instruction pointer, and ``sp`` the stack pointer.
    :ivar number: what says that a thread is in a system call: -1 if it is not.
    :ivar request: where a call's number goes, and ``result`` where its result is.
    :ivar arguments: where its arguments go.
    :ivar instruction: what makes a call, in hexadecimal.
    :ivar clone, wait4, close_range: their numbers.
    """

    size: int
    word: int
    ip: int
    sp: int
    number: int
    request: int
    result: int
    arguments: tuple[int, ...]
    instruction: str
    clone: int
    wait4: int
    close_range: int


class Site(NamedTuple):
    """Where a system call can be made.

    :ivar tid: a stopped thread.
    :ivar instruction: address of the instruction that makes a call.
    """

    tid: int
    instruction: int


def unfit(tid: int, convention: Convention) -> str:
    """Say why no system call can be made in a stopped thread; "": it can.

    :raises OSError: what ptrace(2) raises.
    """
    desc = calls.getregset(tid, _NT_PRSTATUS, _MOST_REGSET)
    if desc is None or len(desc) != convention.size:
        return "it runs code of another width"
    if _status(tid, b"Seccomp") not in (b"", b"0"):
        return "seccomp may forbid it system calls"
    # Code in such a section makes no system calls.
    if _signed(desc, convention, convention.number) < 0 and _in_critical_section(tid):
        return "it is in a critical section of rseq(2)"
    return ""


def _has_a_mask_for_the_moment(tid: int) -> bool:
    """Whether a thread is in sigsuspend(2) or the like. With its own mask back, it starts that again as it would have;
    until then its mask shows."""
    return int(_status(tid, b"SigBlk") or b"0", 16) != calls.getsigmask(tid)


def _in_critical_section(tid: int) -> bool:
    """Whether a thread may be in a restartable sequence: the kernel would take it for left, once it ran elsewhere."""
    try:
        area, _, _ = calls.rseq(tid)
    except OSError as error:
        return error.errno != errno.EIO  # EIO: the kernel does not know the request
    if not area:
        return False
    try:
        return _read(tid, area + 8, 8) != bytes(8)  # rseq_cs, include/uapi/linux/rseq.h
    except OSError:
        return True


def site(threads: Iterable[int], convention: Convention, instruction: int | None = None) -> Site:
    """Choose a stopped thread that system calls can be made in.

    :param instruction: what was found in the process before, since it stands still: its list of mappings may be long.
    :raises OSError: ENOTSUP: no thread will do, and ``filename`` says why in words.
    """
    why = "it has no thread left"
    second: Site | None = None
    for tid in threads:
        with suppress(ProcessLookupError):
            why = unfit(tid, convention)
            if not why:
                instruction = instruction or _find_instruction(tid, convention)
                if instruction is None:
                    why = "it has no vdso"
                    break
                found = Site(tid, instruction)
                if not _has_a_mask_for_the_moment(tid):
                    return found
                second = second or found
    if second is not None:
        return second
    raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), why)


def _find_instruction(tid: int, convention: Convention) -> int | None:
    """Return the address of an instruction in a process's vdso that makes system calls; None: it has none.

    :raises OSError: /proc cannot be read.
    """
    with open(f"/proc/{tid}/maps", "rb") as file:
        for line in file:
            if line.endswith(b"[vdso]\n"):
                start, end = (int(word, 16) for word in line.split(b" ", 1)[0].split(b"-"))
                code = _read(tid, start, min(end - start, _MOST_VDSO))
                found = code.find(bytes.fromhex(convention.instruction))
                return None if found < 0 else start + found
    return None


def _read(tid: int, address: int, size: int) -> bytes:
    descriptor = os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, size, address)
    finally:
        os.close(descriptor)


def _status(tid: int, name: bytes) -> bytes:
    with open(f"/proc/{tid}/status", "rb") as file:
        for line in file:
            found, _, value = line.partition(b":")
            if found == name:
                return value.strip()
    return b""


def _code(convention: Convention) -> str:
    return "<Q" if convention.word == 8 else "<I"


def _word(desc: bytes, convention: Convention, offset: int) -> int:
    (value,) = struct.unpack_from(_code(convention), desc, offset)
    return int(value)


def _signed(desc: bytes, convention: Convention, offset: int) -> int:
    value = _word(desc, convention, offset)
    return value - (1 << 8 * convention.word) if value >> (8 * convention.word - 1) else value


def _minus_one(convention: Convention) -> int:
    return (1 << 8 * convention.word) - 1


class System:
    """Makes system calls in a stopped thread. :func:`injecting` gives it.

    :ivar born: the id of the process that the last call made, in our own pid namespace; 0: none.
    """

    def __init__(self, where: Site, convention: Convention, desc: bytes) -> None:
        self._site = where
        self._convention = convention
        self._desc = desc
        self.born = 0

    def call(self, number: int, *arguments: int) -> int:
        """Make a system call and return its result: -errno if it failed.

        :raises Interrupted: the thread got a signal that cannot be blocked, or ended.
        :raises OSError: what ptrace(2) raises.
        """
        result = -errno.EINTR
        for _ in range(_ATTEMPTS):
            result = self._once(number, arguments)
            if result not in _RESTART:
                break
        return result

    def _once(self, number: int, arguments: Sequence[int]) -> int:
        tid, to = self._site.tid, self._convention
        desc = bytearray(self._desc)
        values = {to.ip: self._site.instruction, to.number: -1, to.request: number}
        padded = (*arguments, *(0,) * (len(to.arguments) - len(arguments)))
        values.update(zip(to.arguments, padded, strict=True))
        for offset, value in values.items():
            struct.pack_into(_code(to), desc, offset, value & _minus_one(to))
        calls.setregset(tid, _NT_PRSTATUS, bytes(desc))
        self.born = 0
        for _ in ("entry", "exit"):
            self._to_the_next_stop(tid)
        found = calls.getregset(tid, _NT_PRSTATUS, to.size) or bytes(to.size)
        return _signed(found, to, to.result)

    def _to_the_next_stop(self, tid: int) -> None:
        """Let it run to the entry or the exit of its system call."""
        while True:
            calls.syscall(tid)
            number, event = stopped(tid)
            if number == calls.SYSCALL_STOP:
                return
            if event == calls.PTRACE_EVENT_CLONE:
                self.born = calls.geteventmsg(tid)
            elif event != calls.PTRACE_EVENT_STOP:  # that is SIGCONT's: it has not moved
                raise Interrupted(number)


@contextmanager
def borrowed(tids: Iterable[int], convention: Convention, red_zone: int, size: int) -> Iterator["Scratch"]:
    """Use memory below a thread's stack for what system calls write; it has its bytes back afterwards.

    :param tids: stopped threads of one process, none of which has registers that are not its own: the first below whose
        stack there is memory lends it.
    :param red_zone: bytes below the stack pointer that are a function's too.
    :param size: bytes wanted.
    :raises OSError: EFAULT: there is no such memory in the page tables, and none is to come there.
    """
    places = ((tid, _below_stack(tid, convention, red_zone, size)) for tid in tids)
    tid, start = next((place for place in places if place[1]), (0, 0))
    if not start:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    descriptor = os.open(f"/proc/{tid}/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        before = os.pread(descriptor, size, start)
        try:
            yield Scratch(descriptor, start, size)
        finally:
            os.pwrite(descriptor, before, start)
    finally:
        os.close(descriptor)


def _below_stack(tid: int, convention: Convention, red_zone: int, size: int) -> int:
    """Return where memory below a thread's stack begins; 0: no memory is there."""
    try:
        desc = calls.getregset(tid, _NT_PRSTATUS, _MOST_REGSET) or b""
    except ProcessLookupError:
        return 0
    if len(desc) != convention.size:
        return 0
    start = (_word(desc, convention, convention.sp) - red_zone - size) & -_ALIGNED
    return start if start > 0 and all(_is_present(tid, at) for at in (start, start + size - 1)) else 0


class Scratch:
    """Memory of a thread's process that system calls may write to. :func:`borrowed` gives it.

    :ivar address: where it begins.
    """

    def __init__(self, descriptor: int, address: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self.address = address

    def clear(self) -> None:
        """Make it zeros."""
        os.pwrite(self._descriptor, bytes(self._size), self.address)

    def content(self) -> bytes:
        """Return all its bytes."""
        return os.pread(self._descriptor, self._size, self.address)


def _is_present(tid: int, address: int) -> bool:
    page = os.sysconf("SC_PAGESIZE")
    descriptor = os.open(f"/proc/{tid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        entry = os.pread(descriptor, 8, address // page * 8)
    finally:
        os.close(descriptor)
    return len(entry) == 8 and bool(entry[7] & 0x80)


@contextmanager
def injecting(where: Site, convention: Convention, options: int = 0) -> Iterator[System]:
    """Make system calls in a stopped thread, for as long as the ``with`` block lasts.

    At its end, and on every error, the thread is as before: its registers, its mask, and stopped for no signal.

    :param options: sum of PTRACE_O_* that it has, and keeps.
    :raises Interrupted, OSError: as :meth:`System.call`.
    """
    tid = where.tid
    desc = calls.getregset(tid, _NT_PRSTATUS, _MOST_REGSET) or b""
    mask = calls.getsigmask(tid)
    calls.setoptions(tid, options | calls.PTRACE_O_TRACESYSGOOD | calls.PTRACE_O_TRACECLONE)
    calls.setsigmask(tid, _ALL_SIGNALS)
    signal = 0
    try:
        yield System(where, convention, desc)
    except Interrupted as interrupted:
        signal = interrupted.signal
        raise
    finally:
        with suppress(OSError, Interrupted):  # it was killed
            # Asked for first: it stops before it is back in its own code, also if this program ends right here.
            calls.interrupt(tid)
            calls.setregset(tid, _NT_PRSTATUS, desc)
            calls.setsigmask(tid, mask)
            calls.setoptions(tid, options)
            calls.cont(tid, signal)
            while True:
                number, event = stopped(tid)
                if event == calls.PTRACE_EVENT_STOP:
                    break
                calls.cont(tid, number)
