# SPDX-License-Identifier: LGPL-2.1-or-later
"""What SIGINT, SIGTERM and SIGHUP do to the command ``kgcore``: they end it, and nothing half-done stays behind.

No exception is raised for a signal: Python runs a handler wherever it happens to be, and what it raises in a finalizer,
or in a function that drgn calls, is swallowed. Instead,

- as long as there is nothing to clean up, the signals have their default action. The kernel ends the process, whatever
  it is waiting for;
- from the first thing on that would have to be cleaned up (:func:`clean_up`), a handler does that, there and then, and
  the process dies of the same signal, so that shells and service managers see what it died of. A second SIGINT or
  SIGTERM does not wait for Python, which may be waiting for a disk or a server that is gone: it has its default action.

In a process that :func:`heed` was not called in (a library's user, drgn), signals are the business of others, and all
this does nothing.
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
    :ivar process: that heeds signals; 0: none. A forked one has handlers of its own.
    :ivar ending: the signals that end it: not those that it was started to ignore (nohup).
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
    """Have these signals end this process; to be called once, by the command, before anything else."""
    _state.process = os.getpid()
    _state.ending = tuple(number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN)
    for number in _state.ending:
        signal.signal(number, signal.SIG_DFL)


def clean_up(undo: Undo) -> Callable[[], None]:
    """Have something done if a signal ends the process, the last thing first.

    :returns: is to be called when that is no longer needed.
    """
    return _remember(_state.undo, undo)


def last_words(say: Undo) -> Callable[[], None]:
    """Have something said if a signal ends the process, when all is cleaned up: whoever reads it may be slow."""
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
    """Let no signal come between the steps of the block, which is short and waits for nobody."""
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
    """Let a signal do nothing meanwhile, which is meant for a process that was started by this one.

    It is not ignored, which that process would inherit.
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
    """There is no way back: a signal between Python's notice of it and the default action would be lost."""
    if _state.armed or os.getpid() != _state.process or threading.current_thread() is not threading.main_thread():
        return
    for number in _state.ending:
        signal.signal(number, _handle)
        if number != signal.SIGHUP:  # of which a terminal that is closed sends two
            _only_once(number)
    _state.armed = True


def _only_once(number: int) -> None:
    """Set SA_RESETHAND, which Python has no word for: what comes after the first signal has its default action."""
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
    """Clean up, and die of a signal."""
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
        os.write(2, f"kgcore: stopped by {name}; no half-written core was left behind\n".encode())
    signal.raise_signal(number)
    os._exit(_SHELLS_COUNT_FROM + number)  # if somebody has blocked it


def _do(things: dict[int, Undo]) -> None:
    for number in sorted(things, reverse=True):
        with suppress(BaseException):  # one that fails must not keep the others from being done
            things[number]()
