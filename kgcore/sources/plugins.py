# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's plugins, which have nothing to do with the Programs that kgcore makes for itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

__all__ = ("without_plugins",)

_HOOK = "drgn_prog_set"


@contextmanager
def without_plugins() -> Iterator[None]:
    """Open dumps in the block: no plugin is loaded, and none is told of the Program.

    A plugin may do anything: print, take seconds, register finders; and drgn discards what a signal handler raises
    there. Programs that are opened outside of the block have their plugins as ever.

    drgn has a variable of the environment for this (DRGN_DISABLE_PLUGINS), but remembers for all later Programs what it
    had been told by it. A drgn that keeps its list of hooks elsewhere calls them.
    """
    try:
        hooks = import_module("_drgn_util.plugins")._hooks
    except (ImportError, AttributeError):
        yield
        return
    before = hooks.get(_HOOK)
    hooks[_HOOK] = []
    try:
        yield
    finally:
        if before is None:
            del hooks[_HOOK]
        else:
            hooks[_HOOK] = before
