/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Threads in user mode at the moment of the dump: one pinned to each CPU named. NAME FILTER CPU... */
#include <pthread.h>

#include "blockregs.h"

static struct block blocks[9];
static pid_t tids[9];
static uint32_t futex_word = 5;
static pthread_barrier_t barrier;

static void *spinner(void *arg)
{
    struct block *b = arg;
    tids[b - blocks] = (pid_t)syscall(SYS_gettid);
    pthread_barrier_wait(&barrier);
    spin_now(b);
}

int main(int argc, char **argv)
{
    int count = argc - 3;

    check(count > 0 && count <= 8, "arguments");
    set_filter(argv[2]);
    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_text("filter", argv[2]);
    pthread_barrier_init(&barrier, NULL, (unsigned)count + 1);
    for (int i = 0; i <= count; i++) {
        struct block *b = &blocks[i];
        block_fill(b, 0x80 + (unsigned)i);
        b->rdi = 0xee00000000000001UL, b->rsi = 0xee00000000000002UL, b->rdx = 0xee00000000000003UL;
        b->r10 = 0xee00000000000004UL, b->r8 = 0xee00000000000005UL, b->r9 = 0xee00000000000006UL;
    }
    for (int i = 1; i <= count; i++) {
        pthread_t thread;
        pthread_attr_t attr;
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        CPU_SET(atoi(argv[2 + i]), &cpus);
        pthread_attr_init(&attr);
        pthread_attr_setaffinity_np(&attr, sizeof cpus, &cpus);
        check(pthread_create(&thread, &attr, spinner, &blocks[i]) == 0, "pthread_create");
    }
    pthread_barrier_wait(&barrier);
    tids[0] = getpid();
    struct block *b = &blocks[0];
    b->nr = SYS_futex, b->rdi = (uint64_t)&futex_word, b->rsi = 128, b->rdx = futex_word, b->r10 = 0;
    json_list("threads");
    for (int i = 0; i <= count; i++) {
        json_item();
        fprintf(json_out, "{\"tid\": %d, \"role\": \"%s\", \"cpu\": %s, \"rsp_at\": %lu,\n   ", tids[i], i ? "spin" : "futex",
                i ? argv[2 + i] : "null", (uint64_t)&blocks[i].rsp);
        json_regs(&blocks[i], i > 0, 0);
        fputc('}', json_out);
    }
    json_list_end();
    json_list("tids");
    for (int i = 0; i <= count; i++) {
        json_item();
        fprintf(json_out, "%d", tids[i]);
    }
    json_list_end();
    json_close();
    ready();
    block_now(b);
}
