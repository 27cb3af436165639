# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cores that lie: a clear error or a refusal, before anything is started."""

import copy
import errno
import json
import os
import random
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kgcore.errors import NotRestarted, TargetError
from kgcore.restore.corefile import FinishedCore
from kgcore.restore.do import restart
from kgcore.restore.here import here
from kgcore.restore.need import need_of
from kgcore.restore.plan import Plan, Wishes, make_plan
from kgcore.restore.stub import Stub
from tests.restore.going_on import SOURCE, compiled, core_of_the_items, needs_ids

pytestmark = needs_ids

ROUNDS = 5000 if os.environ.get("KGCORE_THOROUGH") else 120
KGCORE = ("KGCORE", 0x4B474352)
VALUES: tuple[Any, ...] = (
    None,
    -1,
    0,
    1 << 70,
    2**31,
    True,
    "",
    "x",
    "0xffffffffffffffff",
    "0x0",
    "/dev/sda",
    "a\0b",
    [],
    {},
)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedCore]:
    with core_of_the_items(tmp_path_factory.mktemp("items")) as core:
        yield core


def told(core: FinishedCore) -> Any:
    return json.loads(next(note.desc for note in core.notes if (note.owner, note.kind) == KGCORE))


def with_note(core: FinishedCore, content: Any) -> FinishedCore:
    """The core with another KGCORE note."""
    notes = [note for note in core.notes if (note.owner, note.kind) != KGCORE]
    new = next(note for note in core.notes if (note.owner, note.kind) == KGCORE)._replace(
        desc=json.dumps(content).encode()
    )
    return replace(core, notes=(*notes, new))


def plan_of(core: FinishedCore) -> Plan | None:
    """The plan; None: it is refused with an error."""
    try:
        need = need_of(core)
    except TargetError as error:
        assert core.path in str(error)  # noqa: PT017  (of others there is a plan)
        return None
    return make_plan(core, need, here(), Wishes())


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each place in a JSON value: what holds it, and by which key."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def test_a_note_that_lies(core: FinishedCore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any of its values may be anything, or not be there. What is not refused is made, but never runs."""

    def no_release(self: Stub, tids: object) -> None:
        raise OSError(errno.EIO, "not now")

    monkeypatch.setattr(Stub, "release", no_release)
    content = told(core)
    numbers = random.Random(7)
    refused = made = 0
    for _ in range(ROUNDS):
        lying = copy.deepcopy(content)
        holder, key = numbers.choice(list(places(lying)))
        value = numbers.choice(VALUES)
        if numbers.random() < 0.1 and isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = value
        plan = plan_of(with_note(core, lying))
        if plan is None or plan.refused:
            refused += 1
        elif made < ROUNDS // 8:
            made += 1
            with pytest.raises(NotRestarted):
                restart(plan, with_note(core, lying))
            with pytest.raises(ProcessLookupError):
                os.kill(plan.need.pid, 0)
    assert refused > ROUNDS // 4


def test_bytes_that_are_others(core: FinishedCore, tmp_path: Path) -> None:
    """Of headers and notes."""
    data = Path(core.path).read_bytes()
    head = min(segment.offset for segment in core.segments if segment.stored)
    numbers = random.Random(8)
    path = tmp_path / "core"
    for _ in range(ROUNDS // 8):
        changed = bytearray(data)
        for _ in range(numbers.choice((1, 1, 4, 60))):
            changed[numbers.randrange(head)] = numbers.randrange(256)
        path.write_bytes(changed)
        try:
            reader = FinishedCore.open(str(path))
        except TargetError as error:
            assert str(path) in str(error)  # noqa: PT017
            continue
        plan_of(reader)
        reader.close()


@pytest.mark.parametrize("left", [0, 3, 63, 64, 1000, 20_000])
def test_a_core_that_is_cut_off(core: FinishedCore, tmp_path: Path, left: int) -> None:
    path = tmp_path / "core"
    path.write_bytes(Path(core.path).read_bytes()[:left])
    with pytest.raises(TargetError, match=str(path)):
        FinishedCore.open(str(path))


def refusals(core: FinishedCore, content: Any) -> set[str]:
    plan = plan_of(with_note(core, content))
    assert plan is not None
    words = {refusal.word for refusal in plan.refused}
    if words:
        with pytest.raises(NotRestarted):
            restart(plan, core)
    return words


def descriptor(content: Any, kind: str) -> Any:
    return next(row for row in content["state"]["descriptors"] if row["type"] == kind)


@pytest.mark.parametrize(
    ("path", "kind", "word"),
    [
        ("/dev/sda", "character", "devices"),
        ("/dev/tty", "character", "terminals"),
        ("/proc/sys/kernel/core_pattern", "regular", "kernel-files"),
        ("/nowhere", "regular", "files-missing"),
        ("/tmp/gone (deleted)", "regular", "deleted"),
        ("socket:[7]", "socket", "sockets"),
        ("anon_inode:[io_uring]", "anon_inode", "descriptors"),
        ("/run/fifo", "fifo", "fifo"),
        ("pipe:[7]", "fifo", "pipes"),
        ("/dev/null", "regular", "files-missing"),
        ("/usr/bin", "regular", "files-missing"),
    ],
)
def test_descriptors_that_are_not_opened(core: FinishedCore, path: str, kind: str, word: str) -> None:
    """Devices, files that are not here, what others have the other end of."""
    content = told(core)
    row = descriptor(content, "directory")
    row.update(path=path, type=kind, flags="0x2", size=1)
    assert refusals(core, content) == {word}


def test_words_of_the_rest(core: FinishedCore) -> None:
    """What a process may have besides, each with its word."""

    def having(change: Any) -> set[str]:
        content = told(core)
        change(content, content["state"], content["threads"], content["state"]["threads"])
        return refusals(core, content)

    assert having(lambda note, state, rows, threads: None) == set()
    assert having(lambda note, state, rows, threads: rows[3].update(fpu="stale")) == {"stale-fpu"}
    assert having(lambda note, state, rows, threads: rows[3].update(unknown=["r15"])) == {"registers"}
    assert having(lambda note, state, rows, threads: threads[1].update(seccomp=2)) == {"seccomp"}
    assert having(lambda note, state, rows, threads: threads[1].pop("alternate_stack")) == {"state"}
    assert having(lambda note, state, rows, threads: threads[1].pop("nice")) == {"unknown"}
    assert having(lambda note, state, rows, threads: state.pop("brk")) == {"state"}
    assert having(lambda note, state, rows, threads: state.update(root="/elsewhere")) == {"root"}
    assert having(lambda note, state, rows, threads: state.update(cwd="/nowhere")) == {"cwd"}
    assert having(lambda note, state, rows, threads: note.update(dying={"signal": 11})) == {"dying"}
    assert having(lambda note, state, rows, threads: note.update(warnings=["something"])) == {"unknown"}
    assert having(lambda note, state, rows, threads: state["pending"].append({"signal": 9, "info": ""})) == {"dying"}


def test_registers_of_the_kernel(core: FinishedCore) -> None:
    """And code of another width: no thread is given them."""
    words = 27
    index = next(number for number, note in enumerate(core.notes) if (note.owner, note.kind) == ("CORE", 1))
    desc = core.notes[index].desc
    for position, value in ((16, 0xFFFFFFFF81000000), (17, 0x10), (21, 1 << 63)):  # ip, cs, fs_base
        values = list(struct.unpack_from(f"<{words}Q", desc, 112))
        values[position] = value
        changed = desc[:112] + struct.pack(f"<{words}Q", *values) + desc[112 + 8 * words :]
        notes = list(core.notes)
        notes[index] = notes[index]._replace(desc=changed)
        plan = plan_of(replace(core, notes=tuple(notes)))
        assert plan is not None
        assert {refusal.word for refusal in plan.refused} == {"registers"}


def test_a_program_that_is_another_now(core: FinishedCore, tmp_path: Path) -> None:
    """Of the same name: its build id tells."""
    need = need_of(core)
    program = next(one.path for one in need.mappings if one.path is not None and one.path.endswith(b"/items"))
    path = Path(os.fsdecode(program))
    before = path.read_bytes()
    try:
        path.unlink()
        compiled(SOURCE, path, "-O0", "-pthread")
        plan = plan_of(core)
        assert plan is not None
        assert {refusal.word for refusal in plan.refused} == {"build-id"}
        path.unlink()
        plan = plan_of(core)
        assert plan is not None
        assert {refusal.word for refusal in plan.refused} == {"program"}
    finally:
        path.write_bytes(before)
        path.chmod(0o755)


def test_a_set_uid_program_is_not_executed(core: FinishedCore) -> None:
    need = need_of(core)
    program = next(one.path for one in need.mappings if one.path is not None and one.path.endswith(b"/items"))
    path = Path(os.fsdecode(program))
    try:
        path.chmod(0o4755)
        plan = plan_of(core)
        assert plan is not None
        assert {refusal.word for refusal in plan.refused} == {"setid"}
    finally:
        path.chmod(0o755)
