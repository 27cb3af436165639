# SPDX-License-Identifier: LGPL-2.1-or-later
"""TaskRef: what names a process does, and what names none is refused instead of meaning the current one."""

import copy
import pickle
from dataclasses import replace

import pytest

from kgcore.coredump.pipeline import Options, dump, prepare
from kgcore.errors import KgcoreError, NoCurrentTask, NoSuchTask
from kgcore.sinks.streams import MemorySink
from kgcore.sources.base import HasOpenFiles, TaskRef
from tests.fake_source import COMPLETE, LARGE, UNKNOWN, FakeSource, task_address


class Index:
    """An integer of another kind, as numpy's are."""

    def __index__(self) -> int:
        return COMPLETE


@pytest.mark.parametrize(
    "task", [COMPLETE, str(COMPLETE), Index(), task_address(COMPLETE), f"{task_address(COMPLETE):#x}"]
)
def test_prepare_takes_a_pid_or_an_address(task: int | str) -> None:
    source = FakeSource(current=LARGE)
    for prepared in (prepare(source, task), prepare(source, TaskRef.of(task), Options())):
        assert prepared.image.tgid == COMPLETE
    assert dump(source, task, lambda _: MemorySink()).tgid == COMPLETE
    with source.process(task) as process:
        assert isinstance(process, HasOpenFiles)
        assert process.image.tgid == process.open_files().tgid == COMPLETE


def test_an_unknown_one_is_named_as_it_was_given() -> None:
    with pytest.raises(NoSuchTask, match=f"the id {UNKNOWN}"):
        prepare(FakeSource(), UNKNOWN)


def test_the_current_task_has_to_be_asked_for() -> None:
    current = TaskRef.current()
    assert (current.text, current.is_current, TaskRef.parse("118").is_current) == ("current", True, False)
    assert prepare(FakeSource(current=LARGE), current).image.tgid == LARGE
    with pytest.raises(NoCurrentTask):
        prepare(FakeSource(), current)
    assert current == TaskRef.current() == copy.copy(current) == pickle.loads(pickle.dumps(current))


@pytest.mark.parametrize("text", ["118", "current", "", "ffff888000064000"])
def test_a_reference_to_nothing_cannot_be_made(text: str) -> None:
    with pytest.raises(ValueError, match=r"names no process.*pid.*address.*TaskRef\.current\(\)"):
        TaskRef(text)
    with pytest.raises(ValueError, match="names no process"):
        TaskRef(text, pid=None, address=None)
    with pytest.raises(ValueError, match="names no process"):
        replace(TaskRef("118", pid=118), pid=None)


def test_the_current_task_is_no_other_one() -> None:
    with pytest.raises(ValueError, match="the current task"):
        replace(TaskRef.current(), pid=118)


@pytest.mark.parametrize("wrong", [None, 1.5, 118.0, b"118", [118], (118,), True, False, object])
def test_what_is_no_pid_is_refused(wrong: object) -> None:
    source = FakeSource(current=LARGE)
    for use in (lambda: prepare(source, wrong), lambda: source.process(wrong), lambda: TaskRef.of(wrong)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="expected a PID or the address of a task_struct, not "):
            use()
    assert not source.asked


@pytest.mark.parametrize("wrong", [-1, 1 << 64, -(1 << 70)])
def test_numbers_that_are_no_pid(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"{wrong} is neither a PID nor the address"):
        prepare(FakeSource(current=LARGE), wrong)
    for member in ("pid", "address"):
        with pytest.raises(ValueError, match=f"{member} is {wrong}"):
            TaskRef("x", **{member: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["118", 1.0, True, b"1"])
def test_members_are_numbers(wrong: object) -> None:
    for member in ("pid", "address"):
        with pytest.raises(TypeError, match=f"{member} is .*: expected an integer"):
            TaskRef("118", **{member: wrong})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="text is 118: expected a string"):
        TaskRef(118, pid=118)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["init", "", " 118", "-1", "1.5", "current", "9" * 20, "0x" + "f" * 17, "\uff11\uff11\uff18"]
)
def test_text_that_names_no_process(text: str) -> None:
    with pytest.raises(KgcoreError, match="neither a PID nor the address"):
        TaskRef.parse(text)
    with pytest.raises(KgcoreError, match="neither a PID nor the address"):
        prepare(FakeSource(current=LARGE), text)
