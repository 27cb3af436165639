# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a process of this machine is dumped, in the words of callers, and checked."""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from kgcore.coredump.limits import LimitRule, Limits
from kgcore.coredump.ownnotes import Note
from kgcore.coredump.pipeline import Options, Profile
from kgcore.coredump.writer import Progress
from kgcore.coredumper.wish import Wish
from kgcore.filters.rules import Rule
from kgcore.model.process import DEFAULT_MASK
from kgcore.sinks.choosing import chosen, suffix_of
from kgcore.sinks.outputs import takes_a_stream
from kgcore.sources.location import Freezing, LiveLocation, SharedMemory

__all__ = ("DumpOptions", "wish_of")


class DumpOptions(TypedDict, total=False):
    """How to dump a process of this machine: keywords of :func:`write_core_dump` and :func:`get_core_dump`.

    :ivar filter: sum of the ``coredump_filter`` bits; None: the process's own. Default: the kernel's.
    :ivar freeze: ``"auto"`` (default), ``"fork"``, ``"stop"``: as :func:`kgcore.open_live`.
    :ivar shared: ``"copy"`` (default) or ``"late"``: as :func:`kgcore.open_live`.
    :ivar max_freeze: seconds that the process may stand still; None: as long as it takes.
    :ivar max_size: bytes that the core may have; what matters most comes first.
    :ivar max_time: seconds that it may take.
    :ivar limit: what these cost: ``"priority"`` (default), ``"largest-first"``, ``"truncate"``: see
        :class:`kgcore.Limits`.
    :ivar profile: ``"full"`` (default), or ``"mini"``: only what backtraces need.
    :ivar notes: further notes for the core, behind the kernel's.
    :ivar compress: ``"zstd"``, ``"gzip"``, None, a program as ``(name, [arguments], suffix)``, or a list of these, of
        which the first that this machine has is taken.
    :ivar exclude: rules (``"name:[heap]"``, ``"size:>1G"`` ...) on memory to leave out; ``only``: to keep alone;
        ``redact``: to write as zeros.
    :ivar jobs: processes that read and compress side by side; None: as many as there are CPUs.
    :ivar progress: called now and then with the bytes of memory written so far, and in all.
    :ivar cancel: asked now and then whether to give up (``threading.Event().is_set``).
    """

    filter: int | None
    freeze: Freezing
    shared: SharedMemory
    max_freeze: float | None
    max_size: int | None
    max_time: float | None
    limit: LimitRule
    profile: Profile
    notes: Sequence[Note]
    compress: Any
    exclude: Sequence[str]
    only: Sequence[str]
    redact: Sequence[str]
    jobs: int | None
    progress: Progress | None
    cancel: Callable[[], bool] | None


_KNOWN = frozenset(DumpOptions.__annotations__)


def wish_of(tid: int, options: DumpOptions, *, path: str | None, descriptor: int | None, force: bool = False) -> Wish:
    """Return what is wanted as a value, once it is checked: nothing is stopped for what makes no sense.

    :param tid: id of the thread whose process it is.
    :param path: of the core; None: it goes to ``descriptor``.
    :raises TypeError, ValueError, KgcoreError: it makes no sense, or this machine cannot.
    """
    unknown = sorted(set(options) - _KNOWN)
    if unknown:
        raise TypeError(f"unexpected option: {', '.join(unknown)}")
    location = LiveLocation(
        freeze=options.get("freeze", "auto"),
        shared=options.get("shared", "copy"),
        max_freeze=options.get("max_freeze"),
    )
    if (location.freeze, location.shared) == ("stop", "late"):
        raise ValueError("shared='late' is about copies: it goes with freeze='auto' and 'fork'")
    for name in ("max_freeze", "max_size", "max_time"):
        value: Any = options.get(name)
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool) or value < 0):
            raise ValueError(f"{name} is {value!r}: expected 0 or more")
    jobs: Any = options.get("jobs")
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise ValueError(f"jobs is {jobs!r}: expected 1 or more")
    compress = chosen(options.get("compress"))
    rules = []
    for action in ("exclude", "only", "redact"):
        given: Any = options.get(action, ())
        if isinstance(given, str):
            raise TypeError(f"{action} is a string: expected a list of rules")
        rules += [Rule(action, text) for text in given]
    limit, profile = options.get("limit", "priority"), options.get("profile", "full")
    Limits(options.get("max_size"), options.get("max_time"), rule=limit)
    if "limit" in options and options.get("max_size") is None and options.get("max_time") is None:
        raise ValueError("limit says what a limit costs: it takes max_size or max_time")
    notes = tuple(note.now() for note in options.get("notes", ()))
    suffix = suffix_of(compress)
    if path is not None and not path.endswith(suffix) and not takes_a_stream(path):
        path += suffix
    return Wish(
        tid=tid,
        location=location,
        options=Options(mask=options.get("filter", DEFAULT_MASK), rules=tuple(rules), profile=profile, notes=notes),
        path=None if path is None else os.path.abspath(path),
        descriptor=descriptor,
        compress=compress,
        force=force,
        max_size=options.get("max_size"),
        max_time=options.get("max_time"),
        limit=limit,
        jobs=jobs,
        progress=options.get("progress") is not None,
    )
