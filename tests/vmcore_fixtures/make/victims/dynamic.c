/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Dynamically linked, three threads in pause() below a chain of named functions, for backtraces. NAME FILTER. */
#include <pthread.h>

#include "victim.h"

__thread unsigned long dynamic_tls = 1000;
unsigned long dynamic_global = 0x6b67636f7265UL;
static pthread_barrier_t barrier;
static pid_t tids[3];
static unsigned long tls_addrs[3];

static void __attribute__((noinline)) level5(int depth, int thread)
{
    tids[thread] = (pid_t)syscall(SYS_gettid);
    dynamic_tls += (unsigned long)thread;
    tls_addrs[thread] = (unsigned long)&dynamic_tls;
    pthread_barrier_wait(&barrier);
    if (thread == 0) {
        json_list("threads");
        for (int i = 0; i < 3; i++) {
            json_item();
            fprintf(json_out, "{\"tid\": %d, \"role\": \"pause\", \"tls\": {\"addr\": %lu, \"value\": %d}, ", tids[i],
                    tls_addrs[i], 1000 + i);
            fprintf(json_out, "\"backtrace\": [\"level5\", \"level4\", \"level3\", \"level2\", \"level1\"]}");
        }
        json_list_end();
        json_field("tids", "[%d, %d, %d]", tids[0], tids[1], tids[2]);
        json_close();
        ready();
    }
    for (;;)
        pause();
    (void)depth;
}

static void __attribute__((noinline)) level4(int depth, int thread)
{
    level5(depth + 1, thread);
    __asm__ volatile("");
}

static void __attribute__((noinline)) level3(int depth, int thread)
{
    level4(depth + 1, thread);
    __asm__ volatile("");
}

static void __attribute__((noinline)) level2(int depth, int thread)
{
    level3(depth + 1, thread);
    __asm__ volatile("");
}

static void *level1(void *arg)
{
    level2(2, (int)(long)arg);
    return NULL;
}

int main(int argc, char **argv)
{
    check(argc == 3, "arguments");
    set_filter(argv[2]);
    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_text("filter", argv[2]);
    json_field("globals", "{\"dynamic_global\": %lu}", dynamic_global);
    pthread_barrier_init(&barrier, NULL, 3);
    for (long i = 1; i < 3; i++) {
        pthread_t thread;
        check(pthread_create(&thread, NULL, level1, (void *)i) == 0, "pthread_create");
    }
    level1((void *)0);
}
