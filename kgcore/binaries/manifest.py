# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write the manifest of a sysroot. Several kgcore may add to it at the same time."""

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kgcore._version import __version__
from kgcore.errors import OutputError
from kgcore.sinks.files import FileSink
from kgcore.system.regular import open_regular

__all__ = ("MANIFEST", "Manifest")

MANIFEST = "kgcore-sysroot.json"
_VERSION = 1
_FORMAT = "kgcore-sysroot"

_MOST_BYTES = 64 << 20
_MOST_VALUES = 1 << 21  # the list of a program of a gigabyte, every second page of which is missing, has half as many
_PATIENCE, _PAUSE = 30, 0.05  # seconds; nobody needs the list longer than for a moment
# What flock() says where a file system has none for directories (NFS); then there is only one at a time who writes.
_NO_LOCKS = frozenset((errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP))


class Manifest:
    """
    :param directory: the sysroot, for messages.
    :param force: replace a file that kgcore did not write.
    """

    def __init__(self, directory: str, *, force: bool) -> None:
        self._path = os.path.join(directory, MANIFEST)
        self._force = force

    def check(self, directory: int) -> None:
        """
        :param directory: descriptor of the sysroot.
        :raises OutputError: something else has that name.
        """
        self._read(directory)

    def add(self, directory: int, files: Mapping[str, object], lost: Sequence[str]) -> None:
        """Add files to the manifest, atomically.

        :param files: by path.
        :param lost: missing files, as sentences.
        :raises OutputError: it cannot be written.
        """
        with self._locked(directory):
            entries, sentences = self._read(directory)
            entries |= files
            content = {
                "format": _FORMAT,
                "version": _VERSION,
                "kgcore": __version__,
                "files": [entries[path] for path in sorted(entries)],
                "lost": list(sentences | dict.fromkeys(lost)),
            }
            with FileSink(self._path, force=True, directory=directory) as sink:
                sink.write(json.dumps(content, indent=1).encode() + b"\n")
                sink.commit()

    @contextlib.contextmanager
    def _locked(self, directory: int) -> Iterator[None]:
        """Lock the directory. Anyone who can open it can lock it, so the wait is limited."""
        # A lock belongs to an open file, and workers that were forked meanwhile share ours: so one for this alone.
        own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            for _ in range(int(_PATIENCE / _PAUSE)):
                try:
                    fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(_PAUSE)
                except OSError as error:
                    if error.errno not in _NO_LOCKS:
                        raise self._failure(error) from error
                    break
                else:
                    break
            else:
                raise OutputError(
                    f"cannot write {self._path}: another process keeps its directory locked",
                    hint="lsof or /proc/locks shows which one",
                )
            yield
        finally:
            os.close(own)

    def _read(self, directory: int) -> tuple[dict[str, Any], dict[str, None]]:
        """The files by path, and the sentences about missing files."""
        try:
            with os.fdopen(open_regular(MANIFEST, directory=directory, links=False), "rb") as file:
                text = file.read(_MOST_BYTES + 1)
            if len(text) <= _MOST_BYTES and sum(map(text.count, (b",", b"[", b"{"))) <= _MOST_VALUES:
                content = json.loads(text)
                if (content["format"], content["version"]) == (_FORMAT, _VERSION):
                    entries = {str(entry["path"]): entry for entry in content["files"]}
                    return entries, dict.fromkeys(map(str, content["lost"]))
        except FileNotFoundError:
            return {}, {}
        except OSError as error:
            raise self._failure(error) from error
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        if self._force:
            return {}, {}
        raise OutputError(f"{self._path} is not a manifest of this version of kgcore", hint="--force replaces it")

    def _failure(self, error: OSError) -> OutputError:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        return OutputError(f"cannot write {self._path}: {reason}")
