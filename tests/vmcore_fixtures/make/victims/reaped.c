/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processes whose memory the kernel took while a thread of theirs waited for a frozen file system, which no signal ends:
 * "reaped" by the OOM reaper, "released" by process_mrelease(). And "protected", which has huge pages without any
 * access. NAME FILTER, or "thaw". */
#include <linux/fs.h>
#include <pthread.h>
#include <sys/ioctl.h>

#include "victim.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#define SYS_process_mrelease_ 448
#define DISK "/disk"

static const uint64_t seed = 0x7265617065640000UL;

static void one(const char *name, const char *kind, void *at, uint64_t length, uint64_t number, uint64_t from, uint64_t size)
{
    json_item();
    fprintf(json_out,
            "{\"name\": \"%s\", \"kind\": \"%s\", \"addr\": %lu, \"length\": %lu, \"seed\": %lu, \"ranges\": [[%lu, %lu]]}",
            name, kind, (uint64_t)at, length, seed + number, from, size);
}

static char *map(uint64_t length, int flags, int fd)
{
    char *at = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, fd, 0);
    check(at != MAP_FAILED, "mmap");
    return at;
}

/* Aligned to a huge page, if there are any. */
static char *huge(uint64_t number)
{
    char *at = map(6 * MB, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    char *start = (char *)(((uint64_t)at + 2 * MB - 1) & ~(2 * MB - 1));
    munmap(at, (size_t)(start - at));
    munmap(start + 4 * MB, (size_t)(at + 6 * MB - (start + 4 * MB)));
    madvise(start, 4 * MB, MADV_HUGEPAGE);
    fill(start, seed + number, 0, 4 * MB);
    return start;
}

static void *other_thread(void *arg)
{
    (void)arg;
    block_for_ever();
    return NULL;
}

/* A victim. It waits at the frozen file system as soon as it may. */
static void victim(const char *name, const char *filter, int go)
{
    char path[64], byte;
    pthread_t thread;

    set_filter(filter);
    snprintf(path, sizeof path, DISK "/files/%s", name);
    int stuck = open(path, O_CREAT | O_RDWR | O_TRUNC, 0644);
    check(stuck >= 0, path);
    snprintf(path, sizeof path, "/tmp/%s", name);
    int file = open(path, O_CREAT | O_RDWR | O_TRUNC, 0644);
    check(file >= 0, path);
    char *text = map(16 * PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    fill(text, seed + 9, 0, 16 * PAGE);
    check(write(file, text, 16 * PAGE) == 16 * PAGE, path);

    json_open(name);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    json_list("mappings");
    char *full = map(64 * PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    fill(full, seed + 1, 0, 64 * PAGE);
    one("full", "anon-private", full, 64 * PAGE, 1, 0, 64 * PAGE);
    char *part = map(256 * PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    fill(part, seed + 2, 100 * PAGE, 20 * PAGE);
    one("part", "anon-private", part, 256 * PAGE, 2, 100 * PAGE, 20 * PAGE);
    one("huge", "anon-private", huge(3), 4 * MB, 3, 0, 4 * MB);
    char *shared = map(32 * PAGE, MAP_SHARED | MAP_ANONYMOUS, -1);
    fill(shared, seed + 4, 0, 32 * PAGE);
    one("shared", "anon-shared", shared, 32 * PAGE, 4, 0, 32 * PAGE);
    char *written = map(16 * PAGE, MAP_PRIVATE, file); /* pages 4 to 7 are its own, the others the file's */
    fill(written, seed + 5, 4 * PAGE, 4 * PAGE);
    one("written", "file-private-written", written, 16 * PAGE, 5, 4 * PAGE, 4 * PAGE);
    char *clean = map(16 * PAGE, MAP_PRIVATE, file);
    check(*(volatile uint64_t *)clean == pattern(seed + 9, 0), "read");
    one("clean", "file-private-clean", clean, 16 * PAGE, 9, 0, 16 * PAGE);
    json_list_end();
    json_close();

    check(pthread_create(&thread, NULL, other_thread, NULL) == 0, "pthread_create");
    if (!strcmp(name, "reaped"))
        put_file("/proc/self/oom_score_adj", "1000");
    check(read(go, &byte, 1) == 1, "read from the pipe");
    check(write(stuck, text, PAGE) == PAGE, "write to the frozen file system");
    _exit(0);
}

static void protected(const char *filter)
{
    set_filter(filter);
    char *at = huge(3);
    check(mprotect(at, 4 * MB, PROT_NONE) == 0, "mprotect");
    json_open("protected");
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    json_list("mappings");
    one("protected", "anon-private", at, 4 * MB, 3, 0, 4 * MB);
    json_list_end();
    json_close();
    ready();
    block_for_ever();
}

static int frozen(int request)
{
    int fd = open(DISK, O_RDONLY | O_DIRECTORY);
    check(fd >= 0, DISK);
    int result = ioctl(fd, request, 0);
    check(result == 0, "ioctl(FIFREEZE)");
    return close(fd);
}

/* A number behind a word of a file of /proc/PID; -1: not there. */
static long number_in(pid_t pid, const char *file, const char *word)
{
    char path[64], line[256];
    long found = -1;
    snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
    FILE *in = fopen(path, "r");
    if (!in)
        return -1;
    while (found < 0 && fgets(line, sizeof line, in))
        if (!strncmp(line, word, strlen(word)))
            found = strtol(line + strlen(word), NULL, 10);
    fclose(in);
    return found;
}

static void wait_until(pid_t pid, const char *file, const char *word, long wanted, const char *what)
{
    for (int i = 0; i < 600; i++) {
        if (number_in(pid, file, word) == wanted)
            return;
        usleep(100000);
    }
    check(0, what);
}

static int in_state_d(pid_t pid)
{
    char path[64], text[256] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY);
    check(fd >= 0 && read(fd, text, sizeof text - 1) > 0, path);
    close(fd);
    char *end = strrchr(text, ')');
    return end && end[2] == 'D';
}

int main(int argc, char **argv)
{
    static const char *names[] = {"reaped", "released"};
    pid_t pids[2];
    int go[2];

    if (argc == 2 && !strcmp(argv[1], "thaw"))
        return frozen(FITHAW);
    check(argc == 3, "arguments");
    if (fork() == 0)
        protected(argv[2]);
    check(pipe(go) == 0, "pipe");
    int released = syscall(SYS_process_mrelease_, -1, 0) != -1 || errno != ENOSYS;
    for (int i = 0; i < 1 + released; i++) {
        pids[i] = fork();
        if (pids[i] == 0)
            victim(names[i], argv[2], go[0]);
        wait_until(pids[i], "status", "Threads:", 2, "the victim's second thread");
    }
    usleep(300000);
    frozen(FIFREEZE);
    check(write(go[1], "gg", 2) == 2, "write to the pipe");
    for (int i = 0; i < 1 + released; i++)
        for (int tries = 0; !in_state_d(pids[i]); tries++) {
            check(tries < 600, "the victim waits for the disk");
            usleep(100000);
        }
    if (released) {
        int pidfd = (int)syscall(SYS_pidfd_open, pids[1], 0);
        check(pidfd >= 0, "pidfd_open");
        check(kill(pids[1], SIGKILL) == 0, "kill");
        wait_until(pids[1], "status", "Threads:", 1, "the end of its other thread");
        check(syscall(SYS_process_mrelease_, pidfd, 0) == 0, "process_mrelease");
        wait_until(pids[1], "smaps_rollup", "Anonymous:", 0, "its release");
        ready_as("released");
    }
    put_file("/proc/sysrq-trigger", "f");
    wait_until(pids[0], "status", "Threads:", 1, "the end of its other thread");
    wait_until(pids[0], "smaps_rollup", "Anonymous:", 0, "its reaping");
    ready_as("reaped");
    return 0;
}
