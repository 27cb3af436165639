# SPDX-License-Identifier: LGPL-2.1-or-later
"""python3 -m tests.vmcore_fixtures.make [NAME...]: makes the fixtures named, or all of them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from . import built_guests, built_kernels, edge_guests, fixture, kdump, kernels, systemd_guest
from .catalogue import RECIPES
from .common import BuildError, Unavailable, cache_dir, say
from .packages import install_host_tools, locked
from .progress import PROGRESS
from .recipes import Recipe
from .supplies import Supplies

TRIES = 6  # on a busy machine Linux 7.2 goes on with the slots of another swap device more often than not
MOST = 8  # guests at a time: each wants a GiB of memory, one of them five


def build(recipe: Recipe, lacking: BaseException | None, *, force: bool) -> bool:
    """Make one fixture unless it is there already; False when it failed.

    :param lacking: why something that it needs is not there.
    """
    folder = cache_dir() / "fixtures"
    marker, not_built = (folder / f"{recipe.name}.{end}" for end in ("unavailable", "not-built"))
    try:
        if lacking:
            raise lacking
        with locked(f"fixture-{recipe.name}"):
            kernel = built_kernels.of(recipe)
            maker = next((made for made in (kdump, edge_guests, systemd_guest) if recipe.name in made.RECIPES), fixture)
            if not force and maker.up_to_date(recipe, kernel):
                outcome = "up to date"
            else:
                _make(maker.make, recipe, kernel)
                outcome = "done"
            marker.unlink(missing_ok=True)
            not_built.unlink(missing_ok=True)
    except Unavailable as error:
        reason = not_built if isinstance(error, built_kernels.NotBuilt) else marker
        folder.mkdir(parents=True, exist_ok=True)
        reason.write_text(f"{error}\n")
        PROGRESS.finish(recipe.name, f"NOT MADE, GOING ON WITHOUT IT (see {reason.name}): {error}")
    except BuildError as error:
        PROGRESS.finish(recipe.name, f"FAILED: {error}")
        return False
    else:
        PROGRESS.finish(recipe.name, outcome)
    return True


def _make(make: Callable[[Recipe, kernels.Kernel], None], recipe: Recipe, kernel: kernels.Kernel) -> None:
    """Under emulation a guest dies by chance now and then (6.12 oopses at random): further tries."""
    for number in range(2, TRIES + 1):
        try:
            make(recipe, kernel)
        except BuildError as error:
            say(f"{recipe.name}: {error}")
            PROGRESS.step(recipe.name, f"trying again, {number} of {TRIES}")
        else:
            return
    make(recipe, kernel)


def main() -> int:
    """Parse the arguments, make what they name."""
    recipes = RECIPES | kdump.RECIPES | edge_guests.RECIPES | built_guests.RECIPES | systemd_guest.RECIPES
    parser = argparse.ArgumentParser(prog="python3 -m tests.vmcore_fixtures.make", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="fixtures to make (all without any)")
    parser.add_argument("--list", action="store_true", help="list the fixtures and end")
    parser.add_argument("--force", action="store_true", help="make them even if nothing changed")
    parser.add_argument("--update", action="store_true", help="ask the mirror for newer kernels")
    parser.add_argument("--build-kernels", action="store_true", help="build also the kernels that take long (an hour)")
    jobs = max(2, min(len(os.sched_getaffinity(0)), MOST))
    parser.add_argument("-j", "--jobs", type=int, default=jobs, help=f"guests at a time (here {jobs} if not said)")
    options = parser.parse_args()
    if options.list:
        for recipe in recipes.values():
            print(f"{recipe.name:17} {recipe.suite:9} {recipe.note or 'victims: ' + _names(recipe)}")
        return 0
    unknown = [name for name in options.names if name not in recipes]
    if unknown:
        parser.error(f"no such fixture: {', '.join(unknown)} (--list shows them)")
    chosen = [recipes[name] for name in options.names] or list(recipes.values())
    named = {recipes[name].flavour for name in options.names}
    built_kernels.build_on_demand(None if options.build_kernels else named)
    try:
        with locked("host-tools"):
            install_host_tools()
    except BuildError as error:
        say(f"FAILED: {error}")
        return 1
    PROGRESS.expect(len(chosen))
    built: list[Future[bool]] = []
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        # What is lacking is brought in while other guests run.
        Supplies(update=options.update).as_ready(
            chosen, lambda recipe, lacking: built.append(pool.submit(build, recipe, lacking, force=options.force))
        )
    return 0 if all(one.result() for one in built) else 1


def _names(recipe: Recipe) -> str:
    return " ".join(name for victim in recipe.victims for name in victim.names)


if __name__ == "__main__":
    sys.exit(main())
