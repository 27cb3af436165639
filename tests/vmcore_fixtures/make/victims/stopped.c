/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process stopped by SIGSTOP: its leader on the way back from kill(), its other thread in a futex. NAME FILTER. */
#include <pthread.h>

#include "regs.h"

static struct block blocks[2];
static volatile pid_t other;

static void *thread_main(void *arg)
{
    (void)arg;
    block_futex(&blocks[1], 0x21);
    other = (pid_t)syscall(SYS_gettid);
    block_now(&blocks[1]);
}

int main(int argc, char **argv)
{
    pthread_t thread;

    check(argc == 3, "arguments");
    set_filter(argv[2]);
    check(pthread_create(&thread, NULL, thread_main, NULL) == 0, "pthread_create");
    while (!other)
        usleep(1000);
    usleep(50000); /* let it reach its futex before the stop */
    block_arguments(&blocks[0], 0x20);
    blocks[0].nr = SYS_kill, blocks[0].FIRST_ARGUMENT = (unsigned)getpid(), blocks[0].SECOND_ARGUMENT = SIGSTOP;
    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d, %d]", getpid(), other);
    json_list("threads");
    json_thread(getpid(), "stopped-in-kill", &blocks[0]);
    json_thread(other, "stopped-in-futex", &blocks[1]);
    json_list_end();
    json_close();
    ready();
    block_now(&blocks[0]);
}
