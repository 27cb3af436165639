# SPDX-License-Identifier: LGPL-2.1-or-later
"""What signals do to a process that heeds them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.signals import heeds_signals

ROOT = Path(__file__).resolve().parents[2]
ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

SETUP = """\
import collections, itertools, os, signal, sys
from kgcore.system import stopping
stopping.heed()
number = int(sys.argv[1])
def again(): os.kill(os.getpid(), number)
def never_back_to_python(): collections.deque(itertools.chain(map(os.write, [1], [b"."]), itertools.count()), maxlen=0)
def told(text): return lambda: os.write(1, text)
"""


def start(code: str, number: int = signal.SIGINT) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", SETUP + code, str(int(number))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=heeds_signals,  # noqa: PLW1509  (no other thread is running)
    )


def run(code: str, number: int = signal.SIGINT) -> tuple[int, bytes, bytes]:
    process = start(code, number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def message(number: signal.Signals) -> bytes:
    return f"kgcore: stopped by {number.name}; removed the incomplete core\n".encode()


@pytest.mark.parametrize("number", ENDING)
def test_with_nothing_to_clean_up_the_kernel_ends_the_process(number: signal.Signals) -> None:
    """Whatever it is doing: this loop never comes back to Python."""
    process = start("never_back_to_python()", number)
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (-number, b"")


@pytest.mark.parametrize("number", ENDING)
def test_all_is_cleaned_up_in_reverse_and_then_told(number: signal.Signals) -> None:
    code = """
stopping.last_words(told(b"words "))
stopping.clean_up(told(b"first "))
stopping.clean_up(lambda: 1 / 0)
forget = stopping.clean_up(told(b"forgotten "))
stopping.clean_up(told(b"last "))
forget()
again()
print("went on")
"""
    assert run(code, number) == (-number, b"last first words ", message(number))


def test_no_exception_is_raised_that_could_be_swallowed() -> None:
    code = """
stopping.clean_up(told(b"cleaned"))
class Finalized:
    def __del__(self): again()
Finalized()
print("went on")
"""
    assert run(code) == (-signal.SIGINT, b"cleaned", message(signal.SIGINT))


def test_no_signal_comes_between() -> None:
    code = """
with stopping.held():
    with stopping.held():
        again()
        os.write(1, b"one ")
    stopping.clean_up(told(b"three"))
    os.write(1, b"two ")
print("went on")
"""
    assert run(code) == (-signal.SIGINT, b"one two three", message(signal.SIGINT))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_one_does_not_wait_for_python(number: signal.Signals) -> None:
    """That it is in such a loop stands for a server that does not answer, while a file is open."""
    code = """
stopping.clean_up(told(b"cleaned"))
never_back_to_python()
"""
    process = start(code, number)
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (-number, b"", b"")


@pytest.mark.parametrize("number", ENDING)
def test_impatience_does_not_interrupt_the_clean_up(number: signal.Signals) -> None:
    """And a terminal that is closed sends two of them at once."""
    code = """
stopping.clean_up(told(b"cleaned"))
stopping.clean_up(again)
again()
"""
    assert run(code, number) == (-number, b"cleaned", message(number))


def test_a_clean_up_that_hangs_ends() -> None:
    code = "stopping._PATIENCE = 1; stopping.clean_up(never_back_to_python); again()"
    assert run(code)[0] == -signal.SIGALRM


def test_what_was_ignored_stays_ignored() -> None:
    code = "stopping.clean_up(told(b'cleaned')); again(); print('went on')"
    assert run("signal.signal(number, signal.SIG_IGN); stopping.heed();" + code) == (0, b"went on\n", b"")


def test_a_signal_for_others_may_come_as_often_as_it_likes() -> None:
    code = """
with stopping.left_to_others(signal.SIGINT):
    for _ in range(3): again()
    os.write(1, b"on ")
stopping.clean_up(told(b"cleaned"))
again()
"""
    assert run(code) == (-signal.SIGINT, b"on cleaned", message(signal.SIGINT))


def test_a_forked_process_cleans_nothing_up() -> None:
    code = """
stopping.clean_up(told(b"cleaned"))
if not (child := os.fork()):
    again()
    os._exit(7)
os.write(1, str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
"""
    assert run(code) == (0, b"7", b"")


def test_in_a_process_of_others_it_does_nothing() -> None:
    """A library's user has handlers of his own."""
    code = """
from kgcore.system import stopping
stopping.clean_up(lambda: print("cleaned"))
with stopping.held():
    pass
import signal
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
        preexec_fn=heeds_signals,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (b"True\n", b"")
