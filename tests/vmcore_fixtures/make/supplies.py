# SPDX-License-Identifier: LGPL-2.1-or-later
"""What guests are made of: brought in while other guests run, each thing once, each suite in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from . import built_kernels, initramfs, kdump, systemd_guest
from .makedumpfile import HOST, Makedumpfile
from .recipes import PYTHON_SUITE, Recipe


class Supplies:
    """Everything that recipes need, being fetched.

    :param update: whether to ask the mirror for newer kernels.
    """

    def __init__(self, *, update: bool) -> None:
        self._update = update
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._found: dict[tuple[str, ...], Future[Any]] = {}

    def of(self, recipe: Recipe) -> list[Future[Any]]:
        """All that a recipe needs."""
        suite, flavour = recipe.suite, recipe.flavour
        # Building takes long: the suite's packages do not wait for that.
        queue = flavour if flavour.startswith(built_kernels.PREFIX) else suite
        wanted = [self._fetch(queue, lambda: built_kernels.of(recipe, update=self._update), "kernel", flavour)]
        wanted.append(self._fetch(PYTHON_SUITE, lambda: initramfs.fetch_packages(recipe), "packages", recipe.name))
        for tool in sorted({dump.tool for dump in recipe.derived} - {HOST}):
            wanted.append(self._fetch(tool, lambda tool=tool: Makedumpfile.of(tool), "makedumpfile"))  # type: ignore[misc]
        if recipe.name in kdump.RECIPES:
            wanted.append(self._fetch(PYTHON_SUITE, kdump.root, "kdump"))
        if recipe.name in systemd_guest.RECIPES:
            wanted.append(self._fetch(PYTHON_SUITE, systemd_guest.root, "systemd"))
        return wanted

    def _fetch(self, suite: str, work: Callable[[], Any], *name: str) -> Future[Any]:
        key = suite, *name
        if key not in self._found:
            if suite not in self._threads:
                self._threads[suite] = ThreadPoolExecutor(1)
            self._found[key] = self._threads[suite].submit(work)
        return self._found[key]

    def as_ready(self, recipes: Iterable[Recipe], begin: Callable[[Recipe, BaseException | None], None]) -> None:
        """Call ``begin`` for each recipe as soon as all is there that it needs; if not, with the reason."""
        waiting = [(recipe, self.of(recipe)) for recipe in recipes]
        while waiting:
            later = []
            for recipe, needs in waiting:
                if all(need.done() for need in needs):
                    begin(recipe, next(filter(None, (need.exception() for need in needs)), None))
                else:
                    later.append((recipe, needs))
            waiting = later
            wait([need for _, needs in waiting for need in needs if not need.done()], return_when=FIRST_COMPLETED)
        for thread in self._threads.values():
            thread.shutdown()
