# SPDX-License-Identifier: LGPL-2.1-or-later
"""python3 -m tests.vmcore_fixtures.make [NAME...]: makes the fixtures named, or all of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from . import fixture, kdump, kernels
from .catalogue import RECIPES
from .common import BuildError, Unavailable, cache_dir, say
from .packages import install_host_tools, locked
from .recipes import Recipe


def build(recipe: Recipe, *, force: bool, update: bool) -> bool:
    """Make one fixture unless it is there already; False when it failed."""
    marker = cache_dir() / "fixtures" / f"{recipe.name}.unavailable"
    try:
        with locked(f"fixture-{recipe.name}"):
            kernel = kernels.kernel(recipe.suite, recipe.flavour, update=update)
            maker = kdump if recipe.name in kdump.RECIPES else fixture
            if not force and maker.up_to_date(recipe, kernel):
                say(f"{recipe.name}: up to date")
            else:
                _make(maker.make, recipe, kernel)
            marker.unlink(missing_ok=True)
    except Unavailable as error:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(f"{error}\n")
        say(f"{recipe.name}: NOT MADE, GOING ON WITHOUT IT (see {marker.name}): {error}")
    except BuildError as error:
        say(f"{recipe.name}: FAILED: {error}")
        return False
    return True


def _make(make: Callable[[Recipe, kernels.Kernel], None], recipe: Recipe, kernel: kernels.Kernel) -> None:
    """Under emulation a guest dies by chance now and then (6.12 oopses at random): one more try."""
    try:
        make(recipe, kernel)
    except BuildError as error:
        say(f"{recipe.name}: {error}")
        say(f"{recipe.name}: trying once more")
        make(recipe, kernel)


def main() -> int:
    """Parse the arguments, make what they name."""
    recipes = RECIPES | kdump.RECIPES
    parser = argparse.ArgumentParser(prog="python3 -m tests.vmcore_fixtures.make", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="fixtures to make (all without any)")
    parser.add_argument("--list", action="store_true", help="list the fixtures and end")
    parser.add_argument("--force", action="store_true", help="make them even if nothing changed")
    parser.add_argument("--update", action="store_true", help="ask the mirror for newer kernels")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="guests at a time (default 2)")
    options = parser.parse_args()
    if options.list:
        for recipe in recipes.values():
            print(f"{recipe.name:17} {recipe.suite:9} {recipe.note or 'victims: ' + _names(recipe)}")
        return 0
    unknown = [name for name in options.names if name not in recipes]
    if unknown:
        parser.error(f"no such fixture: {', '.join(unknown)} (--list shows them)")
    chosen = [recipes[name] for name in options.names] or list(recipes.values())
    try:
        with locked("host-tools"):
            install_host_tools()
    except BuildError as error:
        say(f"FAILED: {error}")
        return 1
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        good = list(pool.map(lambda recipe: build(recipe, force=options.force, update=options.update), chosen))
    return 0 if all(good) else 1


def _names(recipe: Recipe) -> str:
    return " ".join(name for victim in recipe.victims for name in victim.names)


if __name__ == "__main__":
    sys.exit(main())
