# SPDX-License-Identifier: LGPL-2.1-or-later
"""Name signals, and convert ``siginfo_t`` of x86 in both widths.

Layouts: include/uapi/asm-generic/siginfo.h; which of them a signal has: siginfo_layout() in kernel/signal.c, whose
conversion for 32-bit programs (copy_siginfo_to_external32()) :func:`note` does.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ("NSIG", "Fault", "SigInfo", "code_name", "note", "numbers_of", "parse", "signal_name", "unsent", "words")

NSIG = 64  # _NSIG: signals are 1 to 64
SIZE = 128  # SI_MAX_SIZE: bytes of a siginfo_t
SIGRTMIN = 34  # the C library's, as kill -l has it; the kernel's is 32
_NAMES = (
    "SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2 SIGPIPE SIGALRM "
    "SIGTERM SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGXCPU SIGXFSZ SIGVTALRM SIGPROF "
    "SIGWINCH SIGIO SIGPWR SIGSYS"
).split()
_NUMBERS = {name: number for number, name in enumerate(_NAMES, 1)}
SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGCHLD, SIGIO, SIGSYS = (
    _NUMBERS[name] for name in "SIGILL SIGTRAP SIGBUS SIGFPE SIGSEGV SIGCHLD SIGIO SIGSYS".split()
)
# si_code of any signal, and of those that a fault of the program's makes, from 1 on
_SI = MappingProxyType(
    {
        0: "SI_USER", 0x80: "SI_KERNEL", -1: "SI_QUEUE", -2: "SI_TIMER", -3: "SI_MESGQ", -4: "SI_ASYNCIO",
        -5: "SI_SIGIO", -6: "SI_TKILL", -7: "SI_DETHREAD", -60: "SI_ASYNCNL",
    }
)  # fmt: skip
_CODES = MappingProxyType(
    {
        SIGILL: "ILL ILLOPC ILLOPN ILLADR ILLTRP PRVOPC PRVREG COPROC BADSTK BADIADDR BREAK BNDMOD".split(),
        SIGFPE: "FPE INTDIV INTOVF FLTDIV FLTOVF FLTUND FLTRES FLTINV FLTSUB DECOVF DECDIV DECERR INVASC INVDEC "
        "FLTUNK CONDTRAP".split(),
        SIGSEGV: "SEGV MAPERR ACCERR BNDERR PKUERR ACCADI ADIDERR ADIPERR MTEAERR MTESERR CPERR".split(),
        SIGBUS: "BUS ADRALN ADRERR OBJERR MCEERR_AR MCEERR_AO".split(),
        SIGTRAP: "TRAP BRKPT TRACE BRANCH HWBKPT UNK PERF".split(),
        SIGCHLD: "CLD EXITED KILLED DUMPED TRAPPED STOPPED CONTINUED".split(),
        SIGIO: "POLL IN OUT MSG ERR PRI HUP".split(),
        SIGSYS: "SYS SECCOMP USER_DISPATCH".split(),
    }
)
_NSIGPOLL = 6
_SI_KERNEL, _SI_TIMER, _SI_SIGIO = 0x80, -2, -5
# The parts of each layout: name, place and code for struct.unpack() with 64-bit words, the same with 32-bit ones
_FAULT = (("address", 16, "Q", 12, "I"),)
_LAYOUTS = MappingProxyType(
    {
        "kill": (("pid", 16, "i", 12, "i"), ("uid", 20, "I", 16, "I")),
        "queue": (("pid", 16, "i", 12, "i"), ("uid", 20, "I", 16, "I"), ("value", 24, "Q", 20, "I")),
        "timer": (("timer", 16, "i", 12, "i"), ("overrun", 20, "i", 16, "i"), ("value", 24, "Q", 20, "I")),
        "poll": (("band", 16, "q", 12, "i"), ("fd", 24, "i", 16, "i")),
        "fault": _FAULT,
        "memory-error": (*_FAULT, ("address_lsb", 24, "h", 16, "h")),
        "bounds": (*_FAULT, ("lower", 32, "Q", 20, "I"), ("upper", 40, "Q", 24, "I")),
        "protection-key": (*_FAULT, ("pkey", 32, "I", 20, "I")),
        "perf": (*_FAULT, ("data", 24, "Q", 16, "I"), ("type", 32, "I", 20, "I"), ("flags", 36, "I", 24, "I")),
        "child": (
            ("pid", 16, "i", 12, "i"), ("uid", 20, "I", 16, "I"), ("status", 24, "i", 20, "i"),
            ("utime", 32, "q", 24, "i"), ("stime", 40, "q", 28, "i"),
        ),
        "syscall": (("address", 16, "Q", 12, "I"), ("syscall", 24, "i", 16, "i"), ("arch", 28, "I", 20, "I")),
    }
)  # fmt: skip


def numbers_of(bits: int) -> Iterator[int]:
    """Yield the signals of a set, ascending: signal 1 is bit 0."""
    return (number for number in range(1, NSIG + 1) if bits >> number - 1 & 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigInfo:
    """The kernel's data on a signal: ``kernel_siginfo_t``.

    :ivar signal: ``si_signo``.
    :ivar code: ``si_code``, signed.
    :ivar errno: ``si_errno``, signed.
    :ivar layout: which part of the union counts (``fault``, ``child``, ``queue`` ...).
    :ivar raw: as the kernel has it, and ``word_size`` the bytes of its long.
    :ivar fields: those of the signal's layout, by names of ours (``address``, ``pid`` ...).
    """

    signal: int
    code: int
    errno: int
    layout: str
    fields: tuple[tuple[str, int], ...]
    raw: bytes
    word_size: int

    def get(self, name: str) -> int | None:
        """Return a field; None: the layout has no field of that name."""
        return dict(self.fields).get(name)


@dataclass(frozen=True, slots=True)
class Fault:
    """The last exception in user mode for which the kernel sent a thread a signal: ``thread.trap_nr`` and its kin.

    :ivar trap: ``thread.trap_nr``: number of the exception (14: a page fault).
    :ivar error_code: ``thread.error_code``: what the CPU said about it.
    :ivar address: ``thread.cr2``: user virtual address, of a page fault.
    """

    trap: int
    error_code: int
    address: int


def signal_name(number: int) -> str:
    """Return the name of a signal: ``SIGSEGV``, ``SIGRTMIN+1``, or ``signal 99`` for unknown ones."""
    if 1 <= number <= len(_NAMES):
        return _NAMES[number - 1]
    if SIGRTMIN <= number <= 64:
        return f"SIGRTMIN+{number - SIGRTMIN}" if number > SIGRTMIN else "SIGRTMIN"
    return f"signal {number}"


def code_name(signal: int, code: int) -> str:
    """Return the name of a code: ``SEGV_MAPERR``, ``SI_USER``, or its number."""
    prefix, *names = _CODES.get(signal, [""])
    if 1 <= code <= len(names):
        return f"{prefix}_{names[code - 1]}"
    return _SI.get(code, str(code))


def _layout(signal: int, code: int) -> str:
    if 0 < code < _SI_KERNEL:
        if signal not in _CODES or code >= len(_CODES[signal]):
            return "poll" if code <= _NSIGPOLL else "kill"
        special = {
            (SIGBUS, 4): "memory-error",
            (SIGBUS, 5): "memory-error",
            (SIGSEGV, 3): "bounds",
            (SIGSEGV, 4): "protection-key",
            (SIGTRAP, 6): "perf",
        }
        usual = {SIGCHLD: "child", SIGIO: "poll", SIGSYS: "syscall"}
        return special.get((signal, code)) or usual.get(signal, "fault")
    if code == _SI_TIMER:
        return "timer"
    if code == _SI_SIGIO:
        return "poll"
    return "queue" if code < 0 else "kill"


def parse(raw: bytes, word_size: int) -> SigInfo:
    """Parse a ``kernel_siginfo_t`` of a kernel with longs of that many bytes."""
    data = raw.ljust(SIZE, b"\0")
    signal, errno, code = struct.unpack_from("<iii", data, 0)
    layout = _layout(signal, code)
    wide = word_size == 8
    fields = tuple(
        (name, struct.unpack_from("<" + (code64 if wide else code32), data, at64 if wide else at32)[0])
        for name, at64, code64, at32, code32 in _LAYOUTS[layout]
    )
    return SigInfo(
        signal=signal, code=code, errno=errno, layout=layout, fields=fields, raw=raw[:SIZE], word_size=word_size
    )


def unsent(signal: int, word_size: int) -> SigInfo:
    """Return what the kernel reports for a signal without stored data (collect_signal(), get_signal()): SIGKILL, and
    signals for which it had no memory."""
    return parse(struct.pack("<iii", signal, 0, 0), word_size)


def note(info: SigInfo, word_size: int) -> bytes:
    """``siginfo_t`` of a program with longs of that many bytes: the content of NT_SIGINFO."""
    if word_size == info.word_size:
        return info.raw.ljust(SIZE, b"\0")
    data = bytearray(SIZE)
    struct.pack_into("<iii", data, 0, info.signal, info.errno, info.code)
    values = dict(info.fields)
    for name, _, _, at, code in _LAYOUTS[info.layout]:
        size = struct.calcsize(code)
        data[at : at + size] = (values[name] & (1 << 8 * size) - 1).to_bytes(size, "little")
    return bytes(data)


def words(info: SigInfo) -> str:
    """Describe the data of a signal for people: `` (SEGV_MAPERR) at address 0x10``."""
    text = f" ({code_name(info.signal, info.code)})"
    if info.layout in ("kill", "queue") and info.code != _SI_KERNEL:
        pid, uid = info.get("pid"), info.get("uid")
        return f"{text} from process {pid}, user {uid}" if pid else text if info.code else ""
    if info.layout == "syscall":
        return f"{text} by system call {info.get('syscall')}"
    address = info.get("address")
    return text if address is None else f"{text} at address {address:#x}"
