# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dump this process, or another one of this machine, by a call."""

import fcntl
import os
import threading
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Literal, Unpack

from kgcore.coredump.report import Report
from kgcore.coredumper.options import DumpOptions, wish_of
from kgcore.coredumper.permission import allow_tracing, dumpable
from kgcore.coredumper.reader import CoreReader
from kgcore.coredumper.session import Session
from kgcore.coredumper.wish import Wish

__all__ = ("get_core_dump", "write_core_dump")

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


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
    number: Any = pid
    if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number <= 0):
        raise ValueError(f"pid is {pid!r}: expected the id of a process, or None for this one")
    tid = threading.get_native_id() if pid is None or _is_own(pid) else pid
    return wish_of(tid, options, path=path, descriptor=descriptor, force=force)
