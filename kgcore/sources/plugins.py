# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keep drgn's plugins away from the Programs that kgcore makes for itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

__all__ = ("without_plugins",)

_HOOK = "drgn_prog_set"


@contextmanager
def without_plugins() -> Iterator[None]:
    """Open dumps in the block without loading or calling any plugin.

    A plugin may print, take seconds, or register finders; and drgn discards what a signal handler raises there.
    Programs opened outside of the block keep their plugins.

    drgn has an environment variable for this (DRGN_DISABLE_PLUGINS), but remembers its value for all later Programs. A
    drgn that keeps its list of hooks elsewhere calls them.
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
