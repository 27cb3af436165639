# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct page`` and ``struct folio``: what the kernel knows about a page in memory."""

from dataclasses import dataclass
from functools import cached_property

from drgn import FaultError, offsetof

from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernelreads import kernel_bytes

__all__ = ("Folio", "Folios")


@dataclass(frozen=True, slots=True)
class Folio:
    """A page, or the first page of a large folio, as values.

    :ivar physical: address of its memory.
    :ivar index: its offset in its file, in pages.
    :ivar private: its ``swp_entry_t``, if it is in the swap cache.
    :ivar mapping: raw, with the bits that mark anonymous pages.
    :ivar settled: neither dirty nor under writeback: it equals its backing store.
    """

    physical: int
    index: int
    private: int
    mapping: int
    uptodate: bool
    swap_cached: bool
    settled: bool


class Folios:
    """Reads pages and folios."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        # "mm: Introduce struct folio" (5.16); since 6.16 or so struct page has no index of its own
        kind = kernel.prog.type("struct folio" if kernel.target.has_type("struct folio") else "struct page")
        self._offsets = {name: offsetof(kind, name) for name in ("index", "private", "mapping")}
        self._tail_at: int | None = None
        for name in ("compound_info", "compound_head"):  # Kernel.page_head()
            if kernel.target.has_member("struct page", name):
                self._tail_at = offsetof(kernel.prog.type("struct page"), name)
                break

    def read(self, address: int) -> Folio | None:
        """Return the page whose ``struct page`` is at an address; None if that is not in the dump."""
        kernel = self._kernel
        if not kernel.machine.is_page(address):
            return None
        try:
            raw = kernel_bytes(kernel.prog, address, kernel.page_struct_size)
        except FaultError:
            return None
        index, private, mapping = (kernel.word_at(raw, at) for at in self._offsets.values())
        if self._tail_at is not None and kernel.word_at(raw, self._tail_at) & 1:
            # Trees had each page of a huge one until 4101196b19d7 "mm: page cache: store only head pages in i_pages"
            # (5.4). All but its place and its private word stands in the first page.
            try:
                head = kernel.page_head(address)
                raw = kernel_bytes(kernel.prog, head, kernel.page_struct_size)
            except (FaultError, LookupError):
                return None
            index, _, mapping = (kernel.word_at(raw, at) for at in self._offsets.values())
            index += (address - head) // kernel.page_struct_size
        flags = kernel.word_at(raw, 0)  # the first member in all releases
        return Folio(
            physical=kernel.machine.page_to_phys(address),
            index=index,
            private=private,
            mapping=mapping,
            uptodate=bool(flags & self._uptodate),
            # PG_swapcache is an alias of another flag; it means "in the swap cache" only with PG_swapbacked.
            swap_cached=flags & self._swap_cached == self._swap_cached,
            settled=not flags & self._unsettled,
        )

    @cached_property
    def _uptodate(self) -> int:
        return self._mask("PG_uptodate")

    @cached_property
    def _swap_cached(self) -> int:
        return self._mask("PG_swapcache", "PG_swapbacked")

    @cached_property
    def _unsettled(self) -> int:
        return self._mask("PG_dirty", "PG_writeback")

    def _mask(self, *names: str) -> int:
        bits = {self._kernel.target.constant(name) for name in names}
        return sum(1 << bit for bit in bits if bit is not None)
