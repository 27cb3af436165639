# SPDX-License-Identifier: LGPL-2.1-or-later
"""How 64-bit programs go on from a core."""

import struct
from collections.abc import Mapping

from kgcore.arch.resuming import Resuming, Vector
from kgcore.arch.x86.common import NT_X86_XSTATE
from kgcore.arch.x86.cpuid import layout_of_this_cpu
from kgcore.arch.x86.xsave import EXTENDED, FXSAVE_SIZE, SW_RESERVED
from kgcore.model.process import XsaveLayout

__all__ = ("RESUMING_X86_64",)

_NT_X86_XSAVE_LAYOUT = 0x205
_TOP = 0x7FFFFFFFF000  # TASK_SIZE of programs that do not ask for more: DEFAULT_MAP_WINDOW
_USER_CS, _USER_DS = 0x33, 0x2B  # __USER_CS, __USER_DS
_SYSCALL = 2  # bytes of the instruction
_YMM = 2
_PKRU = 9
# Offset and size of components: of Intel's CPUs (and QEMU's), and of AMD's, with PKRU behind AVX-512 and without that
_PLACES: tuple[dict[int, tuple[int, int]], ...] = (
    {2: (576, 256), 3: (960, 64), 4: (1024, 64), 5: (1088, 64), 6: (1152, 512), 7: (1664, 1024), 9: (2688, 8)},
    {2: (576, 256), 5: (832, 64), 6: (896, 512), 7: (1408, 1024), 9: (2432, 8)},
    {2: (576, 256), 9: (832, 8)},
)
_MPX = 1 << 3 | 1 << 4
_FEATURES = {2: "AVX", 3: "MPX", 4: "MPX", 5: "AVX-512", 6: "AVX-512", 7: "AVX-512", 9: "PKRU", 11: "CET"}
_FEATURES |= {17: "AMX", 18: "AMX", 19: "APX"}
# -ENOSYS: a thread that waited in a call while the kernel died; the others: include/linux/errno.h, what a call returns
# that was interrupted and is to start again: ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK
_UNFINISHED = frozenset((-38, -512, -513, -514, -516))
# -EINTR of epoll_wait, epoll_pwait and epoll_pwait2, which any stop interrupts: nothing of theirs has been done
_EINTR, _EPOLL = -4, frozenset((232, 281, 441))

_CALLS = {
    "close": 3,
    "mmap": 9,
    "mprotect": 10,
    "munmap": 11,
    "rt_sigaction": 13,
    "mremap": 25,
    "madvise": 28,
    "setitimer": 38,
    "fcntl": 72,
    "fchdir": 81,
    "umask": 95,
    "rt_sigqueueinfo": 129,
    "sigaltstack": 131,
    "personality": 135,
    "prctl": 157,
    "set_tid_address": 218,
    "timer_create": 222,
    "timer_settime": 223,
    "timer_delete": 226,
    "set_robust_list": 273,
    "rt_tgsigqueueinfo": 297,
    "mlock2": 325,
    "rseq": 334,
    "clone3": 435,
    "close_range": 436,
}
_WAITS = {
    0: "read",
    1: "write",
    7: "poll",
    18: "pwrite64",
    19: "readv",
    20: "writev",
    23: "select",
    34: "pause",
    35: "nanosleep",
    40: "sendfile",
    42: "connect",
    43: "accept",
    44: "sendto",
    45: "recvfrom",
    46: "sendmsg",
    47: "recvmsg",
    56: "clone",
    57: "fork",
    58: "vfork",
    61: "wait4",
    128: "rt_sigtimedwait",
    130: "rt_sigsuspend",
    202: "futex",
    219: "restart_syscall",
    230: "clock_nanosleep",
    232: "epoll_wait",
    247: "waitid",
    270: "pselect6",
    271: "ppoll",
    275: "splice",
    276: "tee",
    278: "vmsplice",
    281: "epoll_pwait",
    288: "accept4",
    296: "pwritev",
    307: "sendmmsg",
    326: "copy_file_range",
    333: "io_pgetevents",
    435: "clone3",
    441: "epoll_pwait2",
    449: "futex_waitv",
}


# The functions of a vdso that are system calls, too, with the same arguments
_VDSO = {
    "gettimeofday": 96,
    "time": 201,
    "clock_gettime": 228,
    "clock_getres": 229,
    "getcpu": 309,
    "getrandom": 318,
}
_UNKNOWN = bytes.fromhex("48c7c0daffffff c3")  # mov rax, -ENOSYS; ret


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _again(registers: Mapping[str, int]) -> Mapping[str, int] | None:
    number, result = _signed(registers["orig_ax"]), _signed(registers["ax"])
    if number < 0 or not (result in _UNFINISHED or (result == _EINTR and number in _EPOLL)):
        return None
    return {**registers, "ip": registers["ip"] - _SYSCALL, "ax": registers["orig_ax"]}


def _foreign(registers: Mapping[str, int]) -> str:
    if (registers["cs"], registers["ss"]) != (_USER_CS, _USER_DS):
        return f"its code segment is {registers['cs']:#x}: it runs code of another width"
    if any(registers[name] for name in ("ds", "es", "fs", "gs")):
        return "it uses segment registers"
    if any(registers[name] >= _TOP for name in ("ip", "fs_base", "gs_base")):
        return "its registers point to the kernel"
    return ""


def _layout_of(note: bytes, xstate: bytes | None) -> XsaveLayout | None:
    """Read NT_X86_XSAVE_LAYOUT; without it (kernels before 6.12), by the size, which tells the makers' CPUs apart."""
    if xstate is None or len(xstate) < EXTENDED:
        return None
    (features,) = struct.unpack_from("<Q", xstate, SW_RESERVED)
    extended = [number for number in range(2, 64) if features >> number & 1]
    places = {number: (offset, size) for number, size, offset, _ in struct.iter_unpack("<4I", note[: len(note) & -16])}
    if not note:
        fitting = (
            table for table in _PLACES if max((sum(table.get(n, ())) for n in extended), default=0) == len(xstate)
        )
        places = next(fitting, {_YMM: _PLACES[0][_YMM]})
    sizes, offsets = ({number: place[which] for number, place in places.items()} for which in (1, 0))
    layout = XsaveLayout(user_size=len(xstate), user_features=features, offsets=offsets, sizes=sizes)
    if any(not EXTENDED <= offsets[number] <= len(xstate) - sizes[number] for number in extended if number in sizes):
        return None
    return None if any(number not in sizes for number in _used(xstate, layout)) else layout


def _used(xstate: bytes, layout: XsaveLayout) -> list[int]:
    """Return the extended components that are not as at the start of a program, which is zeros but for PKRU: some
    machines say of all that they are in use."""
    (features,) = struct.unpack_from("<Q", xstate, FXSAVE_SIZE)

    def is_zeros(number: int) -> bool:
        at, size = layout.offsets.get(number), layout.sizes.get(number, 0)
        return at is not None and number != _PKRU and not any(xstate[at : at + size])

    return [number for number in range(2, 63) if features >> number & 1 and not is_zeros(number)]


def _vdso_function(name: str) -> bytes:
    if name not in _VDSO:
        return _UNKNOWN
    code = b"\xb8" + struct.pack("<I", _VDSO[name]) + b"\x0f\x05\xc3"  # mov eax, number; syscall; ret
    if name == "getrandom":
        # Whoever asks what state it needs (its fifth argument is -1) hears that there is no such function: the call
        # needs none. cmp r8, -1; je behind the call
        return bytes.fromhex("4983f8ff 74") + bytes((len(code),)) + code + _UNKNOWN
    return code


def _merged(core: Vector, here: Vector) -> bytes:
    """Copy component by component: two machines place them differently."""
    if core.layout is None or here.layout is None:
        raise ValueError("it is not known where its vector registers lie")
    used = _used(core.desc, core.layout)
    (legacy,) = struct.unpack_from("<Q", core.desc, FXSAVE_SIZE)
    desc = bytearray(here.desc)
    desc[:SW_RESERVED] = core.desc[:SW_RESERVED]
    desc[FXSAVE_SIZE:] = bytes(len(desc) - FXSAVE_SIZE)
    struct.pack_into("<Q", desc, FXSAVE_SIZE, legacy & 0b11 | sum(1 << number for number in used))
    for number in used:
        size = core.layout.sizes.get(number)
        at, to = core.layout.offsets.get(number), here.layout.offsets.get(number)
        if size is None or at is None or to is None or size != here.layout.sizes[number] or to + size > len(desc):
            raise ValueError(f"this CPU has not its vector registers of XSAVE feature {number}")
        desc[to : to + size] = core.desc[at : at + size]
    return bytes(desc)


def _lacks(core: Vector, here: XsaveLayout) -> str:
    (had,) = struct.unpack_from("<Q", core.desc, SW_RESERVED)
    used = [] if core.layout is None else _used(core.desc, core.layout)
    # Without MPX its instructions do nothing: that matters only to who uses it.
    missing = (had & ~_MPX | sum(1 << number for number in used)) & ~here.user_features
    names = {_FEATURES.get(number, f"XSAVE feature {number}") for number in range(64) if missing >> number & 1}
    return ", ".join(sorted(names))


RESUMING_X86_64 = Resuming(
    top=_TOP,
    calls=_CALLS,
    waits=_WAITS,
    request="ax",
    arguments=("di", "si", "dx", "r10", "r8", "r9"),
    epoll_event="<IQ",  # EPOLL_PACKED
    again=_again,
    foreign=_foreign,
    vdso_function=_vdso_function,
    vector=NT_X86_XSTATE,
    layout_note=_NT_X86_XSAVE_LAYOUT,
    layout_of=_layout_of,
    merged=_merged,
    here=layout_of_this_cpu,
    lacks=_lacks,
)
