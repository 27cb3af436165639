# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stack traces as values: which threads stand together, and what JSON holds of names that lie."""

import json

from kgcore.model.traces import OUTERMOST, End, Frame, KernelStack, ThreadTrace, grouped, ranges

A, B = (Frame(0x1000, function="f"),), (Frame(0x2000, function="g"),)


def thread(tid: int, frames: tuple[Frame, ...] = A, end: End = OUTERMOST, **more: object) -> ThreadTrace:
    values: dict[str, object] = {"cpu": None, "crashed": False, "kernel": None} | more
    return ThreadTrace(tid=tid, comm=b"x", frames=frames, end=end, **values)  # type: ignore[arg-type]


def tids(threads: list[ThreadTrace]) -> list[list[int]]:
    return [[one.tid for one in group] for group in grouped(threads)]


def test_threads_with_the_same_stack_stand_together() -> None:
    assert tids([thread(5), thread(6, B), thread(7), thread(8, B)]) == [[5, 7], [6, 8]]


def test_what_differs_does_not() -> None:
    lost = End("memory", "swapped")
    kernel, other = KernelStack(A, OUTERMOST), KernelStack(B, OUTERMOST)
    assert tids([thread(1), thread(2, end=lost)]) == [[1], [2]]
    assert tids([thread(1, kernel=kernel), thread(2, kernel=other), thread(3, kernel=kernel)]) == [[1, 3], [2]]


def test_running_and_crashed_threads_stand_alone() -> None:
    assert tids([thread(1), thread(2, cpu=0), thread(3), thread(4, crashed=True), thread(5, cpu=1)]) == [
        [1, 3],
        [2],
        [4],
        [5],
    ]


def test_ranges() -> None:
    assert ranges([19, 12, 13, 25, 14, 27, 26]) == ["12-14", "19", "25-27"]
    assert ranges([]) == []


def test_only_whole_stacks_are_complete() -> None:
    assert thread(1).complete
    assert not thread(1, end=End("memory", "x")).complete
    assert not thread(1, kernel=KernelStack(A, End("limit", "x"))).complete


def test_json_has_no_surrogates() -> None:
    frame = Frame(
        1,
        function="f\udcff",
        offset=0,
        source=("a\udcfe.c", 3),
        module=b"/lib/\xff\x1b[31m",
        module_offset=5,
        build_id="00",
    )
    text = json.dumps(thread(1, (frame,)).to_json(), ensure_ascii=False)
    assert text.encode()  # what has surrogates cannot be
    assert r"\\xff" in text
    assert "\x1b" not in text
