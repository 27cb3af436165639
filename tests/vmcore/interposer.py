# SPDX-License-Identifier: LGPL-2.1-or-later
"""A disk with bad sectors, and files that are cut off while they are read, for whole processes, C libraries and all.

A shared library in front of the C library: reading the bad bytes is EIO, and reading up to them a short read, as the
kernel has it. To map the file is the end: where a page of it cannot be had the process would die.
"""

import subprocess
from pathlib import Path

import pytest

from tests.vmcore.tools import tool

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static struct stat ours;
static const char *path;
static long long bad[64][2];
static int ranges, reads_left = -1;
static long long cut_to, most;

__attribute__((constructor)) static void begin(void)
{
    path = getenv("BAD_FILE");
    if (!path || stat(path, &ours)) { path = NULL; return; }
    const char *text = getenv("BAD_RANGES");
    for (int used; text && ranges < 64 && sscanf(text, "%lld-%lld%n", &bad[ranges][0], &bad[ranges][1], &used) == 2;
         text += used + (text[used] == ','))
        ranges++;
    if ((text = getenv("CUT")))
        sscanf(text, "%d:%lld", &reads_left, &cut_to);
    if ((text = getenv("MOST_AT_ONCE")))
        most = atoll(text);
}

static int is_ours(int fd)
{
    struct stat found;
    return path && fd >= 0 && !fstat(fd, &found) && found.st_dev == ours.st_dev && found.st_ino == ours.st_ino;
}

/* How much of it may be read; -1: nothing. */
static ssize_t limit(int fd, off_t offset, size_t size)
{
    if (most && size > most)
        size = most;
    if (!is_ours(fd))
        return size;
    if (reads_left > 0 && !--reads_left && truncate(path, cut_to))
        abort();
    for (int at = 0; at < ranges; at++) {
        if (offset >= bad[at][0] && offset < bad[at][1]) {
            errno = EIO;
            return -1;
        }
        if (offset < bad[at][0] && offset + (off_t)size > bad[at][0])
            size = bad[at][0] - offset;
    }
    return size;
}

#define NEXT(name) static __typeof__(&name) next; if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define PREAD(name) ssize_t name(int fd, void *to, size_t size, off_t offset) \
    { NEXT(name); ssize_t n = limit(fd, offset, size); return n < 0 ? -1 : next(fd, to, n, offset); }
PREAD(pread)
PREAD(pread64)

static size_t cut(const struct iovec *from, int count, struct iovec *to, size_t size)
{
    int used = 0;
    for (; used < count && size; used++) {
        to[used] = from[used];
        if (to[used].iov_len > size)
            to[used].iov_len = size;
        size -= to[used].iov_len;
    }
    return used;
}
static size_t total(const struct iovec *parts, int count)
{
    size_t size = 0;
    while (count--)
        size += parts[count].iov_len;
    return size;
}
#define PREADV(name, extra, pass) ssize_t name(int fd, const struct iovec *parts, int count, off_t offset extra) \
    { NEXT(name); ssize_t n = limit(fd, offset, total(parts, count)); struct iovec fewer[count ? count : 1]; \
      return n < 0 ? -1 : next(fd, fewer, cut(parts, count, fewer, n), offset pass); }
#define COMMA ,
PREADV(preadv, , )
PREADV(preadv64, , )
PREADV(preadv2, COMMA int flags, COMMA flags)
PREADV(preadv64v2, COMMA int flags, COMMA flags)

ssize_t read(int fd, void *to, size_t size)
{
    NEXT(read);
    ssize_t n = is_ours(fd) ? limit(fd, lseek(fd, 0, SEEK_CUR), size) : (ssize_t)size;
    return n < 0 ? -1 : next(fd, to, n);
}

#define MMAP(name) void *name(void *at, size_t size, int protection, int flags, int fd, off_t offset) \
    { NEXT(name); if (is_ours(fd)) { fputs("the file is mapped\n", stderr); raise(SIGBUS); } \
      return next(at, size, protection, flags, fd, offset); }
MMAP(mmap)
MMAP(mmap64)
"""


def built(folder: Path) -> Path:
    """The library."""
    (folder / "interposer.c").write_text(_SOURCE)
    library = folder / "interposer.so"
    words = [tool("cc"), "-shared", "-fPIC", "-O1", "-o", str(library), str(folder / "interposer.c"), "-ldl"]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return library


class Disk:
    """Sets up the environment of what is run next.

    :param library: see :func:`built`.
    """

    def __init__(self, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._library = library
        self._set = monkeypatch

    def fails(self, path: Path, *ranges: tuple[int, int]) -> None:
        """These bytes of a file cannot be read."""
        self._begin(path)
        self._set.setenv("BAD_RANGES", ",".join(f"{start}-{end}" for start, end in ranges))

    def is_cut(self, path: Path, reads: int, size: int) -> None:
        """After so many reads the file is cut off."""
        self._begin(path)
        self._set.setenv("CUT", f"{reads}:{size}")

    def gives(self, most: int) -> None:
        """So many bytes for each call that reads at an offset, of whatever file."""
        self._begin(Path())
        self._set.setenv("MOST_AT_ONCE", str(most))

    def _begin(self, path: Path) -> None:
        self._set.setenv("LD_PRELOAD", str(self._library))
        self._set.setenv("BAD_FILE", str(path))
        for name in ("BAD_RANGES", "CUT", "MOST_AT_ONCE"):
            self._set.delenv(name, raising=False)

    def heal(self) -> None:
        """All that is run next reads what there is."""
        self._set.delenv("LD_PRELOAD", raising=False)
