/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The leader has exited (a zombie in its thread group), two threads live on. NAME FILTER. */
#include <pthread.h>

#include "regs.h"

static struct block blocks[2];
static pid_t tids[2];
static pthread_barrier_t barrier;

static void *thread_main(void *arg)
{
    int i = (int)(intptr_t)arg;
    block_futex(&blocks[i], 0x28 + (unsigned)i);
    tids[i] = (pid_t)syscall(SYS_gettid);
    pthread_barrier_wait(&barrier);
    block_now(&blocks[i]);
}

int main(int argc, char **argv)
{
    check(argc == 3, "arguments");
    set_filter(argv[2]);
    pthread_barrier_init(&barrier, NULL, 3);
    for (long i = 0; i < 2; i++) {
        pthread_t thread;
        check(pthread_create(&thread, NULL, thread_main, (void *)i) == 0, "pthread_create");
    }
    pthread_barrier_wait(&barrier);
    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d, %d]", tids[0], tids[1]);
    json_field("exited", "[%d]", getpid());
    json_list("threads");
    json_thread(tids[0], "futex", &blocks[0]);
    json_thread(tids[1], "futex", &blocks[1]);
    json_list_end();
    json_close();
    ready();
    syscall(SYS_exit, 0);
}
