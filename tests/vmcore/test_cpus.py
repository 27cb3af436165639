# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose registers are whose, where the dump's list of CPUs is in another order, has gaps, or is too long."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from kgcore.model.process import RegisterSource, Thread
from tests.vmcore.conftest import MAIN, Extractor, main_dump, need
from tests.vmcore.reshape import with_notes

SMALL = ("k510-small", "k61-small", "k612-small", "k72-small")
Change = Callable[[list[bytes]], list[bytes]]


def is_of(note: bytes, name: bytes) -> bool:
    return note[12:].startswith(name + b"\0")


def qemus(notes: list[bytes]) -> list[int]:
    return [number for number, note in enumerate(notes) if is_of(note, b"QEMU")]


def reverse(notes: list[bytes]) -> list[bytes]:
    return notes[::-1]


def without(cpu: int) -> Change:
    """As if QEMU had no such CPU, or did not tell of it."""

    def change(notes: list[bytes]) -> list[bytes]:
        gone = qemus(notes)[cpu]
        return notes[:gone] + notes[gone + 1 :]

    return change


def twice(cpu: int) -> Change:
    """Another takes the place of what can be done without."""

    def change(notes: list[bytes]) -> list[bytes]:
        kept = [note for note in notes if not is_of(note, b"CORE")]
        return [notes[qemus(notes)[cpu]], *kept]

    return change


def stranger(notes: list[bytes]) -> list[bytes]:
    """A CPU that this kernel has not, before all others: its per-CPU memory is elsewhere."""
    (note, *_) = (notes[number] for number in qemus(notes))
    odd = bytearray(note)
    for at in (20 + 152 + 4 * 24 + 16, 20 + 432):  # the base of GS, and MSR_KERNEL_GS_BASE
        struct.pack_into("<Q", odd, at, 0xFFFF888012345000)
    struct.pack_into("<Q", odd, 20 + 152 + 8 * 24 + 16, 0)  # that of the GDT
    return [bytes(odd), *(note for note in notes if not is_of(note, b"CORE"))]


def stranger_alone(notes: list[bytes]) -> list[bytes]:
    return stranger(notes)[:1]


@pytest.mark.parametrize("name", [*SMALL, *MAIN])
@pytest.mark.parametrize(
    ("what", "change", "known"),
    [
        ("reverse", reverse, True),
        ("gap", without(0), True),
        ("lost", without(1), False),
        ("twice", twice(1), False),
        ("other-twice", twice(0), True),
        ("stranger", stranger, True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_notes_in_the_file(
    name: str, what: str, change: Change, known: bool, extract: Extractor, tmp_path: Path
) -> None:
    """The spinner runs on CPU 1; those of the others are as they were, whatever the list looks like."""
    fixture = need(name)
    source = fixture.dump(main_dump(fixture))
    victim = fixture.victims["spin"]

    def threads(path: Path) -> dict[int, Thread]:
        return {thread.tid: thread for thread in extract.source(path).process(victim.pid).image.threads}

    truth = threads(source)
    (running,) = (tid for tid, thread in truth.items() if thread.cpu is not None)
    found = threads(with_notes(source, tmp_path / "vmcore", change))
    for tid, thread in found.items():
        if tid != running or known:
            assert thread.regs == truth[tid].regs
        else:
            assert thread.regs.source is RegisterSource.UNAVAILABLE
            assert thread.regs.unknown == frozenset(thread.regs.values)
            assert not any(thread.regs.values.values())


def nothing(notes: list[bytes]) -> list[bytes]:
    return [note for note in notes if not is_of(note, b"QEMU") and not is_of(note, b"CORE")]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (stranger_alone, "no CPU note of the dump matches it"),
        (without(1), "whose registers are not in the dump"),
        (nothing, "whose registers are not in the dump"),
        (twice(1), "several notes of the dump claim"),
    ],
)
def test_why(change: Change, why: str, extract: Extractor, tmp_path: Path) -> None:
    """The report says why, and the core says that there are none."""
    fixture = need("k61-small")
    victim = fixture.victims["spin"]
    path = with_notes(fixture.dump(main_dump(fixture)), tmp_path / "vmcore", change)
    _, report = extract(path, victim.pid)
    (tid,) = (thread["tid"] for thread in victim.said["threads"] if thread["role"] == "spin")
    (warning,) = (text for text in report.warnings if str(tid) in text)
    assert f"thread {tid} was running on CPU 1, " in warning
    assert why in warning
    assert (tid, "its registers are not in the dump: all of them are zeros") in report.remarks
    assert not report.complete
