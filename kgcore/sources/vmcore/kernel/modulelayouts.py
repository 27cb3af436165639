# SPDX-License-Identifier: LGPL-2.1-or-later
"""Layouts of module structures in kernels without BTF of modules, from the source of Linux 5.10.

Modules have BTF from 5.11 on (CONFIG_DEBUG_INFO_BTF_MODULES). In older dumps, nothing describes ``struct zram``. So
this module declares it, from drivers/block/zram/zram_drv.h, drivers/block/zram/zcomp.h, mm/zsmalloc.c and mm/z3fold.c
of 5.10.223 (``const`` left out). Sizes of locks and the like come from the kernel's own types. Members that an option
adds are present if the module has the function that the option adds.

They changed between releases, and distributions and vendors change them too. So a layout is a guess, in any
release: who uses it must have the dump prove it first (:meth:`kgcore.sources.vmcore.kernel.moduletypes.ModuleTypes`).

All layouts were compared with DWARF of Debian 11's 5.10.0-32-amd64; tests/vmcore/test_module_types.py repeats this for
zram and zsmalloc.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from drgn import Object, Program, Type, TypeEnumerator, TypeMember, alignof, sizeof

from kgcore.errors import BrokenDump

__all__ = ("LAYOUTS", "Declarations", "ModuleLayouts")

Member: TypeAlias = "str | tuple[str, tuple[Member, ...]]"
"""A declaration as in C; or ("struct" or "union", members of an unnamed one); or (an option, members that it adds)."""

# As in C, without function pointers and without arrays of more than one dimension.
_DECLARATION = re.compile(r"([\w ]+?) ?(\**)(\w+)(?:\[(\d+)\])?(?::(\d+))?")


@dataclass(frozen=True, slots=True)
class ModuleLayouts:
    """What a module's source declares.

    :ivar structs: tag with ``struct`` -> members.
    :ivar enums: tag with ``enum`` -> constants.
    :ivar options: ``CONFIG_...`` -> a function that the module has only with this option. It must be called through a
        pointer: other functions may be inlined.
    """

    structs: Mapping[str, tuple[Member, ...]]
    enums: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


class Declarations:
    """A module's types, each made on first use.

    :param has_function: tells whether the module has a function of a name; it may raise LookupError.
    """

    def __init__(self, prog: Program, layouts: ModuleLayouts, has_function: Callable[[str], bool]) -> None:
        self._prog = prog
        self._layouts = layouts
        self._has_function = has_function
        self._made: dict[str, Type] = {}

    def type(self, name: str) -> Type | None:
        """Return the type of a name (``struct zram``); None if it is not declared.

        :raises LookupError: a type that it is made of is missing, or the module's options are unknown.
        :raises BrokenDump: a type that it is made of is invalid.
        """
        if name not in self._made:
            if name in self._layouts.structs:
                self._made[name] = self._compound("struct", name.split()[1], self._layouts.structs[name])
            elif name in self._layouts.enums:
                values = [TypeEnumerator(key, value) for key, value in self._layouts.enums[name].items()]
                self._made[name] = self._prog.enum_type(name.split()[1], self._prog.type("unsigned int"), values)
        return self._made.get(name)

    def enumerator(self, name: str) -> int | None:
        """Return the value of a constant of any enum; None: unknown name."""
        return next((values[name] for values in self._layouts.enums.values() if name in values), None)

    def _compound(self, kind: str, tag: str | None, members: tuple[Member, ...]) -> Type:
        made: list[TypeMember] = []
        at = end = 0  # bits
        alignment = 8
        for type_, name, bits in self._members(members):
            try:
                unit, width = alignof(type_) * 8, bits or sizeof(type_) * 8
            except (TypeError, ValueError) as error:
                raise BrokenDump(
                    f"the kernel's {type_.type_name()} cannot be a member of a structure: {error}"
                ) from error
            if not bits or at // unit != (at + bits - 1) // unit:
                at = -(-at // unit) * unit
            made.append(TypeMember(Object(self._prog, type_, bit_field_size=bits) if bits else type_, name, at))
            alignment = max(alignment, unit)
            end = max(end, at + width)
            at = end if kind == "struct" else 0
        size = -(-end // alignment) * alignment // 8
        return (self._prog.struct_type if kind == "struct" else self._prog.union_type)(tag, size, made)

    def _members(self, members: tuple[Member, ...]) -> Iterator[tuple[Type, str | None, int]]:
        """Yield type, name and width in bits (0 if it is no bit field) of each member that the module has."""
        for member in members:
            if not isinstance(member, str):
                what, inner = member
                if what in ("struct", "union"):
                    yield self._compound(what, None, inner), None, 0
                elif self._has_function(self._layouts.options[what]):
                    yield from self._members(inner)
            elif (match := _DECLARATION.fullmatch(member)) is not None:
                base, stars, name, length, bits = match.groups()
                type_ = self._named(base, pointer=bool(stars))
                for _ in stars:
                    type_ = self._prog.pointer_type(type_)
                yield self._prog.array_type(type_, int(length)) if length else type_, name, int(bits or 0)

    def _named(self, name: str, *, pointer: bool) -> Type:
        if (own := self.type(name)) is not None:
            return own
        try:
            return self._prog.type(name)
        except LookupError:
            if pointer and name.startswith("struct "):
                return self._prog.struct_type(name.split()[1])
            raise


_ZRAM = ModuleLayouts(
    options={
        "CONFIG_ZRAM_WRITEBACK": "backing_dev_store",
        "CONFIG_ZRAM_MEMORY_TRACKING": "read_block_state",
    },
    enums={
        "enum zram_pageflags": {
            "ZRAM_LOCK": 24,  # ZRAM_FLAG_SHIFT
            "ZRAM_SAME": 25,
            "ZRAM_WB": 26,
            "ZRAM_UNDER_WB": 27,
            "ZRAM_HUGE": 28,
            "ZRAM_IDLE": 29,
            "__NR_ZRAM_PAGEFLAGS": 30,
        }
    },
    structs={
        "struct zram_table_entry": (
            ("union", ("unsigned long handle", "unsigned long element")),
            "unsigned long flags",
            ("CONFIG_ZRAM_MEMORY_TRACKING", ("ktime_t ac_time",)),
        ),
        "struct zram_stats": (
            "atomic64_t compr_data_size",
            "atomic64_t num_reads",
            "atomic64_t num_writes",
            "atomic64_t failed_reads",
            "atomic64_t failed_writes",
            "atomic64_t invalid_io",
            "atomic64_t notify_free",
            "atomic64_t same_pages",
            "atomic64_t huge_pages",
            "atomic64_t pages_stored",
            "atomic_long_t max_used_pages",
            "atomic64_t writestall",
            "atomic64_t miss_free",
            ("CONFIG_ZRAM_WRITEBACK", ("atomic64_t bd_count", "atomic64_t bd_reads", "atomic64_t bd_writes")),
        ),
        "struct zram": (
            "struct zram_table_entry *table",
            "struct zs_pool *mem_pool",
            "struct zcomp *comp",
            "struct gendisk *disk",
            "struct rw_semaphore init_lock",
            "unsigned long limit_pages",
            "struct zram_stats stats",
            "u64 disksize",
            "char compressor[128]",  # CRYPTO_MAX_ALG_NAME, include/linux/crypto.h
            "bool claim",
            "struct file *backing_dev",
            (
                "CONFIG_ZRAM_WRITEBACK",
                (
                    "spinlock_t wb_limit_lock",
                    "bool wb_limit_enable",
                    "u64 bd_wb_limit",
                    "struct block_device *bdev",
                    "unsigned int old_block_size",
                    "unsigned long *bitmap",
                    "unsigned long nr_pages",
                ),
            ),
            ("CONFIG_ZRAM_MEMORY_TRACKING", ("struct dentry *debugfs_dir",)),
        ),
        "struct zcomp_strm": (
            "local_lock_t lock",
            "void *buffer",
            "struct crypto_comp *tfm",
        ),
        "struct zcomp": (
            "struct zcomp_strm *stream",
            "char *name",
            "struct hlist_node node",
        ),
    },
)

# "drivers/block/zram: Replace bit spinlocks with rtmutex for -rt", of the patches for CONFIG_PREEMPT_RT up to 6.11.
_ZRAM_RT = replace(
    _ZRAM,
    structs={
        **_ZRAM.structs,
        "struct zram_table_entry": (
            ("union", ("unsigned long handle", "unsigned long element")),
            "unsigned long flags",
            "spinlock_t lock",
            ("CONFIG_ZRAM_MEMORY_TRACKING", ("ktime_t ac_time",)),
        ),
    },
)

_ZSMALLOC = ModuleLayouts(
    options={
        "CONFIG_ZSMALLOC_STAT": "zs_stats_size_show",
        "CONFIG_COMPACTION": "zs_page_migrate",
    },
    enums={
        "enum fullness_group": {
            "ZS_EMPTY": 0,
            "ZS_ALMOST_EMPTY": 1,
            "ZS_ALMOST_FULL": 2,
            "ZS_FULL": 3,
            "NR_ZS_FULLNESS": 4,
        }
    },
    structs={
        "struct zs_size_stat": ("unsigned long objs[6]",),  # NR_ZS_STAT_TYPE
        "struct size_class": (
            "spinlock_t lock",
            "struct list_head fullness_list[4]",  # NR_ZS_FULLNESS
            "int size",
            "int objs_per_zspage",
            "int pages_per_zspage",
            "unsigned int index",
            "struct zs_size_stat stats",
        ),
        "struct link_free": (("union", ("unsigned long next", "unsigned long handle")),),
        "struct zs_pool_stats": ("atomic_long_t pages_compacted",),
        "struct zs_pool": (
            "char *name",
            "struct size_class *size_class[255]",  # ZS_SIZE_CLASSES of x86-64
            "struct kmem_cache *handle_cachep",
            "struct kmem_cache *zspage_cachep",
            "atomic_long_t pages_allocated",
            "struct zs_pool_stats stats",
            "struct shrinker shrinker",
            ("CONFIG_ZSMALLOC_STAT", ("struct dentry *stat_dentry",)),
            (
                "CONFIG_COMPACTION",
                (
                    "struct inode *inode",
                    "struct work_struct free_work",
                    "struct wait_queue_head migration_wait",
                    "atomic_long_t isolated_pages",
                    "bool destroying",
                ),
            ),
        ),
        "struct zspage": (
            (
                "struct",
                (
                    "unsigned int fullness:2",
                    "unsigned int class:9",
                    "unsigned int isolated:3",
                    "unsigned int magic:8",
                ),
            ),
            "unsigned int inuse",
            "unsigned int freeobj",
            "struct page *first_page",
            "struct list_head list",
            ("CONFIG_COMPACTION", ("rwlock_t lock",)),
        ),
    },
)

_Z3FOLD = ModuleLayouts(
    enums={
        "enum buddy": {"HEADLESS": 0, "FIRST": 1, "MIDDLE": 2, "LAST": 3, "BUDDIES_MAX": 3},
        "enum z3fold_page_flags": {
            "PAGE_HEADLESS": 0,
            "MIDDLE_CHUNK_MAPPED": 1,
            "NEEDS_COMPACTING": 2,
            "PAGE_STALE": 3,
            "PAGE_CLAIMED": 4,
        },
        "enum z3fold_handle_flags": {"HANDLES_NOFREE": 0},
    },
    structs={
        "struct z3fold_buddy_slots": (
            "unsigned long slot[4]",  # BUDDY_MASK + 1
            "unsigned long pool",
            "rwlock_t lock",
        ),
        "struct z3fold_header": (
            "struct list_head buddy",
            "spinlock_t page_lock",
            "struct kref refcount",
            "struct work_struct work",
            "struct z3fold_buddy_slots *slots",
            "struct z3fold_pool *pool",
            "short cpu",
            "unsigned short first_chunks",
            "unsigned short middle_chunks",
            "unsigned short last_chunks",
            "unsigned short start_middle",
            "unsigned short first_num:2",
            "unsigned short mapped_count:2",
            "unsigned short foreign_handles:2",
        ),
        "struct z3fold_pool": (
            "char *name",
            "spinlock_t lock",
            "spinlock_t stale_lock",
            "struct list_head *unbuddied",
            "struct list_head lru",
            "struct list_head stale",
            "atomic64_t pages_nr",
            "struct kmem_cache *c_handle",
            "struct z3fold_ops *ops",
            "struct zpool *zpool",
            "struct zpool_ops *zpool_ops",
            "struct workqueue_struct *compact_wq",
            "struct workqueue_struct *release_wq",
            "struct work_struct work",
            "struct inode *inode",
        ),
    },
)

LAYOUTS: Mapping[str, tuple[ModuleLayouts, ...]] = {
    "zram": (_ZRAM, _ZRAM_RT),
    "zsmalloc": (_ZSMALLOC,),
    "z3fold": (_Z3FOLD,),
}
"""Variants of a module's layouts, likeliest first."""
