# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the memory of a process of this machine, without populating a page of it.

The page tables say what is there (pagemap). Only that is read through /proc/PID/mem: reading a page that was never
touched would make the kernel map one. Pages of files that are not in the page tables come from the files themselves.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator

from kgcore.model.memory import Memory, Piece, Provenance, Run, joined
from kgcore.model.process import Vma
from kgcore.sources.filepieces import CHUNK, file_pieces, whole_pages
from kgcore.sources.live.pagemap import NO_CONTENT, PageMap

__all__ = ("LiveMemory",)

_libc = ctypes.CDLL(None)


class LiveMemory(Memory):
    """The memory of a process that stands still, or goes on while it is read.

    :param pid: id of a thread of it that has not exited.
    :param file_of: gives a descriptor of the file behind a mapping, and its size; None: it cannot be opened.
    :param go_on: called now and then; what it raises ends the reading.
    :raises OSError: its memory cannot be opened.
    """

    parallel = True  # the kernel has checked the permission when the files were opened

    def __init__(
        self,
        pid: int,
        page_size: int,
        file_of: Callable[[Vma], tuple[int, int] | None],
        go_on: Callable[[], None] = lambda: None,
    ) -> None:
        self._pid = pid
        self._go_on = go_on
        self.page_size = page_size
        self._file_of = file_of
        self._mem = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._table = PageMap(pid, page_size)
        except BaseException:
            os.close(self._mem)
            raise

    def close(self) -> None:
        """Close all files."""
        os.close(self._mem)
        self._table.close()

    def runs(self, vma: Vma, start: int, end: int) -> Iterator[Run]:
        """See :meth:`kgcore.model.memory.Memory.runs`."""
        return joined(self._runs(vma, start, end))

    def _runs(self, vma: Vma, start: int, end: int) -> Iterator[Run]:
        """The same, neighbours perhaps alike."""
        if vma.name:
            yield from self._special(start, end)
            return
        at = start
        for low, high, found in self._table.mapped(start, end):
            self._go_on()
            if at < low:
                yield from self._absent(vma, at, low)
            yield Run(low, high - low, Provenance.ZERO if found & NO_CONTENT else Provenance.PRESENT)
            at = high
        if at < end:
            yield from self._absent(vma, at, end)

    def _special(self, start: int, end: int) -> Iterator[Run]:
        """The runs of what the kernel itself maps: [vdso], [vvar], [vsyscall]. There are few pages; each is asked for.

        What the kernel gives to nobody is a hole in its own cores, too.
        """
        for address in range(start, end, self.page_size):
            try:
                self._read_into(memoryview(bytearray(1)), address)
            except OSError:
                yield Run(address, self.page_size, Provenance.ZERO)
            else:
                yield Run(address, self.page_size, Provenance.PRESENT)

    def _absent(self, vma: Vma, start: int, end: int) -> Iterator[Run]:
        """The runs of pages that are not in the page tables."""
        file = vma.file
        if file is None:
            yield Run(start, end - start, Provenance.ZERO)
            return
        opened = self._file_of(vma)
        if opened is not None or stat.S_ISREG(file.mode):
            # Beyond its last page a mapped file has none: the kernel's own core has a hole there.
            size = whole_pages(file.size if opened is None else opened[1], self.page_size)
            last = min(max(vma.start + size - vma.pgoff * self.page_size, start), end)
        else:
            last = end
        if start < last:
            # A device, or a file that may not be opened: the process's own page is asked for, which maps it. Better a
            # page more in a page table than one less in the core.
            yield Run(start, last - start, Provenance.PRESENT if opened is None else Provenance.PAGE_CACHE)
        if last < end:
            yield Run(last, end - last, Provenance.ZERO)

    def read(self, vma: Vma, start: int, end: int) -> Iterator[Piece]:
        """See :meth:`kgcore.model.memory.Memory.read`."""
        for run in self.runs(vma, start, end):
            if not run.provenance.stored:
                yield Piece(run, b"")
                continue
            if run.provenance is Provenance.PAGE_CACHE:
                yield from self._from_file(vma, run)
                continue
            for address in range(run.address, run.end, CHUNK):
                self._go_on()
                yield from self._present(Run(address, min(CHUNK, run.end - address), run.provenance))

    def _from_file(self, vma: Vma, run: Run) -> Iterator[Piece]:
        opened = self._file_of(vma)
        if opened is None:
            yield Piece(run._replace(provenance=Provenance.FILE), b"")
            return
        offset = run.address - vma.start + vma.pgoff * self.page_size
        yield from file_pieces(opened[0], offset, run.length, self.page_size, run.address)

    def _present(self, run: Run) -> Iterator[Piece]:
        data = bytearray(run.length)
        done = 0
        while done < run.length:
            # What the kernel cannot read (a poisoned page, a page of a device) ends a read: go on behind it.
            view = memoryview(data)[done:]
            try:
                count = self._read_into(view, run.address + done)
                failed = "" if count else "the process has exited"
            except OSError as error:
                count, failed = 0, os.strerror(error.errno or errno.EIO)
            if count:
                yield Piece(Run(run.address + done, count, run.provenance), view[:count])
                done += count
                continue
            yield Piece(Run(run.address + done, self.page_size, Provenance.UNREADABLE, failed), b"")
            done += self.page_size

    def _read_into(self, view: memoryview, address: int) -> int:
        """Read as much as the kernel gives, and return how much that was."""
        if not address >> 63:
            return os.preadv(self._mem, [view], address)
        # The gate VMA: pread(2) takes no such offset. A position of its own, since other processes share the file's.
        descriptor = os.open(f"/proc/{self._pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Not os.lseek(): the position is negative, which Python takes for an error.
            _libc.lseek(descriptor, ctypes.c_int64(address), os.SEEK_SET)
            return os.readv(descriptor, [view])
        finally:
            os.close(descriptor)
