# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes of this machine against the core that this machine's kernel writes of them right afterwards."""

from pathlib import Path

import pytest

from tests.victims_here import Running, live_core, ptrace_or_skip, running
from tests.vmcore.corefile import Core
from tests.vmcore.differences import Expected, compare

# Number of a system call that sleeps: the register that has the address of where the rest of the time goes. An
# interrupted sleep writes it: once for our stop, and again for the signal.
REST_OF_SLEEP = {35: "si", 230: "r10"}
PAGE = 4096


@pytest.fixture(autouse=True)
def traceable() -> None:
    ptrace_or_skip()


def live(victim: Running, *options: str) -> Core:
    """The core that ``kgcore live`` writes of it."""
    return live_core(victim.pid, victim.directory / "ours", *options, "--no-kgcore-note", "-f", "process")


def changing(ours: Core) -> frozenset[int]:
    """The pages that an interrupted sleep writes to."""
    pages = set()
    for thread in ours.threads.values():
        name = REST_OF_SLEEP.get(thread.regs["orig_ax"])
        if name is not None:
            pages.add(thread.regs[name] & -PAGE)
    return frozenset(pages)


@pytest.mark.parametrize("freeze", ["fork", "stop"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("memory", ("0x33",)),
        ("memory", ("0x7f",)),
        ("memory", ("0x1",)),
        ("memory", ("0x10",)),
        ("threads", ("0x7f",)),
        ("dynamic", ("0x33",)),
        ("iouring", ("0x7f",)),
        ("zleader", ("0x7f",)),
        ("abi", ("0x7f",)),
        ("manythreads", ("0x7f", "300")),
        ("mixed", ("0x7f", "same", "code32", "int80")),
        ("spin", ("0x7f", "0")),
        ("swapped", ("0x7f",)),
        ("x87", ("0x7f",)),
    ],
)
def test_equals_the_kernels_core(tmp_path: Path, name: str, arguments: tuple[str, ...], freeze: str) -> None:
    with running(tmp_path, name, *arguments) as victim:
        ours = live(victim, "--freeze", freeze)
        kernel = Core(victim.kernel_core())
    expected = Expected(proc_times=True, interrupted=True, pages=changing(ours))
    assert [*compare(kernel, ours, expected)] == []
