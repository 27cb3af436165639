# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hold a process still, and let it go in every way out."""

import errno
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

from kgcore.ptrace import guardian
from kgcore.ptrace.injection import Convention
from kgcore.system import companion

__all__ = ("Tracee",)

_START = "from kgcore.ptrace.guardian import main; main()"
_PATIENCE = 10  # seconds for the guardian to end; then it is killed, and the kernel releases the threads


class Tracee:
    """A process all of whose threads stand still: no signal was sent, and it does not notice.

    The ``with`` block, or :meth:`release`, lets it go on. If this program is killed, it goes on at once, too.

    :ivar threads: ids of its threads that have not exited.
    :ivar since: when the first of them was about to be stopped, by time.monotonic().

    :param pid: id of the process in our own pid namespace.
    :param seconds: how long to wait for all threads to stop.
    :param fork: the guardian is a copy of this program, which has but one thread; else it is started, which takes
        longer.
    :raises OSError: what ptrace(2) raises; ETIMEDOUT: a thread did not stop in time. ``filename`` is the thread's id.
    """

    def __init__(self, pid: int, seconds: float, *, fork: bool = False) -> None:
        self._guardian: companion.Companion
        if fork:
            self._guardian, self._connection = companion.fork(guardian.serve)
        else:
            self._guardian, self._connection = companion.start(_START, "-S", cwd="/")
        try:
            self.since, threads = self._ask("stop", pid, seconds)
            self.threads: tuple[int, ...] = tuple(threads)
        except BaseException:
            self.release()
            raise

    def regsets(self, tid: int, kinds: Sequence[int]) -> tuple[bytes | None, ...]:
        """Return register sets of a thread, each as its note has it; None: the thread has none of this kind.

        :param kinds: NT_*.
        :raises OSError: what ptrace(2) raises, ESRCH if it was killed.
        """
        found = self._ask("regsets", tid, tuple(kinds))
        return tuple(None if desc is None else bytes.fromhex(desc) for desc in found)

    def own_view(self, tid: int) -> tuple[bytes, bytes]:
        """Return the general and the floating-point registers of a thread as this program's notes would have them.

        :raises OSError: what ptrace(2) raises, ESRCH if it was killed.
        """
        regs, fpregs = map(bytes.fromhex, self._ask("own_view", tid))
        return regs, fpregs

    def pending(self, tid: int, *, shared: bool) -> tuple[bytes, ...]:
        """Return the ``siginfo_t`` of the signals that wait for a thread, or for the process, in their order.

        :raises OSError: what ptrace(2) raises.
        """
        return tuple(map(bytes.fromhex, self._ask("pending", tid, shared)))

    def rseq(self, tid: int) -> tuple[int, int, int]:
        """Return address, size and signature of a thread's area of rseq(2).

        :raises OSError: what ptrace(2) raises; EIO: the kernel does not tell them.
        """
        address, size, signature = self._ask("rseq", tid)
        return address, size, signature

    def blocked(self, tid: int) -> int:
        """Return the signals that a thread blocks, or will when its system call ends.

        :raises OSError: what ptrace(2) raises.
        """
        return int(self._ask("blocked", tid))

    def snapshot(self, convention: Convention) -> tuple[int, int]:
        """Make a copy-on-write copy of the process, which never runs; :meth:`release` takes it away.

        :return: its id, and the nanoseconds in which a thread of the process had registers that are not its own.
        :raises OSError: there can be none: with ENOTSUP ``filename`` says why in words, else it is the system call that
            failed.
        """
        pid, window = self._ask("snapshot", convention)
        return pid, window

    def calls(
        self,
        tids: Sequence[int],
        convention: Convention,
        requests: Sequence[tuple[int | None, ...]],
        *,
        red_zone: int,
        size: int,
    ) -> list[tuple[int, bytes]]:
        """Make system calls in one of the threads, which is afterwards as before.

        :param tids: the threads to choose from, in order.
        :param requests: number and arguments of each; an argument None is the address of the scratch memory, which is
            zeros before each call.
        :param red_zone: bytes below the stack pointer that are a function's too.
        :param size: bytes of scratch memory.
        :return: the result of each call, -errno if it failed, and what is in the scratch memory then.
        :raises OSError: ENOTSUP: none of the threads will do; EFAULT: there is no scratch memory; EINTR: a signal came.
        """
        found = self._ask("calls", tuple(tids), convention, tuple(requests), red_zone, size)
        return [(result, bytes.fromhex(content)) for result, content in found]

    def drop(self) -> bool:
        """Take the copy away, if there is one. The process still stands still, or goes on, as before.

        :return: as :meth:`release`.
        :raises OSError: the helper program is gone.
        """
        return bool(self._ask("drop"))

    def thaw(self) -> float:
        """Let the process go on, keep its copy, and return when the last thread was let go, by time.monotonic().

        :raises OSError: the helper program is gone.
        """
        return float(self._ask("thaw"))

    def _ask(self, *request: Any) -> Any:
        try:
            guardian.send(self._connection, request)
            good, answer = guardian.receive(self._connection)
        except (EOFError, ConnectionError):
            raise OSError(errno.EIO, "the helper program that stops it has ended") from None
        if not good:
            raise OSError(*answer)
        return answer

    def release(self) -> bool:
        """Let the process go on, and take its copy away. Doing it again does nothing.

        :return: False: the copy is gone, but stays as a zombie child of the process, until that ends.
        """
        if self._guardian.returncode is not None:
            return True
        clean = True
        with suppress(OSError):
            clean = self._ask("release")
        self._connection.close()
        try:
            self._guardian.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._guardian.kill()
            self._guardian.wait()
        return clean

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
