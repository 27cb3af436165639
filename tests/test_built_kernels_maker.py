# SPDX-License-Identifier: LGPL-2.1-or-later
"""What builds kernels for the fixtures: which it builds, and that it builds what was wanted. No compiler runs here."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.vmcore_fixtures.make import __main__ as command
from tests.vmcore_fixtures.make import built_kernels, catalogue
from tests.vmcore_fixtures.make.built_configs import CONFIGURATIONS, Configuration
from tests.vmcore_fixtures.make.built_guests import RECIPES
from tests.vmcore_fixtures.make.built_kernels import PREFIX, BuiltKernel, NotBuilt, fingerprint
from tests.vmcore_fixtures.make.common import BuildError
from tests.vmcore_fixtures.make.packages import Package

SLOW, QUICK = list(CONFIGURATIONS)[:2]


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What was built, in a cache of its own; as quickly as can be."""
    done: list[str] = []

    def build(wanted: Configuration, source: Package, folder: Path, flavour: str) -> BuiltKernel:
        done.append(flavour)
        packages = {source.name: source.version, "configuration": fingerprint(wanted)}
        kernel = BuiltKernel(wanted.suite, f"1.2-{wanted.name}", packages, flavour)
        for name in ("vmlinuz", "vmlinux", "modules", "debug-modules"):
            (kernel.directory / name).mkdir(parents=True, exist_ok=True)
        return kernel

    monkeypatch.setenv("KGCORE_CACHE", str(tmp_path))
    for name in (SLOW, QUICK):
        monkeypatch.setitem(CONFIGURATIONS, name, replace(CONFIGURATIONS[name], quick=name == QUICK))
    monkeypatch.setattr(built_kernels, "_build", build)
    package = Package("linux-source-1.2", "1.2.3-1", tmp_path)
    monkeypatch.setattr(built_kernels, "_source", lambda suite: (package, tmp_path))
    built_kernels.build_on_demand(())
    return done


def test_what_takes_long_is_built_for_those_who_ask(builds: list[str]) -> None:
    with pytest.raises(NotBuilt, match="--build-kernels"):
        built_kernels.kernel(PREFIX + SLOW)
    assert builds == []
    built_kernels.build_on_demand([PREFIX + SLOW])
    first = built_kernels.kernel(PREFIX + SLOW)
    assert (first.has_debug, first.complete, first.architecture) == (True, True, "")
    # From now on it is in the cache, for everybody.
    built_kernels.build_on_demand(())
    assert built_kernels.kernel(PREFIX + SLOW) == first
    built_kernels.build_on_demand(None)
    assert built_kernels.kernel(PREFIX + SLOW) == first
    assert builds == [PREFIX + SLOW]
    assert built_kernels.kernel(PREFIX + SLOW, update=True) == first
    assert builds == [PREFIX + SLOW] * 2


def test_what_is_quick_is_always_built(builds: list[str]) -> None:
    assert built_kernels.kernel(PREFIX + QUICK) == built_kernels.kernel(PREFIX + QUICK)
    assert builds == [PREFIX + QUICK]


@pytest.mark.parametrize(("name", "again"), [(QUICK, True), (SLOW, False)])
def test_another_configuration_is_another_kernel(
    name: str, again: bool, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that take long the old one will do until somebody asks."""
    built_kernels.build_on_demand(None)
    old = built_kernels.kernel(PREFIX + name)
    built_kernels.build_on_demand(())
    changed = Configuration(name, old.suite, ("SMP -MODULES",), quick=name == QUICK)
    monkeypatch.setitem(CONFIGURATIONS, name, changed)
    new = built_kernels.kernel(PREFIX + name)
    assert (new.version != old.version) == again
    assert len(builds) == 1 + again


def test_a_kernel_that_is_not_whole_is_built_again(builds: list[str]) -> None:
    kernel = built_kernels.kernel(PREFIX + QUICK)
    (kernel.directory / "vmlinux").rmdir()
    assert built_kernels.kernel(PREFIX + QUICK).complete
    assert len(builds) == 2


def test_a_guest_without_its_kernel_says_so_and_fails_nothing(builds: list[str], tmp_path: Path) -> None:
    recipe = next(recipe for recipe in RECIPES.values() if recipe.flavour == PREFIX + SLOW)
    assert command.build(recipe, None, force=False)
    assert "--build-kernels" in (tmp_path / f"fixtures/{recipe.name}.not-built").read_text()
    assert not (tmp_path / f"fixtures/{recipe.name}.unavailable").exists()


def test_options_in_words() -> None:
    one = Configuration("x", "sid", ("SMP NR_CPUS=8 ?OLD MODULES", "-MODULES ?-GONE"))
    assert one.wanted() == {
        "SMP": ("y", False),
        "NR_CPUS": ("8", False),
        "OLD": ("y", True),
        "MODULES": ("n", False),
        "GONE": ("n", True),
    }


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        ("CONFIG_SMP=y\nCONFIG_NR_CPUS=8\n", ""),
        ("# CONFIG_SMP is not set\nCONFIG_NR_CPUS=8\n", "SMP is n, not y"),
        ("CONFIG_SMP=y\nCONFIG_NR_CPUS=64\n", "NR_CPUS is 64, not 8"),
        ("CONFIG_SMP=y\nCONFIG_NR_CPUS=8\nCONFIG_MODULES=y\n", "MODULES is y, not n"),
        ("CONFIG_SMP=y\nCONFIG_NR_CPUS=8\nCONFIG_OLD=y\n", ""),
    ],
)
def test_a_kernel_that_is_not_as_wanted_is_not_built(
    config: str, wrong: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Kconfig drops silently what depends on something else."""
    (tmp_path / ".config").write_text(config)
    asked: list[Any] = []
    monkeypatch.setattr(built_kernels, "run", lambda command, **options: asked.append((command, options)))
    make = built_kernels._Make(
        Configuration("x", "sid", ("SMP NR_CPUS=8 ?OLD -MODULES",), clang="16"), tmp_path / "source", tmp_path
    )
    if wrong:
        with pytest.raises(BuildError, match=wrong):
            make.configure()
    else:
        make.configure()
    ((words, options),) = asked
    assert (words[-1], "LLVM=-16" in words, "CC=ccache clang-16" in words) == ("allnoconfig", True, True)
    assert 'CONFIG_LOCALVERSION="-x"' in Path(options["env"]["KCONFIG_ALLCONFIG"]).read_text()


def test_few_are_quick_and_each_has_a_guest() -> None:
    assert sum(one.quick for one in CONFIGURATIONS.values()) <= 3
    assert {recipe.flavour for recipe in RECIPES.values()} == {PREFIX + name for name in CONFIGURATIONS}
    assert not RECIPES.keys() & catalogue.RECIPES.keys()
    for recipe in RECIPES.values():
        assert recipe.suite == CONFIGURATIONS[recipe.flavour.removeprefix(PREFIX)].suite
        assert "isolcpus=1" in recipe.append or "SMP=n" in recipe.note
