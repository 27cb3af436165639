/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process that has something of everything. It says `ready`, waits for a file `go` in its working directory, and then
 * judges, item by item, whether all is as it was: one line for each, `ok NAME` or `NOT NAME`. It may be killed and
 * restarted in between, and says the same. Exits with 42. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
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
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000L
static void fail(const char *what) { printf("FAILED %s: %s\n", what, strerror(errno)), exit(1); }
#define CHECK(x) ((x) ? (void)0 : fail(#x))
static void item(const char *name, int good) { printf("%s %s\n", good ? "ok" : "NOT", name), fflush(stdout); }

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER, robust;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static volatile int go, spins = 1, on_alternate, alarms, posix_fired, posix_value, usr2_value, usr1_masked;
static volatile double spun;
static char alternate[65536];
static int ends[2], event, epoll, suspended_saw, timer_pipe[2];
static long thread_tids[8], polled, slept_late, read_got;
static uint64_t epoll_data;
static __thread long own = 5;

static long now(int clock)
{
    struct timespec time;
    CHECK(clock_gettime(clock, &time) == 0);
    return time.tv_sec * SECOND + time.tv_nsec;
}

static void on_usr1(int number, siginfo_t *info, void *context)
{
    sigset_t blocked;
    char here;
    (void)number, (void)info, (void)context;
    on_alternate = &here >= alternate && &here < alternate + sizeof alternate;
    sigemptyset(&blocked);
    pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    usr1_masked = sigismember(&blocked, SIGUSR2) == 1;
}
static void on_usr2(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    usr2_value = info->si_code == SI_QUEUE ? info->si_value.sival_int : -1;
}
static void on_alarm(int number, siginfo_t *info, void *context) { (void)number, (void)info, (void)context, alarms++; }
static void on_posix(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    posix_value = info->si_code == SI_TIMER ? info->si_value.sival_int : -1;
    posix_fired++;
}
static void on_rt(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info, (void)context;
    suspended_saw++;
}

static void handle(int number, void (*handler)(int, siginfo_t *, void *), int flags, int masked)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO};
    if (masked)
        sigaddset(&action.sa_mask, masked);
    CHECK(sigaction(number, &action, NULL) == 0);
}

static void block(int how, int number)
{
    sigset_t set;
    sigemptyset(&set), sigaddset(&set, number);
    CHECK(pthread_sigmask(how, &set, NULL) == 0);
}

static void *in_futex(void *arg)
{
    thread_tids[0] = syscall(SYS_gettid), own = 6;
    prctl(PR_SET_NAME, "in futex");
    pthread_mutex_lock(&lock);
    while (!go)
        pthread_cond_wait(&wake, &lock);
    pthread_mutex_unlock(&lock);
    return own == 6 && syscall(SYS_gettid) == thread_tids[0] ? arg : NULL;
}
static void *in_read(void *arg)
{
    char byte = 0;
    thread_tids[1] = syscall(SYS_gettid);
    read_got = read(ends[0], &byte, 1);
    return byte == 'r' && syscall(SYS_gettid) == thread_tids[1] ? arg : NULL;
}
static void *in_epoll(void *arg)
{
    struct epoll_event got;
    uint64_t count;
    thread_tids[2] = syscall(SYS_gettid);
    while (epoll_wait(epoll, &got, 1, -1) != 1)
        CHECK(errno == EINTR);
    epoll_data = got.data.u64;
    CHECK(read(event, &count, 8) == 8);
    return count == 3 ? arg : NULL;
}
/* Ten deadlines, 50 ms apart, by a clock that only goes forward. */
static void *in_sleep(void *arg)
{
    long at = now(CLOCK_MONOTONIC), late = 0;
    while (!go) {
        at += SECOND / 20;
        struct timespec until = {at / SECOND, at % SECOND};
        CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == 0);
        if (now(CLOCK_MONOTONIC) - at > late)
            late = now(CLOCK_MONOTONIC) - at;
    }
    slept_late = late;
    return arg;
}
static void *in_suspend(void *arg)
{
    sigset_t before, other, after;
    block(SIG_BLOCK, SIGRTMIN + 1), block(SIG_BLOCK, SIGRTMAX);
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    sigfillset(&other), sigdelset(&other, SIGRTMIN + 1);
    while (!suspended_saw)
        sigsuspend(&other);
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    return memcmp(&before, &after, 8) == 0 ? arg : NULL;
}
static void *in_poll(void *arg)
{
    struct pollfd watched = {.fd = timer_pipe[0], .events = POLLIN};
    polled = poll(&watched, 1, -1);
    return watched.revents == POLLIN ? arg : NULL;
}
/* Floating point in registers, in user mode all the time: the sum is exact. */
static void *spinning(void *arg)
{
    double a = 1, b = 0, c = 3;
    while (spins) {
        for (int i = 0; i < 1000; i++)
            b += a * 0.5, a = c - a, c = a + a + 1 - c + c;
        a = 1, c = 3;
        spun = b;
    }
    return isfinite(b) && b != 0 ? arg : NULL;
}

static long deep(int n)
{
    volatile char room[4096];
    memset((void *)room, n & 0xff, sizeof room);
    return n ? deep(n - 1) + room[7] : room[9];
}

int main(void)
{
    pthread_t threads[7];
    void *(*const works[])(void *) = {in_futex, in_read, in_epoll, in_sleep, in_suspend, in_poll, spinning};
    const char *names[] = {"thread in futex", "thread in read", "thread in epoll_wait", "thread in clock_nanosleep",
                           "thread in sigsuspend", "thread in poll", "thread in user mode"};
    struct sigaction action;
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    char text[64], *heap, cwd[4096];
    long pid = getpid();

    /* memory */
    heap = malloc(300000), strcpy(heap + 200000, "heap");
    char *map = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(map + 500000, "anonymous"), CHECK(mprotect(map, 1 << 20, PROT_READ) == 0);
    char *none = mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *shared = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    strcpy(shared + 5000, "shared");
    int memfd = memfd_create("object", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(ftruncate(memfd, 12288) == 0 && pwrite(memfd, "memfd", 6, 9000) == 6);
    CHECK(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    char *object = mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    char *again = mmap(NULL, 4096, PROT_READ, MAP_SHARED, memfd, 8192);
    CHECK(object != MAP_FAILED && again != MAP_FAILED && shared != MAP_FAILED && none != MAP_FAILED);

    /* descriptors */
    int file = open("file", O_RDWR | O_CREAT, 0644), other, append, null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    CHECK(write(file, "0123456789", 10) == 10 && lseek(file, 3, SEEK_SET) == 3);
    other = dup(file), append = open("append", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    CHECK(write(append, "one\n", 4) == 4);
    int directory = open(".", O_RDONLY | O_DIRECTORY), high = dup2(file, 900);
    CHECK(high == 900 && directory >= 0);
    CHECK(pipe2(ends, O_CLOEXEC) == 0 && pipe(timer_pipe) == 0);
    int full[2];
    CHECK(pipe2(full, O_NONBLOCK) == 0 && fcntl(full[1], F_SETPIPE_SZ, 16384) == 16384);
    char *filled = malloc(16384);
    memset(filled, 'u', 16384), CHECK(write(full[1], filled, 5000) == 5000);
    event = eventfd(0, EFD_CLOEXEC);
    int semaphore = eventfd(7, EFD_SEMAPHORE | EFD_NONBLOCK), clock = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    CHECK(timerfd_settime(clock, 0, &(struct itimerspec){{0, SECOND / 10}, {0, SECOND / 10}}, NULL) == 0);
    sigset_t set;
    sigemptyset(&set), sigaddset(&set, SIGRTMIN + 5);
    int signals = signalfd(-1, &set, SFD_NONBLOCK);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    int moved = dup(event);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, moved,
                    &(struct epoll_event){EPOLLIN, {.u64 = 0xfedcba9876543210}}) == 0);
    CHECK(dup2(null, moved) == moved); /* its number is another file's now */

    /* signals and timers */
    CHECK(sigaltstack(&stack, NULL) == 0);
    handle(SIGUSR1, on_usr1, SA_ONSTACK, SIGUSR2), handle(SIGUSR2, on_usr2, 0, 0);
    handle(SIGALRM, on_alarm, SA_RESTART, 0);
    handle(SIGRTMIN + 2, on_posix, SA_RESTART, 0);
    handle(SIGRTMIN + 1, on_rt, 0, 0);
    CHECK(signal(SIGHUP, SIG_IGN) != SIG_ERR);
    block(SIG_BLOCK, SIGUSR2), block(SIG_BLOCK, SIGRTMIN + 5), block(SIG_BLOCK, SIGRTMIN + 7);
    CHECK(sigqueue(getpid(), SIGUSR2, (union sigval){.sival_int = 77}) == 0);
    CHECK(pthread_sigqueue(pthread_self(), SIGRTMIN + 7, (union sigval){.sival_int = 78}) == 0);
    CHECK(sigqueue(getpid(), SIGRTMIN + 5, (union sigval){.sival_int = 79}) == 0);
    timer_t gone, timer;
    struct sigevent how = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 2, .sigev_value.sival_int = 5};
    CHECK(timer_create(CLOCK_MONOTONIC, &how, &gone) == 0 && timer_create(CLOCK_MONOTONIC, &how, &timer) == 0);
    CHECK(timer_delete(gone) == 0);
    CHECK(timer_settime(timer, 0, &(struct itimerspec){{0, SECOND / 20}, {0, SECOND / 20}}, NULL) == 0);
    CHECK(setitimer(ITIMER_REAL, &(struct itimerval){{0, 50000}, {0, 50000}}, NULL) == 0);

    /* the rest */
    struct rlimit limit = {950, 1000};
    CHECK(mkdir("inside", 0755) == 0 && chdir("inside") == 0 && setrlimit(RLIMIT_NOFILE, &limit) == 0);
    umask(027), CHECK(setpriority(PRIO_PROCESS, 0, 5) == 0), prctl(PR_SET_NAME, "the first");
    prctl(PR_SET_PDEATHSIG, SIGURG), prctl(PR_SET_CHILD_SUBREAPER, 1), prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes), pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust, &attributes), pthread_mutex_lock(&robust);
    /* SIGALRM and the timer's signal are for this thread: those of the others block them. */
    block(SIG_BLOCK, SIGALRM), block(SIG_BLOCK, SIGRTMIN + 2), block(SIG_BLOCK, SIGUSR1);
    for (int i = 0; i < 7; i++)
        CHECK(pthread_create(&threads[i], NULL, works[i], &own) == 0);
    block(SIG_UNBLOCK, SIGALRM), block(SIG_UNBLOCK, SIGRTMIN + 2), block(SIG_UNBLOCK, SIGUSR1);
    long started = now(CLOCK_MONOTONIC), last = started;
    printf("ready\n"), fflush(stdout);

    while (access("../go", F_OK) != 0) {
        struct timespec pause = {0, SECOND / 200};
        nanosleep(&pause, NULL);
        CHECK(now(CLOCK_MONOTONIC) >= last);
        if (now(CLOCK_MONOTONIC) - last > 20 * SECOND)
            item("the clock does not jump", 0);
        last = now(CLOCK_MONOTONIC);
    }

    alarms = posix_fired = 0;
    item("pid", getpid() == pid && syscall(SYS_getpid) == pid && syscall(SYS_gettid) == pid);
    item("heap", strcmp(heap + 200000, "heap") == 0);
    item("anonymous memory", strcmp(map + 500000, "anonymous") == 0);
    item("brk", sbrk(0) == (void *)syscall(SYS_brk, 0) && malloc(200000) != NULL && sbrk(40960) != (void *)-1);
    strcpy(object + 100, "through");
    CHECK(pread(memfd, text, 8, 100) == 8);
    item("memfd", strcmp(text, "through") == 0 && strcmp(again + 9000 - 8192, "memfd") == 0);
    item("seals", fcntl(memfd, F_GET_SEALS) == F_SEAL_SHRINK && ftruncate(memfd, 4096) == -1);
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        strcpy(shared + 100, strcmp(shared + 5000, "shared") ? "no" : "child"), _exit(3);
    CHECK(waitpid(child, &status, 0) == child);
    item("shared memory", WEXITSTATUS(status) == 3 && strcmp(shared + 100, "child") == 0);
    item("PROT_NONE", syscall(SYS_write, null, none, 1) == 1 && write(ends[1], none, 1) == -1 && errno == EFAULT);
    item("stack", deep(1000) != 1);
    item("own thread's memory", own == 5);

    CHECK(read(other, text, 2) == 2);
    item("offsets", text[0] == '3' && lseek(file, 0, SEEK_CUR) == 5 && lseek(high, 0, SEEK_CUR) == 5);
    CHECK(write(append, "two\n", 4) == 4);
    struct stat found;
    item("O_APPEND", stat("../append", &found) == 0 && found.st_size == 8);
    item("FD_CLOEXEC", fcntl(append, F_GETFD) == FD_CLOEXEC && fcntl(file, F_GETFD) == 0 &&
                           fcntl(memfd, F_GETFD) == FD_CLOEXEC && fcntl(null, F_GETFD) == FD_CLOEXEC);
    item("directory", fstatat(directory, "file", &found, 0) == 0 && found.st_size == 10);
    CHECK(write(null, "x", 1) == 1);
    char *read_back = malloc(16384);
    item("unread bytes", read(full[0], read_back, 16384) == 5000 && memcmp(read_back, filled, 5000) == 0 &&
                             read(full[0], read_back, 1) == -1 && errno == EAGAIN &&
                             fcntl(full[1], F_GETPIPE_SZ) == 16384);
    uint64_t count;
    item("eventfd", read(semaphore, &count, 8) == 8 && count == 1);
    item("timerfd", read(clock, &count, 8) == 8 && count >= 1);
    struct signalfd_siginfo taken;
    item("signalfd", read(signals, &taken, sizeof taken) == sizeof taken && taken.ssi_int == 79 &&
                         (long)taken.ssi_pid == pid);

    raise(SIGUSR1);
    item("alternate stack", on_alternate), item("sa_mask", usr1_masked);
    block(SIG_UNBLOCK, SIGUSR2);
    item("pending signal", usr2_value == 77);
    siginfo_t info;
    sigemptyset(&set), sigaddset(&set, SIGRTMIN + 7);
    item("signal of a thread", sigtimedwait(&set, &info, &(struct timespec){0, 0}) == SIGRTMIN + 7 &&
                                   info.si_value.sival_int == 78);
    CHECK(sigaction(SIGHUP, NULL, &action) == 0);
    item("ignored signal", action.sa_handler == SIG_IGN && kill(getpid(), SIGHUP) == 0);
    for (int i = 0; i < 400 && (alarms < 2 || posix_fired < 2); i++)
        nanosleep(&(struct timespec){0, SECOND / 100}, NULL);
    item("interval timer", alarms >= 2), item("POSIX timer", posix_fired >= 2 && posix_value == 5);
    item("timer id", timer_delete(timer) == 0);

    item("working directory", getcwd(cwd, sizeof cwd) != NULL && strcmp(strrchr(cwd, '/'), "/inside") == 0);
    item("umask", umask(0) == 027);
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    item("limits", limit.rlim_cur == 950 && limit.rlim_max == 1000);
    item("nice", getpriority(PRIO_PROCESS, 0) == 5);
    prctl(PR_GET_NAME, text);
    item("name", strcmp(text, "the first") == 0);
    snprintf(cwd, sizeof cwd, "/proc/self/task/%ld/comm", thread_tids[0]);
    FILE *comm = fopen(cwd, "r");
    item("name of a thread", comm && fgets(text, sizeof text, comm) && strcmp(text, "in futex\n") == 0);
    int death = 0, reaps = 0;
    prctl(PR_GET_PDEATHSIG, &death), prctl(PR_GET_CHILD_SUBREAPER, &reaps);
    item("flags", death == SIGURG && reaps == 1 && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    unsigned char random[8] = {0};
    struct timeval today;
    struct timespec fine;
    item("vdso", getrandom(random, 8, 0) == 8 && time(NULL) > 1000000000 && sched_getcpu() >= 0 &&
                     labs(now(CLOCK_REALTIME) / SECOND - time(NULL)) <= 1 && gettimeofday(&today, NULL) == 0 &&
                     labs(today.tv_sec - time(NULL)) <= 1 && clock_getres(CLOCK_MONOTONIC, &fine) == 0 &&
                     fine.tv_nsec > 0);

    go = 1, spins = 0;
    pthread_mutex_lock(&lock), pthread_cond_broadcast(&wake), pthread_mutex_unlock(&lock);
    CHECK(write(ends[1], "r", 1) == 1 && write(timer_pipe[1], "p", 1) == 1);
    count = 3, CHECK(write(event, &count, 8) == 8);
    CHECK(pthread_kill(threads[4], SIGRTMIN + 1) == 0);
    for (int i = 0; i < 7; i++) {
        void *result = NULL;
        CHECK(pthread_join(threads[i], &result) == 0);
        item(names[i], result == &own);
    }
    item("epoll data", epoll_data == 0xfedcba9876543210);
    item("deadlines", slept_late < 15 * SECOND);
    CHECK(pthread_mutex_unlock(&robust) == 0);
    item("new thread", pthread_create(&threads[0], NULL, in_futex, &own) == 0 && pthread_join(threads[0], NULL) == 0);
    return 42;
}
