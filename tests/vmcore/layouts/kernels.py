# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels that cannot be had here, declared as their headers have them.

Of each structure the members that kgcore reads stand in the header's order. What differs between the kernels is a part
with its commit; a kernel is a choice of parts. The headers: include/linux/{sched,sched/signal,pid,idr,radix-tree,
xarray,mm_types,fs,swap,page-flags,maple_tree}.h of Linux 4.18 to 6.12; of RHEL also ctrliq/kernel-src-tree: mm_types.h
at 00dc418d226a and pid.h at 0a37c17f3c8d (RHEL 8), swap.h at 00e1fc358caa and fs.h at 0034a05c4230 (RHEL 9).
"""

from dataclasses import dataclass, replace

from tests.vmcore.layouts.test_swapentry import BY_NAME, NOTIFY, Case

__all__ = ("KERNELS", "Declared")

_BASIC = """
struct list_head { struct list_head *next, *prev; };
struct hlist_node { struct hlist_node *next, **pprev; };
struct hlist_head { struct hlist_node *first; };
struct rb_node { unsigned long parent; struct rb_node *right, *left; };
typedef struct { int counter; } atomic_t;
typedef struct { long counter; } atomic_long_t;
typedef struct { u32 val; } kuid_t;
"""

# Trees. f8d5d0cc145c "xarray: Add definition of struct xarray" (4.20) and its series.
_RADIX = """
struct radix_tree_node {
    unsigned char shift, offset, count, exceptional; struct radix_tree_node *parent; struct radix_tree_root *root;
    struct list_head private_list; void *slots[64]; unsigned long tags[3][1];
};
struct radix_tree_root { int xa_lock; unsigned int gfp_mask; struct radix_tree_node *rnode; };
"""
_XARRAY = """
struct xa_node {
    unsigned char shift, offset, count, nr_values; struct xa_node *parent; struct xarray *array;
    struct list_head private_list; void *slots[64]; unsigned long marks[3][1];
};
struct xarray { int xa_lock; unsigned int xa_flags; void *xa_head; };
"""

# Ids. 2c4704756cab "pids: Move the pgrp and session pid pointers from task_struct to signal_struct" and 6883f81aac6f
# "pid: Implement PIDTYPE_TGID" (4.19); RHEL 8 took both over, and put PIDTYPE_TGID last.
_TYPES_418 = "enum pid_type { PIDTYPE_PID, PIDTYPE_PGID, PIDTYPE_SID, PIDTYPE_MAX, __PIDTYPE_TGID };"
_TYPES_RHEL8 = "enum pid_type { PIDTYPE_PID, PIDTYPE_PGID, PIDTYPE_SID, PIDTYPE_TGID, PIDTYPE_MAX };"
_TYPES_419 = "enum pid_type { PIDTYPE_PID, PIDTYPE_TGID, PIDTYPE_PGID, PIDTYPE_SID, PIDTYPE_MAX };"
_IDS = """
struct idr { struct %(idr)s idr_rt; unsigned int idr_base, idr_next; };
struct pid_namespace { struct idr idr; unsigned int level; };
struct upid { int nr; struct pid_namespace *ns; };
struct pid { atomic_t count; unsigned int level; struct hlist_head tasks[%(types)d]; struct upid numbers[1]; };
struct pid_link { struct hlist_node node; struct pid *pid; };
"""
_LINKS_418 = "struct pid_link pids[3];"
_LINKS_419 = "struct pid *thread_pid; struct hlist_node pid_links[4];"

# 2f064a59a11f "sched: Change task_struct::state" (5.14)
_TASK = """
struct task_struct {
    struct { unsigned long flags; u32 status; } thread_info; %(state)s; void *stack; unsigned int flags; int on_cpu;
    int static_prio; struct list_head tasks; struct mm_struct *mm, *active_mm; int exit_state; int pid, tgid;
    struct task_struct *real_parent, *parent; struct task_struct *group_leader; %(links)s
    struct list_head thread_node; u64 utime, stime; char comm[16]; struct fs_struct *fs; struct signal_struct *signal;
};
struct signal_struct { atomic_t sigcnt; struct list_head thread_head; %(shared)s u64 utime, stime, cutime, cstime; };
"""

# Address spaces. 763ecb035029 "mm: remove the vma linked list" (6.1); da1c55f1b272 "mmap locking API: rename mmap_sem
# to mmap_lock" (5.8); 94a9717b3c40 "locking/rwsem: Make rwsem->owner an atomic_long_t" (5.3).
_OWNER_418 = "struct rw_semaphore { atomic_long_t count; struct list_head wait_list; struct task_struct *owner; };"
_OWNER_53 = "struct rw_semaphore { atomic_long_t count; atomic_long_t owner; struct list_head wait_list; };"
_LIST = "struct vm_area_struct *mmap;"
_MAPLE = "struct maple_tree mm_mt;"
_MAPLE_TREE = """
struct maple_metadata { unsigned char end, gap; };
struct maple_range_64 {
    void *parent; unsigned long pivot[15];
    union { void *slot[16]; struct { void *pad[15]; struct maple_metadata meta; }; };
};
struct maple_arange_64 {
    void *parent; unsigned long pivot[9]; void *slot[10]; unsigned long gap[10]; struct maple_metadata meta;
};
struct maple_node { union { struct maple_range_64 mr64; struct maple_arange_64 ma64; }; };
struct maple_tree { int ma_lock; unsigned int ma_flags; void *ma_root; };
"""
_AREA_LIST = "unsigned long vm_start, vm_end; struct vm_area_struct *vm_next, *vm_prev; struct rb_node vm_rb;"
_AREA_MAPLE = "union { struct { unsigned long vm_start, vm_end; }; u64 vm_rcu[2]; };"
_SPACE = """
struct vdso_image { void *data; unsigned long size; };
typedef struct { unsigned long flags; struct vdso_image *vdso_image; } mm_context_t;
struct vm_area_struct {
    %(area)s struct mm_struct *vm_mm; unsigned long vm_page_prot, vm_flags; void *anon_vma;
    struct vm_operations_struct *vm_ops; unsigned long vm_pgoff; struct file *vm_file; void *vm_private_data;
};
struct mm_struct {
    struct { %(areas)s unsigned long *pgd; atomic_t mm_users, mm_count; int map_count; %(lock)s
        unsigned long total_vm; unsigned long saved_auxv[%(words)d]; mm_context_t context; unsigned long flags;
        %(state)s };
    %(tail)s
};
"""
# RHEL 8 keeps the old name, and the old size of saved_auxv, for modules.
_LOCK_RHEL8 = "union { struct rw_semaphore mmap_sem; struct rw_semaphore mmap_lock; };"
_AUXV_RHEL8 = "struct mm_struct_rh { unsigned long saved_auxv[52]; };"

# Pages. "mm: Introduce struct folio" (5.16); flags moved in 4.20 and 6.9.
_FLAGS_418 = """enum pageflags { PG_locked, PG_error, PG_referenced, PG_uptodate, PG_dirty, PG_waiters = 7,
    PG_owner_priv_1 = 9, PG_swapcache = 9, PG_writeback = 14, PG_mappedtodisk = 16, PG_swapbacked = 18,
    PG_hwpoison = 22 %s };"""
_FLAGS_420 = """enum pageflags { PG_locked, PG_referenced, PG_uptodate, PG_dirty, PG_waiters = 7,
    PG_owner_priv_1 = 10, PG_swapcache = 10, PG_writeback = 15, PG_mappedtodisk = 17, PG_swapbacked = 19,
    PG_hwpoison = 23 %s };"""
_FLAGS_69 = """enum pageflags { PG_locked, PG_writeback, PG_referenced, PG_uptodate, PG_dirty, PG_waiters = 7,
    PG_owner_priv_1 = 8, PG_swapcache = 8, PG_owner_2 = 11, PG_anon_exclusive = 11, PG_swapbacked = 15,
    PG_hwpoison = 21 };"""
_EXCLUSIVE = ", PG_anon_exclusive = %d"
_PAGE = """
struct page {
    unsigned long flags;
    union {
        struct { struct list_head lru; struct address_space *mapping; unsigned long index, private; };
        struct { unsigned long compound_head; };
    };
    atomic_t _mapcount, _refcount; unsigned long memcg_data;
};
"""
_FOLIO = """
struct folio {
    union {
        struct {
            unsigned long flags; struct list_head lru; struct address_space *mapping; unsigned long index, private;
            atomic_t _mapcount, _refcount; unsigned long memcg_data;
        };
        struct page page;
    };
};
"""
_FILES = """
struct super_block { void *s_fs_info; };
struct inode {
    unsigned short i_mode; unsigned int i_flags; struct super_block *i_sb; unsigned long i_ino; unsigned int i_nlink;
    s64 i_size; void *i_private;
};
struct address_space { struct inode *host; struct %(pages)s i_pages; void *a_ops; };
struct file { struct path f_path; struct inode *f_inode; struct address_space *f_mapping; };
struct vm_operations_struct { void (*open)(); void (*fault)(); void (*name)(); };
struct swap_info_struct { unsigned long flags; unsigned int max; struct file *swap_file; };
"""

_EVENT_514 = NOTIFY % ", MMU_NOTIFY_EXCLUSIVE = 7"
_MARKER = "typedef unsigned long pte_marker;"
_POISON = "enum mfill_atomic_mode { MFILL_ATOMIC_COPY, MFILL_ATOMIC_POISON = 3 };"


@dataclass(frozen=True)
class Declared:
    """
    :ivar swap: the numbers of its swap entries, and the functions that show them.
    :ivar ids: of enum pid_type: those of a process group and of a session.
    :ivar links: members of ``struct task_struct`` (4.19), or of its ``pids`` (before), lead to ids.
    :ivar radix: files' pages are in a radix tree; ids in ``idr``.
    :ivar uptodate: PG_uptodate. :ivar swapcache: PG_swapcache and PG_swapbacked.
    :ivar memory: operations of a file system that lives in memory.
    """

    name: str
    release: str
    swap: Case
    text: str = ""
    ids: tuple[int, int] = (2, 3)
    links: bool = True
    radix: bool = False
    idr_radix: bool = False
    maple: bool = False
    folios: bool = False
    lock: str = "mmap_lock"
    owner: str = "owner.counter"
    state: str = "__state"
    saved_auxv: str = "saved_auxv"
    uptodate: int = 2
    swapcache: tuple[int, ...] = (10, 19)
    memory: str = "ramfs_aops"


def _declared(kernel: Declared, flags: str, numbers: str, pid_types: str = _TYPES_419) -> Declared:
    rhel8 = kernel.saved_auxv != "saved_auxv"
    lock = _LOCK_RHEL8 if rhel8 else f"struct rw_semaphore {kernel.lock};"
    core_state = "" if kernel.folios else "struct core_state *core_state;"  # 0258b5fd7c71 (5.16)
    parts = (
        _BASIC,
        _RADIX if kernel.radix or kernel.idr_radix else "",
        "" if kernel.radix else _XARRAY,
        pid_types,
        _IDS % {"idr": "radix_tree_root" if kernel.idr_radix else "xarray", "types": 4 if kernel.links else 3},
        _TASK
        % {
            "state": "unsigned int __state" if kernel.state == "__state" else "long state",
            "links": _LINKS_419 if kernel.links else _LINKS_418,
            "shared": "struct pid *pids[4];" if kernel.links else "struct pid *leader_pid;",
        },
        _OWNER_418 if kernel.owner == "owner" else _OWNER_53,
        _MAPLE_TREE if kernel.maple else "",
        _AUXV_RHEL8 if rhel8 else "",
        _SPACE
        % {
            "area": _AREA_MAPLE if kernel.maple else _AREA_LIST,
            "areas": _MAPLE if kernel.maple else _LIST,
            "lock": lock,
            "words": 46 if rhel8 else 52,
            "state": core_state,
            "tail": "struct mm_struct_rh *mm_rh;" if rhel8 else "",
        },
        flags,
        _PAGE,
        _FOLIO if kernel.folios else "",
        _FILES % {"pages": "radix_tree_root" if kernel.radix else "xarray"},
        numbers,
    )
    return replace(kernel, text="\n".join(parts))


_18 = _FLAGS_418 % ""
_20 = _FLAGS_420 % ""
_20_EXCLUSIVE = _FLAGS_420 % (_EXCLUSIVE % 17)

KERNELS = (
    _declared(
        Declared(
            "4.18", "4.18.20", BY_NAME["4.19"], ids=(1, 2), links=False, radix=True, idr_radix=True, uptodate=3,
            swapcache=(9, 18), lock="mmap_sem", owner="owner", state="state",
        ), _18, "", _TYPES_418,
    ),
    _declared(
        Declared(
            "4.19", "4.19.300", BY_NAME["4.19"], radix=True, idr_radix=True, uptodate=3, swapcache=(9, 18),
            lock="mmap_sem", owner="owner", state="state",
        ), _18, "",
    ),
    _declared(
        Declared(
            "RHEL 8", "4.18.0-553.el8_10.x86_64", BY_NAME["RHEL with PG_anon_exclusive"], ids=(1, 2), uptodate=3,
            idr_radix=True, swapcache=(9, 18), state="state", saved_auxv="mm_rh.saved_auxv",
        ), _FLAGS_418 % (_EXCLUSIVE % 16), _EVENT_514, _TYPES_RHEL8,
    ),
    _declared(
        Declared("5.4", "5.4.0-196-generic", BY_NAME["5.10"], lock="mmap_sem", state="state"),
        _20, NOTIFY % "",
    ),
    _declared(
        Declared("Amazon 5.10", "5.10.230-223.885.amzn2.x86_64", BY_NAME["5.10"], state="state"), _20, NOTIFY % ""
    ),
    _declared(
        Declared("SUSE 15 SP4", "5.14.21-150400.24.161-default", BY_NAME["5.14"], memory="ram_aops"), _20, _EVENT_514
    ),
    _declared(Declared("Ubuntu 5.15", "5.15.0-130-generic", BY_NAME["5.14"], memory="ram_aops"), _20, _EVENT_514),
    _declared(
        Declared("RHEL 9", "5.14.0-284.el9.x86_64", BY_NAME["5.19"], folios=True, memory="ram_aops"),
        _20_EXCLUSIVE, _EVENT_514 + _MARKER,
    ),
    _declared(
        Declared("RHEL 9, later", "5.14.0-503.el9.x86_64", BY_NAME["6.2"], folios=True, maple=True, memory="ram_aops"),
        _20_EXCLUSIVE, _EVENT_514 + _MARKER,
    ),
    _declared(
        Declared(
            "SUSE 15 SP6", "6.4.0-150600.23.42-default", BY_NAME["6.2"], folios=True, maple=True, memory="ram_aops"
        ), _20_EXCLUSIVE, _EVENT_514 + _MARKER,
    ),
    _declared(
        Declared("Ubuntu 6.8", "6.8.0-51-generic", BY_NAME["6.12"], folios=True, maple=True, memory="ram_aops"),
        _20_EXCLUSIVE, _EVENT_514 + _MARKER + _POISON,
    ),
    _declared(
        Declared(
            "RHEL 10", "6.12.0-55.el10.x86_64", BY_NAME["6.12"], folios=True, maple=True, memory="ram_aops", uptodate=3,
            swapcache=(8, 15),
        ), _FLAGS_69, _EVENT_514 + _MARKER + _POISON,
    ),
)  # fmt: skip
