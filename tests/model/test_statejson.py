# SPDX-License-Identifier: LGPL-2.1-or-later
"""A state as JSON: what is written is read back, fits the published schema, and says what is unknown."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgcore.model import state as model
from kgcore.model.state import (
    NO_LIMIT,
    AlternateStack,
    Clocks,
    Descriptor,
    EpollItem,
    EventFd,
    PendingSignal,
    Pipe,
    PosixTimer,
    ProcessState,
    Rseq,
    SharedMapping,
    SignalAction,
    SignalFd,
    ThreadState,
    TimerFd,
    TimerValue,
)
from kgcore.model.statejson import from_json, to_json
from tests.schemas import strict

SCHEMAS = Path(model.__file__).parents[1] / "schemas"
TIMER = TimerValue(value=1_500_000_000, interval=7)


def descriptor(fd: int, **more: Any) -> Descriptor:
    values: dict[str, Any] = {
        "fd": fd,
        "shares": fd,
        "close_on_exec": False,
        "path": b"/x",
        "type": "regular",
        "flags": 2,
        "offset": 0,
        "inode": 7,
        "size": 0,
    }
    return Descriptor(**{**values, **more})


FULL = ProcessState(
    actions=tuple(SignalAction(handler=n, flags=0x4000000, restorer=n, mask=1 << n) for n in range(64)),
    pending=(PendingSignal(signal=12, info=b"\x0c\0\0\0\xff"), PendingSignal(signal=9)),
    itimer_real=TIMER,
    itimer_virtual=TimerValue(value=0, interval=0),
    itimer_prof=TIMER,
    posix_timers=(
        PosixTimer(id=3, clock=-6, notify=4, signal=34, sigval=(1 << 64) - 1, thread=118, timer=TIMER),
        PosixTimer(id=5, clock=1, notify=0, signal=14, sigval=0, thread=0, unknown={"timer": "not in the dump"}),
    ),
    cwd=b"/a\\b\xff \\x41",
    root="/ä\n".encode(),
    umask=0o27,
    limits=((1, NO_LIMIT),) * 16,
    oom_score_adj=-1000,
    dumpable=1,
    subreaper=True,
    start_brk=0x1000,
    brk=0x3000,
    clocks=Clocks(monotonic=5_000_000_007, boottime=6_000_000_000),
    threads=(
        ThreadState(
            tid=118,
            name=b"w\xff\\k",
            blocked=0x8000000000000001,
            alternate_stack=AlternateStack(address=0x7F0000000000, size=8192, flags=0),
            pending=(),
            nice=-20,
            policy=2,
            priority=50,
            affinity=1 << 500,
            rseq=Rseq(address=0x7F0, size=32, signature=0x53053053),
            robust_list=0x10,
            clear_child_tid=0x20,
            pdeath_signal=15,
            personality=0x40000,
            no_new_privs=True,
            seccomp=2,
            securebits=3,
        ),
        ThreadState(tid=119, nice=0, unknown={"pending": "not in the dump"}),
    ),
    shared=(SharedMapping(start=0x1000, end=0x2000, device=(0, 1), inode=9),),
    descriptors=(
        descriptor(0, path=b"/memfd:\xfe", seals=0xF),
        descriptor(1, shares=0, close_on_exec=True, offset=-1),
        descriptor(3, type="anon_inode", eventfd=EventFd(count=(1 << 64) - 2, semaphore=False)),
        descriptor(4, type="anon_inode", timerfd=TimerFd(clock=7, timer=TIMER, ticks=2, flags=1)),
        descriptor(5, type="anon_inode", signalfd=SignalFd(mask=0x800)),
        descriptor(6, type="anon_inode", epoll=(EpollItem(fd=3, target=3, events=0x80000001, data=1 << 63),)),
        descriptor(7, type="fifo", pipe=Pipe(size=65536, unread=2, content=b"\0\xff")),
        descriptor(8, type="fifo", pipe=Pipe(size=4096, unread=1, unknown={"content": "descriptor 7 has it"})),
        descriptor(9, type="anon_inode", unknown={"epoll": "not in the dump"}),
    ),
    unknown={},
)


def test_what_is_written_is_read_back() -> None:
    text = json.dumps(to_json(FULL), allow_nan=False).encode("ascii")
    assert from_json(json.loads(text)) == FULL


def test_contents_can_be_left_out() -> None:
    """Those of pipes; all else stays as it is."""
    left = FULL.without_contents("not wanted")
    assert left.descriptors is not None
    assert FULL.descriptors is not None
    pipes = [row.pipe for row in left.descriptors if row.pipe is not None]
    assert [pipe.content for pipe in pipes] == [None, None]
    assert [pipe.unknown["content"] for pipe in pipes] == ["not wanted", "descriptor 7 has it"]
    assert replace(left, descriptors=FULL.descriptors) == FULL
    assert left.descriptors[0] == FULL.descriptors[0]


def test_no_member_is_forgotten_above() -> None:
    assert all(getattr(FULL, one.name) is not None for one in fields(FULL))
    threads = FULL.threads
    assert threads is not None
    assert all(getattr(threads[0], one.name) is not None for one in fields(threads[0]))


def test_the_schema_describes_it() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((SCHEMAS / "note.schema.json").read_text())
    whole = {**schema, "$ref": "#/$defs/state"}
    for key in ("type", "required", "properties", "$id"):
        del whole[key]
    strictest = strict(whole)
    jsonschema.Draft202012Validator.check_schema(strictest)
    jsonschema.validate(to_json(FULL), strictest)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**to_json(FULL), "umask": "0x12"}, strictest)


def test_what_is_unknown_is_absent_and_says_why() -> None:
    written = to_json(replace(FULL, cwd=None, unknown={"cwd": "not in the dump"}))
    assert "cwd" not in written
    assert written["unknown"] == {"cwd": "not in the dump"}


def test_keys_of_a_later_kgcore_do_not_matter() -> None:
    assert from_json({**to_json(FULL), "later": 1}) == FULL


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"umask": "18"},
        {"umask": True},
        {"brk": 4096},
        {"brk": "1000"},
        {"pending": {}},
        {"pending": [{"info": ""}]},
        {"pending": [{"signal": 1, "info": "abc"}]},
        {"threads": [{"tid": 1, "unknown": {"nice": 1}}]},
        {"descriptors": [{**to_json(FULL)["descriptors"][0], "type": "sofa"}]},
        {"cwd": "\ud800"},
    ],
)
def test_what_is_no_state_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        from_json(wrong)


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_any_path_comes_back(path: bytes) -> None:
    text = json.dumps(to_json(ProcessState(cwd=path)))
    assert from_json(json.loads(text)).cwd == path
