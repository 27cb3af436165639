# SPDX-License-Identifier: LGPL-2.1-or-later
"""Counts work instead of timing it: the number is the same on a busy machine."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


def instructions(work: Callable[[], object]) -> int:
    """How many of Python's own instructions it takes to do something."""
    count = 0

    def each(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return each

    before = sys.gettrace()
    sys.settrace(each)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def per_page(work: Callable[[int], object], few: int, many: int) -> float:
    """What one page (or header, or segment) more costs; what everything costs but once does not count."""
    work(few)  # what is done but once in a program's life is done
    return (instructions(lambda: work(many)) - instructions(lambda: work(few))) / (many - few)


def calls_of_c(work: Callable[[], object]) -> Counter[str]:
    """How often it calls which function that is written in C, by the name of that."""
    calls: Counter[str] = Counter()

    def each(_frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call":
            calls[called.__name__] += 1

    with profiled(each):
        work()
    return calls


@contextmanager
def profiled(each: Callable[[FrameType, str, Any], None]) -> Iterator[None]:
    """Calls a function at each call and return, as :func:`sys.setprofile` has it."""
    before = sys.getprofile()
    sys.setprofile(each)
    try:
        yield
    finally:
        sys.setprofile(before)
