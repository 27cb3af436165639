/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Very many threads, each blocked with registers of its own (rbx and r12 tell which). NAME FILTER COUNT. */
#include <pthread.h>

#include "blockregs.h"

#define MOST 4000
static struct block blocks[MOST];
static pid_t tids[MOST];
static pthread_barrier_t barrier;

static void *thread_main(void *arg)
{
    int i = (int)(intptr_t)arg;
    tids[i] = (pid_t)syscall(SYS_gettid);
    block_futex(&blocks[i], (unsigned)i & 0xff);
    blocks[i].rbx = (uint64_t)i;
    blocks[i].r12 = splitmix64((uint64_t)i);
    pthread_barrier_wait(&barrier);
    if (i)
        block_now(&blocks[i]);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_attr_t attr;

    check(argc == 4, "arguments");
    int count = atoi(argv[3]);
    check(count <= MOST, "count");
    set_filter(argv[2]);
    pthread_barrier_init(&barrier, NULL, (unsigned)count);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 32768);
    for (long i = 1; i < count; i++) {
        pthread_t thread;
        check(pthread_create(&thread, &attr, thread_main, (void *)i) == 0, "pthread_create");
    }
    thread_main(NULL);
    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_text("registers", "thread i of tids: rbx = i, r12 = splitmix64(i)");
    json_list("tids");
    for (int i = 0; i < count; i++) {
        json_item();
        fprintf(json_out, "%d", tids[i]);
    }
    json_list_end();
    json_field("rip", "%lu", (uint64_t)block_after_syscall);
    json_close();
    ready();
    block_now(&blocks[0]);
}
