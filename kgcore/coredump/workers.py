# SPDX-License-Identifier: LGPL-2.1-or-later
"""Share work among forked processes, which inherit all data of this one."""

import gc
import multiprocessing
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

from kgcore.errors import KgcoreError
from kgcore.system import stopping

__all__ = ("Workers", "available", "may_fork")

_T = TypeVar("_T")
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def available() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def may_fork() -> bool:
    """Say whether forking is safe: another thread could hold a lock that the child would wait for forever."""
    return threading.active_count() == 1


class _Worker(NamedTuple):
    process: BaseProcess
    connection: Connection


class Workers(Generic[_T]):
    """Processes that do numbered pieces of work.

    If one is killed (for want of memory), this process does its piece itself.

    :param jobs: how many.
    :param work: does a piece; its result is sent to this process.
    """

    def __init__(self, jobs: int, work: Callable[[int], _T]) -> None:
        self._jobs = jobs
        self._work = work
        self._all: list[_Worker] = []
        self._free: list[_Worker] = []
        self._busy: dict[Connection, tuple[_Worker, int]] = {}
        self._left: list[int] = []  # pieces to be done here
        self._forget: Callable[[], None] = lambda: None  # that they would have to be killed

    def __enter__(self) -> Self:
        with stopping.held():
            self._forget = stopping.clean_up(self._end)
            self._start()
        return self

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        gc.freeze()  # a collection would touch, and so copy, all memory that the processes share
        # A signal that a new process gets before it has handlers of its own would be handled as ours are.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        try:
            for _ in range(self._jobs):
                ours, theirs = context.Pipe()
                others = [worker.connection for worker in self._all]
                arguments = (self._work, theirs, [*others, ours], mask)
                process = context.Process(target=_serve, args=arguments, daemon=True)
                try:
                    with warnings.catch_warnings():
                        # drgn leaves threads of OpenMP behind that wait for work which nobody will have for them.
                        warnings.simplefilter("ignore", DeprecationWarning)
                        process.start()
                except OSError:  # there is no memory for it, or there are too many
                    ours.close()
                    break
                finally:
                    theirs.close()
                self._all.append(_Worker(process, ours))
            self._free = self._all.copy()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        except BaseException:
            self._stop()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        gc.unfreeze()
        self._kill()
        for worker in self._all:
            worker.process.join()
            worker.connection.close()
        self._forget()

    def _kill(self) -> None:
        for worker in self._all:
            worker.process.kill()

    def _end(self) -> None:
        """End the workers when a signal ends this process."""
        self._kill()
        for worker in self._all:
            with suppress(ChildProcessError):
                os.waitpid(worker.process.pid or 0, 0)

    @property
    def idle(self) -> bool:
        """Say whether a worker is free for another piece."""
        return bool(self._free) or not (self._busy or self._left)

    def give(self, number: int) -> None:
        """Give a piece to a worker."""
        while self._free:
            worker = self._free.pop()
            try:
                worker.connection.send(number)
            except OSError:
                self._bury(worker)
                continue
            self._busy[worker.connection] = worker, number
            return
        self._left.append(number)

    def next(self) -> tuple[int, _T]:
        """Return the next finished piece.

        :raises KgcoreError: what the work raised.
        :raises RuntimeError: it raised anything else; the text is the traceback.
        """
        if self._left:
            number = self._left.pop()
            return number, self._work(number)
        connection = wait(list(self._busy))[0]
        assert isinstance(connection, Connection)
        worker, number = self._busy.pop(connection)
        try:
            result, error = connection.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return number, self._work(number)
        self._free.append(worker)
        if error is not None:
            raise error
        return number, result

    def _bury(self, worker: _Worker) -> None:
        self._all.remove(worker)
        worker.process.kill()  # it may be but its connection that broke
        worker.process.join()
        worker.connection.close()


def _serve(
    work: Callable[[int], object], connection: Connection, others: list[Connection], mask: set[signal.Signals]
) -> None:
    """Run a worker. It ends with the process that forked it."""
    for other in others:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches all; the parent says what is to be done
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup wants it ignored
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    while True:
        try:
            number = connection.recv()
        except (EOFError, OSError):
            return
        error: Exception | None = None
        result = None
        try:
            result = work(number)
        except KgcoreError as raised:
            error = type(raised)(raised.message)
            error.hint, error.pid, error.address = raised.hint, raised.pid, raised.address
        except Exception:  # noqa: BLE001  (a defect, to be told by the parent)
            error = RuntimeError(traceback.format_exc())
        try:
            connection.send((result, error))
        except OSError:
            return
