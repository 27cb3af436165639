# SPDX-License-Identifier: LGPL-2.1-or-later
"""What kgcore needs of a kernel to say what a process has of it: signals, timers, limits, what is in descriptors."""

from kgcore.sources.vmcore.kernel.layouts.base import EVERYWHERE, Row, Use, Way, members, symbols, types

__all__ = ("ROWS",)

_TASK, _SIGNAL = "struct task_struct", "struct signal_struct"
_KEEPER = (
    *members("struct timekeeper", "tkr_mono tkr_raw offs_real offs_boot"),
    *members("struct tk_read_base", "clock shift xtime_nsec base"),
)
_TIMER = members("struct k_itimer", "list it_id it_clock it_sigev_notify it_interval it_pid it sigq")

ROWS = (
    Row(
        "what a process does at a signal",
        Use.STATE,
        (
            Way(
                EVERYWHERE,
                (
                    *members(_TASK, "sighand"),
                    *members("struct sighand_struct", "action"),
                    *members("struct sigaction", "sa_handler sa_flags sa_restorer sa_mask"),
                ),
            ),
        ),
        "the state has no signal actions",
    ),
    Row(
        "alternate stacks and scheduling",
        Use.STATE,
        (
            Way(
                "5.3 (3bd3706251ee)", members(_TASK, "cpus_mask sas_ss_sp sas_ss_size sas_ss_flags policy rt_priority")
            ),
            Way(EVERYWHERE, members(_TASK, "cpus_allowed sas_ss_sp sas_ss_size sas_ss_flags policy rt_priority")),
        ),
        "the state has no alternate stacks, policies and CPUs",
    ),
    Row(
        "what a thread told the kernel",
        Use.STATE,
        (Way(EVERYWHERE, members(_TASK, "clear_child_tid pdeath_signal personality atomic_flags cred comm")),),
        "the state has no addresses to be cleared, personalities and the like",
        also=(
            *members(_TASK, "seccomp"),
            *types("struct seccomp"),
            *members("struct seccomp", "mode"),
            *members("struct cred", "securebits"),
        ),
    ),
    Row(
        "lists of robust futexes",
        Use.STATE,
        (
            Way(
                "7.2 (c1ffc9c6e4f8)",
                (*members(_TASK, "futex"), *members("struct futex_sched_data", "robust_list")),
            ),
            Way(EVERYWHERE, members(_TASK, "robust_list")),
        ),
        "the state has no lists of robust futexes",
        also=(*members(_TASK, "compat_robust_list"), *members("struct futex_sched_data", "compat_robust_list")),
    ),
    Row(
        "areas of restartable sequences",
        Use.STATE,
        (
            Way(
                "6.19 (faba9d250eae)",
                (*members(_TASK, "rseq"), *members("struct rseq_data", "usrptr len sig")),
            ),
            Way("6.3 (ee3e3ac05c26)", members(_TASK, "rseq rseq_len rseq_sig")),
            Way(EVERYWHERE, members(_TASK, "rseq rseq_sig")),
        ),
        "the state has no restartable sequences",
    ),
    Row(
        "the clocks at the time of the crash",
        Use.STATE,
        (
            Way(
                "6.17 (22c62b9a84b8)",
                (*symbols("timekeeper_data"), *members("struct tk_data", "timekeeper"), *_KEEPER),
            ),
            Way(
                "6.13 (10f7c178a9da)",
                (*symbols("tk_core"), *members("struct tk_data", "timekeeper"), *_KEEPER),
            ),
            Way(
                EVERYWHERE,
                (*symbols("tk_core"), *types("seqcount_raw_spinlock_t"), *_KEEPER),
                how="the timekeeper stands behind its sequence counter",
            ),
        ),
        "what was left of timers is not known",
        also=(
            *types("struct timekeeper", "struct tk_data"),
            *members(_TASK, "nsproxy"),
            *members("struct nsproxy", "time_ns"),
            *members("struct time_namespace", "offsets"),
            *members("struct timens_offsets", "monotonic boottime"),
            *members("struct timespec64", "tv_sec tv_nsec"),
        ),
    ),
    Row(
        "which signals a thread blocks, also behind sigsuspend()",
        Use.STATE,
        (Way(EVERYWHERE, members(_TASK, "blocked saved_sigmask restore_sigmask")),),
        "the state has no signal masks",
    ),
    Row(
        "whether a timer runs, and until when",
        Use.STATE,
        (
            Way(
                "7.1 (22f011be7aaa)",
                (
                    *members("struct hrtimer", "node base is_queued"),
                    *members("struct timerqueue_linked_node", "expires"),
                    *members("struct hrtimer_clock_base", "offset"),
                ),
            ),
            Way(
                EVERYWHERE,
                (
                    *members("struct hrtimer", "node base state"),
                    *members("struct timerqueue_node", "expires"),
                    *members("struct hrtimer_clock_base", "offset"),
                ),
            ),
        ),
        "what was left of timers is not known",
        also=(
            *types("struct hrtimer", "struct hrtimer_clock_base", "struct alarm"),
            *members("struct alarm", "node state"),
            *members("struct timerqueue_node", "expires"),
        ),
    ),
    Row(
        "timers of setitimer()",
        Use.STATE,
        (
            Way(
                EVERYWHERE,
                (
                    *members(_SIGNAL, "real_timer it_real_incr it sum_sched_runtime"),
                    *members("struct cpu_itimer", "expires incr"),
                    *members(_TASK, "se"),
                    *members("struct sched_entity", "sum_exec_runtime"),
                ),
            ),
        ),
        "the state has no interval timers",
    ),
    Row(
        "timers of timer_create()",
        Use.STATE,
        (
            Way(
                "6.12 (52dea0a15cc8)",
                (*members(_SIGNAL, "posix_timers"), *_TIMER, *members("struct hlist_node", "next")),
                how="from 6.13 (6017a158beb1) on the signal is a part of the timer",
            ),
            Way(EVERYWHERE, (*members(_SIGNAL, "posix_timers"), *_TIMER)),
        ),
        "the state has no POSIX timers",
        also=(
            *types("struct k_itimer", "struct cpu_timer"),
            *members("struct cpu_timer", "node head pid"),
        ),
    ),
    Row(
        "directories, limits and flags of a process",
        Use.STATE,
        (
            Way(
                EVERYWHERE,
                (
                    *members("struct fs_struct", "pwd umask"),
                    *members(_SIGNAL, "rlim oom_score_adj is_child_subreaper"),
                ),
            ),
        ),
        "the state has no directories, limits and the like",
        also=types("struct fs_struct"),
    ),
    Row(
        "whether a process may be dumped",
        Use.STATE,
        (
            Way(
                "7.2 (6b1c66c9cca9)",
                (*members(_TASK, "exec_state"), *members("struct task_exec_state", "dumpable")),
            ),
            Way(EVERYWHERE, how="two bits of the flags of its memory"),
        ),
        "the state does not say it",
        also=types("struct task_exec_state"),
    ),
    Row(
        "the device of a shared mapping",
        Use.STATE,
        (Way(EVERYWHERE, members("struct super_block", "s_dev")),),
        "the state does not say which shared mappings are one object",
    ),
    Row(
        "what is in eventfds, timerfds, signalfds and epoll sets",
        Use.STATE,
        (
            Way(
                EVERYWHERE,
                (
                    *members("struct eventfd_ctx", "count flags"),
                    *members("struct timerfd_ctx", "t tintv ticks clockid settime_flags"),
                    *members("struct signalfd_ctx", "sigmask"),
                    *members("struct eventpoll", "rbr"),
                    *members("struct epitem", "rbn ffd event"),
                ),
            ),
        ),
        "the state does not say what is in them",
        also=(
            *types("struct eventfd_ctx", "struct timerfd_ctx", "struct signalfd_ctx", "struct eventpoll"),
            *types("struct epitem"),
            *members("struct rb_root_cached", "rb_root"),
            *members("struct rb_root", "rb_node"),
            *members("struct rb_node", "rb_left rb_right"),
            *members("struct epoll_key", "file fd"),
            *members("struct epoll_filefd", "file fd"),
            *members("struct epoll_event", "events data"),
        ),
    ),
    Row(
        "what is in pipes",
        Use.STATE,
        (
            Way(
                "5.5 (8cefc107ca54)",
                (
                    *members("struct pipe_inode_info", "head tail max_usage ring_size bufs"),
                    *members("struct pipe_buffer", "page offset len"),
                ),
            ),
        ),
        "the state does not have what was not read yet",
        also=types("struct pipe_inode_info", "struct pipe_buffer"),
    ),
    Row(
        "seals of memfds",
        Use.STATE,
        (Way(EVERYWHERE, members("struct shmem_inode_info", "seals vfs_inode")),),
        "the state has no seals",
        also=(
            *types("struct shmem_inode_info", "struct hugetlbfs_inode_info"),
            *members("struct hugetlbfs_inode_info", "seals vfs_inode"),
        ),
    ),
)
