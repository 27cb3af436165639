/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the benchmark's programs share: they tell the host (on the console) who they are, and wait for the dump. */
#ifndef BENCH_H
#define BENCH_H
#include "victim.h"

static inline void tell(const char *name)
{
    printf("@@PID %s %d@@\n", name, getpid());
    fflush(stdout);
}

/* The last thing that a program does; the guest's script waits for the file. */
static inline void done(const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/tmp/%s.done", name);
    int fd = open(path, O_CREAT | O_WRONLY, 0644);
    check(fd >= 0, path);
    close(fd);
    block_for_ever();
}

#endif
