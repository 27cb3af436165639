# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dump this process, or another one of this machine, by a call."""

import fcntl
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Literal, TypedDict, Unpack

from kgcore.coredump.limits import LimitRule, Limits
from kgcore.coredump.ownnotes import Note
from kgcore.coredump.pipeline import Options, Profile
from kgcore.coredump.report import Report
from kgcore.coredump.writer import Progress
from kgcore.coredumper.permission import allow_tracing, dumpable
from kgcore.coredumper.reader import CoreReader
from kgcore.coredumper.session import Session
from kgcore.coredumper.wish import Wish
from kgcore.filters.rules import Rule
from kgcore.model.process import DEFAULT_MASK
from kgcore.sinks.choosing import chosen, suffix_of
from kgcore.sinks.outputs import takes_a_stream
from kgcore.sources.location import Freezing, LiveLocation, SharedMemory

__all__ = ("DumpOptions", "get_core_dump", "write_core_dump")

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


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


def write_core_dump(
    path: str | os.PathLike[str], pid: int | None = None, *, force: bool = False, **options: Unpack[DumpOptions]
) -> Report:
    """Write the core of this process, or of another one of this machine, which goes on.

    This process's core begins with the calling thread. A helper program makes it, so any thread may call this, and no
    lock of this process matters.

    :param path: of the core. If it is compressed, the compressor's suffix is put behind it (``.zst``, ``.gz``).
    :param pid: id of the process; None: this one.
    :param force: overwrite a file.
    :param options: see :class:`DumpOptions`.
    :return: what the core holds, what is missing and why; its ``path`` is the file's name.
    :raises Busy: the process is being dumped at this moment.
    :raises Cancelled: ``cancel`` said so.
    :raises KgcoreError: it may not be traced, or the core cannot be written.
    :raises TypeError, ValueError: options make no sense, alone or together.
    """
    given = os.fspath(path)
    if not isinstance(given, str):
        raise TypeError(f"path is {path!r}: expected a string or a path")
    wish = _wish(pid, options, path=given, descriptor=None, force=force)
    with _permitted(pid):
        return _session(wish, pid).wait(options.get("progress"), options.get("cancel"))


def get_core_dump(
    pid: int | None = None, *, spool: Literal["memfd"] | None = None, **options: Unpack[DumpOptions]
) -> CoreReader:
    """Return the core of this process, or of another one of this machine, as a file object.

    :param pid: id of the process; None: this one.
    :param spool: None: it is made while it is read, from a copy of the process if that is this one; ``"memfd"``: it is
        made at once, in memory that nobody can change any more, and can be sought in.
    :param options: see :class:`DumpOptions`.
    :return: the core; close it, or use it in a ``with`` block.
    :raises KgcoreError: as :func:`write_core_dump`, here or when it is read; also Busy and Cancelled.
    :raises TypeError, ValueError: options make no sense, alone or together.
    """
    if spool not in (None, "memfd"):
        raise ValueError(f"spool is {spool!r}: expected 'memfd' or None")
    if spool is None and _is_own(pid):
        if options.get("freeze") == "stop":
            raise ValueError("freeze='stop' and a stream: a process that stands still cannot read its own core")
        options = options | {"freeze": "fork"}
    with ExitStack() as permission:
        permission.enter_context(_permitted(pid))
        if spool == "memfd":
            return _in_memory(pid, options)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            session = _session(_wish(pid, options, path=None, descriptor=writing), pid)
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        permission.callback(session.cancel)
        return _stream(reading, session, options, permission.pop_all())


def _stream(reading: int, session: Session, options: DumpOptions, end: ExitStack) -> CoreReader:
    def wait() -> Report:
        with end:
            return session.wait(options.get("progress"), options.get("cancel"))

    return CoreReader(reading, None, wait=wait, give_up=end.close)


def _in_memory(pid: int | None, options: DumpOptions) -> CoreReader:
    memory = os.memfd_create(f"core.{os.getpid() if pid is None else pid}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        wish = _wish(pid, options, path=None, descriptor=memory)
        report = _session(wish, pid).wait(options.get("progress"), options.get("cancel"))
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
        os.lseek(memory, 0, os.SEEK_SET)
    except BaseException:
        os.close(memory)
        raise
    return CoreReader(memory, report)


def _is_own(pid: int | None) -> bool:
    return pid is None or pid == os.getpid()


def _permitted(pid: int | None) -> AbstractContextManager[object]:
    return dumpable() if _is_own(pid) else nullcontext()


def _session(wish: Wish, pid: int | None) -> Session:
    return Session(wish, allow_tracing if _is_own(pid) else lambda helper: None)


def _wish(
    pid: int | None, options: DumpOptions, *, path: str | None, descriptor: int | None, force: bool = False
) -> Wish:
    """Check what is wanted, before anything is stopped.

    :raises TypeError, ValueError, KgcoreError: it makes no sense, or this machine cannot.
    """
    unknown = sorted(set(options) - _KNOWN)
    if unknown:
        raise TypeError(f"unexpected option: {', '.join(unknown)}")
    number: Any = pid
    if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number <= 0):
        raise ValueError(f"pid is {pid!r}: expected the id of a process, or None for this one")
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
        tid=threading.get_native_id() if pid is None or _is_own(pid) else pid,
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
