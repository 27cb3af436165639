# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels that come and go excuse their guests, loudly; those of stable releases do not."""

from pathlib import Path

import pytest

from tests.vmcore_fixtures.make import __main__ as maker
from tests.vmcore_fixtures.make import kernels
from tests.vmcore_fixtures.make.catalogue import RECIPES
from tests.vmcore_fixtures.make.common import BuildError, Unavailable

MOVING = {name for name, recipe in RECIPES.items() if recipe.suite in kernels.MOVING_SUITES}


@pytest.fixture
def nothing_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with nothing in it, and a mirror without kernels."""

    def fetch(name: str, _flavour: str, _known: object) -> object:
        raise BuildError(f"no package lists for {name}")

    monkeypatch.setenv("KGCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(kernels, "_fetch", fetch)
    return tmp_path


def test_the_newest_kernels_come_and_go() -> None:
    assert {"k-backports", "k-experimental", "k72", "k72-full"} <= MOVING
    assert not {"k510-rt", "k61-rt", "k612-rt", "k510-full", "k61-full", "k612-full"} & MOVING


@pytest.mark.parametrize("name", ["k-backports", "k-experimental"])
def test_excused(nothing_to_be_had: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The maker goes on without it, says so, and leaves a note for the tests, which skip with this reason."""
    recipe = RECIPES[name]
    with pytest.raises(Unavailable) as caught:
        kernels.kernel(recipe.suite, recipe.flavour)
    assert maker.build(recipe, caught.value, force=False)
    reason = f"the kernel of {recipe.suite} is not to be had: no package lists for {recipe.suite}"
    assert (nothing_to_be_had / f"fixtures/{name}.unavailable").read_text() == f"{reason}\n"
    assert "NOT MADE, GOING ON WITHOUT IT" in "".join(capsys.readouterr())


def test_not_excused(nothing_to_be_had: Path) -> None:
    recipe = RECIPES["k510-rt"]
    with pytest.raises(BuildError) as caught:
        kernels.kernel(recipe.suite, recipe.flavour)
    assert not maker.build(recipe, caught.value, force=False)
    assert not (nothing_to_be_had / f"fixtures/{recipe.name}.unavailable").exists()
