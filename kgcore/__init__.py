# SPDX-License-Identifier: LGPL-2.1-or-later
"""kgcore: a process inside a Linux kernel crash dump as a core file.

The names below are the library's public face. They are loaded when they are first used: drgn imports this package
with every start (for the ``%gcore`` command), and all but :func:`gcore`,
:func:`load_types` and :func:`open_vmcore` do without drgn.
docs/api.md shows their use.
"""

from kgcore._version import __version__

TYPE_CHECKING = False  # to type checkers it is true; importing it would take longer than all else here
if TYPE_CHECKING:
    from kgcore.check.core import Verdict, check_core
    from kgcore.coredump.pipeline import Options, Prepared, prepare, write
    from kgcore.coredump.report import Report
    from kgcore.errors import KgcoreError
    from kgcore.library import open_vmcore
    from kgcore.plugin import gcore, load_types
    from kgcore.sinks.files import FileSink, MemorySink, StreamSink
    from kgcore.sources.base import Source, TaskRef

__all__ = (
    "FileSink",
    "KgcoreError",
    "MemorySink",
    "Options",
    "Prepared",
    "Report",
    "Source",
    "StreamSink",
    "TaskRef",
    "Verdict",
    "__version__",
    "check_core",
    "gcore",
    "load_types",
    "open_vmcore",
    "prepare",
    "write",
)

_HOMES = {
    "FileSink": "kgcore.sinks.files",
    "KgcoreError": "kgcore.errors",
    "MemorySink": "kgcore.sinks.files",
    "Options": "kgcore.coredump.pipeline",
    "Prepared": "kgcore.coredump.pipeline",
    "Report": "kgcore.coredump.report",
    "Source": "kgcore.sources.base",
    "StreamSink": "kgcore.sinks.files",
    "TaskRef": "kgcore.sources.base",
    "Verdict": "kgcore.check.core",
    "check_core": "kgcore.check.core",
    "gcore": "kgcore.plugin",
    "load_types": "kgcore.plugin",
    "open_vmcore": "kgcore.library",
    "prepare": "kgcore.coredump.pipeline",
    "write": "kgcore.coredump.pipeline",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
