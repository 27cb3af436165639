/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Many threads, all waiting. NAME COUNT. */
#include <pthread.h>

#include "bench.h"

static pthread_barrier_t barrier;

static void *thread_main(void *unused)
{
    (void)unused;
    pthread_barrier_wait(&barrier);
    block_for_ever();
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_attr_t attr;

    check(argc == 3, "arguments");
    unsigned count = (unsigned)strtoul(argv[2], NULL, 10);
    pthread_barrier_init(&barrier, NULL, count);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 32768);
    for (unsigned i = 1; i < count; i++) {
        pthread_t thread;
        check(pthread_create(&thread, &attr, thread_main, NULL) == 0, "pthread_create");
    }
    pthread_barrier_wait(&barrier);
    tell(argv[1]);
    done(argv[1]);
}
