# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open files in a directory by names from a dump."""

import os
import stat

from kgcore.system.regular import open_regular

__all__ = ("open_in_root",)

_MAX_LINKS = 40  # MAXSYMLINKS, include/linux/namei.h
_MAX_STEPS = 4096


def open_in_root(root: int, path: bytes) -> int:
    """Open a regular file as if a directory were the root directory (RESOLVE_IN_ROOT, openat2(2)): symbolic links
    cannot leave it.

    :param root: descriptor of the directory.
    :param path: absolute; without "." and "..", which the kernel never shows.
    :raises OSError: it does not exist, or is not a regular file.
    """
    ahead = [part for part in path.split(b"/") if part]
    if not ahead or b"\0" in path or b"." in ahead or b".." in ahead:
        raise FileNotFoundError(2, "no such name")
    ahead.reverse()
    opened: list[int] = []  # the directories from the root down
    links = 0
    try:
        for _ in range(_MAX_STEPS):
            if not ahead:
                break
            part = ahead.pop()
            if part == b"..":
                if opened:
                    os.close(opened.pop())
                continue
            here = opened[-1] if opened else root
            mode = os.stat(part, dir_fd=here, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                links += 1
                if links > _MAX_LINKS:
                    break
                target = os.readlink(part, dir_fd=here)
                if target.startswith(b"/"):
                    while opened:
                        os.close(opened.pop())
                ahead += [word for word in reversed(target.split(b"/")) if word not in (b"", b".")]
            elif ahead:
                opened.append(os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here))
            elif stat.S_ISREG(mode):
                return open_regular(part, directory=here, links=False)
            else:
                break
    finally:
        for descriptor in opened:
            os.close(descriptor)
    raise OSError(22, "not a regular file")
