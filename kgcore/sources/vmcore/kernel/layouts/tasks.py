# SPDX-License-Identifier: LGPL-2.1-or-later
"""What kgcore needs of a kernel's tasks: processes, threads, ids, times, signals."""

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

_TASK, _SIGNAL, _MM = "struct task_struct", "struct signal_struct", "struct mm_struct"

ROWS = (
    Row(
        "the list of processes",
        Use.PROCESSES,
        (
            Way(
                EVERYWHERE,
                (
                    *symbols("init_task"),
                    *members(_TASK, "tasks comm flags group_leader mm pid real_parent signal tgid"),
                    *members("struct list_head", "next prev"),
                ),
            ),
        ),
        "no process is found",
        needed=True,
        also=types(_TASK, "struct list_head"),
    ),
    Row(
        "the threads of a process",
        Use.PROCESSES,
        (
            Way(
                "3.14 (0c740d0afc3b)",
                (*members(_SIGNAL, "thread_head"), *members(_TASK, "thread_node")),
            ),
        ),
        "no threads are found, and so no cores are written",
        needed=True,
        also=types(_SIGNAL),
    ),
    Row(
        "the table of ids",
        Use.PROCESSES,
        (
            Way(
                "4.20 (f8d5d0cc145c)",
                (
                    *symbols("init_pid_ns"),
                    *members("struct pid_namespace", "idr"),
                    *members("struct idr", "idr_rt idr_base idr_rt.xa_head"),
                    *members("struct xarray", "xa_head"),
                    *members("struct xa_node", "shift offset parent slots marks"),
                ),
            ),
            Way(
                "4.15 (95846ecf9dac)",
                (
                    *symbols("init_pid_ns"),
                    *members("struct pid_namespace", "idr"),
                    *members("struct idr", "idr_rt idr_base idr_rt.rnode"),
                    *members("struct radix_tree_root", "rnode"),
                    *members("struct radix_tree_node", "shift offset parent slots tags"),
                ),
            ),
        ),
        "a process is not found by its PID",
        needed=True,
        also=(*types("struct pid_namespace", "struct xa_node"), *members("struct idr", "idr_rt")),
    ),
    Row(
        "ids, in each pid namespace",
        Use.PROCESSES,
        (
            Way(
                "4.19 (2c4704756cab)",
                (
                    *members(_TASK, "thread_pid"),
                    *members(_SIGNAL, "pids"),
                    *members("struct pid", "level numbers tasks"),
                    *members("struct upid", "nr ns"),
                    *members("struct pid_namespace", "level"),
                ),
            ),
            Way(
                EVERYWHERE,
                (
                    *members(_TASK, "pids"),
                    *members("struct pid_link", "pid"),
                    *members("struct pid", "level numbers tasks"),
                    *members("struct upid", "nr ns"),
                    *members("struct pid_namespace", "level"),
                ),
            ),
        ),
        "cores and ps have no ids of processes, groups and sessions",
        needed=True,
        also=(
            *types("struct pid", "struct upid", "struct pid_namespace"),
            *constants("PIDTYPE_PGID PIDTYPE_SID"),
            *members(_TASK, "pid_links"),
            *members("struct hlist_head", "first"),
        ),
    ),
    Row(
        "the state of a thread",
        Use.CORES,
        (Way("5.14 (2f064a59a11f)", members(_TASK, "__state")), Way(EVERYWHERE, members(_TASK, "state"))),
        "no core is written",
        needed=True,
        also=members(_TASK, "exit_state static_prio"),
    ),
    Row(
        "whether the kernel writes threads of other processes into a core",
        Use.CORES,
        (
            Way("5.16 (0258b5fd7c71)", members(_SIGNAL, "core_state"), how="it does not"),
            Way(EVERYWHERE, members(_MM, "core_state"), how="it does, if they share the memory"),
        ),
        "",
        value="dumps_sharers",
    ),
    Row(
        "CPU times of threads",
        Use.CORES,
        (Way(EVERYWHERE, (*members(_TASK, "utime stime"), *members(_SIGNAL, "utime stime cutime cstime"))),),
        "cores have no CPU times",
    ),
    Row(
        "users and groups",
        Use.CORES,
        (
            Way(
                EVERYWHERE,
                (
                    *members(_TASK, "real_cred"),
                    *members("struct cred", "uid gid user_ns"),
                    *members("kuid_t", "val"),
                    *members("kgid_t", "val"),
                    *members("struct user_namespace", "uid_map gid_map"),
                    *members("struct uid_gid_map", "nr_extents extent forward"),
                    *members("struct uid_gid_extent", "first lower_first count"),
                ),
            ),
        ),
        "cores and ps have no user and group ids",
        also=(*types("struct cred"), *symbols("overflowuid")),
    ),
    Row(
        "signals that are pending or blocked",
        Use.CORES,
        (
            Way(
                EVERYWHERE,
                (
                    *members(_TASK, "blocked pending"),
                    *members("struct sigpending", "signal list"),
                    *members("sigset_t", "sig"),
                ),
            ),
        ),
        "no core is written",
        needed=True,
    ),
    Row(
        "the signal that a process was dying of",
        Use.CORES,
        (
            Way(
                EVERYWHERE,
                (
                    *members(_TASK, "ptrace sighand stack"),
                    *members(_SIGNAL, "flags group_exit_code shared_pending"),
                    *members("struct sighand_struct", "action"),
                    *members("struct k_sigaction", "sa"),
                    *members("struct sigaction", "sa_handler"),
                ),
            ),
        ),
        "cores and ps do not say which signal ended a process",
        also=types("struct sighand_struct", "struct k_sigaction"),
    ),
    Row(
        "a process in execve(), whose other threads are killed",
        Use.CORES,
        (
            Way("5.17 (60700e38fb68)", members(_SIGNAL, "group_exec_task")),
            Way(EVERYWHERE, members(_SIGNAL, "group_exit_task")),
        ),
        "a process in execve() seems to be dying",
    ),
    Row(
        "the siginfo of a core that was being written",
        Use.CORES,
        (
            Way(
                EVERYWHERE,
                (
                    *members("struct core_state", "dumper"),
                    *members("struct core_thread", "task"),
                    *members("struct coredump_params", "siginfo mm_flags"),
                ),
            ),
        ),
        "the core of a process that was dumping core has no siginfo",
        also=(
            *types("struct core_state", "struct coredump_params", "struct kernel_siginfo", "struct sigqueue"),
            *members("struct sigqueue", "info"),
        ),
    ),
    Row(
        "control groups",
        Use.PROCESSES,
        (
            Way(
                "6.15 (633488947ef6)",
                (
                    *members(_TASK, "cgroups"),
                    *members("struct css_set", "dfl_cgrp cgrp_links"),
                    *members("struct cgrp_cset_link", "cgrp cgrp_link"),
                    *members("struct cgroup", "kn"),
                    *members("struct kernfs_node", "name __parent"),
                ),
            ),
            Way(
                EVERYWHERE,
                (
                    *members(_TASK, "cgroups"),
                    *members("struct css_set", "dfl_cgrp cgrp_links"),
                    *members("struct cgrp_cset_link", "cgrp cgrp_link"),
                    *members("struct cgroup", "kn"),
                    *members("struct kernfs_node", "name parent"),
                ),
            ),
        ),
        "ps does not show control groups",
        also=types("struct css_set", "struct cgrp_cset_link", "struct cgroup", "struct kernfs_node"),
    ),
    Row(
        "how much memory a process uses",
        Use.PROCESSES,
        (
            Way(
                "6.2 (f1a7941243c1)",
                (*members(_MM, "rss_stat total_vm"), *members("struct percpu_counter", "count")),
                lacks=members("struct mm_rss_stat", "count"),
            ),
            Way(EVERYWHERE, (*members(_MM, "rss_stat total_vm"), *members("struct mm_rss_stat", "count"))),
        ),
        "ps does not show the memory of processes",
        also=(
            *constants("MM_FILEPAGES MM_ANONPAGES MM_SWAPENTS MM_SHMEMPAGES"),
            *members("struct percpu_counter", "counters"),
            *members(_TASK, "rss_stat"),
            *members("struct task_rss_stat", "count"),
            *members(_MM, "hugetlb_usage"),
        ),
    ),
    Row(
        "how many threads a process has",
        Use.PROCESSES,
        (Way(EVERYWHERE, members(_SIGNAL, "nr_threads")),),
        "ps shows one thread for each process",
    ),
)
