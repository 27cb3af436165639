# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels that cannot be had here, declared as their headers have them.

Of each structure the members that kgcore reads stand in the header's order. What differs between the kernels is a part
with its commit; a kernel is a choice of parts. The headers: include/linux/{sched,sched/signal,pid,idr,radix-tree,
xarray,mm_types,fs,swap,swapops,page-flags,mmu_notifier,userfaultfd_k,rwsem,auxvec,maple_tree}.h and
arch/x86/include/{asm/mmu,asm/thread_info,uapi/asm/auxvec}.h. Each kernel names the tree in which all of them were read,
and what was not: docs/kernels.md lists both. RHEL 8.0 (4.18.0-80.el8) has what 4.18 has, 9.0 (5.14.0-70.13.1.el9_0)
what 5.14 has.
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

# Trees. f8d5d0cc145c "xarray: Add definition of struct xarray" (4.20) and its series; RHEL took them over in 8.1.
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
    struct list_head private_list; void *slots[64]; union { unsigned long tags[3][1]; unsigned long marks[3][1]; };
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

# 2f064a59a11f "sched: Change task_struct::state" (5.14; RHEL 8.6, which keeps the old place for modules)
_STATE_418 = "long state;"
_STATE_514 = "unsigned int __state;"
_STATE_RHEL8 = "union { struct { unsigned int __state; }; struct { long state; } rh_kabi_hidden_733; };"
_TASK = """
struct task_struct {
    struct { unsigned long flags; %(work)s u32 status; } thread_info; %(state)s void *stack; unsigned int flags;
    int on_cpu, static_prio; struct list_head tasks; struct mm_struct *mm, *active_mm; int exit_state; int pid, tgid;
    struct task_struct *real_parent, *parent; struct task_struct *group_leader; %(links)s
    struct list_head thread_node; u64 utime, stime; char comm[16]; struct fs_struct *fs; struct signal_struct *signal;
};
struct signal_struct {
    atomic_t sigcnt; struct list_head thread_head; %(dump)s %(shared)s u64 utime, stime, cutime, cstime;
};
"""

# Address spaces. 763ecb035029 "mm: remove the vma linked list" (6.1); da1c55f1b272 "mmap locking API: rename mmap_sem
# to mmap_lock" (5.8); 94a9717b3c40 "locking/rwsem: Make rwsem->owner an atomic_long_t" (5.3).
_OWNER_418 = "struct rw_semaphore { atomic_long_t count; struct list_head wait_list; struct task_struct *owner; };"
_OWNER_53 = "struct rw_semaphore { atomic_long_t count; atomic_long_t owner; struct list_head wait_list; };"
_OWNER_RHEL8 = """
struct rw_semaphore {
    atomic_long_t count; struct list_head wait_list;
    union { atomic_long_t owner; struct { struct task_struct *owner; } rh_kabi_hidden_53; };
};
"""
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
_AREA_MAPLE = "union { struct { unsigned long vm_start, vm_end; }; u64 vm_rcu[2]; };"  # 20cce633f425 (6.4; RHEL 9.5)
_FLAGS_OF_AREA = "unsigned long vm_flags;"
_FLAGS_OF_AREA_63 = "union { unsigned long vm_flags; unsigned long __vm_flags; };"  # bc292ab00f6c (6.3; RHEL 9.5)
_COUNTS = "unsigned long *pgd; atomic_t mm_users, mm_count;"
_COUNTS_MAPLE = "unsigned long *pgd; atomic_t mm_users;"  # mm_count stands before the tree since 6.4, not in RHEL 9
_SPACE = """
struct vdso_image { void *data; unsigned long size; };
typedef struct { %(context)s struct vdso_image *vdso_image; } mm_context_t;
struct vm_area_struct {
    %(area)s struct mm_struct *vm_mm; unsigned long vm_page_prot; %(area_flags)s void *anon_vma;
    struct vm_operations_struct *vm_ops; unsigned long vm_pgoff; struct file *vm_file; void *vm_private_data;
};
struct mm_struct {
    struct { %(areas)s %(counts)s int map_count; %(lock)s
        unsigned long total_vm, end_code, start_brk, brk, start_stack, arg_start, arg_end, env_start, env_end;
        unsigned long %(auxv)s; mm_context_t context; unsigned long flags;
        %(state)s };
    %(tail)s
};
"""
# RHEL 8 keeps for modules (RH_KABI_REPLACE, RH_KABI_DEPRECATE and RH_KABI_USE, include/linux/rh_kabi.h): both names of
# the lock since 8.5; of the auxiliary vector, since 8.6, its old place, under another name.
_LOCK_RHEL8 = """
union {
    union { struct rw_semaphore mmap_sem; struct rw_semaphore mmap_lock; };
    struct { struct rw_semaphore mmap_sem; } rh_kabi_hidden_449;
};
"""
_AUXV_RHEL8 = "struct mm_struct_rh { unsigned long saved_auxv[%d]; };"
_TAIL_RHEL8 = "union { struct mm_struct_rh *mm_rh; struct { unsigned long rh_reserved4; } rh_kabi_hidden_589; };"

# arch/x86/include/asm/mmu.h. ff170cd05953 (5.11); since 6.4, and RHEL 9.4, flags are a word.
_CONTEXT_418 = "unsigned short ia32_compat;"
_CONTEXT_511 = "unsigned short flags;"
_CONTEXT_64 = "unsigned long flags;"

# Pages. "mm: Introduce struct folio" (5.16; RHEL 9.1). Flags moved: 1899ad18c607 (4.20), 6.8 and RHEL 9.6, 6.12.
_FLAGS_418 = """enum pageflags { PG_locked, PG_error, PG_referenced, PG_uptodate, PG_dirty, PG_waiters = 7,
    PG_owner_priv_1 = 9, PG_swapcache = 9, PG_writeback = 14, PG_mappedtodisk = 16, PG_swapbacked = 18,
    PG_hwpoison = 22 %s };"""
_FLAGS_420 = """enum pageflags { PG_locked, PG_referenced, PG_uptodate, PG_dirty, PG_waiters = 7,
    PG_owner_priv_1 = 10, PG_swapcache = 10, PG_writeback = 15, PG_mappedtodisk = 17, PG_swapbacked = 19,
    PG_hwpoison = 23 %s };"""
_FLAGS_68 = """enum pageflags { PG_locked, PG_writeback, PG_referenced, PG_uptodate, PG_dirty, PG_waiters = 7,
    PG_owner_priv_1 = 12, PG_swapcache = 12, PG_mappedtodisk = 17, PG_anon_exclusive = 17, PG_swapbacked = 19,
    PG_hwpoison = 23 };"""
_FLAGS_612 = """enum pageflags { PG_locked, PG_writeback, PG_referenced, PG_uptodate, PG_dirty, PG_waiters = 7,
    PG_owner_priv_1 = 10, PG_swapcache = 10, PG_owner_2 = 11, PG_anon_exclusive = 11, PG_mappedtodisk = 11,
    PG_swapbacked = 17, PG_hwpoison = 20 };"""
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
struct file { %(file)s };
struct vm_operations_struct { void (*open)(); void (*fault)(); void (*name)(); };
struct swap_info_struct { unsigned long flags; unsigned int max; struct file *swap_file; };
"""

_FILE = "struct path f_path; struct inode *f_inode; struct address_space *f_mapping;"
_FILE_612 = "struct address_space *f_mapping; struct inode *f_inode; struct path f_path;"

_EVENT_514 = NOTIFY % ", MMU_NOTIFY_EXCLUSIVE = 7"
_MARKER = "typedef unsigned long pte_marker;"
_POISON = "enum mfill_atomic_mode { MFILL_ATOMIC_COPY, MFILL_ATOMIC_POISON = 3 };"


@dataclass(frozen=True)
class Declared:
    """
    :ivar source: where its headers, and its options, were read: a repository with a commit or tag.
    :ivar swap: the numbers of its swap entries, and the functions that show them.
    :ivar unproven: what its publisher may have changed, as far as nothing published was read.
    :ivar words: of the auxiliary vector: AT_VECTOR_SIZE.
    :ivar ids: of enum pid_type: those of a process group and of a session.
    :ivar links: members of ``struct task_struct`` (4.19), or of its ``pids`` (before), lead to ids.
    :ivar radix: ids, and the pages of files, are in radix trees.
    :ivar count_first: ``mm_count`` stands at the beginning of ``struct mm_struct``.
    :ivar uptodate: PG_uptodate. :ivar swapcache: PG_swapcache and PG_swapbacked.
    :ivar memory: operations of a file system that lives in memory.
    """

    name: str
    release: str
    source: str
    swap: Case
    unproven: str = ""
    text: str = ""
    words: int = 46
    ids: tuple[int, int] = (2, 3)
    links: bool = True
    radix: bool = False
    maple: bool = False
    count_first: bool = False
    folios: bool = False
    lock: str = "mmap_lock"
    owner: str = "owner.counter"
    state: str = "__state"
    saved_auxv: str = "saved_auxv"
    context: str = _CONTEXT_64
    file: str = _FILE
    uptodate: int = 2
    swapcache: tuple[int, ...] = (10, 19)
    memory: str = "ram_aops"


def _declared(kernel: Declared, flags: str, numbers: str, pid_types: str = _TYPES_419) -> Declared:
    rhel8 = pid_types == _TYPES_RHEL8
    moved = kernel.saved_auxv != "saved_auxv"  # RHEL 8.6
    states = {"state": _STATE_418, "__state": _STATE_RHEL8 if rhel8 else _STATE_514}
    # 0258b5fd7c71 "coredump: Limit coredumps to a single thread group" (5.16; RHEL 9.1)
    core_state = "struct core_state *core_state;"
    parts = (
        _BASIC,
        _RADIX if kernel.radix else _XARRAY,
        pid_types,
        _IDS % {"idr": "radix_tree_root" if kernel.radix else "xarray", "types": 4 if kernel.links else 3},
        _TASK
        % {
            "work": "" if kernel.context == _CONTEXT_418 else "unsigned long syscall_work;",  # b86678cf0f1d (5.11)
            "state": states[kernel.state],
            "links": _LINKS_419 if kernel.links else _LINKS_418,
            "dump": core_state if kernel.folios else "",
            "shared": "struct pid *pids[4];" if kernel.links else "struct pid *leader_pid;",
        },
        _OWNER_418 if kernel.owner == "owner" else _OWNER_RHEL8 if rhel8 else _OWNER_53,
        _MAPLE_TREE if kernel.maple else "",
        _AUXV_RHEL8 % kernel.words if moved else "",
        _SPACE
        % {
            "area": _AREA_MAPLE if kernel.maple else _AREA_LIST,
            "area_flags": _FLAGS_OF_AREA_63 if kernel.maple else _FLAGS_OF_AREA,
            "areas": ("struct { atomic_t mm_count; };" if kernel.count_first else "")
            + (_MAPLE if kernel.maple else _LIST),
            "counts": _COUNTS_MAPLE if kernel.count_first else _COUNTS,
            "lock": _LOCK_RHEL8 if moved else f"struct rw_semaphore {kernel.lock};",
            "auxv": "rh_reserved_saved_auxv[46]" if moved else f"saved_auxv[{kernel.words}]",
            "context": kernel.context,
            "state": "" if kernel.folios else core_state,
            "tail": _TAIL_RHEL8 if moved else "",
        },
        flags,
        _PAGE,
        _FOLIO if kernel.folios else "",
        _FILES % {"pages": "radix_tree_root" if kernel.radix else "xarray", "file": kernel.file},
        numbers,
    )
    return replace(kernel, text="\n".join(parts))


_18 = _FLAGS_418 % ""
_20 = _FLAGS_420 % ""
_20_EXCLUSIVE = _FLAGS_420 % (_EXCLUSIVE % 17)
_ALMA = "mkuron/almalinux-kernel, "
_PATCHES = "its patches; DEVICE_PRIVATE and MEMORY_FAILURE among its options"

KERNELS = (
    _declared(
        Declared(
            "4.18", "4.18.20", "wenhuizhang/linux-4.18-i, 7f55851a9867 (4.18.0)", BY_NAME["4.19"], ids=(1, 2),
            links=False, radix=True, uptodate=3, swapcache=(9, 18), lock="mmap_sem", owner="owner", state="state",
            context=_CONTEXT_418, memory="ramfs_aops",
        ), _18, "", _TYPES_418,
    ),
    _declared(
        Declared(
            "4.19", "4.19.300", "0x88888888/linux-4.19-comments, bac950f29868 (4.19.0)", BY_NAME["4.19"], radix=True,
            uptodate=3, swapcache=(9, 18), lock="mmap_sem", owner="owner", state="state", context=_CONTEXT_418,
            memory="ramfs_aops",
        ), _18, "",
    ),
    _declared(
        Declared(
            "RHEL 8.3", "4.18.0-240.el8.x86_64", "bobolopolis/linux-el, 4.18.0-240.el8", BY_NAME["RHEL 8"],
            "DEVICE_PRIVATE and MEMORY_FAILURE among its options (8.6 has both)", ids=(1, 2), uptodate=3,
            swapcache=(9, 18), lock="mmap_sem", state="state", context=_CONTEXT_418, memory="ramfs_aops",
        ), _18, NOTIFY % "", _TYPES_RHEL8,
    ),
    _declared(
        Declared(
            "RHEL 8.10", "4.18.0-553.el8_10.x86_64", _ALMA + "4.18.0-553.el8_10", BY_NAME["RHEL 8"], words=48,
            ids=(1, 2), uptodate=3, swapcache=(9, 18), saved_auxv="mm_rh.saved_auxv", context=_CONTEXT_418,
            memory="ramfs_aops",
        ), _18, NOTIFY % "", _TYPES_RHEL8,
    ),
    _declared(
        Declared(
            "Ubuntu 5.4", "5.4.0-196-generic", "KINGFIOX/linux-5.4.286, 157e1f2b846f (5.4.286)", BY_NAME["5.10"],
            _PATCHES, lock="mmap_sem", state="state", context=_CONTEXT_418, memory="ramfs_aops",
        ), _20, NOTIFY % "",
    ),
    _declared(
        Declared(
            "Amazon 5.10", "5.10.230-223.885.amzn2.x86_64", "Debian's linux-source-5.10, 5.10.223-1", BY_NAME["5.10"],
            _PATCHES, state="state", context=_CONTEXT_418, memory="ramfs_aops",
        ), _20, NOTIFY % "",
    ),
    _declared(
        Declared(
            "SUSE 15 SP4", "5.14.21-150400.24.161-default", "lsk-legends/linux-5.14, 45477c32dd5d (5.14.0)",
            BY_NAME["5.14"], _PATCHES, words=48, context=_CONTEXT_511,
        ), _20, _EVENT_514,
    ),
    _declared(
        Declared(
            "Ubuntu 5.15", "5.15.0-130-generic", "sndrzt/linux-5.15, 75c6ad16ec64 (5.15.0)", BY_NAME["5.14"], _PATCHES,
            words=48, context=_CONTEXT_511,
        ), _20, _EVENT_514,
    ),
    _declared(
        Declared(
            "RHEL 9.2", "5.14.0-284.11.1.el9_2.x86_64", _ALMA + "5.14.0-284.11.1.el9_2", BY_NAME["RHEL 9.2"], words=48,
            folios=True, context=_CONTEXT_511,
        ), _20_EXCLUSIVE, _EVENT_514 + _MARKER,
    ),
    _declared(
        Declared(
            "RHEL 9.3", "5.14.0-362.8.1.el9_3.x86_64", _ALMA + "5.14.0-362.8.1.el9_3",
            BY_NAME["5.19 without PTE_MARKER"], words=48, folios=True, context=_CONTEXT_511,
        ), _20_EXCLUSIVE, _EVENT_514 + _MARKER,
    ),
    _declared(
        Declared(
            "RHEL 9.5", "5.14.0-503.11.1.el9_5.x86_64", _ALMA + "5.14.0-503.11.1.el9_5", BY_NAME["6.2"], words=48,
            folios=True, maple=True,
        ), _20_EXCLUSIVE, _EVENT_514 + _MARKER,
    ),
    _declared(
        Declared(
            "RHEL 9.6", "5.14.0-570.12.1.el9_6.x86_64", _ALMA + "5.14.0-570.12.1.el9_6", BY_NAME["6.12"], words=48,
            folios=True, maple=True, uptodate=3, swapcache=(12, 19),
        ), _FLAGS_68, _EVENT_514 + _MARKER + _POISON,
    ),
    _declared(
        Declared(
            "SUSE 15 SP6", "6.4.0-150600.23.42-default", "lewisevans2007/linux-6.4, 9862bdef2c0d (6.4.6)",
            BY_NAME["6.2"], _PATCHES, words=52, folios=True, maple=True, count_first=True,
        ), _20_EXCLUSIVE, _EVENT_514 + _MARKER,
    ),
    _declared(
        Declared(
            "Ubuntu 6.8", "6.8.0-51-generic", "sndrzt/linux-6.8, 68520c5dc9c4 (6.8.1)", BY_NAME["6.12"], _PATCHES,
            words=52, folios=True, maple=True, count_first=True, uptodate=3, swapcache=(12, 19),
        ), _FLAGS_68, _EVENT_514 + _MARKER + _POISON,
    ),
    _declared(
        Declared(
            "RHEL 10", "6.12.0-55.9.1.el10_0.x86_64", _ALMA + "6.12.0-55.9.1.el10_0", BY_NAME["6.12"], words=52,
            folios=True, maple=True, count_first=True, file=_FILE_612, uptodate=3, swapcache=(10, 17),
        ), _FLAGS_612, _EVENT_514 + _MARKER + _POISON,
    ),
)  # fmt: skip
