# SPDX-License-Identifier: LGPL-2.1-or-later
"""zswap: pages that were compressed on their way to a swap space and are still in memory.

As in mm/zswap.c of 5.10, 6.1, 6.12 and 7.2; for versions between, kgcore probes the layout. A page in zswap is newer
than its slot in the swap space; once zswap writes the page there, it drops its copy.
"""

import struct
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache, partial
from typing import NamedTuple

from drgn import FaultError, Object, offsetof, sizeof

from kgcore.errors import BrokenDump
from kgcore.model.lost import Lost
from kgcore.model.memory import Provenance
from kgcore.sources.vmcore.dumpfile.compression import Decompress, NoDecompressor, decompressor
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.moduletypes import ModuleTypes
from kgcore.sources.vmcore.kernel.trees import XArrays
from kgcore.sources.vmcore.kernelreads import kernel_bytes, kernel_string
from kgcore.sources.vmcore.memory.physical import PhysicalMemory
from kgcore.sources.vmcore.memory.swap.layers import Slots, page_slot, unpacked
from kgcore.sources.vmcore.memory.swap.spaces import SwapSpace
from kgcore.sources.vmcore.memory.swap.zpools import Z3fold, Zbud
from kgcore.sources.vmcore.memory.swap.zsmalloc import Zsmalloc

__all__ = ("Zswap",)

_TREE_SHIFT = 14  # SWAP_ADDRESS_SPACE_SHIFT, mm/swap.h; ZSWAP_ADDRESS_SPACE_SHIFT, mm/zswap.c: a tree per 64 MiB
_MAX_OFFSET = 1 << 58  # of a swp_entry_t
_RB_DEPTH = 2 * 58 + 2  # of a red-black tree with a node for each offset
_RB_COLOUR = 3  # the bits of rb_node::__rb_parent_color that are not part of the parent's address
_CACHED = 1 << 12  # nodes of red-black trees: the path to each slot goes through the upper ones
_NAME = 32  # bytes of an allocator's name

_Read = Callable[[int, int], bytes]  # handle and size to bytes


class _Entry(NamedTuple):
    """A ``struct zswap_entry``.

    :ivar key: the ``swp_entry_t``; before 6.5, its offset.
    :ivar handle: the allocator's handle; or, if ``length`` is 0, the word that fills the page.
    """

    address: int
    key: int
    length: int
    pool: int
    handle: int


class _Found(NamedTuple):
    """A slot that zswap has; if ``entry`` is None, slots that it may have."""

    first: int
    length: int
    entry: _Entry | None


class _Node(NamedTuple):
    """A ``struct rb_node`` and the entry that it is part of."""

    parent: int
    left: int
    right: int
    slot: int
    entry: _Entry


class Zswap:
    """The layer of pages in zswap."""

    def __init__(self, kernel: Kernel, physical: PhysicalMemory, types: ModuleTypes) -> None:
        self._kernel = kernel
        self._page_size = kernel.page_size
        self._pools = _Pools(kernel, physical, types)

    def find(self, space: SwapSpace, first: int, count: int) -> Iterator[Slots]:
        """See :meth:`kgcore.sources.vmcore.memory.swap.layers.Layer.find`."""
        trees = self._trees
        if isinstance(trees, Lost):
            yield _lost(first, count, trees.reason)
        elif trees is not None:
            for slot, length, entry in trees.find(space.number, first, first + count):
                if entry is None:
                    yield _lost(slot, length, "its tree is damaged or not in the dump")
                else:
                    yield self._slot(space.number << self._kernel.swap_type_shift, slot, entry, trees)

    @cached_property
    def _trees(self) -> "_Trees | Lost | None":
        """Return zswap's trees, or why they are missing; None if the kernel has no zswap."""
        address = self._kernel.target.symbol_address("zswap_trees")
        try:
            return None if address is None else _Trees(self._kernel, address)
        except (BrokenDump, LookupError, TypeError) as error:  # drgn's TypeError: a structure that is only declared
            return Lost(str(error))

    @cached_property
    def _raw(self) -> bool:
        """Tell whether zswap keeps incompressible pages uncompressed.

        Since dca4437a5861 "mm/zswap: store <PAGE_SIZE compression failed page as-is" (6.18), which also counts them.
        """
        return self._kernel.target.symbol_address("zswap_stored_incompressible_pages") is not None

    def _slot(self, type_: int, slot: int, entry: _Entry, trees: "_Trees") -> Slots:
        """Return the slot of an entry.

        :param type_: the part of the ``swp_entry_t`` that names the swap space.
        """
        if entry.key != (type_ | slot if trees.whole_keys else slot):
            return _lost(slot, 1, "its entry is damaged")
        if not entry.length and trees.same_filled:
            word = entry.handle.to_bytes(self._kernel.word_size, "little")
            return page_slot(slot, Provenance.ZSWAP, word * (self._page_size // len(word)))
        if not 0 < entry.length <= self._page_size:
            return _lost(slot, 1, "its entry is damaged")
        try:
            pool = self._pools.of(entry)
            if entry.length == self._page_size and self._raw:
                return page_slot(slot, Provenance.ZSWAP, pool.read(entry.handle, self._page_size))
            if isinstance(pool.decompress, Lost):
                return _lost(slot, 1, pool.decompress.reason)
            data = pool.read(entry.handle, pool.header + entry.length)
        except FaultError:
            return _lost(slot, 1, "its compressed bytes are not in the dump")
        except (BrokenDump, LookupError) as error:
            return _lost(slot, 1, str(error))
        if data[: pool.header] != (type_ | slot).to_bytes(8, "little")[: pool.header]:  # struct zswap_header
            return _lost(slot, 1, "its compressed bytes belong to a different page")
        return unpacked(slot, Provenance.ZSWAP, pool.decompress, data[pool.header :], self._page_size)


def _lost(slot: int, length: int, why: str) -> Slots:
    return Slots(slot, length, Provenance.UNREADABLE, f"zswap: {why}")


class _Trees:
    """``zswap_trees``, which has one of these for each swap space:

    * a ``struct zswap_tree``: a red-black tree by offset,
    * an array of them, one for each 64 MiB: 44c7c734a513 "mm/zswap: split zswap rb-tree" (6.9), which brought
      ``nr_zswap_trees``, or
    * an array of ``struct xarray``: 796c2c23e14e "zswap: replace RB tree with xarray" (6.10).

    :ivar whole_keys: whether an entry has its ``swp_entry_t``, not only the offset ("mm: zswap: remove zswap_header",
        6.5).
    :ivar same_filled: whether zswap keeps a page that repeats one word as that word. Until 20a5532ffa53 "mm: remove
        code to handle same filled pages" (6.12).
    """

    def __init__(self, kernel: Kernel, address: int) -> None:
        """Look up the layout.

        :raises BrokenDump, LookupError, TypeError: the kernel's types lack something.
        """
        self._prog = prog = kernel.prog
        self._address = address
        self._counts = kernel.target.symbol_address("nr_zswap_trees")
        entry = prog.type("struct zswap_entry")
        self._entry_size = sizeof(entry)
        self._word_size, self._word_at, self._swap_offset = kernel.word_size, kernel.word_at, kernel.swap_offset
        self.whole_keys, self.same_filled = entry.has_member("swpentry"), entry.has_member("value")
        words = "swpentry" if self.whole_keys else "offset", "pool", "handle"
        self._length, self._words = offsetof(entry, "length"), [offsetof(entry, word) for word in words]
        self._arrays: XArrays | None = None
        # The cache belongs to this object and is freed with it
        self._node: Callable[[int], _Node | None] = lru_cache(_CACHED)(self._read_node)
        if entry.has_member("rbnode"):
            links = "__rb_parent_color", "rb_left", "rb_right"
            self._node_offset = offsetof(entry, "rbnode")
            self._links = [self._node_offset + offsetof(prog.type("struct rb_node"), link) for link in links]
            tree, root = prog.type("struct zswap_tree"), "rbroot.rb_node"
        else:
            self._arrays = XArrays(prog)
            tree, root = prog.type("struct xarray"), "xa_head"
        self._tree_size, self._root = sizeof(tree), offsetof(tree, root)

    def find(self, number: int, first: int, end: int) -> Iterator[_Found]:
        """Yield those of the slots [first, end) of a swap space that zswap has, ascending."""
        raw = self._read(self._address + self._word_size * number, self._word_size)
        counts = b"" if self._counts is None else self._read(self._counts + 4 * number, 4)
        if raw is None or counts is None:
            yield _Found(first, end - first, None)
            return
        trees = int.from_bytes(raw, "little")
        if not trees:
            return
        if not counts:
            yield from self._tree(trees, first, end)
            return
        end = min(end, int.from_bytes(counts, "little") << _TREE_SHIFT)
        while first < end:
            index = first >> _TREE_SHIFT
            upto = min(index + 1 << _TREE_SHIFT, end)
            yield from self._tree(trees + index * self._tree_size, first, upto)
            first = upto

    def _tree(self, tree: int, first: int, end: int) -> Iterator[_Found]:
        raw = self._read(tree + self._root, self._word_size)
        if raw is None:
            yield _Found(first, end - first, None)
            return
        root = int.from_bytes(raw, "little")
        if self._arrays is None:
            yield from self._below(root, 0, range(_MAX_OFFSET), range(first, end), 0)
            return
        for slot, length, entry, _ in self._arrays.range(root, first, end - 1):
            raw = None if entry is None or length > 1 else self._read(entry, self._entry_size)
            yield _Found(slot, length, None if raw is None or entry is None else self._entry(entry, raw))

    def _below(self, address: int, parent: int, possible: range, wanted: range, depth: int) -> Iterator[_Found]:
        """Yield the slots at and below a ``struct rb_node``.

        :param parent: address of the node whose child it must be.
        :param possible: the offsets that may be there; each step down makes them fewer.
        """
        low, high = max(possible.start, wanted.start), min(possible.stop, wanted.stop)
        if not address or low >= high:
            return
        node = self._node(address) if depth <= _RB_DEPTH else None
        if node is None or node.parent != parent or node.slot not in possible:
            yield _Found(low, high - low, None)
            return
        slot = node.slot
        yield from self._below(node.left, address, range(possible.start, slot), wanted, depth + 1)
        if slot in wanted:
            yield _Found(slot, 1, node.entry)
        yield from self._below(node.right, address, range(slot + 1, possible.stop), wanted, depth + 1)

    def _read_node(self, address: int) -> "_Node | None":
        start = address - self._node_offset
        raw = self._read(start, self._entry_size)
        if raw is None:
            return None
        parent, left, right = self._values(raw, self._links)
        entry = self._entry(start, raw)
        return _Node(parent & ~_RB_COLOUR, left, right, self._swap_offset(entry.key), entry)

    def _entry(self, address: int, raw: bytes) -> _Entry:
        key, pool, handle = self._values(raw, self._words)
        (length,) = struct.unpack_from("<I", raw, self._length)
        return _Entry(address, key, length, pool, handle)

    def _values(self, raw: bytes, offsets: list[int]) -> list[int]:
        return [self._word_at(raw, at) for at in offsets]

    def _read(self, address: int, size: int) -> bytes | None:
        try:
            return kernel_bytes(self._prog, address, size)
        except FaultError:
            return None


class _Pool(NamedTuple):
    """A ``struct zswap_pool``: an allocator and a compressor.

    :ivar header: bytes before the compressed data.
    :ivar decompress: the decompressor, or why it is missing.
    """

    read: _Read
    header: int
    decompress: Decompress | Lost


class _Pools:
    """Pools by address: one per combination of settings that was in use since zswap was set up."""

    def __init__(self, kernel: Kernel, physical: PhysicalMemory, types: ModuleTypes) -> None:
        self._kernel = kernel
        self._physical = physical
        self._types = types
        self._known: dict[tuple[int, int], _Pool | BrokenDump] = {}

    def of(self, entry: _Entry) -> _Pool:
        """Return an entry's pool.

        :raises BrokenDump: the pool cannot be used.
        """
        index = self._index(entry.address)
        if (entry.pool, index) not in self._known:
            self._known[entry.pool, index] = self._look(entry.pool, index)
        found = self._known[entry.pool, index]
        if isinstance(found, BrokenDump):
            raise found
        return found

    def _index(self, entry: int) -> int:
        """Return the index of an entry's allocator: hash_ptr(), include/linux/hash.h; 0 if there is only one."""
        return (entry * 0x61C8864680B583EB & (1 << 64) - 1) >> 64 - self._zpools_order if self._zpools_order else 0

    @cached_property
    def _zpools_order(self) -> int:
        """Return log2 of ZSWAP_NR_ZPOOLS.

        From b8cf32dc6e8c "mm: zswap: multiple zpools support" (6.6) until "mm/zswap: use only one pool in zswap"
        (6.12).
        """
        if not self._kernel.target.has_member("struct zswap_pool", "zpools"):
            return 0
        length = self._kernel.prog.type("struct zswap_pool").member("zpools").type.length
        return (length or 1).bit_length() - 1

    def _look(self, address: int, index: int) -> _Pool | BrokenDump:
        try:
            pool = Object(self._kernel.prog, "struct zswap_pool *", address)
            name = _word(pool.tfm_name.string_())
            return _Pool(*self._allocator(pool, index), self._decompressor(name))
        except BrokenDump as error:
            return error
        except FaultError:
            return BrokenDump("its pool is damaged or not in the dump", address=address)
        except (LookupError, TypeError, ValueError) as error:
            return BrokenDump(str(error), address=address)

    @staticmethod
    def _decompressor(algorithm: str) -> Decompress | Lost:
        try:
            return decompressor(algorithm)
        except NoDecompressor as error:
            return Lost(str(error))

    def _allocator(self, pool: Object, index: int) -> tuple[_Read, int]:
        """Return how to read from a pool's allocator, and how many header bytes zswap puts before a page's data.

        :raises BrokenDump, FaultError, LookupError: it is damaged, not in the dump, or unknown.
        """
        has = self._kernel.target.has_member
        if has("struct zswap_pool", "zs_pool"):  # "mm: zswap: interact directly with zsmalloc" (6.18)
            return self._in_zsmalloc(pool.member_("zs_pool").value_()), 0
        several = has("struct zswap_pool", "zpools")
        zpool = pool.member_("zpools")[index] if several else pool.member_("zpool")
        type_ = zpool.member_("driver").member_("type").value_()
        name = _word(kernel_string(self._kernel.prog, type_, _NAME))
        # Up to 6.4: to evict an object, the allocator asks zswap, which finds the owner in the object's header.
        evictable = has("struct zpool", "evictable") and zpool.member_("evictable").value_()
        header = self._kernel.word_size if evictable else 0  # struct zswap_header
        if name == "zsmalloc":
            return self._in_zsmalloc(zpool.member_("pool").value_()), header
        if name == "zbud":
            return Zbud(self._kernel, self._physical).read, header
        if name == "z3fold":
            pool = zpool.member_("pool").value_()
            self._types.prove("z3fold", partial(_objects_prove_themselves, header))
            return Z3fold(self._kernel, self._physical, self._types, pool).read, header
        raise BrokenDump(f"unknown allocator {name}")

    def _in_zsmalloc(self, pool: int) -> _Read:
        prog = self._kernel.prog
        return partial(self._zsmalloc.read, Object(prog, prog.pointer_type(prog.struct_type("zs_pool")), pool))

    @cached_property
    def _zsmalloc(self) -> Zsmalloc:
        return Zsmalloc(self._kernel, self._physical, self._types)


def _objects_prove_themselves(header: int) -> None:
    """Tell whether a wrong layout of an allocator can give no wrong bytes: each object begins with its swap entry.

    :param header: bytes of ``struct zswap_header``.
    :raises LookupError: nothing tells one object from the next.
    """
    if not header:
        raise LookupError("nothing in its objects says which pages they are")


def _word(name: bytes) -> str:
    """Return a name from the dump.

    :raises BrokenDump: it is not a valid name.
    """
    if not name or not all(0x20 < byte < 0x7F for byte in name):
        raise BrokenDump("its pool is damaged")
    return name.decode("ascii")
