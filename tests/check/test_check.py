# SPDX-License-Identifier: LGPL-2.1-or-later
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kgcore.check.core import check_core
from kgcore.check.verdict import Verdict
from kgcore.coredump.pipeline import Options, dump
from kgcore.coredump.plan import make_plan
from kgcore.coredump.writer import write_core
from kgcore.errors import KgcoreError
from kgcore.filters.coredump import CoredumpFilter
from kgcore.model.memory import Provenance
from kgcore.model.process import RegisterSource
from kgcore.sinks.files import FileSink
from kgcore.sinks.streams import MemorySink
from kgcore.sources.base import TaskRef
from tests.builders import PAGE, FakeMemory, FakeSource, make_image, make_regs, make_thread, make_vma
from tests.counting import per_page

REF = TaskRef("1", pid=1)
SWAPPED = {(0x601000, 0x602000): (Provenance.SWAPPED, "swap 0")}


def core_bytes(memory: FakeMemory | None = None, options: Options | None = None, **values: Any) -> bytearray:
    sink = MemorySink()
    dump(FakeSource(make_image(**values), memory or FakeMemory()), REF, lambda image: sink, options)
    return sink.data


@pytest.fixture
def check(tmp_path: Path) -> Any:
    def check(core: bytes) -> Verdict:
        (tmp_path / "core").write_bytes(core)
        return check_core(tmp_path / "core")

    return check


def test_a_good_core(check: Any) -> None:
    verdict = check(core_bytes())
    assert verdict.problems == ()
    assert verdict.ok
    assert verdict.complete is True
    assert verdict.facts["threads"] == [4321, 4322]
    assert verdict.facts["segments"] == 6
    assert verdict.facts["files"] == 2
    assert verdict.facts["kgcore"]["format"] == 1
    assert json.loads(json.dumps(verdict.to_json()))["ok"] is True
    assert verdict.lines()[0].endswith("core: ok, complete")


def test_a_core_that_does_not_say_whether_it_is_complete(check: Any) -> None:
    verdict = check(core_bytes(options=Options(vendor_note=False)))
    assert verdict.ok
    assert verdict.complete is None


@pytest.mark.parametrize("policy", ["omit", "zero"])
def test_what_is_missing_is_told(check: Any, policy: Any) -> None:
    verdict = check(core_bytes(FakeMemory(SWAPPED), Options(missing=policy)))
    assert verdict.ok
    assert verdict.complete is False
    assert verdict.lacks == ("0x601000-0x602000, 4.00 KiB: swapped (swap 0)",)


def test_gaps_show_even_without_the_note(check: Any) -> None:
    gone = FakeMemory({(0x400000, 0x401000): (Provenance.FILE, "")})
    verdict = check(core_bytes(gone, Options(vendor_note=False)))
    assert verdict.ok
    assert verdict.complete is False
    assert "a mapped file at 0x400000-0x402000 lies in no segment" in verdict.lacks


def test_doubtful_registers_are_told(check: Any) -> None:
    lost = make_thread(9, regs=replace(make_regs(), source=RegisterSource.UNAVAILABLE))
    verdict = check(core_bytes(threads=(lost,), warnings=("half of it is gone",)))
    assert verdict.ok
    assert verdict.complete is False
    assert verdict.lacks[0] == "half of it is gone"
    assert verdict.lacks[1].startswith("thread 9: ")


@pytest.mark.parametrize("keep", [0, 3, 63, 64, 100, 500, 3000, 12288, 20000])
def test_files_that_are_cut_off(check: Any, keep: int) -> None:
    core = core_bytes()
    assert keep < len(core)
    verdict = check(core[:keep])
    assert not verdict.ok
    assert verdict.complete is not True
    assert verdict.lines()


def test_the_amount_that_is_cut_off(check: Any) -> None:
    verdict = check(core_bytes()[: -3 * PAGE])
    assert verdict.problems == ("the file is cut off: it lacks 12.0 KiB of memory, of 3 of 6 segments",)
    assert verdict.lines()[0].endswith("core: CUT SHORT, INCOMPLETE")
    assert verdict.complete is False


def test_extended_numbering(tmp_path: Path) -> None:
    image = make_image(vmas=tuple(make_vma(0x400000 + index * 2 * PAGE) for index in range(66_000)))
    plan = make_plan(image, CoredumpFilter(page_size=PAGE), FakeMemory(), source={"format": "x"})
    path = tmp_path / "core"
    with FileSink(path) as sink:
        write_core(plan, FakeMemory(), sink)
        sink.commit()
    verdict = check_core(path)
    assert verdict.problems == ()
    assert verdict.facts["segments"] == 66_000
    with path.open("r+b") as file:
        file.truncate(plan.size - 1)
    assert not check_core(path).ok


def test_the_work_grows_with_the_segments(tmp_path: Path) -> None:
    """There may be 66 000, so none of them may be looked for among all others."""

    def checked(count: int) -> None:
        assert check_core(tmp_path / str(count)).facts["segments"] == count

    sizes = 256, 2048
    for count in sizes:
        image = make_image(vmas=tuple(make_vma(0x400000 + index * 2 * PAGE) for index in range(count)))
        sink = MemorySink()
        write_core(
            make_plan(image, CoredumpFilter(page_size=PAGE), FakeMemory(), source={"format": "x"}), FakeMemory(), sink
        )
        (tmp_path / str(count)).write_bytes(sink.data)
    assert per_page(checked, *sizes) < 1500  # one thousand, mostly of JSON and of the accounts


def patched(core: bytearray, offset: int, data: bytes) -> bytearray:
    core[offset : offset + len(data)] = data
    return core


NOTE = 64 + 8 * 56  # the first note, behind one PT_NOTE, six PT_LOADs and one more PT_NOTE


@pytest.mark.parametrize(
    ("offset", "data", "told"),
    [
        (0, b"XELF", "not an ELF file"),
        (16, struct.pack("<H", 2), "not a core"),
        (18, struct.pack("<H", 40), "not an x86 core"),
        (54, struct.pack("<H", 57), "e_phentsize"),
        (56, struct.pack("<H", 0xFFFF), "number of program headers"),
        (56, struct.pack("<H", 0xFFFE), "ends within the program headers"),
        (64, struct.pack("<I", 0), "must exist once each"),
        (64 + 32, struct.pack("<Q", 1 << 60), "cut off within the notes"),
        (64 + 8, struct.pack("<Q", 1 << 63), "cut off within the notes"),
        (64 + 56 + 16, struct.pack("<Q", 0x5FF000), "overlaps"),
        (64 + 56 + 32, struct.pack("<Q", 1 << 40), "more bytes in the file than in memory"),
        (64 + 112 + 8, struct.pack("<Q", 0x1000), "shares bytes"),
        (64 + 56 + 40, struct.pack("<Q", 0x1000), "mapped file at 0x400000"),
        (NOTE, struct.pack("<I", 1 << 31), "larger than its segment"),
        (NOTE + 8, struct.pack("<I", 77), "first note is not NT_PRSTATUS"),
        (NOTE + 20 + 328, struct.pack("<I", 0), "fpvalid is 0, PRFPREG notes: 1"),
        (NOTE + 20 + 32, struct.pack("<I", 4322), "same id"),
    ],
)
def test_damage_is_named(check: Any, offset: int, data: bytes, told: str) -> None:
    verdict = check(patched(core_bytes(), offset, data))
    assert not verdict.ok
    assert any(told in problem for problem in verdict.problems), verdict.problems


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b'{"account"', b'["account"', "cannot be read"),
        (b'"format":1', b'"format":2', "has format 2"),
        (b'"missing":[]', b'"missing":17', "cannot be read"),
        (b'"threads":[{', b'"threads":[[', "cannot be read"),
    ],
)
def test_damage_of_the_kgcore_note(check: Any, old: bytes, new: bytes, told: str) -> None:
    core = bytes(core_bytes())
    assert core.count(old) == 1
    verdict = check(core.replace(old, new))
    assert any(told in problem for problem in verdict.problems), verdict.problems
    assert verdict.complete is None


RECOVERED = {
    (0x600000, 0x601000): (Provenance.ZRAM, ""),
    (0x602000, 0x603000): (Provenance.PAGE_CACHE, ""),
    (0x603000, 0x604000): (Provenance.ZERO, ""),
}


def test_what_was_recovered_is_told(check: Any) -> None:
    verdict = check(core_bytes(FakeMemory(RECOVERED)))
    assert verdict.ok
    assert verdict.complete is True
    assert verdict.facts["recovered"] == {"page-cache": PAGE, "zram": PAGE}
    assert verdict.lines()[2:] == ["recovered: 4.00 KiB page-cache, 4.00 KiB zram"]
    assert len(check(core_bytes()).lines()) == 2  # nothing was


def with_note(core: bytes, change: Callable[[Any], object]) -> bytes:
    """The core with another KGCORE note, of the same size."""
    start = core.index(b"KGCORE\0\0") + 8
    content, size = json.JSONDecoder().raw_decode(core[start:].decode("latin-1"))
    content |= {"kernel": "", "kgcore": "", "source": {}}  # which makes room
    change(content)
    changed = json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")
    assert len(changed) <= size
    return core[:start] + changed.ljust(size) + core[start + size :]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda note: note["accounts"][1].update(zero=8192), "0x600000-0x604000 adds up to 20480 bytes, not to 16384"),
        (lambda note: note["accounts"][1].pop("zero"), "0x600000-0x604000 adds up to 12288 bytes, not to 16384"),
        (lambda note: note["accounts"][0].update(filtered=0, present=8192), "does not match the 4096 bytes"),
        (lambda note: note["vmas"][1].__setitem__(4, 12288), "does not match the 12288 bytes to keep"),
        (lambda note: note["vmas"][1].__setitem__(4, 12288), "has 12288 bytes in the file, but 8192 by its account"),
        (lambda note: note["vmas"][1].__setitem__(4, "12288"), "cannot be read"),
        (lambda note: note["vmas"][1].__setitem__(1, "0x605000"), "adds up to 16384 bytes, not to 20480"),
        (lambda note: note["vmas"].pop(), "cannot be read"),
        (lambda note: note["accounts"][1].update(missing={"file": 4096}), "do not match its account"),
        (lambda note: note["accounts"][2].update(missing={"file": 4096}), "bytes in segments"),
        (lambda note: note["account"].update(missing={"file": 4096}), "not the sum"),
        (lambda note: note["account"].update(zero=0), "not the sum"),
        (lambda note: note["account"]["recovered"].update({"page-cache": 8192, "zram": 0}), "not the sum"),
        (lambda note: note.update(missing=[]), "do not match its account"),
        (lambda note: note["missing"][0].__setitem__(slice(0, 2), ["0x605000", "0x606000"]), "is in no mapping"),
        (lambda note: note["missing"][0].__setitem__(1, "0x601000"), "not an address range"),
        (lambda note: note["missing"][0].__setitem__(1, "0x1" + 15 * "0" + "1"), "not an address range"),
        (lambda note: note["account"].update(zero=-4096), "account has invalid zero: -4096"),
        (lambda note: note["account"].update(zero=True), "account has invalid zero: True"),
        (lambda note: note["account"].update(zero=4096.0), "account has invalid zero: 4096.0"),
        (lambda note: note["account"].update(missing=[1]), "account has invalid missing: [1]"),
        (lambda note: note["account"].update(missing=4096), "cannot be read"),
        (lambda note: note["account"].update(zero={"a": {}}), "account has invalid zero.a: {}"),
        (lambda note: note.update(account=[]), "cannot be read"),
        (lambda note: note.update(accounts=6), "cannot be read"),
        (lambda note: note.pop("account"), "cannot be read"),
    ],
)
def test_accounts_that_do_not_add_up(check: Any, change: Callable[[Any], object], told: str) -> None:
    core = bytes(core_bytes(FakeMemory({**RECOVERED, **SWAPPED})))
    assert check(with_note(core, lambda note: note)).ok
    verdict = check(with_note(core, change))
    assert any(told in problem for problem in verdict.problems), verdict.problems


def test_places_of_later_versions(check: Any) -> None:
    """A note of format 1 may have more kinds of bytes: they count, too."""

    def change(note: Any) -> None:
        for account in (note["account"], note["accounts"][1]):
            account["recovered"] = {"moon": 4096}
            account["mapped"] = account.pop("zero")
            account["present"] = 2 * PAGE if account is note["accounts"][1] else account["present"] + PAGE

    verdict = check(with_note(bytes(core_bytes(FakeMemory(RECOVERED))), change))
    assert verdict.problems == ()
    assert verdict.facts["recovered"] == {"moon": PAGE}


def test_notes_from_before_accounts(check: Any) -> None:
    verdict = check(with_note(bytes(core_bytes()), lambda note: (note.pop("account"), note.pop("accounts"))))
    assert verdict.ok
    assert verdict.complete is True
    assert "recovered" not in verdict.facts


def test_a_segment_that_has_what_is_missing(check: Any) -> None:
    core = bytes(core_bytes(FakeMemory(SWAPPED), Options(missing="zero")))
    verdict = check(core.replace(b'"missing_policy":"zero"', b'"missing_policy":"omit"'))
    assert "0x601000-0x602000 is listed as missing, but a segment holds it" in verdict.problems


def test_program_headers_elsewhere(check: Any) -> None:
    verdict = check(core_bytes(auxv=((3, 0x123456), (0, 0))))
    assert verdict.problems == ("AT_PHDR 0x123456 lies in no segment",)


def test_program_headers_in_a_mapping_that_was_lost(check: Any) -> None:
    """A warning says that mappings were lost: the file is as it should be, and lacks them."""
    text = "the program's headers (AT_PHDR 0x123456) are in no mapping"
    verdict = check(core_bytes(auxv=((3, 0x123456), (0, 0)), warnings=(text,)))
    assert (verdict.ok, verdict.complete, verdict.problems) == (True, False, ())
    assert verdict.lacks == (text, "AT_PHDR 0x123456 lies in no segment")


def test_no_file() -> None:
    with pytest.raises(KgcoreError, match="No such file"):
        check_core("/nonexistent")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 12287), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6))
def test_garbage_never_raises(tmp_path: Path, damages: list[tuple[int, bytes]]) -> None:
    core = bytearray(CORE)
    for offset, data in damages:
        core[offset : offset + len(data)] = data
    (tmp_path / "core").write_bytes(core)
    verdict = check_core(tmp_path / "core")
    json.dumps(verdict.to_json())
    assert all(line.isprintable() for line in verdict.lines())


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400))
def test_noise_never_raises(tmp_path: Path, data: bytes) -> None:
    for start in (b"", b"\x7fELF\2\1\1", bytes(CORE[:64])):
        (tmp_path / "core").write_bytes(start + data)
        assert not check_core(tmp_path / "core").ok


CORE = core_bytes()
