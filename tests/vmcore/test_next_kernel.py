# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python3 -m tools.next_kernel``: it takes the newest kernel, and sees what is wrong."""

from typing import Any

import pytest

pytest.importorskip("drgn")

from tests.vmcore.conftest import need
from tests.vmcore_fixtures.make import kernel_guests
from tests.vmcore_fixtures.make.common import BuildError, Unavailable
from tools import next_kernel


@pytest.mark.parametrize(
    ("versions", "suite"),
    [
        ({"sid": "7.2.13-1", "experimental": "7.3-1~exp1"}, "experimental"),
        ({"sid": "7.10-1", "experimental": "7.9.2-1~exp1"}, "sid"),
        ({"sid": "7.3-1", "experimental": "7.3-1~exp1"}, "sid"),
        ({"sid": "7.2.13-1"}, "sid"),
    ],
)
def test_the_newest_is_taken(versions: dict[str, str], suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Suite:
        def __init__(self, name: str) -> None:
            self.name = name

        of = classmethod(lambda cls, name: cls(name))

        def field(self, package: str, field: str) -> str:
            assert (package, field) == ("linux-image-amd64", "Version")
            if self.name not in versions:
                raise BuildError("no lists")
            return versions[self.name]

    monkeypatch.setattr(next_kernel, "Suite", Suite)
    assert next_kernel.newest() == suite
    versions.clear()
    with pytest.raises(Unavailable):
        next_kernel.newest()


def test_a_guest_of_the_fixtures_is_used() -> None:
    assert next_kernel.guest("experimental") in kernel_guests.RECIPES
    assert next_kernel.guest("forky").suite == "forky"


def test_cores_and_stacks_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    fixture = need("k72-full")
    good = list(next_kernel.compared(fixture))
    assert all(right for right, _ in good), good
    cores = [victim.core for victim in fixture.victims.values() if victim.core]
    assert good[0][1] == f"{len(cores)} of {len(cores)} cores are as the kernel's own"

    def other(*args: Any) -> Any:
        yield "it differs"

    monkeypatch.setattr(next_kernel, "compare", other)
    bad = list(next_kernel.compared(fixture))
    assert bad[0] == (False, f"0 of {len(cores)} cores are as the kernel's own")
    assert (False, "threads: it differs") in bad
