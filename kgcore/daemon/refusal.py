# SPDX-License-Identifier: LGPL-2.1-or-later
"""Why a request gets no core: an errno for programs, and words for people."""

import errno

from kgcore.errors import (
    Busy,
    Cancelled,
    KernelThread,
    KgcoreError,
    LimitReached,
    NoSuchTask,
    NoUserMemory,
    OutputError,
    StoodStillTooLong,
    TargetError,
)

__all__ = ("Refusal", "number_of")

# The first class that fits. TargetError and OutputError come mostly of an OSError, which says more.
_NUMBERS: tuple[tuple[type[KgcoreError], int], ...] = (
    (Busy, errno.EBUSY),
    (Cancelled, errno.ECANCELED),
    (NoSuchTask, errno.ESRCH),
    (NoUserMemory, errno.ESRCH),
    (KernelThread, errno.EPERM),
    (LimitReached, errno.EFBIG),
    (StoodStillTooLong, errno.ETIMEDOUT),
)
_DEPTH = 10  # of errors that caused one another


class Refusal(Exception):
    """A request that gets no core.

    :ivar errno: why.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.errno = number


def number_of(error: BaseException) -> int:
    """Return the errno for an exception that ended a dump."""
    for kind, number in _NUMBERS:
        if isinstance(error, kind):
            return number
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    cause: BaseException | None = error
    for _ in range(_DEPTH):
        if isinstance(cause, OSError) and cause.errno:
            return errno.EPERM if cause.errno == errno.EACCES else cause.errno
        if cause is None:
            break
        cause = cause.__cause__
    if isinstance(error, TargetError):
        return errno.EPERM
    return errno.EIO if isinstance(error, OutputError) or not isinstance(error, KgcoreError) else errno.EINVAL
