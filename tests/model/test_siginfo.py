# SPDX-License-Identifier: LGPL-2.1-or-later
"""siginfo_t, against what the C compiler makes of the same."""

import signal
from pathlib import Path

import pytest

from kgcore.model.dying import Dying
from kgcore.model.siginfo import SIZE, Fault, code_name, note, parse, signal_name, unsent, words
from tests.compiler import output

C = r"""
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
static void show(int number, int code, siginfo_t s)
{
	s.si_signo = number; s.si_code = code; s.si_errno = 7;
	fwrite(&s, sizeof s, 1, stdout);
}
int main(void)
{
	siginfo_t s;
#define START memset(&s, 0, sizeof s)
	START; s.si_addr = (void *)0x7654321; show(SIGSEGV, SEGV_MAPERR, s);
	START; s.si_addr = (void *)0x8765432; show(SIGFPE, FPE_INTDIV, s);
	START; s.si_addr = (void *)0x1000; s.si_addr_lsb = 12; show(SIGBUS, BUS_MCEERR_AR, s);
	START; s.si_addr = (void *)0x2000; s.si_lower = (void *)0x3000; s.si_upper = (void *)0x4000;
	show(SIGSEGV, SEGV_BNDERR, s);
	START; s.si_addr = (void *)0x2000; s.si_pkey = 5; show(SIGSEGV, SEGV_PKUERR, s);
	START; s.si_pid = 4711; s.si_uid = 1000; show(SIGTERM, SI_USER, s);
	START; s.si_pid = 4711; s.si_uid = 1000; s.si_int = -2; show(SIGABRT, SI_TKILL, s);
	START; s.si_timerid = 3; s.si_overrun = 4; s.si_int = 5; show(SIGRTMIN, SI_TIMER, s);
	START; s.si_band = -6; s.si_fd = 7; show(SIGIO, POLL_IN, s);
	START; s.si_call_addr = (void *)0x401000; s.si_syscall = 110; s.si_arch = 0xc000003e; show(SIGSYS, 1, s);
	START; show(SIGSEGV, SI_KERNEL, s);
	return 0;
}
"""
TOLD = (
    "SIGSEGV (SEGV_MAPERR) at address 0x7654321",
    "SIGFPE (FPE_INTDIV) at address 0x8765432",
    "SIGBUS (BUS_MCEERR_AR) at address 0x1000",
    "SIGSEGV (SEGV_BNDERR) at address 0x2000",
    "SIGSEGV (SEGV_PKUERR) at address 0x2000",
    "SIGTERM (SI_USER) from process 4711, user 1000",
    "SIGABRT (SI_TKILL) from process 4711, user 1000",
    "SIGRTMIN (SI_TIMER)",
    "SIGIO (POLL_IN)",
    "SIGSYS (SYS_SECCOMP) by system call 110",
    "SIGSEGV (SI_KERNEL)",
)


def compiled(folder: Path, flag: str) -> list[bytes]:
    raw = output(folder, C, flag)
    return [raw[at : at + SIZE] for at in range(0, len(raw), SIZE)]


def test_in_both_widths(tmp_path: Path) -> None:
    """copy_siginfo_to_external32() of a 64-bit kernel's gives what a 32-bit program has."""
    wide, narrow = compiled(tmp_path, "-m64"), compiled(tmp_path, "-m32")
    assert len(wide) == len(narrow) == len(TOLD)
    for raw, short, told in zip(wide, narrow, TOLD, strict=True):
        info = parse(raw[:48], 8)
        assert signal_name(info.signal) + words(info) == told
        assert info.errno == 7
        assert note(info, 8) == raw
        if "SI_TKILL" not in told and "SI_TIMER" not in told:  # sigval is as wide as a pointer
            assert note(info, 4) == short
        assert note(parse(short, 4), 4) == short
        assert [name for name, _ in parse(short, 4).fields] == [name for name, _ in info.fields]
    assert note(parse(wide[6], 8), 4)[:24] == narrow[6][:24]


def test_names_are_the_systems() -> None:
    for number in range(1, 32):
        name = signal_name(number)
        assert name == "SIGSTKFLT" or signal.Signals[name] == number
    assert (signal_name(34), signal_name(37), signal_name(64)) == ("SIGRTMIN", "SIGRTMIN+3", "SIGRTMIN+30")
    assert (signal_name(33), signal_name(99)) == ("signal 33", "signal 99")
    assert (code_name(11, 2), code_name(11, 77), code_name(99, 0)) == ("SEGV_ACCERR", "77", "SI_USER")


@pytest.mark.parametrize("raw", [b"", b"\xff" * 48, bytes(128), b"\x0b\0\0\0"])
def test_damaged(raw: bytes) -> None:
    info = parse(raw, 8)
    assert len(note(info, 8)) == len(note(info, 4)) == SIZE
    assert isinstance(words(info), str)


def test_what_is_told_of_the_dying() -> None:
    info = unsent(9, 8)
    assert Dying(9, "exiting", info=info).words() == "SIGKILL was ending it"
    assert note(info, 8) == b"\x09".ljust(128, b"\0")
    lost = Dying(11, "dumping-core", 4711, None, Fault(14, 6, 0x1234))
    assert lost.words() == (
        "the kernel was writing its core for SIGSEGV, which thread 4711 got; the last fault of that thread was at "
        "address 0x1234"
    )
    assert lost.to_json()["info"] is None
    assert Dying(15, "pending").words() == "SIGTERM was pending"
