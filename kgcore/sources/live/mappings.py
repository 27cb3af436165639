# SPDX-License-Identifier: LGPL-2.1-or-later
"""The mappings of a process of this machine, and the files behind them."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress

from kgcore.model.process import DELETED, MappedFile, Vma
from kgcore.sources.inroot import open_in_root
from kgcore.sources.live.procfs import Mapping, VmFlags
from kgcore.system.regular import open_regular

__all__ = ("MappedFiles", "vmas")

# What maps shows in the last column and is no name that vm_ops->name gives (show_map_vma(), fs/proc/task_mmu.c)
_NOT_NAMES = (b"[heap]", b"[stack")
_ANONYMOUS = (b"[anon:", b"[anon_shmem:")


class MappedFiles:
    """Finds the files behind mappings: by /proc/PID/map_files where that is allowed, else by name, and then only if
    device and inode are the mapping's.

    :param pid: id of a thread of it that has not exited.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._found: dict[tuple[tuple[int, int], int, bytes], MappedFile] = {}
        self._lines: dict[int, Mapping] = {}
        self._opened: dict[tuple[tuple[int, int], int, bytes], tuple[int, int] | None] = {}

    def follow(self, pid: int) -> None:
        """Find the files by another process from now on: a copy of this one, which has the same mappings."""
        self._pid = pid

    def of(self, line: Mapping) -> MappedFile | None:
        """Return the file behind a mapping; None: no file is mapped."""
        if not line.inode and not line.name.startswith(b"/"):
            return None
        self._lines[line.start] = line
        key = line.device, line.inode, line.name
        if key not in self._found:
            self._found[key] = self._look(line)
        return self._found[key]

    def _look(self, line: Mapping) -> MappedFile:
        name = line.name
        if name.startswith(_ANONYMOUS):  # shared anonymous memory that has a name: PR_SET_VMA_ANON_NAME
            name = b"/dev/zero" + DELETED
        with suppress(OSError):
            found = os.stat(self._link(line))
            with suppress(OSError):
                name = os.readlink(os.fsencode(self._link(line)))  # maps cannot tell a newline from its escape
            return MappedFile(name, found.st_nlink, found.st_mode, found.st_size)
        with suppress(OSError):
            descriptor = self._open_named(line)
            try:
                found = os.fstat(descriptor)
                return MappedFile(name, found.st_nlink, found.st_mode, found.st_size)
            finally:
                os.close(descriptor)
        # Nothing but its name is known: what the filter asks for is whether that is gone.
        return MappedFile(name, 0 if name.endswith(DELETED) else 1, stat.S_IFREG, line.offset + line.end - line.start)

    def _link(self, line: Mapping) -> str:
        return f"/proc/{self._pid}/map_files/{line.start:x}-{line.end:x}"

    def open(self, vma: Vma) -> tuple[int, int] | None:
        """Open the file behind a mapping for reading, once: its descriptor and its size; None: that is not possible."""
        line = self._lines.get(vma.start)
        if line is None:
            return None
        key = line.device, line.inode, line.name
        if key not in self._opened:
            self._opened[key] = None
            for attempt in (self._open_link, self._open_named):
                with suppress(OSError):
                    descriptor = attempt(line)
                    self._opened[key] = descriptor, os.fstat(descriptor).st_size
                    break
        return self._opened[key]

    def close(self) -> None:
        """Close the files that :meth:`open` opened."""
        for opened in self._opened.values():
            if opened is not None:
                os.close(opened[0])
        self._opened.clear()

    def _open_link(self, line: Mapping) -> int:
        return open_regular(self._link(line))

    def _open_named(self, line: Mapping) -> int:
        root = os.open(f"/proc/{self._pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            descriptor = open_in_root(root, line.name)
        finally:
            os.close(root)
        found = os.fstat(descriptor)
        if ((os.major(found.st_dev), os.minor(found.st_dev)), found.st_ino) != (line.device, line.inode):
            os.close(descriptor)
            raise FileNotFoundError(2, "a different file has its name")
        return descriptor


def vmas(
    lines: Iterator[Mapping], flags: Callable[[int], VmFlags | None], files: MappedFiles, page_size: int
) -> Iterator[Vma]:
    """Yield the mappings as values.

    :param flags: start of a mapping to its VM_* and whether it has an ``anon_vma``; None: smaps does not have it.
    """
    for line in lines:
        file = files.of(line)
        named = file is None and line.name.startswith(b"[") and not line.name.startswith((*_NOT_NAMES, *_ANONYMOUS))
        found = flags(line.start)
        yield Vma(
            line.start,
            line.end,
            line.flags if found is None else found.flags,
            pgoff=line.offset // page_size if file is not None else 0,
            file=file,
            anon=found is not None and found.anon,
            name=line.name.decode("ascii", "replace") if named else "",
            anon_name=_anon_name(line.name),
        )


def _anon_name(name: bytes) -> bytes:
    """Return what the process called its memory, out of a name in maps; empty: that is no such name."""
    kind = next((kind for kind in _ANONYMOUS if name.startswith(kind)), None)
    return b"" if kind is None else name.removeprefix(kind).removesuffix(b"]")
