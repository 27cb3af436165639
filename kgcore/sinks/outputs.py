# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open the output that a user names: a new file, standard output, or an existing pipe.

This is only for names that the user typed: names of kgcore's own (``core.1234``, files in a sysroot) are always new
regular files.
"""

import io
import os
import re
import stat
import sys
from typing import Self

from kgcore.errors import OutputError
from kgcore.sinks import STDOUT
from kgcore.sinks.base import Sink
from kgcore.sinks.files import FileSink, failure
from kgcore.sinks.streams import StreamSink

__all__ = ("named", "occupied", "output", "standard", "takes_a_stream")

_DESCRIPTOR = re.compile("/dev/fd/([0-9]{1,9})|/proc/self/fd/([0-9]{1,9})")  # as the shell calls a >(command)
_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}
_DEVICES = {os.makedev(1, 3), os.makedev(1, 5), os.makedev(1, 7)}  # null, zero, full: others are no place for a core


def output(path: str, *, force: bool = False) -> Sink:
    """Return a sink for ``path``; ``-`` is standard output."""
    return StreamSink(sys.stdout.buffer) if path == STDOUT else named(path, force=force)


def named(path: str, *, force: bool = False) -> Sink:
    """Return a sink for ``path``, where ``-`` has no special meaning."""
    return _OpenedSink(path) if takes_a_stream(path) else FileSink(path, force=force)


def standard(path: str) -> str:
    """Return ``-`` for any name of standard output, else the name itself.

    :raises OSError: it names a descriptor that is not open. (Later it could be one of kgcore's own.)
    """
    number = _descriptor(path)
    if number is not None:
        os.fstat(number)
    return STDOUT if number == 1 else path


def occupied(path: str) -> bool:
    """Say whether a file exists that only ``--force`` may replace."""
    return path != STDOUT and os.path.lexists(path) and not takes_a_stream(path)


def _descriptor(path: str) -> int | None:
    found = _DESCRIPTOR.fullmatch(path)
    return int(found[1] or found[2]) if found else _STREAMS.get(path)


def takes_a_stream(path: str) -> bool:
    """Say whether a name is that of a pipe, a descriptor, or a device that takes what it gets: no new file."""
    if _descriptor(path) is not None:
        return True
    try:
        return _suits(os.lstat(path))  # who plants a symbolic link to a pipe would read what is not his
    except (OSError, ValueError):
        return False


def _suits(status: os.stat_result) -> bool:
    return stat.S_ISFIFO(status.st_mode) or (stat.S_ISCHR(status.st_mode) and status.st_rdev in _DEVICES)


class _OpenedSink(StreamSink):
    """A named pipe, or an inherited descriptor. Opening a pipe waits for its reader."""

    def __init__(self, path: str) -> None:
        super().__init__(None)
        self._name = path

    def __enter__(self) -> Self:
        try:
            self._file = io.FileIO(self._open(), "w")
        except OSError as error:
            raise failure("cannot open", self._name, error) from error
        if self._file.isatty():
            self._file.close()
            raise OutputError(f"{self._name} is a terminal", hint="use a pipe, or a file")
        return self

    def _open(self) -> int:
        number = _descriptor(self._name)
        if number is not None:
            return os.dup(number)
        _refuse_planted(self._name)
        descriptor = os.open(self._name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
        if not _suits(os.fstat(descriptor)):
            os.close(descriptor)
            raise OutputError(f"{self._name} is no longer a pipe")
        return descriptor

    def abort(self) -> None:
        if self._file is not None:
            self._file.close()


def _refuse_planted(path: str) -> None:
    """Apply the rule of fs.protected_fifos, which the kernel applies only with O_CREAT."""
    pipe, directory = os.lstat(path), os.stat(os.path.dirname(path) or os.curdir)
    shared = directory.st_mode & stat.S_ISVTX and directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if stat.S_ISFIFO(pipe.st_mode) and shared and pipe.st_uid not in (os.geteuid(), directory.st_uid):
        raise OutputError(f"{path} is a pipe of another user in a world-writable directory", hint="use another name")
