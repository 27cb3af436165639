# SPDX-License-Identifier: LGPL-2.1-or-later
"""kgcore: a process inside a Linux kernel crash dump as a core file.

The names below are the library's public face. They are loaded when they are first used: drgn imports this package
with every start (for the ``%gcore`` command), and all but :func:`gcore` do without drgn.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kgcore.check import Verdict, check_core
    from kgcore.errors import KgcoreError
    from kgcore.pipeline import Options
    from kgcore.plugin import gcore
    from kgcore.report import Report

__all__ = ("KgcoreError", "Options", "Report", "Verdict", "__version__", "check_core", "gcore")

__version__ = "0.1.0"

_HOMES = {
    "KgcoreError": "kgcore.errors",
    "Options": "kgcore.pipeline",
    "Report": "kgcore.report",
    "Verdict": "kgcore.check",
    "check_core": "kgcore.check",
    "gcore": "kgcore.plugin",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
