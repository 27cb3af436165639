# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the memory of a process that matters most: what debuggers need to find its files and to unwind its stacks."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from enum import IntEnum
from operator import attrgetter
from typing import NamedTuple

from kgcore.arch import ARCHES
from kgcore.arch.base import Arch
from kgcore.arch.linker import Linker
from kgcore.coredump.pointed import pointed_at
from kgcore.model.memory import Memory, merged
from kgcore.model.process import VM_READ, VM_SHARED, ProcessImage, Thread, Vma

__all__ = ("Group", "Ranges", "Span", "group_of", "important")

_STACK = 16 << 20  # bytes above a stack pointer: twice the usual limit of a stack (ulimit -s)
_STACK_IN_HEAP = 1 << 20  # the same, where nothing says that the mapping is a stack
_STACKS_IN_HEAP = 16 << 20  # all of these together, but for the least of each
_STACK_LEAST = 64 << 10
_GUARD = 1 << 20  # bytes between a stack pointer that ran over its stack and that stack
_TLS = 16 << 10  # bytes below a thread pointer, and
_THREAD = 3 << 10  # above it: struct pthread of glibc has 2304
_LINK_MAP = 1280  # bytes of a struct link_map of glibc, the part for libthread_db included
_DEBUG = 64  # of a struct r_debug
_DYNAMIC = 1024  # of a dynamic section
_NAME = 256
_POINTED_AT = 256  # bytes of what a register points to
_VARIABLES = 128 << 10  # of a library that libthread_db reads, and
_VARIABLES_IN_ALL = 1 << 20  # of all of these, one for each namespace
_THREADS = (b"/libc.so", b"/libc-", b"/libpthread")  # the last of its own before glibc 2.34
_AT_BASE, _AT_EXECFN = 7, 31


class Group(IntEnum):
    """Kinds of memory, the most important first."""

    HEADERS = 0  # ELF headers and build ids; what the kernel itself maps
    STACK = 1  # the crashing thread's stack, around its stack pointer
    STACKS = 2  # the others'
    LINKER = 3  # struct link_map, and thread-local storage
    REGISTERS = 4  # what registers point to
    ANONYMOUS = 5  # small mappings first
    SHARED = 6
    FILES = 7
    POINTERS = 8  # what stacks point to, where that was asked for; no mapping's rank

    @property
    def why(self) -> str:
        """A word for the report."""
        return "stack" if self is Group.STACKS else self.name.lower()


class Span(NamedTuple):
    """Addresses of one group: whole pages."""

    start: int
    end: int
    group: Group


class Ranges:
    """Spans that do not overlap: of two that did, the more important one has what both had. Neighbours of one group
    are one.

    :ivar spans: by address.
    """

    def __init__(self, spans: Iterable[Span]) -> None:
        by_group: dict[Group, list[tuple[int, int]]] = {}
        for start, end, group in spans:
            by_group.setdefault(group, []).append((start, end))
        taken: list[Span] = []
        for group in sorted(by_group):
            taken = sorted([*taken, *_left(merged(by_group[group]), taken, group)])
        self.spans = taken

    def within(self, start: int, end: int) -> list[Span]:
        """Return the spans that reach into a range, cut to it."""
        found = []
        for number in range(bisect_right(self.spans, start, key=attrgetter("end")), len(self.spans)):
            span = self.spans[number]
            if span.start >= end:
                break
            found.append(Span(max(span.start, start), min(span.end, end), span.group))
        return found

    def borders(self, start: int, end: int) -> list[int]:
        """Return the addresses inside of a range where a span begins or ends, ascending."""
        if not self.spans:
            return []
        borders = {border for span in self.within(start, end) for border in (span.start, span.end)}
        return sorted(border for border in borders if start < border < end)

    def group(self, address: int) -> Group | None:
        """Return the group of an address; None: it is in no span."""
        number = bisect_right(self.spans, address, key=attrgetter("end"))
        if number < len(self.spans) and self.spans[number].start <= address:
            return self.spans[number].group
        return None


def _left(ranges: list[tuple[int, int]], taken: list[Span], group: Group) -> Iterator[Span]:
    """What of some ranges is in no span yet."""
    for start, end in ranges:
        at = start
        for number in range(bisect_right(taken, start, key=attrgetter("end")), len(taken)):
            span = taken[number]
            if span.start >= end:
                break
            if at < span.start:
                yield Span(at, span.start, group)
            at = span.end
        if at < end:
            yield Span(at, end, group)


def group_of(vma: Vma) -> Group:
    """Return the group of what no span names of a mapping."""
    if vma.name:
        return Group.HEADERS
    file = vma.file
    if vma.flags & VM_SHARED:
        return Group.SHARED if file is None or file.nlink == 0 else Group.FILES
    # Private pages of a file's mapping are what a program made of its variables.
    return Group.FILES if file is not None and not vma.anon else Group.ANONYMOUS


def important(image: ProcessImage, memory: Memory, *, pointers: bool = False) -> Ranges:
    """Find what matters most in a process's memory. What is missing or invalid is left out.

    :param pointers: also what stacks point to, as far as a few MiB go.
    """
    spans = list(_Search(image, memory).spans())
    if pointers:
        stacks = [(start, end) for start, end, group in spans if group in (Group.STACK, Group.STACKS)]
        spans += (Span(start, end, Group.POINTERS) for start, end in pointed_at(image, memory, stacks))
    return Ranges(spans)


class _Search:
    def __init__(self, image: ProcessImage, memory: Memory) -> None:
        self._image = image
        self._linker = Linker(image, memory)
        self._starts = [vma.start for vma in image.vmas]

    def spans(self) -> Iterator[Span]:
        image, arch = self._image, ARCHES[self._image.arch]
        for vma in image.vmas:
            if vma.name:
                yield Span(vma.start, vma.end, Group.HEADERS)
            elif vma.file is not None and vma.pgoff == 0 and vma.flags & (VM_READ | VM_SHARED) == VM_READ:
                yield Span(vma.start, vma.start + image.page_size, Group.HEADERS)
        yield self._pages(*self._linker.headers, Group.HEADERS)
        first = next(
            (thread for thread in image.threads if image.dying is not None and thread.tid == image.dying.tid),
            image.threads[0] if image.threads else None,
        )
        unsure = max(_STACK_LEAST, min(_STACK_IN_HEAP, _STACKS_IN_HEAP // max(len(image.threads), 1)))
        for thread in image.threads:
            group = Group.STACK if thread is first else Group.STACKS
            for low, high in self._stacks(arch, thread, unsure):
                yield self._pages(low, high - low, group)
            yield from self._local(arch.thread_pointer(thread))
        yield from self._linked()
        yield from self._pointed_at(arch)

    def _pages(self, start: int, size: int, group: Group) -> Span:
        page = self._image.page_size
        start = max(start, 0)
        return Span(start & -page, (start + size + page - 1) & -page, group)

    def _stacks(self, arch: Arch, thread: Thread, unsure: int) -> Iterator[tuple[int, int]]:
        """The addresses of a thread's stack, and of the one that it came from.

        :param unsure: bytes to take above the stack pointer if it is not known where the stack ends.
        """
        own = self._own_stack(arch, thread)
        if {arch.sp} & thread.regs.unknown:
            if own is not None:
                yield max(own[0], own[1] - _STACK), own[1]
            return
        sp = thread.regs.values.get(arch.sp, 0)
        vma = self._image.vma_at(sp)
        if vma is None or not vma.flags & VM_READ:  # it ran over its stack: into what guards that, or nothing
            number = bisect_right(self._starts, sp)
            vma = self._image.vmas[number] if number < len(self._starts) else None
            if vma is None or vma.start - sp > _GUARD:
                vma = None
        if vma is not None:
            at = max(sp, vma.start)
            end = min(vma.end, at + unsure)  # goroutines have their stacks in the heap, signal handlers anywhere
            known = own is not None and own[0] <= at < own[1] <= at + _STACK
            if known and own is not None:
                end = own[1]
            yield max(sp - arch.red_zone, 0), end
            if known:
                return
        if own is not None:
            start, end = own
            yield (start, end) if end - start <= _STACK else (end - _STACK_IN_HEAP, end)

    def _own_stack(self, arch: Arch, thread: Thread) -> tuple[int, int] | None:
        """Where the stack is that a thread was started with; None: not known."""
        if thread.tid == self._image.tgid:
            vma = self._image.vma_at(max(self._image.start_stack, 1) - 1)  # it may be the first address behind it
            return None if vma is None else (vma.start, vma.end)
        # C libraries put what belongs to a thread at the upper end of its stack.
        pointer = arch.thread_pointer(thread)
        vma = self._image.vma_at(pointer) if pointer else None
        if vma is None or vma.file is not None:
            return None
        return vma.start, min(pointer + _THREAD, vma.end)

    def _local(self, pointer: int) -> Iterator[Span]:
        """Thread-local storage, by the thread pointer."""
        if not pointer or self._image.vma_at(pointer) is None:
            return
        yield self._pages(pointer - _TLS, _TLS + _THREAD, Group.LINKER)
        # Beside what it points to is the table of the modules' blocks, in glibc and in musl.
        table = self._linker.words(pointer + self._linker.word, 1)[0]
        if self._image.vma_at(table) is not None:
            yield self._pages(table, _POINTED_AT, Group.LINKER)

    def _linked(self) -> Iterator[Span]:
        linker = self._linker
        if linker.dynamic is not None:
            yield self._pages(linker.dynamic.address, _DYNAMIC, Group.LINKER)
        for debug in linker.debugs():
            yield self._pages(debug, _DEBUG, Group.LINKER)
        auxv = dict(self._image.auxv)
        base, room = self._image.vma_at(auxv.get(_AT_BASE, 0)), _VARIABLES_IN_ALL
        for loaded in linker.maps():
            yield self._pages(loaded.at, _LINK_MAP, Group.LINKER)
            yield self._pages(loaded.name, _NAME, Group.LINKER)
            yield self._pages(loaded.dynamic, _DYNAMIC, Group.LINKER)
            start, end = self._variables(loaded.dynamic, base)
            if end - start <= room:
                room -= end - start
                yield Span(start, end, Group.LINKER)
        if auxv.get(_AT_EXECFN):
            yield self._pages(auxv[_AT_EXECFN], _NAME, Group.LINKER)

    def _variables(self, dynamic: int, interpreter: Vma | None) -> tuple[int, int]:
        """The variables of the interpreter or of a library of threads, which libthread_db reads: from the dynamic
        section's mapping up to the last one of the file."""
        number = bisect_right(self._starts, dynamic) - 1
        first = self._image.vmas[number] if number >= 0 else None
        if first is None or first.file is None or dynamic >= first.end:
            return 0, 0
        if not (
            (interpreter is not None and interpreter.file == first.file)
            or any(name in first.mapped for name in _THREADS)
        ):
            return 0, 0
        end = first.end
        for vma in self._image.vmas[number + 1 :]:
            if vma.start != end or vma.file not in (first.file, None) or end - first.start > _VARIABLES:
                break
            end = vma.end
        return first.start, min(end, first.start + _VARIABLES)

    def _pointed_at(self, arch: Arch) -> Iterator[Span]:
        values = {
            value
            for thread in self._image.threads
            for name, value in thread.regs.values.items()
            if name in arch.greg_names and name not in thread.regs.unknown
        }
        for value in values:
            if self._image.vma_at(value) is not None:
                yield self._pages(value, _POINTED_AT, Group.REGISTERS)
