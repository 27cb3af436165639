/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process of three threads, one of which crashes the machine when /tmp/go appears. NAME FILTER.
 * The crashing thread is pinned to CPU 0 and current there at the crash, in write() with known registers.
 */
#include <pthread.h>

#include "blockregs.h"

enum { LEADER, CRASH, OTHER, COUNT };
static struct block blocks[COUNT];
static pid_t tids[COUNT];
static pthread_barrier_t barrier;
static const char trigger[] = "c";

static void *thread_main(void *arg)
{
    int i = (int)(intptr_t)arg;
    struct block *b = &blocks[i];

    tids[i] = (pid_t)syscall(SYS_gettid);
    block_futex(b, 0x68 + (unsigned)i);
    if (i == CRASH) {
        int fd = open("/proc/sysrq-trigger", O_WRONLY);
        check(fd >= 0, "sysrq-trigger");
        b->nr = SYS_write, b->rdi = (uint64_t)fd, b->rsi = (uint64_t)trigger, b->rdx = 1;
    }
    pthread_barrier_wait(&barrier);
    while (i == CRASH && access("/tmp/go", F_OK) != 0)
        usleep(100000);
    block_now(b);
}

int main(int argc, char **argv)
{
    static const char *const roles[COUNT] = {"futex", "crash", "futex"};

    check(argc == 3, "arguments");
    set_filter(argv[2]);
    pthread_barrier_init(&barrier, NULL, COUNT);
    tids[LEADER] = getpid();
    block_futex(&blocks[LEADER], 0x68);
    for (long i = 1; i < COUNT; i++) {
        pthread_t thread;
        pthread_attr_t attr;
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        CPU_SET(0, &cpus);
        pthread_attr_init(&attr);
        pthread_attr_setaffinity_np(&attr, sizeof cpus, &cpus);
        check(pthread_create(&thread, &attr, thread_main, (void *)i) == 0, "pthread_create");
    }
    pthread_barrier_wait(&barrier);
    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d, %d, %d]", tids[0], tids[1], tids[2]);
    json_list("threads");
    for (int i = 0; i < COUNT; i++)
        json_thread(tids[i], roles[i], &blocks[i]);
    json_list_end();
    json_close();
    ready();
    block_now(&blocks[LEADER]);
}
