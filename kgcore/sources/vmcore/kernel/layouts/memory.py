# SPDX-License-Identifier: LGPL-2.1-or-later
"""What kgcore needs of a kernel's memory management: address spaces, mappings, pages, the page cache."""

from kgcore.sources.vmcore.kernel.layouts.base import (
    EVERYWHERE,
    Row,
    Use,
    Way,
    constants,
    lines,
    members,
    symbols,
    types,
)

__all__ = ("ROWS",)

_MM, _VMA, _INODE = "struct mm_struct", "struct vm_area_struct", "struct inode"

ROWS = (
    Row(
        "the address space of a process",
        Use.CORES,
        (
            Way(
                EVERYWHERE,
                members(_MM, "arg_start arg_end brk end_code map_count pgd start_brk start_stack"),
            ),
        ),
        "no core is written",
        needed=True,
        also=(*types(_MM), *members(_MM, "env_start env_end exe_file context binfmt task_size")),
    ),
    Row(
        "the auxiliary vector",
        Use.CORES,
        (
            Way(
                "RHEL 8.6",
                (*members(_MM, "mm_rh"), *members("struct mm_struct_rh", "saved_auxv")),
            ),
            Way(EVERYWHERE, members(_MM, "saved_auxv")),
        ),
        "no core is written",
        needed=True,
    ),
    Row(
        "flags of an address space: its coredump_filter, and whether the OOM reaper took it",
        Use.CORES,
        (
            Way("6.18", (*types("mm_flags_t"), *members("mm_flags_t", "__mm_flags"), *members(_MM, "flags"))),
            Way(EVERYWHERE, members(_MM, "flags")),
        ),
        "no core is written",
        needed=True,
    ),
    Row(
        "the mappings of a process",
        Use.CORES,
        (
            Way(
                "6.1 (763ecb035029)",
                (
                    *members(_MM, "mm_mt"),
                    *members("struct maple_tree", "ma_root"),
                    *members("struct maple_node", "mr64 ma64"),
                    *members("struct maple_range_64", "pivot slot meta"),
                    *members("struct maple_arange_64", "pivot slot meta"),
                    *members("struct maple_metadata", "end"),
                ),
            ),
            Way(EVERYWHERE, (*members(_MM, "mmap"), *members(_VMA, "vm_next"))),
        ),
        "no core is written",
        needed=True,
        also=types("struct maple_node"),
    ),
    Row(
        "what a mapping is",
        Use.CORES,
        (
            Way(
                EVERYWHERE,
                members(_VMA, "vm_start vm_end vm_flags vm_pgoff vm_file vm_ops vm_private_data anon_vma vm_mm"),
            ),
        ),
        "no core is written",
        needed=True,
        also=(*types(_VMA, "struct vm_operations_struct"), *members("struct vm_operations_struct", "name fault")),
    ),
    Row(
        "what a process called anonymous memory (PR_SET_VMA_ANON_NAME)",
        Use.NAMES,
        (
            Way(
                "5.17 (9a10064f5625)",
                (*members(_VMA, "anon_name shared"), *members("struct anon_vma_name", "name")),
                how="where it lies in the place of shared (until 6.2, d09e8ca6cb93), mappings of files have none",
            ),
        ),
        "",
        also=types("struct anon_vma_name"),
    ),
    Row(
        "how many use an address space, and who was changing it",
        Use.MEMORY,
        (
            Way("5.8 (da1c55f1b272)", (*members(_MM, "mm_users mmap_lock"), *members("struct rw_semaphore", "owner"))),
            Way(
                "5.15 (943f0edb754f), PREEMPT_RT",
                (
                    *members(_MM, "mm_users mmap_lock"),
                    *members("struct rw_semaphore", "rwbase"),
                    *members("struct rwbase_rt", "rtmutex"),
                    *members("struct rt_mutex_base", "owner"),
                ),
            ),
            Way(
                "5.10, PREEMPT_RT",
                (
                    *members(_MM, "mm_users mmap_lock"),
                    *members("struct rw_semaphore", "rtmutex"),
                    *members("struct rt_mutex", "owner"),
                ),
            ),
            Way(EVERYWHERE, (*members(_MM, "mm_users mmap_sem"), *members("struct rw_semaphore", "owner"))),
        ),
        "pages of an address space that was being changed may be taken for zeros",
        also=(*members("atomic_t", "counter"), *members("atomic64_t", "counter")),
    ),
    Row(
        "where khugepaged was working",
        Use.MEMORY,
        (Way(EVERYWHERE, (*symbols("khugepaged_scan"), *members("struct khugepaged_scan", "address"))),),
        "",
        also=types("struct khugepaged_scan"),
    ),
    Row(
        "the lock of a page table",
        Use.MEMORY,
        (
            Way("6.6 (7e5f42ae4a93)", members("struct ptdesc", "ptl")),
            Way(EVERYWHERE, members("struct page", "ptl")),
            Way(EVERYWHERE, how="kernels for fewer than four CPUs have none"),
        ),
        "",
        also=(
            *types("struct ptdesc"),
            *members("spinlock_t", "rlock lock"),
            *members("struct spinlock", "rlock lock"),
            *members("struct rt_mutex_base", "owner"),
            *members("struct rt_mutex", "owner"),
            *members("struct raw_spinlock", "raw_lock"),
            *members("struct qspinlock", "val"),
        ),
    ),
    Row(
        "pages in memory: which file, which place in it",
        Use.MEMORY,
        (
            Way("5.16 (7b230db3b8d3)", (*types("struct page"), *members("struct folio", "index mapping private"))),
            Way(EVERYWHERE, members("struct page", "index mapping private")),
        ),
        "no page comes out of the page cache or the swap cache",
        needed=True,
        also=(
            *types("struct folio"),
            *constants("PG_uptodate PG_dirty PG_writeback PG_swapcache PG_swapbacked"),
        ),
        value="page_struct_size",
    ),
    Row(
        "pages with a hardware memory error",
        Use.MEMORY,
        (
            Way(EVERYWHERE, constants("PG_hwpoison")),
            Way(EVERYWHERE, lines("NUMBER(PG_hwpoison)")),
        ),
        "",
        also=symbols("num_poisoned_pages"),
    ),
    Row(
        "the shared pages of zeros",
        Use.MEMORY,
        (Way(EVERYWHERE, symbols("empty_zero_page")),),
        "zeros that a process only read may be reported as missing",
        also=symbols("huge_zero_pfn max_pfn"),
    ),
    Row(
        "the page cache of a file",
        Use.MEMORY,
        (
            Way(
                "4.20 (eb797a8ee0ab)",
                (
                    *members("struct file", "f_mapping"),
                    *members("struct address_space", "a_ops host i_pages"),
                    *members("struct xarray", "xa_head"),
                    *members("struct xa_node", "shift offset parent slots marks"),
                ),
            ),
            Way(
                "4.18",
                (
                    *members("struct file", "f_mapping"),
                    *members("struct address_space", "a_ops host i_pages"),
                    *members("struct radix_tree_root", "rnode"),
                    *members("struct radix_tree_node", "shift offset parent slots tags"),
                ),
            ),
        ),
        "pages of files and of shared memory that are mapped but not in the page tables are missing",
        also=types("struct address_space", "struct xa_node"),
    ),
    Row(
        "files that are only in memory (tmpfs, memfd, ramfs)",
        Use.MEMORY,
        (
            Way("5.14 (c1e3dbe9818e)", symbols("shmem_aops ram_aops")),
            Way(EVERYWHERE, symbols("shmem_aops ramfs_aops")),
        ),
        "holes of files in memory are missing instead of zeros",
    ),
    Row(
        "huge pages of hugetlbfs",
        Use.MEMORY,
        (Way(EVERYWHERE, members("struct hugetlbfs_sb_info", "hstate")),),
        "in kernels before 6.7, huge pages of more than one size are mixed up",
        also=(
            *types("struct hugetlbfs_sb_info"),
            *members("struct super_block", "s_fs_info"),
            *members("struct hstate", "order"),
        ),
    ),
    Row(
        "special mappings ([uprobes] and the like)",
        Use.NAMES,
        (
            Way(
                "4.18 and later",
                (
                    *symbols("special_mapping_name"),
                    *members("struct vm_special_mapping", "name pages fault"),
                ),
            ),
        ),
        "special mappings have no names in the core",
        also=(*types("struct vm_special_mapping"), *symbols("special_mapping_fault")),
    ),
    Row(
        "the data of the vdso ([vvar])",
        Use.MEMORY,
        (
            Way("7.3", symbols("vdso_vvar_mapping vdso_data_pages")),
            Way("6.15 (df7fcbefa710)", symbols("vdso_vvar_mapping vdso_k_time_data")),
            Way(EVERYWHERE, lacks=symbols("vdso_vvar_mapping"), how="no core has it"),
        ),
        "pages of [vvar] are missing",
        also=(
            *symbols("vdso_k_rng_data"),
            *members("struct time_namespace", "vvar_page"),
            *members("struct task_struct", "nsproxy"),
            *members("struct nsproxy", "time_ns"),
        ),
    ),
    Row(
        "memory that nobody may look at (memfd_secret)",
        Use.MEMORY,
        (Way("5.14 (1507f51255c9)", symbols("secretmem_vm_ops")),),
        "",
    ),
    Row(
        "memory of files that lie in persistent memory (DAX)",
        Use.CORES,
        (Way("4.18 and later", (*symbols("dax_iomap_fault"), *members(_INODE, "i_flags"))),),
        "",
    ),
    Row(
        "the times of a mapped file, to compare with the one given by --root",
        Use.MEMORY,
        (
            Way("6.11 (3aa63a569c64)", members(_INODE, "i_ctime_sec i_ctime_nsec i_mtime_sec i_mtime_nsec")),
            Way("6.7 (12cd44023651)", members(_INODE, "__i_ctime __i_mtime")),
            Way("6.6 (13bc24457850)", members(_INODE, "__i_ctime i_mtime")),
            Way(EVERYWHERE, members(_INODE, "i_ctime i_mtime")),
        ),
        "files given by --root are proven by their contents only",
        also=(
            *members("struct timespec64", "tv_sec tv_nsec"),
            *members(_INODE, "i_writecount i_mapping"),
            *members("struct address_space", "i_mmap_writable"),
        ),
    ),
)
