# SPDX-License-Identifier: LGPL-2.1-or-later
"""Handle SIGINT, SIGTERM and SIGHUP: they end the command, and it cleans up first.

A signal raises no exception: Python runs a handler anywhere, and swallows what it raises in a finalizer or in a
function that drgn calls. Instead,

- while there is nothing to clean up, the signals have their default action: the kernel ends the process at once;
- after the first :func:`clean_up`, a handler cleans up and the process then dies of the same signal, so that shells and
  service managers see the cause. A second SIGINT or SIGTERM has its default action, so it also ends a Python that waits
  for a disk or server.

Without a call of :func:`heed` (in a program that uses the library, in drgn) all of this does nothing.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ("clean_up", "heed", "held", "last_words", "left_to_others")

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 30  # seconds for the clean-up: a file server that is gone must not keep a process alive
_SHELLS_COUNT_FROM = 128
_SA_RESETHAND = -0x80000000  # an int, whose highest bit it is

Undo = Callable[[], object]


class _State:
    """
    :ivar process: the process that handles signals; 0: none. A forked process has its own handlers.
    :ivar ending: the signals that end it, without those that it inherited as ignored (nohup).
    """

    process = 0
    ending: tuple[signal.Signals, ...] = ()
    armed = False
    depth = 0  # of held()
    pending: int | None = None
    deaf: frozenset[int] = frozenset()
    undo: dict[int, Undo] = {}  # noqa: RUF012  (there is but one state)
    words: dict[int, Undo] = {}  # noqa: RUF012
    number = 0


_state = _State()


def heed() -> None:
    """Let these signals end this process. The command calls this once, before anything else."""
    _state.process = os.getpid()
    _state.ending = tuple(number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN)
    for number in _state.ending:
        signal.signal(number, signal.SIG_DFL)


def clean_up(undo: Undo) -> Callable[[], None]:
    """Register a cleanup for the case that a signal ends the process. The last registered runs first.

    :returns: a function that removes the cleanup.
    """
    return _remember(_state.undo, undo)


def last_words(say: Undo) -> Callable[[], None]:
    """Register a message for the case that a signal ends the process.

    It runs after all cleanups, as its reader may be slow.
    """
    return _remember(_state.words, say)


def _remember(where: dict[int, Undo], what: Undo) -> Callable[[], None]:
    _state.number = number = _state.number + 1
    where[number] = what
    _arm()

    def forget() -> None:
        where.pop(number, None)

    return forget


@contextmanager
def held() -> Iterator[None]:
    """Block signals during the block, which must be short."""
    if os.getpid() != _state.process:
        yield
        return
    _state.depth += 1
    try:
        _arm()
        yield
    finally:
        _state.depth -= 1
        if not _state.depth and _state.pending is not None:
            _end(_state.pending)


@contextmanager
def left_to_others(number: signal.Signals) -> Iterator[None]:
    """Do nothing on a signal during the block: it is for a child process.

    The signal is not ignored, since the child would inherit that.
    """
    if os.getpid() != _state.process:
        previous = signal.signal(number, lambda number, frame: None)
        try:
            yield
        finally:
            signal.signal(number, previous)
        return
    if number not in _state.ending:
        yield
        return
    _arm()
    _state.deaf |= {number}
    signal.signal(number, _handle)  # as often as it comes
    try:
        yield
    finally:
        _only_once(number)
        _state.deaf -= {number}


def _arm() -> None:
    """Install the handlers. They stay: going back to the default action could lose a signal."""
    if _state.armed or os.getpid() != _state.process or threading.current_thread() is not threading.main_thread():
        return
    for number in _state.ending:
        signal.signal(number, _handle)
        if number != signal.SIGHUP:  # of which a terminal that is closed sends two
            _only_once(number)
    _state.armed = True


def _only_once(number: int) -> None:
    """Set SA_RESETHAND, which Python does not offer: a second signal has its default action."""
    if os.uname().machine not in ("x86_64", "aarch64"):  # where struct sigaction is known to look like this
        return
    import ctypes

    class Action(ctypes.Structure):
        _fields_ = (
            ("handler", ctypes.c_void_p),
            ("mask", ctypes.c_ubyte * 128),
            ("flags", ctypes.c_int),
            ("restorer", ctypes.c_void_p),
        )

    action = Action()
    with suppress(OSError, AttributeError):  # no libc that can be asked
        libc = ctypes.CDLL(None)
        if libc.sigaction(number, None, ctypes.byref(action)) == 0 and action.handler:
            action.flags |= _SA_RESETHAND
            libc.sigaction(number, ctypes.byref(action), None)


def _handle(number: int, frame: FrameType | None) -> None:
    if number in _state.deaf or os.getpid() != _state.process:
        return
    if _state.depth:
        _state.pending = number
    else:
        _end(number)


def _end(number: int) -> None:
    """Clean up and die of a signal."""
    for other in _state.ending:  # a terminal that is closed sends SIGHUP twice
        signal.signal(other, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_PATIENCE)
    _do(_state.undo)
    for other in _state.ending:
        signal.signal(other, signal.SIG_DFL)
    _do(_state.words)
    name = signal.Signals(number).name
    with suppress(OSError):
        os.write(2, f"kgcore: stopped by {name}; removed the incomplete core\n".encode())
    signal.raise_signal(number)
    os._exit(_SHELLS_COUNT_FROM + number)  # if somebody has blocked it


def _do(things: dict[int, Undo]) -> None:
    for number in sorted(things, reverse=True):
        with suppress(BaseException):  # one that fails must not keep the others from being done
            things[number]()
