# SPDX-License-Identifier: LGPL-2.1-or-later
"""Work in forked processes, and what may happen to them."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kgcore.coredump.workers import Workers, available, may_fork
from kgcore.errors import OutputError

ROOT = Path(__file__).parents[2]
OURS = os.getpid()


def results(work: Callable[[int], int], pieces: int = 20, jobs: int = 3) -> list[int]:
    """What comes of the pieces, in their order; nobody is left when it is done."""
    found: dict[int, int] = {}
    with Workers(jobs, work) as workers:
        given = 0
        while len(found) < pieces:
            while given < pieces and workers.idle:
                workers.give(given)
                given += 1
            number, result = workers.next()
            found[number] = result
    assert children() == []
    return [found[number] for number in range(pieces)]


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_others_do_the_work() -> None:
    pids = results(lambda _: os.getpid())
    assert OURS not in pids
    assert 1 <= len(set(pids)) <= 3


def test_one_that_is_killed_costs_nothing_but_time() -> None:
    def work(number: int) -> int:
        if number % 5 == 0 and os.getpid() != OURS:
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number

    assert results(work) == [number * number for number in range(20)]


def test_without_memory_for_others_it_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    assert results(lambda _: os.getpid()) == [OURS] * 20


def test_a_reason_arrives_as_it_is_and_a_defect_with_its_place() -> None:
    def refuse(number: int) -> int:
        raise OutputError("the disk is full", hint="free some space", pid=7)

    def break_(number: int) -> int:
        return 1 // 0

    with pytest.raises(OutputError, match=r"the disk is full \(free some space\)") as caught:
        results(refuse)
    assert (caught.value.hint, caught.value.pid) == ("free some space", 7)
    with pytest.raises(RuntimeError, match=r"in break_\n(?s:.*)ZeroDivisionError"):
        results(break_)
    assert children() == []


def test_signals_are_ours_alone() -> None:
    """Stopped at once, before a worker has begun: nobody runs our handlers, nobody hangs."""
    program = """if True:
        import signal, sys
        from kgcore.coredump.workers import Workers
        def stop(number, frame):
            raise BaseException("a handler of ours")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)
        for _ in range(40):
            with Workers(3, lambda number: number) as workers:
                for worker in workers._free:
                    worker.process.terminate()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    """
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_nobody_is_forgotten_whenever_we_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while a result is read, or work is handed out, when a worker is neither free nor busy."""
    for name in ("recv", "send"):

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), Workers(3, lambda number: number) as workers:  # noqa: PT012
            if name == "recv":
                workers.give(0)
            monkeypatch.setattr("multiprocessing.connection.Connection." + name, stop)
            workers.give(1) if name == "send" else workers.next()
        monkeypatch.undo()
        assert children() == []


def test_nobody_forks_beside_a_thread() -> None:
    assert may_fork()
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    assert not may_fork()
    done.set()
    thread.join()
    assert may_fork()


def test_how_many_there_may_be() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert available() == len(before)
