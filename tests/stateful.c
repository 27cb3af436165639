/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process with all kinds of state, which writes what it has into a book, as JSON: BOOK. It then waits for a line on
 * its standard input, looks whether all is as before, and exits with 0. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct action { /* as the kernel has it */
    uint64_t handler, flags, restorer, mask;
};

static FILE *book;
static const char *separator = "{";
static pthread_barrier_t barrier;
static char stacks[2][16384], unread[5000];
static const char hello[] = "hello\0 \xff pipe";

static void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}
#define CHECK(x) ((x) ? (void)0 : fail(#x))

static void key(const char *name) { fprintf(book, "%s\n\"%s\": ", separator, name), separator = ","; }
static void number(const char *name, long long value) { key(name), fprintf(book, "%lld", value); }
static void handler(int signal, siginfo_t *info, void *context) { (void)signal, (void)info, (void)context; }

static void act(int signal, int flags, int with)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = flags};
    sigemptyset(&action.sa_mask);
    if (with)
        sigaddset(&action.sa_mask, with);
    CHECK(sigaction(signal, &action, NULL) == 0);
}

static void block(int signal)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
}

static timer_t timer(int clock, int notify, int signal, uintptr_t value, int flags, long seconds, long interval)
{
    struct sigevent event = {.sigev_notify = notify, .sigev_signo = signal, .sigev_value.sival_ptr = (void *)value};
    struct itimerspec time = {{interval, interval ? 5 : 0}, {seconds, seconds ? 7 : 0}}; /* 0: not set */
    timer_t id;
    event._sigev_un._tid = (int)syscall(SYS_gettid);
    CHECK(syscall(SYS_timer_create, clock, &event, &id) == 0);
    if (flags & TIMER_ABSTIME) {
        struct timespec now;
        CHECK(clock_gettime(clock, &now) == 0);
        time.it_value.tv_sec += now.tv_sec;
    }
    CHECK(syscall(SYS_timer_settime, (int)(intptr_t)id & 0x7fffffff, flags, &time, NULL) == 0);
    return id;
}

static void write_thread(void)
{
    stack_t stack;
    void *head;
    size_t length;
    int *address = NULL, death = 0;
    cpu_set_t cpus;
    struct sched_param param;

    CHECK(sigaltstack(NULL, &stack) == 0);
    CHECK(syscall(SYS_get_robust_list, 0, &head, &length) == 0);
    prctl(PR_GET_TID_ADDRESS, &address);
    CHECK(prctl(PR_GET_PDEATHSIG, &death) == 0);
    CHECK(sched_getaffinity(0, sizeof cpus, &cpus) == 0);
    CHECK(sched_getparam(0, &param) == 0);
    fprintf(book, "{\"tid\": %ld, \"stack\": [%lu, %lu, %d], \"robust_list\": %lu, \"clear_child_tid\": %lu,\n",
            syscall(SYS_gettid), (unsigned long)stack.ss_sp, stack.ss_size, stack.ss_flags, (unsigned long)head,
            (unsigned long)address);
    fprintf(book, " \"pdeath_signal\": %d, \"nice\": %d, \"affinity\": %lu, \"policy\": %d, \"priority\": %d,\n", death,
            getpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid)), *(unsigned long *)&cpus, sched_getscheduler(0),
            param.sched_priority);
    fprintf(book, " \"securebits\": %d, \"no_new_privs\": %d, \"seccomp\": %d, \"personality\": %d,\n",
            prctl(PR_GET_SECUREBITS), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), prctl(PR_GET_SECCOMP),
            personality(0xffffffff));
    fprintf(book, " \"rseq\": %lu}", (unsigned long)__builtin_thread_pointer() + (unsigned long)__rseq_offset);
}

static void *second(void *unused)
{
    (void)unused;
    stack_t stack = {.ss_sp = stacks[1], .ss_size = sizeof stacks[1], .ss_flags = 0};
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(0, &cpus);
    CHECK(sigaltstack(&stack, NULL) == 0);
    CHECK(sched_setaffinity(0, sizeof cpus, &cpus) == 0);
    CHECK(setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 7) == 0);
    block(SIGRTMIN + 4);
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    pthread_barrier_wait(&barrier); /* main sends it signals now */
    pthread_barrier_wait(&barrier);
    fprintf(book, ",\n");
    write_thread();
    pthread_barrier_wait(&barrier);
    while (pause() == -1)
        continue;
    return NULL;
}

static void write_actions(void)
{
    key("actions");
    for (int signal = 1; signal <= 64; signal++) {
        struct action action;
        CHECK(syscall(SYS_rt_sigaction, signal, NULL, &action, 8) == 0);
        fprintf(book, "%s[%lu, %lu, %lu, %lu]", signal == 1 ? "[" : ", ", action.handler, action.flags, action.restorer,
                action.mask);
    }
    fprintf(book, "]");
}

static void write_limits(void)
{
    key("limits");
    for (int which = 0; which < 16; which++) {
        struct rlimit limit;
        CHECK(getrlimit(which, &limit) == 0);
        fprintf(book, "%s[%ld, %ld]", which ? ", " : "[", (long)limit.rlim_cur, (long)limit.rlim_max);
    }
    fprintf(book, "]");
}

static int ends[2], event, semaphore, waiting, expired, watching, seals;

int main(int argc, char **argv)
{
    pthread_t thread;
    char line[8];
    CHECK(argc == 2);
    book = fopen(argv[1], "we");
    CHECK(book != NULL);
    number("pid", getpid());

    act(SIGUSR1, SA_SIGINFO | SA_ONSTACK | SA_RESTART, SIGUSR2);
    act(SIGINT, SA_RESETHAND | SA_NODEFER, 0);
    act(SIGRTMIN + 5, SA_NOCLDSTOP, SIGRTMIN + 6);
    signal(SIGHUP, SIG_IGN);
    stack_t stack = {.ss_sp = stacks[0], .ss_size = 8192, .ss_flags = 0};
    CHECK(sigaltstack(&stack, NULL) == 0);

    block(SIGRTMIN + 2), block(SIGUSR2), block(SIGRTMIN + 4);
    pthread_barrier_init(&barrier, NULL, 2);
    CHECK(pthread_create(&thread, NULL, second, NULL) == 0);
    pthread_barrier_wait(&barrier);
    for (int i = 1; i <= 3; i++)
        CHECK(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 1000 + i}) == 0);
    CHECK(kill(getpid(), SIGUSR2) == 0);
    for (int i = 1; i <= 2; i++)
        CHECK(pthread_sigqueue(thread, SIGRTMIN + 4, (union sigval){.sival_ptr = (void *)(0xabcd0000UL + i)}) == 0);
    number("uid", getuid());

    struct itimerval real = {{7, 500000}, {1000, 0}}, virtual = {{0, 0}, {500, 0}}, prof = {{3, 0}, {600, 0}};
    CHECK(setitimer(ITIMER_REAL, &real, NULL) == 0 && setitimer(ITIMER_VIRTUAL, &virtual, NULL) == 0);
    CHECK(setitimer(ITIMER_PROF, &prof, NULL) == 0);

    timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 0x1111, 0, 2000, 11);
    timer_t gone = timer(CLOCK_REALTIME, SIGEV_SIGNAL, SIGUSR1, 0, 0, 1, 0);
    timer(CLOCK_REALTIME, SIGEV_NONE, 0, 0x2222, TIMER_ABSTIME, 3000, 0);
    timer(CLOCK_BOOTTIME, SIGEV_THREAD_ID, SIGRTMIN + 4, 0xffffffffffffff33, TIMER_ABSTIME, 4000, 0);
    timer(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGUSR1, 0x4444, 0, 5000, 2);
    timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 0x5555, 0, 0, 0);
    CHECK(syscall(SYS_timer_delete, (int)(intptr_t)gone & 0x7fffffff) == 0);

    umask(027);
    struct rlimit files = {777, 1000};
    CHECK(setrlimit(RLIMIT_NOFILE, &files) == 0);
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0 && prctl(PR_SET_PDEATHSIG, SIGTERM) == 0);
    CHECK(prctl(PR_SET_KEEPCAPS, 1) == 0);
    CHECK(mkdir("dir \\ \xff\n", 0700) == 0 || errno == EEXIST);
    CHECK(chdir("dir \\ \xff\n") == 0);
    FILE *adjust = fopen("/proc/self/oom_score_adj", "w");
    CHECK(adjust != NULL && fprintf(adjust, "200") > 0 && fclose(adjust) == 0);

    struct itimerspec soon = {{0, 0}, {0, 1}}, late = {{3, 0}, {2000, 0}};
    sigset_t set;
    sigemptyset(&set), sigaddset(&set, SIGCHLD), sigaddset(&set, SIGRTMIN + 9);
    CHECK((event = eventfd(5, EFD_CLOEXEC)) >= 0 && (semaphore = eventfd(0, EFD_SEMAPHORE)) >= 0);
    CHECK(write(event, &(uint64_t){0xfffffffffffffff0}, 8) == 8);
    CHECK((waiting = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)) >= 0 && timerfd_settime(waiting, 0, &late, NULL) == 0);
    CHECK((expired = timerfd_create(CLOCK_REALTIME, 0)) >= 0 && timerfd_settime(expired, 0, &soon, NULL) == 0);
    CHECK(poll(&(struct pollfd){expired, POLLIN, 0}, 1, -1) == 1);
    number("signalfd", signalfd(-1, &set, 0));
    CHECK(pipe2(ends, O_NONBLOCK) == 0 && write(ends[1], hello, sizeof hello) == sizeof hello);
    CHECK(fcntl(ends[1], F_SETPIPE_SZ, 16384) == 16384);
    memset(unread, 'u', sizeof unread);
    CHECK(write(ends[1], unread, sizeof unread) == sizeof unread);
    CHECK(mkfifo("fifo", 0600) == 0 || errno == EEXIST);
    int fifo = open("fifo", O_RDWR);
    CHECK(fifo >= 0 && write(fifo, "fifo", 4) == 4);
    number("fifo", fifo);
    int closed = dup(event), other = dup(semaphore);
    CHECK((watching = epoll_create1(0)) >= 0);
    CHECK(epoll_ctl(watching, EPOLL_CTL_ADD, event, &(struct epoll_event){EPOLLOUT, {.u64 = 0xfedcba9876543210}}) == 0);
    CHECK(epoll_ctl(watching, EPOLL_CTL_ADD, ends[0], &(struct epoll_event){EPOLLIN | EPOLLET, {.fd = 77}}) == 0);
    CHECK(epoll_ctl(watching, EPOLL_CTL_ADD, other, &(struct epoll_event){EPOLLIN, {.u32 = 1}}) == 0);
    CHECK(epoll_ctl(watching, EPOLL_CTL_ADD, closed, &(struct epoll_event){EPOLLIN, {.u32 = 2}}) == 0);
    close(closed);
    CHECK(dup2(ends[0], closed) == closed); /* another file has the number now; the item is still about the eventfd */
    number("reused", closed), number("dup_of_semaphore", other);
    CHECK((seals = memfd_create("sealed \\ \xfe", MFD_ALLOW_SEALING | MFD_CLOEXEC)) >= 0 && ftruncate(seals, 65536) == 0);
    CHECK(fcntl(seals, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
    int file = open("/etc/passwd", O_RDONLY), again = open("/etc/passwd", O_RDONLY | O_CLOEXEC), copy = dup(file);
    CHECK(file >= 0 && again >= 0 && copy >= 0 && lseek(copy, 17, SEEK_SET) == 17);
    number("file", file), number("again", again), number("copy", copy);
    number("event", event), number("semaphore", semaphore), number("waiting", waiting), number("expired", expired);
    number("read_end", ends[0]), number("write_end", ends[1]), number("epoll", watching), number("memfd", seals);

    void *one = mmap(NULL, 65536, PROT_READ, MAP_SHARED, seals, 0), *two = mmap(NULL, 4096, PROT_READ, MAP_SHARED, seals, 0);
    void *anonymous = mmap(NULL, 8192, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(one != MAP_FAILED && two != MAP_FAILED && anonymous != MAP_FAILED);
    key("shared");
    fprintf(book, "[%lu, %lu, %lu]", (unsigned long)one, (unsigned long)two, (unsigned long)anonymous);

    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    number("time", now.tv_sec * 1000000000LL + now.tv_nsec);
    number("dumpable", prctl(PR_GET_DUMPABLE));
    number("brk", (long long)sbrk(0));
    number("tid", syscall(SYS_gettid));
    write_actions();
    write_limits();
    key("threads");
    fprintf(book, "[");
    write_thread();
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier); /* the other has written of itself */
    fprintf(book, "]}\n");
    CHECK(fclose(book) == 0);
    puts("ready");
    fflush(stdout);

    CHECK(read(0, line, sizeof line) >= 0);
    char found[sizeof hello + sizeof unread + 1];
    uint64_t count;
    sigset_t waits;
    CHECK(read(ends[0], found, sizeof found) == sizeof hello + sizeof unread);
    CHECK(memcmp(found, hello, sizeof hello) == 0 && memcmp(found + sizeof hello, unread, sizeof unread) == 0);
    CHECK(read(fifo, found, sizeof found) == 4);
    CHECK(read(event, &count, 8) == 8 && count == 0xfffffffffffffff5);
    CHECK(read(expired, &count, 8) == 8 && count == 1);
    CHECK(lseek(file, 0, SEEK_CUR) == 17);
    CHECK(fcntl(seals, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_GROW));
    CHECK(sigpending(&waits) == 0 && sigismember(&waits, SIGUSR2) && sigismember(&waits, SIGRTMIN + 2));
    CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
    return 0;
}
