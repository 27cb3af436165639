# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one more mapping and one more thread cost, counted in calls: what is quadratic, or reads a structure member by
member, is found on a machine of any speed. (Of an operator that searches a list there is no call to be counted.)"""

import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from types import FrameType
from typing import Any, TypeVar

import pytest

pytest.importorskip("drgn")

from kgcore.arch import ARCHES
from kgcore.coredump.kgcorenote import vendor_note
from kgcore.coredump.notes import process_notes, remarks
from kgcore.elf.layout import note_bytes
from kgcore.filters.base import Keep
from kgcore.model.account import Account
from kgcore.model.memory import Provenance
from kgcore.model.process import ProcessImage
from kgcore.model.statejson import to_json
from kgcore.sources.base import TaskRef
from tests.counting import profiled
from tests.vmcore.conftest import Extractor, need

_T = TypeVar("_T")
Read = Callable[[str], tuple[ProcessImage, Counter[str]]]


def counted(work: Callable[[], _T]) -> tuple[_T, Counter[str]]:
    """What comes of it, and how many functions of Python and drgn were called. Most of drgn's read the dump."""
    counts: Counter[str] = Counter()

    def count(_frame: FrameType, event: str, function: Any) -> None:
        if event == "call":
            counts["python"] += 1
        elif event == "c_call" and type(getattr(function, "__self__", None)).__module__ == "_drgn":
            counts["drgn"] += 1

    with profiled(count):
        return work(), counts


@pytest.fixture(scope="module")
def read(extract: Extractor) -> Read:
    """A victim of k61-many, and what it cost to read it when the kernel's layouts were known already."""
    fixture = need("k61-many")
    source = extract.source(fixture.dump())
    _ = source.process(1).image

    @cache
    def victim(name: str) -> tuple[ProcessImage, Counter[str]]:
        ref = TaskRef.parse(str(fixture.victims[name].pid))
        return counted(lambda: source.process(ref).image)

    return victim


def notes(image: ProcessImage) -> None:
    arch = ARCHES[image.arch]
    list(remarks(image, arch))
    for note in process_notes(image, arch):
        note_bytes(note)


def test_mapping(read: Read) -> None:
    image, cost = read("manyvmas")
    count = len(image.vmas)
    assert count > 66_000
    # Its vm_area_struct; and a part of a maple node, which has up to 16.
    assert cost["drgn"] < 1.2 * count
    # Structs.read() and what it is made of: 4; the generators that lead to it: 3; then Vma and its parts.
    assert cost["python"] < 15 * count


def test_thread(read: Read) -> None:
    image, cost = read("manythreads")
    count = len(image.threads)
    assert count == 2000
    # Its place in the list, what is pending, its task_struct, its stack, its struct pid, two of its fpstate, its
    # signal_struct; its place once more for the times of the group, and a few questions to objects. And two mappings.
    assert cost["drgn"] < 17 * count
    # Those reads, one call each and one by which drgn has us read memory; five pages of the file, four calls each; the
    # parts of a Thread; and two mappings.
    assert cost["python"] < 140 * count


def test_notes(read: Read) -> None:
    image, _ = read("manythreads")
    _, cost = counted(lambda: notes(image))
    # Five rows of the table of register sets, each asked, made and framed; the extended state, twice.
    assert cost["python"] < 100 * len(image.threads)
    image, _ = read("manyvmas")
    _, cost = counted(lambda: notes(image))
    assert cost["python"] < 1000, "NT_FILE is one note"


def test_state(extract: Extractor) -> None:
    fixture = need("k61-many")
    source = extract.source(fixture.dump())
    source.process(1).state()
    process = source.process(fixture.victims["manythreads"].pid)
    count = len(process.image.threads)
    state, cost = counted(process.state)
    assert len(state.threads or ()) == count
    assert state.unknown == {}
    # Its task_struct, once more; of its credentials, which all share, nothing.
    assert cost["drgn"] < 1.1 * count
    # That read, one call and one by which drgn has us read memory; the parts of a ThreadState.
    assert cost["python"] < 25 * count
    _, cost = counted(lambda: json.dumps(to_json(state)))
    assert cost["python"] < 20 * count  # the members that are no plain numbers


def test_vendor_note(read: Read) -> None:
    image, _ = read("manyvmas")
    decisions = [(Keep(vma.end - vma.start, "test"), Account({Provenance.PRESENT: 4096})) for vma in image.vmas]
    note, cost = counted(lambda: vendor_note(image, {}, {}, "omit", decisions, (), ()))
    assert len(json.loads(note.desc)["vmas"]) == len(image.vmas)
    assert cost["python"] < 25 * len(image.vmas)  # the parts of an account, and their sum
