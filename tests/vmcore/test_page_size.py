# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page size of a dump: what its header and VMCOREINFO say, and its architecture has."""

from pathlib import Path

import pytest

pytest.importorskip("drgn")

from kgcore.coredump.pipeline import dump
from kgcore.errors import TargetError
from kgcore.sinks.streams import MemorySink
from kgcore.sources.base import TaskRef
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.opening.target import open_target
from kgcore.sources.vmcore.source import VmcoreSource
from tests.vmcore.conftest import main_dump, need

SMALL = "k61-crash-small"


def core(vmcoreinfo: Path | None = None) -> tuple[bytes, tuple[str, ...]]:
    """A core, and what is to be known of the dump."""
    fixture = need(SMALL)
    options = DumpLocation(
        core=str(fixture.dump(main_dump(fixture))), vmcoreinfo=None if vmcoreinfo is None else str(vmcoreinfo)
    )
    sink = MemorySink()
    with open_target(options) as target:
        dump(VmcoreSource(target), TaskRef.current(), lambda image: sink)
        return bytes(sink.data), target.messages


def text_with(tmp_path: Path, size: int) -> Path:
    """The dump's own VMCOREINFO with another page size."""
    fixture = need(SMALL)
    with open_target(DumpLocation(core=str(fixture.dump(main_dump(fixture))))) as target:
        assert target.vmcoreinfo["PAGESIZE"] == "4096"
        assert target.page_size == 4096
        lines = {**target.vmcoreinfo, "PAGESIZE": str(size)}.items()
    path = tmp_path / "vmcoreinfo"
    path.write_text("".join(f"{key}={value}\n" for key, value in lines))
    return path


def test_a_page_size_that_the_machine_does_not_have_is_not_used(tmp_path: Path) -> None:
    told = core(text_with(tmp_path, 65536))
    assert any("VMCOREINFO says PAGESIZE=65536" in message for message in told[1])
    assert told[0] == core()[0]


def test_no_page_size_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="PAGESIZE") as caught:
        core(text_with(tmp_path, 0))
    assert caught.value.hint.startswith("give --vmcoreinfo FILE")
