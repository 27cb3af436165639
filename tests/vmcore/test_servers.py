# SPDX-License-Identifier: LGPL-2.1-or-later
"""What servers do to their memory, beside what /proc said of it: titles over arguments, shared buffers, files that were
not written back; and what was swapped out."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("drgn")

from kgcore.model.summary import ProcessSummary
from tests.vmcore.conftest import Extractor, Fixture, Victim, need
from tests.vmcore.tools import kgcore

GUESTS = ("k61-server", "k72-server")
KIB, PAGE = 1024, 4096
SWAPPING = (
    "k510-zram", "k61-zram", "k612-zram", "k72-zram", "k510-zswap", "k61-zswap", "k612-zswap", "k72-zswap",
    "k61-686pae-files", "k61", "k612", "k61-server",
)  # fmt: skip


@pytest.fixture(params=GUESTS)
def guest(request: pytest.FixtureRequest) -> Fixture:
    return need(request.param)


def symbols(guest: Fixture) -> tuple[str, ...]:
    return (str(guest.vmlinux),) if "686" in guest.name else ()


def row_of(victim: Victim, extract: Extractor) -> ProcessSummary:
    rows: list[ProcessSummary] = list(extract.source(victim.fixture.dump()).processes())
    return next(row for row in rows if row.pid == victim.pid)


# The command line


@pytest.mark.parametrize("name", ["title_exact", "title_long", "title_page", "buffers"])
def test_the_command_line_is_as_proc_has_it(guest: Fixture, name: str, extract: Extractor) -> None:
    """get_mm_cmdline(): to the last byte of the arguments, into the environment, for a page at most."""
    victim = guest.victims[name]
    said = (victim.proc / "cmdline").read_bytes()
    row = row_of(victim, extract)
    assert row.args == (said if len(said) == PAGE else said[:-1])
    assert len(row.args or b"") > 20
    done = kgcore("ps", "--json", "--match", "server*", "-c", guest.dump(), cwd=guest.path)
    listed = {process["pid"]: process for process in json.loads(done.raw)["processes"]}
    assert listed[victim.pid]["args"] == [word.decode() for word in said.rstrip(b"\0").split(b"\0")]
    title = "server: ijkl*" if "title" in name else "server"
    done = kgcore("ps", "--json", "--match", title, "-c", guest.dump(), cwd=guest.path)
    assert victim.pid in [process["pid"] for process in json.loads(done.raw)["processes"]]


# Estimates


def smaps(victim: Victim) -> Iterator[dict[str, str]]:
    """The mappings of /proc/PID/smaps, with their first line as ``range``, ``perms``, ..., ``name``."""
    text = (victim.proc / "smaps").read_text(errors="replace")
    for part in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", text)[1:]:
        first, *rest = part.splitlines()
        keys = dict(zip(("range", "perms", "offset", "device", "inode", "name"), first.split(None, 5), strict=False))
        yield keys | {key: value.strip() for key, _, value in (line.partition(":") for line in rest)}


def kept(mapping: dict[str, str]) -> int:
    """Resident bytes of a mapping that a core with the default filter has."""

    def kib(*keys: str) -> int:
        return sum(int(mapping[key].split()[0]) for key in keys) * KIB

    shared = mapping["perms"][3] == "s"
    if "ht" in mapping["VmFlags"].split():
        return 0 if shared else kib("Private_Hugetlb", "Shared_Hugetlb")
    if shared:
        return kib("Rss") if "(deleted)" in mapping.get("name", "") else 0
    return kib("Anonymous")


@pytest.mark.parametrize("name", ["buffers", "unsaved", "title_page"])
def test_the_estimate_is_of_what_the_filter_keeps(guest: Fixture, name: str, extract: Extractor) -> None:
    """Not of shared huge pages, nor of files that others have a name for."""
    victim = guest.victims[name]
    row = row_of(victim, extract)
    expected = sum(map(kept, smaps(victim)))
    # Private pages of a file in a tmpfs that were never written count as shared memory in the same mapping.
    assert 0 <= row.core - expected <= 5 * PAGE, (row.core, expected)
    assert row.held == row.core
    _, report = extract(guest.dump(), victim.pid, mask=0x33)
    assert abs(sum(vma.data for vma in report.vmas) - row.core) <= 8 * PAGE


def test_the_buffers_are_of_every_kind(guest: Fixture, extract: Extractor) -> None:
    victim = guest.victims["buffers"]
    touched = {buffer["kind"]: buffer["touched"] for buffer in victim.said["buffers"]}
    core = row_of(victim, extract).core
    assert touched["hugetlb-private"] + touched["anon-shared"] < core
    assert core < touched["hugetlb-private"] + touched["anon-shared"] + (200 << 10) < touched["hugetlb-shared"]


# Files that were not written back


def test_dirty_pages_are_those_of_kpageflags(guest: Fixture, extract: Extractor) -> None:
    victim = guest.victims["unsaved"]
    done = kgcore("files", "--json", victim.pid, "-c", guest.dump(), cwd=guest.path)
    listed = {file["fd"]: file for file in json.loads(done.raw)["files"]}
    seen = set()
    for file in victim.said["files"]:
        ends = [min((page + 1) * PAGE, file["size"]) - page * PAGE for page in file["dirty"]]
        assert listed[file["fd"]]["unwritten"] == sum(ends), file["what"]
        seen.add(bool(ends))
    assert seen == {True, False}
    assert listed[0]["unwritten"] is None
    table = kgcore("files", victim.pid, "-c", guest.dump(), cwd=guest.path).raw.decode().splitlines()
    lines = {line.split()[-1]: line for line in table}
    assert "  --       12.1 KiB  /disk/unsaved-rewritten" in lines["/disk/unsaved-rewritten"]
    assert "  --       0 B       /disk/unsaved-clean" in lines["/disk/unsaved-clean"]
    assert re.search(r" all +4.00 KiB ", next(line for line in table if "unsaved-deleted" in line))
    assert re.search(r" -- +-- +/dev/null", lines["/dev/null"])


# What was swapped out


def told(guest: Fixture) -> dict[str, Any]:
    words = [word for file in symbols(guest) for word in ("-s", file)]
    done = kgcore("info", "--json", "-c", guest.dump(), *words, cwd=guest.path)
    return dict(json.loads(done.raw))


@pytest.mark.parametrize("name", SWAPPING)
def test_swap_is_as_proc_had_it(name: str) -> None:
    guest = need(name)
    found = told(guest)
    rows = [line.split() for line in (guest.path / "truth/system/swaps").read_text().splitlines()[1:]]
    assert [(space["name"], space["size"] // KIB) for space in found["swap"]] == [(row[0], int(row[2])) for row in rows]
    for space, row in zip(found["swap"], rows, strict=True):
        assert space["kind"] == ("zram" if "zram" in row[0] else row[1])
        assert abs(space["used"] // KIB - int(row[3])) <= 64  # whatever runs may take something out of it
    stored = guest.path / "truth/system/zswap/stored_pages"
    if stored.exists() and "zswap" in name:
        assert abs(found["zswap"] // PAGE - int(stored.read_text())) <= 16
    used = sum(space["used"] for space in found["swap"])
    disks = [space["name"] for space in found["swap"] if space["kind"] != "zram" and space["used"]]
    words = kgcore("info", "-c", guest.dump(), *(w for f in symbols(guest) for w in ("-s", f)), cwd=guest.path).raw
    swap = next(line for line in words.decode().splitlines() if line.startswith("swap "))
    if not rows:
        assert swap.split(None, 1)[1] == "none"
        assert found["meaning"] == "cores are complete: nothing was swapped out"
    else:
        assert all(space["name"] in swap for space in found["swap"] if space["used"])
        assert used
        if disks:
            assert all(f"--swap {name}=IMAGE" in found["meaning"] for name in disks)
        else:
            assert found["meaning"].endswith("are in the dump (zram, zswap)")
