# SPDX-License-Identifier: LGPL-2.1-or-later
import io
import json

import pytest

from kgcore.cli.progress import Subject, json_lines

SUBJECT = Subject(7, b"\xff\n", 2, 3, 1000)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_at_the_beginning_at_the_end_and_now_and_then() -> None:
    clock, err = Clock(), io.StringIO()
    with json_lines(SUBJECT, err, clock) as update:
        for done in range(0, 1000, 10):
            clock.now += 0.0625
            update(done, 1000)
    lines = [json.loads(line) for line in err.getvalue().splitlines()]
    first, *between, last = lines
    whose = {"version": 1, "tgid": 7, "comm": "\\xff\n", "index": 2, "count": 3, "total": 1000}
    assert all(whose.items() <= line.items() for line in lines)
    assert first == whose | {"event": "start", "done": 0, "seconds": 0, "rate": None, "eta": None}
    assert {line["event"] for line in between} == {"progress"}
    assert len(between) == 25
    assert between[3] == whose | {"event": "progress", "done": 150, "seconds": 1, "rate": 150, "eta": 5.667}
    assert (last["event"], last["done"], last["seconds"], last["written"]) == ("end", 990, 6.25, True)


def test_the_end_is_told_whatever_it_is() -> None:
    err = io.StringIO()
    with pytest.raises(KeyboardInterrupt), json_lines(SUBJECT, err):
        raise KeyboardInterrupt
    last = json.loads(err.getvalue().splitlines()[-1])
    assert (last["event"], last["done"], last["written"]) == ("end", 0, False)


def test_readers_that_go_away_cost_nothing() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    clock = Clock()
    with json_lines(SUBJECT, Closed(), clock) as update:
        clock.now += 1
        update(10, 1000)
