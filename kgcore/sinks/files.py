# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write a core to a file that gets its name when it is complete."""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Self

from kgcore.errors import OutputError
from kgcore.sinks.base import BaseSink, Item, PartOutput
from kgcore.sinks.directfile import DirectFile, Position
from kgcore.system import stopping

__all__ = ("FileSink", "failure")

_BLOCK = 4096
_PER_INDEX = 256  # ext4 needs 12 bytes for a run of blocks, XFS and Btrfs 16 or more, and hardly two runs touch
# What link() says on FAT and on network file systems; EPERM also where the kernel protects hard links.
_NO_HARD_LINKS = frozenset((errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV))


class FileSink(BaseSink):
    """A private (0600), sparse file that gets its name only when it is complete.

    Until then its name is ``.core.1234.89abcdef.tmp``, in the same directory. It is never written through a symbolic
    link, and replaces only a regular file, and only with ``force``. It is synced to disk before it gets its name: with
    delayed allocation (NFS, quotas) no earlier call reports a full disk, and a machine that was just dumped may reboot
    any time.
    """

    def __init__(self, path: str | os.PathLike[str], *, force: bool = False, directory: int | None = None) -> None:
        """
        :param force: replace a file.
        :param directory: descriptor of its directory; then only the last part of ``path`` is used, and the rest is for
            messages. None: use the path.
        """
        super().__init__()
        self.path: str | None = os.fspath(path)
        self._path = os.fspath(path)
        self._force = force
        self._given = directory
        self._directory, self._name = os.path.split(self._path)
        # What a name may be long differs; what is cut off here matters only to who looks while we write.
        self._temporary = f".{self._name[:200]}.{secrets.token_hex(4)}.tmp"
        self._dirfd = -1
        self._fd = -1
        self._ours = False  # the temporary name is there, and it is us who made it
        self._forget: Callable[[], None] = lambda: None  # that it would have to be cleaned up
        self._stored = 0  # bytes so far that are no holes

    def __enter__(self) -> Self:
        try:
            # All names are relative to this descriptor, so that nobody can swap the directory meanwhile.
            if self._given is not None:
                self._dirfd = os.dup(self._given)
            else:
                self._dirfd = os.open(self._directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._check_target()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with stopping.held():
                fd = os.open(self._temporary, flags, 0o600, dir_fd=self._dirfd)
                self._ours = True
                self._forget = stopping.clean_up(self._unlink)
            self._file = DirectFile(fd)
            self._end = self._file.at(0)
            self._fd = fd
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError):
                raise self._failure("cannot create", error) from error
            raise
        return self

    def write(self, data: bytes | memoryview) -> None:
        with self._writing():
            self._end.write(data)
        self._charge(len(data))

    def skip(self, length: int) -> None:
        with self._writing():
            self._end.skip(length)

    def part(self, offset: int) -> PartOutput:
        """See :meth:`Sink.part`."""
        return _Placed(self._file.at(offset), self._writing)

    def take(self, items: list[Item], size: int, stored: int) -> None:
        """See :meth:`Sink.take`."""
        self.skip(size)
        self._file.drop_buffers()
        self._charge(stored)

    def most(self, data: int, size: int) -> int:
        """See :meth:`Sink.most`."""
        return data + data // _PER_INDEX + _BLOCK

    def _charge(self, size: int) -> None:
        """Count the output. A file with many holes also needs blocks for its extents, which count too."""
        self._stored += size
        self.used = self._stored + self._stored // _PER_INDEX + _BLOCK

    def restart(self) -> bool:
        """See :meth:`Sink.restart`."""
        with self._writing():
            os.ftruncate(self._fd, 0)
        self._end = self._file.at(0)
        self._stored = self.used = 0
        return True

    def commit(self) -> None:
        """See :meth:`Sink.commit`."""
        with self._writing():
            self._end.flush()
            os.ftruncate(self._fd, self._end.offset)  # a hole at the end
            self._sync()
            self._file.close()
            fd, self._fd = self._fd, -1
            os.close(fd)
            self._check_target()
            with stopping.held():
                if self._force:
                    self._rename()
                else:
                    self._link()

    def abort(self) -> None:
        """See :meth:`Sink.abort`."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            for close in (self._file.close, partial(os.close, fd)):
                with suppress(OSError):  # the file is about to go
                    close()
        if self._ours:
            self._unlink()
        self._forget()
        if self._dirfd >= 0:
            dirfd, self._dirfd = self._dirfd, -1
            os.close(dirfd)

    def _sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # file systems that cannot
                raise

    def _check_target(self) -> None:
        """Refuse early what :meth:`commit` would refuse."""
        try:
            mode = os.stat(self._name, dir_fd=self._dirfd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISREG(mode):
            raise OutputError(
                f"{self._path} exists and is not a regular file", hint="use another name, or - for standard output"
            )
        if not self._force:
            raise OutputError(f"{self._path} exists", hint="--force replaces it")

    def _link(self) -> None:
        """Give the file its name unless that exists: link() fails then, rename() would not."""
        try:
            os.link(self._temporary, self._name, src_dir_fd=self._dirfd, dst_dir_fd=self._dirfd, follow_symlinks=False)
        except FileExistsError:
            self._check_target()
            raise
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            # An empty file of our own holds the name meanwhile.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(self._name, flags, 0o600, dir_fd=self._dirfd))
            try:
                self._rename()
            except BaseException:
                os.unlink(self._name, dir_fd=self._dirfd)
                raise
        else:
            self._unlink()

    def _rename(self) -> None:
        os.rename(self._temporary, self._name, src_dir_fd=self._dirfd, dst_dir_fd=self._dirfd)
        self._ours = False

    def _unlink(self) -> None:
        self._ours = False
        with suppress(OSError):  # there is nobody to tell
            os.unlink(self._temporary, dir_fd=self._dirfd)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failure("cannot write", error) from error

    def _failure(self, what: str, error: OSError) -> OutputError:
        return failure(what, self._path, error)


def failure(what: str, path: str, error: OSError) -> OutputError:
    """Return an error with the system's message and a hint."""
    hints = {
        errno.ENOSPC: "free some space, or use another directory (-D)",
        errno.EDQUOT: "the quota is exhausted; use another directory (-D)",
        errno.EFBIG: "the file exceeds the limit of the file system or ulimit -f; --share-zeros makes it shorter",
        errno.EACCES: "use another directory (-D)",
        errno.EROFS: "use another directory (-D)",
        errno.ENOENT: "the directory does not exist",
    }
    reason = error.strerror or str(error)
    return OutputError(f"{what} {path}: {reason}", hint=hints.get(error.errno or 0, ""))


class _Placed:
    """A part of a file."""

    def __init__(self, position: Position, writing: Callable[[], AbstractContextManager[None]]) -> None:
        self._position = position
        self._writing = writing

    def write(self, data: bytes | memoryview) -> None:
        with self._writing():
            self._position.write(data)

    def skip(self, length: int) -> None:
        with self._writing():
            self._position.skip(length)

    def items(self) -> list[Item]:
        with self._writing():
            self._position.flush()
        return []
