# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recognise the exceptions that a damaged dump causes.

Types come out of the dump too, and may be damaged like anything else: a member is gone, a pointer has become an int, a
structure contains itself. Any expression may then raise one of half a dozen of drgn's exceptions. This package turns
them into a BrokenDump that says where the damage is.
"""

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from drgn import FaultError, ObjectAbsentError, OutOfBoundsError

from kgcore.errors import BrokenDump, KgcoreError, no_memory
from kgcore.sources.vmcore.kernelreads import in_words

__all__ = ("DAMAGE", "broken", "guarded", "guarding", "guarding_each")

DAMAGE = (
    KgcoreError,
    FaultError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    ArithmeticError,
    RecursionError,
    struct.error,
    ObjectAbsentError,
    OutOfBoundsError,
)
"""To be caught together with a look at :func:`broken`."""

_HINT = (
    "the kernel's types or structures are damaged in the dump, or those given with -s belong to a different kernel; "
    "a vmlinux with debug information (-s) may help"
)
# Python's messages for bugs in kgcore, not damage. (Values out of the dump have Python's own types, int and list.)
_OURS = re.compile(r"NoneType|'(?!_drgn)[A-Z_]\w*' object|(positional|keyword) argument|is not defined")

_P = ParamSpec("_P")
_T = TypeVar("_T")


def broken(error: BaseException, what: str) -> KgcoreError | None:
    """Return the exception to raise instead of one in ``DAMAGE``.

    :param what: what could not be read.
    :returns: None if the dump is not the cause.
    """
    if isinstance(error, KgcoreError):
        return error
    if isinstance(error, FaultError):
        return BrokenDump(f"{what}: not in the dump: {in_words(error)}", address=error.address)
    if type(error) in (KeyError, IndexError) or (
        isinstance(error, AttributeError | TypeError | ValueError) and _OURS.search(str(error))
    ):
        return None
    return BrokenDump(f"{what}: {str(error) or type(error).__name__}", hint=_HINT)


@contextmanager
def guarding(what: str) -> Iterator[None]:
    """Turn exceptions that damage causes in a ``with`` block into BrokenDump."""
    try:
        yield
    except MemoryError as error:
        raise no_memory() from error
    except DAMAGE as error:
        found = broken(error, what)
        if found is None or found is error:
            raise
        raise found from error


def guarded(what: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Turn exceptions that damage causes in a function into BrokenDump."""

    def decorate(function: Callable[_P, _T]) -> Callable[_P, _T]:
        @wraps(function)
        def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            with guarding(what):
                return function(*args, **kwargs)

        return wrapper

    return decorate


def guarding_each(what: str) -> Callable[[Callable[_P, Iterator[_T]]], Callable[_P, Iterator[_T]]]:
    """Turn exceptions that damage causes in a generator into BrokenDump, but not those of its consumers."""

    def decorate(function: Callable[_P, Iterator[_T]]) -> Callable[_P, Iterator[_T]]:
        @wraps(function)
        def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> Iterator[_T]:
            try:
                yield from function(*args, **kwargs)
            except MemoryError as error:
                raise no_memory() from error
            except DAMAGE as error:
                found = broken(error, what)
                if found is None or found is error:
                    raise
                raise found from error

        return wrapper

    return decorate
