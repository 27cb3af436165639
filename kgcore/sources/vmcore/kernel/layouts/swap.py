# SPDX-License-Identifier: LGPL-2.1-or-later
"""What kgcore needs of a kernel to find swapped-out memory: swap entries, swap spaces, zram, zswap."""

from kgcore.sources.vmcore.kernel.layouts.base import (
    EVERYWHERE,
    Row,
    Use,
    Way,
    constants,
    members,
    symbols,
    types,
)

__all__ = ("ROWS",)

_SPACE, _POOL = "struct swap_info_struct", "struct zswap_pool"

ROWS = (
    Row(
        "swap spaces",
        Use.SWAP,
        (Way(EVERYWHERE, (*symbols("swap_info"), *members(_SPACE, "flags max pages inuse_pages swap_file bdev"))),),
        "all swapped-out pages are missing",
        needed=True,
        also=types(_SPACE),
    ),
    Row(
        "the swap cache",
        Use.SWAP,
        (
            Way(
                "6.18",
                (*members("struct swap_cluster_info", "table"), *members(_SPACE, "cluster_info")),
            ),
            Way(EVERYWHERE, symbols("swapper_spaces")),
        ),
        "pages that were on their way out or in are missing",
        needed=True,
        also=types("struct swap_cluster_info", "struct swap_table"),
        value="swap_cluster_slots",
    ),
    Row(
        "slots of zeros",
        Use.SWAP,
        (
            Way("7.2", members("struct swap_cluster_info", "table"), lacks=members(_SPACE, "zeromap")),
            Way("6.12 (0ca0c24e3211)", members(_SPACE, "zeromap")),
        ),
        "",
    ),
    Row(
        "where a swap space lies on its device",
        Use.SWAP,
        (
            Way(
                "5.4 (4efaceb1c5f8)",
                (
                    *members(_SPACE, "swap_extent_root"),
                    *members("struct swap_extent", "rb_node start_page nr_pages start_block"),
                    *members("struct rb_root", "rb_node"),
                    *members("struct rb_node", "__rb_parent_color rb_left rb_right"),
                ),
            ),
            Way(
                EVERYWHERE,
                (
                    *members(_SPACE, "first_swap_extent"),
                    *members("struct swap_extent", "list start_page nr_pages start_block"),
                ),
            ),
        ),
        "pages in zram whose swap space is a file are missing",
        also=types("struct swap_extent"),
    ),
    Row(
        "where a partition begins",
        Use.SWAP,
        (
            Way("5.11", members("struct block_device", "bd_start_sect")),
            Way(EVERYWHERE, (*members("struct block_device", "bd_part"), *members("struct hd_struct", "start_sect"))),
        ),
        "pages in partitions of zram are missing",
        also=(*types("struct block_device", "struct gendisk"),),
    ),
    Row(
        "disks in memory",
        Use.SWAP,
        (
            Way(
                EVERYWHERE,
                (*members("struct block_device", "bd_disk"), *members("struct gendisk", "disk_name private_data")),
            ),
        ),
        "pages in zram are missing",
    ),
    Row(
        "how many swap spaces there may be",
        Use.SWAP,
        (
            Way(EVERYWHERE, symbols("swap_info"), how="by the room that arrays have"),
            Way(EVERYWHERE, how="by the other kinds of entries"),
        ),
        "",
        also=symbols("nr_swapfiles swapper_spaces nr_swapper_spaces zswap_trees nr_zswap_trees"),
    ),
    Row(
        "entries of page tables: pages with a hardware memory error",
        Use.SWAP,
        (
            Way(EVERYWHERE, (*symbols("memory_failure"), *constants("PG_hwpoison"))),
            Way(EVERYWHERE, lacks=symbols("memory_failure"), how="without MEMORY_FAILURE"),
        ),
        "",
        also=constants("PG_hwpoison PG_locked"),
    ),
    Row(
        "entries of page tables: pages that are moved",
        Use.SWAP,
        (
            Way("5.19 (6c287605fd56)", (*symbols("migrate_pages"), *constants("PG_anon_exclusive"))),
            Way(EVERYWHERE, symbols("migrate_pages")),
            Way(EVERYWHERE, lacks=symbols("migrate_pages"), how="without MIGRATION"),
        ),
        "",
        also=(
            *symbols("remove_migration_ptes"),
            *members("struct page", "compound_info compound_head flags"),
        ),
    ),
    Row(
        "entries of page tables: pages in device memory",
        Use.SWAP,
        (
            Way("6.15 (c25465eb7630)", symbols("make_device_exclusive")),
            Way("5.14 (b756a3b5e7ea)", symbols("make_device_exclusive_range")),
            Way("5.14, without DEVICE_PRIVATE", constants("MMU_NOTIFY_EXCLUSIVE")),
            Way("5.3 (0092908d16c6)", symbols("devm_request_free_mem_region")),
            Way(EVERYWHERE, symbols("device_private_entry_fault")),
            Way(EVERYWHERE, how="without DEVICE_PRIVATE"),
        ),
        "",
        also=constants("MMU_NOTIFY_UNMAP"),
    ),
    Row(
        "entries of page tables: markers",
        Use.SWAP,
        (
            Way("7.0", types("enum softleaf_type")),
            Way("6.6 (8a13897fb0da)", constants("MFILL_ATOMIC_POISON")),
            Way("5.19 (679d10331910)", types("pte_marker")),
            Way(EVERYWHERE, how="as far as the other numbers allow"),
        ),
        "",
    ),
    Row(
        "how much is in zswap",
        Use.FACTS,
        (Way(EVERYWHERE, symbols("zswap_stored_pages")),),
        "",
    ),
    Row(
        "pages in zswap",
        Use.SWAP,
        (
            Way(
                "6.10 (796c2c23e14e)",
                (
                    *symbols("zswap_trees nr_zswap_trees"),
                    *members("struct zswap_entry", "swpentry length pool handle"),
                    *members("struct xarray", "xa_head"),
                ),
                lacks=members("struct zswap_entry", "rbnode"),
            ),
            Way(
                "6.9 (44c7c734a513)",
                (
                    *symbols("zswap_trees nr_zswap_trees"),
                    *members("struct zswap_entry", "rbnode swpentry length pool handle"),
                    *members("struct zswap_tree", "rbroot"),
                ),
            ),
            Way(
                "6.5",
                (
                    *symbols("zswap_trees"),
                    *members("struct zswap_entry", "rbnode swpentry length pool handle"),
                    *members("struct zswap_tree", "rbroot"),
                ),
            ),
            Way(
                EVERYWHERE,
                (
                    *symbols("zswap_trees"),
                    *members("struct zswap_entry", "rbnode offset length pool handle"),
                    *members("struct zswap_tree", "rbroot"),
                ),
            ),
        ),
        "",
        also=(
            *types("struct zswap_entry", "struct zswap_tree", "struct xarray", "struct rb_node"),
            *members("struct zswap_entry", "value"),
            *members("struct rb_root", "rb_node"),
            *members("struct rb_node", "__rb_parent_color rb_left rb_right"),
            *symbols("zswap_stored_incompressible_pages"),
        ),
    ),
    Row(
        "the allocator of zswap",
        Use.SWAP,
        (
            Way("6.18", members(_POOL, "tfm_name zs_pool")),
            Way("6.6 (b8cf32dc6e8c)", (*members(_POOL, "tfm_name zpools"), *members("struct zpool", "driver pool"))),
            Way(EVERYWHERE, (*members(_POOL, "tfm_name zpool"), *members("struct zpool", "driver pool"))),
        ),
        "",
        also=(
            *types(_POOL, "struct zpool"),
            *members("struct zpool", "evictable"),
            *members("struct zpool_driver", "type"),
        ),
    ),
    Row(
        "pages in zram",
        Use.SWAP,
        (
            Way(
                "6.12 (and 6.2: comp_algs)",
                (
                    *members("struct zram", "table mem_pool disk disksize comp_algs"),
                    *members("struct zram_table_entry", "handle"),
                ),
            ),
            Way(
                EVERYWHERE,
                (
                    *members("struct zram", "table mem_pool disk disksize compressor"),
                    *members("struct zram_table_entry", "handle"),
                ),
            ),
        ),
        "all pages in zram are missing",
        also=(
            *types("struct zram", "struct zram_table_entry"),
            *members("struct zram", "backing_dev params"),
            *members("struct zcomp_params", "dict dict_sz"),
            *members("struct zram_table_entry", "attr flags value"),
            *members("struct attr", "flags"),
            *constants("ZRAM_LOCK ZRAM_SAME ZRAM_WB ZRAM_HUGE ZRAM_COMP_PRIORITY_BIT1 __NR_ZRAM_PAGEFLAGS"),
        ),
        module="zram",
    ),
    Row(
        "objects of zsmalloc, where zram and zswap keep pages",
        Use.SWAP,
        (
            Way(
                "7.0",
                (
                    *members("struct zspage", "magic class list first_zpdesc"),
                    *members("struct zpdesc", "zspage next"),
                    *members("struct size_class", "index size objs_per_zspage pages_per_zspage fullness_list"),
                    *members("struct zs_pool", "size_class"),
                ),
            ),
            Way(
                EVERYWHERE,
                (
                    *members("struct zspage", "magic class list first_page"),
                    *members("struct size_class", "index size objs_per_zspage pages_per_zspage fullness_list"),
                    *members("struct zs_pool", "size_class"),
                    *members("struct page", "index private"),
                ),
            ),
        ),
        "all pages in zram, and in zswap with zsmalloc, are missing",
        also=types("struct zspage", "struct size_class", "struct zs_pool", "struct zpdesc"),
        module="zsmalloc",
    ),
    Row(
        "objects of z3fold",
        Use.SWAP,
        (
            Way(
                EVERYWHERE,
                members("struct z3fold_header", "first_chunks middle_chunks start_middle page_lock first_num pool"),
            ),
        ),
        "",
        also=types("struct z3fold_header"),
        module="z3fold",
    ),
)
