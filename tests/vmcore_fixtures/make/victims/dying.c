/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processes on their way out, each with the signal that it dies of. NAME FILTER HOW.
 *
 * Those whose core is being written stay so: the program that core_pattern names reads nothing of it until the guest
 * has been dumped. A child brings the others where they stay: stopped, or frozen, with a signal pending.
 */
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <stddef.h>

#include "victim.h"

#define UNMAPPED 0xdead0UL
#ifndef SYS_SECCOMP
#define SYS_SECCOMP 1
#endif
#define VALUE 0x12345678
#define FREEZER "/freezer/dying/"

static const char *how;
static volatile pid_t other;
static volatile int begin;
static sigjmp_buf back;
static char *page;

static int is(const char *name) { return strcmp(how, name) == 0; }

static void touch(unsigned long address) { *(volatile char *)address = 1; }

/* A mapping of a file that ends before it. */
static char *beyond_the_end(void)
{
    int fd = memfd_create("empty", 0);
    check(fd >= 0, "memfd_create");
    char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    check(p != MAP_FAILED, "mmap");
    return p;
}

/* getppid() kills the process. */
static void forbid(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "PR_SET_NO_NEW_PRIVS");
    check(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0, "seccomp");
}

static void queue(pid_t pid, int number)
{
    union sigval value = {.sival_int = VALUE};
    check(sigqueue(pid, number, value) == 0, "sigqueue");
}

/* What the process dies of; does not return. */
static void die(void)
{
    if (is("maperr") || is("thread") || is("again"))
        touch(UNMAPPED);
    if (is("accerr") || is("bus"))
        touch((unsigned long)page);
    if (is("fpe")) {
        volatile int one = 1, zero = 0;
        one = one / zero;
    }
    if (is("abort"))
        syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGABRT);
    if (is("queue"))
        queue(getpid(), SIGXCPU);
    if (is("sys"))
        syscall(SYS_getppid);
    block_for_ever();
}

static void handler(int number)
{
    (void)number;
    siglongjmp(back, 1);
}

/* A fault that it survives, before the one that it dies of. */
static void fault_before(void)
{
    struct sigaction action = {.sa_handler = handler}, old;
    check(sigaction(SIGSEGV, &action, &old) == 0, "sigaction");
    if (sigsetjmp(back, 1) == 0)
        touch(0x1000);
    check(sigaction(SIGSEGV, &old, NULL) == 0, "sigaction");
}

static void *thread_main(void *arg)
{
    (void)arg;
    other = (pid_t)syscall(SYS_gettid);
    while (!begin)
        usleep(1000);
    if (is("thread"))
        die();
    block_for_ever();
    return NULL;
}

static char state_of(pid_t pid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY);
    check(fd >= 0, path);
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    text[size > 0 ? size : 0] = 0;
    char *end = strrchr(text, ')');
    return end ? end[2] : 0;
}

static void wait_for_state(pid_t pid, const char *states)
{
    while (!strchr(states, state_of(pid)))
        usleep(10000);
}

/* The child: brings its parent into its last state, and then says that it is ready. */
static void bring(pid_t parent, pid_t thread)
{
    if (is("frozen")) {
        char text[32];
        snprintf(text, sizeof text, "%d", parent);
        put_file(FREEZER "cgroup.procs", text);
        put_file(FREEZER "freezer.state", "FROZEN");
        for (text[0] = 0; strncmp(text, "FROZEN", 6) != 0; usleep(10000)) {
            int fd = open(FREEZER "freezer.state", O_RDONLY);
            check(fd >= 0 && read(fd, text, sizeof text) > 0, FREEZER);
            close(fd);
        }
        check(kill(parent, SIGKILL) == 0, "kill");
    } else {
        wait_for_state(parent, "T");
        if (is("pending-xcpu"))
            check(kill(parent, SIGXCPU) == 0, "kill");
        if (is("pending-queue"))
            queue(parent, SIGRTMIN + 3);
        if (is("pending-thread"))
            check(syscall(SYS_tgkill, parent, thread, SIGBUS) == 0, "tgkill");
        if (is("pending-none"))
            for (int number = SIGHUP; number <= SIGRTMIN; number++)
                if (number == SIGHUP || number == SIGINT || number == SIGTERM || number == SIGURG || number == SIGCHLD)
                    check(kill(parent, number) == 0, "kill");
    }
    ready();
    _exit(0);
}

static void survive(int number) { (void)number; }

int main(int argc, char **argv)
{
    pthread_t thread;
    int number = 0, code = 0;
    unsigned long address = 0;

    check(argc == 4, "arguments");
    how = argv[3];
    if (is("frozen") && access(FREEZER "freezer.state", W_OK) != 0) {
        fprintf(stderr, "no freezer\n");
        return 96;
    }
    set_filter(argv[2]);
    /* Before there is another thread, which would take it. Of SIGURG and SIGCHLD nobody dies. */
    if (is("pending-none")) {
        sigset_t held;
        signal(SIGHUP, survive);
        signal(SIGINT, SIG_IGN);
        sigemptyset(&held);
        sigaddset(&held, SIGTERM);
        sigprocmask(SIG_BLOCK, &held, NULL);
    }
    check(pthread_create(&thread, NULL, thread_main, NULL) == 0, "pthread_create");
    while (!other)
        usleep(1000);
    if (is("accerr"))
        page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (is("bus"))
        page = beyond_the_end();
    if (is("maperr") || is("thread") || is("again"))
        number = SIGSEGV, code = SEGV_MAPERR, address = UNMAPPED;
    if (is("accerr"))
        number = SIGSEGV, code = SEGV_ACCERR, address = (unsigned long)page;
    if (is("bus"))
        number = SIGBUS, code = BUS_ADRERR, address = (unsigned long)page;
    if (is("fpe"))
        number = SIGFPE, code = FPE_INTDIV;
    if (is("abort"))
        number = SIGABRT, code = SI_TKILL;
    if (is("queue"))
        number = SIGXCPU, code = SI_QUEUE;
    if (is("sys"))
        number = SIGSYS, code = SYS_SECCOMP;
    if (is("frozen"))
        number = SIGKILL;
    if (is("pending-xcpu"))
        number = SIGXCPU;
    if (is("pending-queue"))
        number = SIGRTMIN + 3, code = SI_QUEUE;
    if (is("pending-thread"))
        number = SIGBUS, code = SI_TKILL;
    if (is("again"))
        fault_before();
    if (is("sys"))
        forbid();

    int stays = strncmp(how, "pending", 7) == 0 || is("frozen");
    pid_t pid = getpid(), hit = is("thread") ? other : pid, child = 0;

    json_open(argv[1]);
    json_field("pid", "%d", pid);
    json_field("tids", "[%d, %d]", pid, other);
    json_field("signal", "%d", number);
    json_field("code", "%d", code);
    json_field("address", "%lu", address);
    json_field("hit", "%d", is("pending-thread") ? other : hit);
    json_field("stage", "\"%s\"", is("frozen") ? "exiting" : stays ? "pending" : "dumping-core");
    if (stays) {
        child = fork();
        check(child >= 0, "fork");
        if (child == 0) {
            usleep(100000); /* the parent's JSON comes first */
            bring(pid, other);
        }
        json_field("sender", "%d", child);
    } else {
        json_field("sender", "%d", pid);
    }
    json_close();
    if (!stays)
        ready();
    begin = 1;
    if (is("thread"))
        block_for_ever();
    if (stays && !is("frozen"))
        kill(pid, SIGSTOP);
    die();
}
