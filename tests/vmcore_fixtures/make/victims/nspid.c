/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process in a pid and a user namespace of its own (uid 0 inside is 1000 outside), with two threads. NAME FILTER.
 * It is pid 2 inside: pid 1 there would ignore SIGABRT.
 */
#include <pthread.h>

#include "regs.h"

static struct block blocks[2];
static volatile pid_t other_outer, other_inner;

/* /proc was mounted outside, so it tells the outer ids. */
static pid_t outer_id(int thread)
{
    char link[64];
    ssize_t n = readlink("/proc/thread-self", link, sizeof link - 1);
    check(n > 0, "thread-self");
    link[n] = 0;
    char *slash = strchr(link, '/');
    return atoi(thread ? strrchr(link, '/') + 1 : (*slash = 0, link));
}

static void *thread_main(void *arg)
{
    (void)arg;
    block_futex(&blocks[1], 0x59);
    other_inner = (pid_t)syscall(SYS_gettid);
    other_outer = outer_id(1);
    block_now(&blocks[1]);
}

static void victim(const char *name)
{
    pthread_t thread;

    check(setgid(0) == 0 && setuid(0) == 0, "ids inside");
    prctl(PR_SET_DUMPABLE, 1);
    check(pthread_create(&thread, NULL, thread_main, NULL) == 0, "pthread_create");
    while (!other_outer)
        usleep(1000);
    block_futex(&blocks[0], 0x58);
    json_open(name);
    json_field("pid", "%d", outer_id(0));
    json_field("tids", "[%d, %d]", outer_id(0), other_outer);
    json_field("ns_pid", "%d", getpid());
    json_field("ns_tids", "[%d, %d]", getpid(), other_inner);
    json_field("ns_ids", "{\"ppid\": %d, \"pgrp\": %d, \"sid\": %d, \"uid\": %d, \"gid\": %d}", getppid(), getpgrp(), getsid(0),
               getuid(), getgid());
    json_field("ids", "{\"uid\": 1000, \"gid\": 1000}");
    json_list("threads");
    json_thread(outer_id(0), "futex", &blocks[0]);
    json_thread(other_outer, "futex", &blocks[1]);
    json_list_end();
    json_close();
    ready();
    block_now(&blocks[0]);
}

int main(int argc, char **argv)
{
    int up[2], down[2];
    char path[64], c = 0;

    check(argc == 3 && pipe(up) == 0 && pipe(down) == 0, "arguments, pipes");
    set_filter(argv[2]);
    pid_t child = fork();
    if (!child) {
        check(unshare(CLONE_NEWUSER | CLONE_NEWPID) == 0, "unshare");
        check(write(up[1], &c, 1) == 1 && read(down[0], &c, 1) == 1, "pipe");
        if (!fork()) { /* pid 1 inside */
            if (!fork()) {
                setsid();
                victim(argv[1]);
            }
            block_for_ever();
        }
        block_for_ever();
    }
    check(read(up[0], &c, 1) == 1, "pipe");
    snprintf(path, sizeof path, "/proc/%d/uid_map", child);
    put_file(path, "0 1000 1");
    snprintf(path, sizeof path, "/proc/%d/gid_map", child);
    put_file(path, "0 1000 1");
    check(write(down[1], &c, 1) == 1, "pipe");
    block_for_ever();
}
