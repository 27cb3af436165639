# SPDX-License-Identifier: LGPL-2.1-or-later
"""A VMCOREINFO with damaged lines, in the header of a kdump file and an ELF one: a result, or an error that helps."""

import json
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from tests.vmcore import reshape
from tests.vmcore.conftest import COMMITTED
from tests.vmcore.tools import Done, kgcore

SMALL = COMMITTED / "k61-small" / "vmcore"
UNUSED = b"\nSYMBOL(vmap_area_list)="
COMMANDS = (["info", "--json"], ["ps"])


@pytest.fixture(params=["kdump", "elf"])
def dump(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "vmcore"
    if request.param == "kdump":
        return reshape.copy(SMALL, path)
    return reshape.elf_of_kdump(SMALL, path)


def change(path: Path, old: bytes, new: bytes) -> None:
    """The text, in the header alone."""
    data = path.read_bytes()
    assert data.count(old) == 1
    assert len(old) == len(new)
    path.write_bytes(data.replace(old, new))


def told(done: Done) -> str:
    text = "\n".join(done.remarks)
    assert done.status in (0, 1), done
    assert "Traceback" not in text, done
    assert "unexpected" not in text, done
    return text


@pytest.mark.parametrize("new", [b"OSRELEASE=\xff.1.0-", b"OSRELEASE=6.1\xc30-"])
def test_a_release_that_is_no_text(dump: Path, new: bytes) -> None:
    """It is not that of the kernel in memory, which is told, and which option gives the right one."""
    change(dump, b"OSRELEASE=6.1.0-", new)
    for command in COMMANDS:
        done = kgcore(*command, "-c", dump, cwd=dump.parent)
        assert done.status == 1
        text = told(done)
        assert "a different release" in text
        assert "--vmcoreinfo" in text


@pytest.mark.parametrize("key", [b"OSRELEAS\xe9=", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"])
def test_a_key_that_is_no_text(dump: Path, key: bytes) -> None:
    change(dump, b"OSRELEASE=", key)
    for command in COMMANDS:
        assert "it states no release" in told(kgcore(*command, "-c", dump, cwd=dump.parent))


@pytest.mark.parametrize("time", [b"9" * 20, b"9" * 12, b"-1", b"\xd9\xa3" * 8])
def test_a_time_of_the_crash_that_is_none(dump: Path, time: bytes) -> None:
    data = dump.read_bytes()
    at = data.index(UNUSED)
    line = data[at : data.index(b"\n", at + 1)]
    change(dump, line, (b"\nCRASHTIME=" + time + b"\n").ljust(len(line), b"X"))
    for command in COMMANDS:
        done = kgcore(*command, "-c", dump, cwd=dump.parent)
        assert told(done) == ""
        assert done.status == 0
        if "--json" in command:
            found = json.loads(done.raw)["crash_time"]
            assert found is None or found == int(time)
