/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Threads blocked in different system calls, each with registers, TLS, signals and scheduling of its own. NAME FILTER. */
#include <asm/prctl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/io.h>
#include <time.h>

#include "blockregs.h"

enum { FUTEX, READ, NANOSLEEP, POLL, SIGSUSPEND, GSBASE, IOPERM, ROLES };
static const char *const roles[ROLES] = {"futex", "read", "clock_nanosleep", "poll", "sigsuspend", "gsbase", "ioperm"};
#define GS_BASE 0x00001234567000UL

static __thread uint64_t tls_value = 0x7150000000000000UL;
static pthread_barrier_t barrier;
static struct thread {
    struct block block;
    pid_t tid;
    uint64_t tls_addr, tls_value, blocked, pending, gs_base, fs_base;
    int nice;
} threads[ROLES];
static uint32_t futex_word = 77;
static struct timespec long_sleep = {1000000, 5};
static struct pollfd polled[2];
static uint64_t suspend_mask = 0x5800; /* SIGPIPE, SIGTERM; and SIGUSR2, which is pending */
static char read_buffer[64];
static int pipe_fds[2];

static void choose_call(struct thread *t, int role)
{
    struct block *b = &t->block;
    block_fill(b, 0x40 + (unsigned)role);
    b->rdi = 0xdd00000000000001UL, b->rsi = 0xdd00000000000002UL, b->rdx = 0xdd00000000000003UL;
    b->r10 = 0xdd00000000000004UL, b->r8 = 0xdd00000000000005UL, b->r9 = 0xdd00000000000006UL;
    switch (role) {
    case READ:
        b->nr = SYS_read, b->rdi = (uint64_t)pipe_fds[0], b->rsi = (uint64_t)read_buffer, b->rdx = sizeof read_buffer;
        break;
    case NANOSLEEP:
        b->nr = SYS_clock_nanosleep, b->rdi = CLOCK_MONOTONIC, b->rsi = 0, b->rdx = (uint64_t)&long_sleep, b->r10 = 0;
        break;
    case POLL:
        polled[0].fd = polled[1].fd = pipe_fds[0];
        polled[0].events = polled[1].events = POLLIN;
        b->nr = SYS_poll, b->rdi = (uint64_t)polled, b->rsi = 2, b->rdx = (uint64_t)-1;
        break;
    case SIGSUSPEND:
        b->nr = SYS_rt_sigsuspend, b->rdi = (uint64_t)&suspend_mask, b->rsi = 8;
        break;
    default:
        b->nr = SYS_futex, b->rdi = (uint64_t)&futex_word, b->rsi = 128, b->rdx = futex_word, b->r10 = 0;
    }
}

static void *thread_main(void *arg)
{
    int role = (int)(intptr_t)arg;
    struct thread *t = &threads[role];
    char comm[16];

    t->tid = (pid_t)syscall(SYS_gettid);
    tls_value += (uint64_t)role + 1;
    t->tls_addr = (uint64_t)&tls_value;
    t->tls_value = tls_value;
    snprintf(comm, sizeof comm, "t-%.11s", roles[role]);
    if (role != FUTEX)
        prctl(PR_SET_NAME, comm);
    t->nice = role - 3;
    check(setpriority(PRIO_PROCESS, (id_t)t->tid, t->nice) == 0, "setpriority");
    if (role == READ || role == POLL) {
        /* Pending to this thread only, and blocked. */
        int sig = role == READ ? SIGUSR1 : SIGRTMIN + 3;
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, sig);
        pthread_sigmask(SIG_BLOCK, &set, NULL);
        syscall(SYS_tgkill, getpid(), t->tid, sig);
        t->pending = 1UL << (sig - 1);
    }
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &t->blocked, 8);
    if (role == SIGSUSPEND)
        t->blocked = suspend_mask;
    if (role == GSBASE)
        check(syscall(SYS_arch_prctl, ARCH_SET_GS, GS_BASE) == 0, "ARCH_SET_GS");
    if (role == IOPERM)
        check(ioperm(0x80, 1, 1) == 0, "ioperm");
    syscall(SYS_arch_prctl, ARCH_GET_FS, &t->fs_base);
    syscall(SYS_arch_prctl, ARCH_GET_GS, &t->gs_base);
    choose_call(t, role);
    pthread_barrier_wait(&barrier);
    if (role == FUTEX) {
        json_list("threads");
        for (int i = 0; i < ROLES; i++) {
            t = &threads[i];
            json_item();
            fprintf(json_out, "{\"tid\": %d, \"role\": \"%s\", \"nice\": %d, \"ioperm\": %s, ", t->tid, roles[i], t->nice,
                    i == IOPERM ? "true" : "false");
            fprintf(json_out, "\"fs_base\": %lu, \"gs_base\": %lu, ", t->fs_base, t->gs_base);
            fprintf(json_out, "\"sigblocked\": %lu, \"sigpending\": %lu, ", t->blocked, t->pending);
            fprintf(json_out, "\"tls\": {\"addr\": %lu, \"value\": %lu}, \"rsp_at\": %lu,\n   ", t->tls_addr, t->tls_value,
                    (uint64_t)&t->block.rsp);
            json_regs(&t->block, 0, 0);
            fputc('}', json_out);
        }
        json_list_end();
        json_list("tids");
        for (int i = 0; i < ROLES; i++) {
            json_item();
            fprintf(json_out, "%d", threads[i].tid);
        }
        json_list_end();
        json_close();
        ready();
        t = &threads[FUTEX];
    }
    block_now(&t->block);
}

int main(int argc, char **argv)
{
    sigset_t set;

    check(argc == 3, "arguments");
    set_filter(argv[2]);
    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_text("filter", argv[2]);
    check(pipe(pipe_fds) == 0, "pipe");
    /* Blocked by all and sent to the process: pending to the process. */
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGWINCH);
    sigprocmask(SIG_BLOCK, &set, NULL);
    kill(getpid(), SIGUSR2);
    json_field("shared_pending", "%lu", 1UL << (SIGUSR2 - 1));
    pthread_barrier_init(&barrier, NULL, ROLES);
    for (int role = 1; role < ROLES; role++) {
        pthread_t thread;
        check(pthread_create(&thread, NULL, thread_main, (void *)(intptr_t)role) == 0, "pthread_create");
    }
    thread_main((void *)FUTEX);
}
