# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests with processes that do to their memory what servers do."""

from __future__ import annotations

from .recipes import FULL, HUGE_PAGES, Recipe, Victim

# The guest's script writes everything back once before the dump, which is not wanted here.
_NOT_WRITTEN_BACK = """
sync() { if [ -e /tmp/not_again ]; then command sync; else touch /tmp/not_again; fi; }
"""


def server_guest(name: str, suite: str) -> Recipe:
    """Processes that do to their memory what servers do."""
    kinds = ("title-exact", "title-long", "title-page", "buffers", "unsaved")
    return Recipe(
        name,
        suite,
        tuple(
            Victim((victim,), "server", (victim, FULL, kind), cores=(), without_core={victim: "not about cores"})
            for victim, kind in ((kind.replace("-", "_"), kind) for kind in kinds)
        ),
        ram=384,
        setup=HUGE_PAGES + _NOT_WRITTEN_BACK,
        qemu_kdump=False,
        note="titles over arguments, shared huge pages, files with pages that were not written back",
    )
