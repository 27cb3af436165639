/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Compiled for each ABI (64-bit, ia32, x32): threads blocked in raw system calls with known registers, each with
 * thread-local memory of its own; memory with patterns; with a CPU a thread that spins there. NAME FILTER [CPU]. */
#include <inttypes.h>
#include <pthread.h>
#include <sys/io.h>

#ifdef __x86_64__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat" /* what it prints of x32 is not called here */
#pragma GCC diagnostic ignored "-Wpointer-to-int-cast"
#include "blockregs.h"
#pragma GCC diagnostic pop
#define BITS (sizeof(long) == 8 ? "64" : "x32")
#else
#include "ia32regs.h"
#define BITS "ia32"
#endif

enum { FUTEX, READ, IOPERM, SPIN, ROLES };
static const char *const roles[ROLES] = {"futex", "read", "ioperm", "spin"};

/* The second word is the one that tells: a thread's copy starts with its number. */
__thread uint32_t abi_tls[2] = {0xab1, 0x7150};
static pthread_barrier_t barrier;
static struct thread {
    struct block block;
    pid_t tid;
    unsigned long tls;
    uint64_t blocked, pending;
} threads[ROLES];
static int count = SPIN;
static uint32_t futex_word = 77;
static char read_buffer[64];
static int pipe_fds[2];

struct mapping {
    const char *name, *kind;
    unsigned long length;
    uint64_t seed;
    int flags;
    void *at;
} mappings[] = {
    {"anon", "anon-private", 8 * PAGE, 0xab10, MAP_PRIVATE | MAP_ANONYMOUS, NULL},
    {"shared", "anon-shared", 4 * PAGE, 0xab11, MAP_SHARED | MAP_ANONYMOUS, NULL},
    {"file", "file-shared", 4 * PAGE, 0xab12, MAP_SHARED, NULL},
};

static void map_all(const char *name)
{
    char path[128];

    snprintf(path, sizeof path, "/disk/files/%s", name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    check(fd >= 0 && ftruncate(fd, 8 * PAGE) == 0, path);
    json_list("mappings");
    for (unsigned i = 0; i < sizeof mappings / sizeof *mappings; i++) {
        struct mapping *m = &mappings[i];
        int anonymous = m->flags & MAP_ANONYMOUS;
        m->at = mmap(NULL, m->length, PROT_READ | PROT_WRITE, m->flags, anonymous ? -1 : fd, anonymous ? 0 : 2 * PAGE);
        check(m->at != MAP_FAILED, "mmap");
        fill(m->at, m->seed, 0, m->length);
        json_item();
        fprintf(json_out, "{\"name\": \"%s\", \"kind\": \"%s\", \"addr\": %lu, \"length\": %lu, \"seed\": %" PRIu64 ", ", m->name,
                m->kind, (unsigned long)m->at, m->length, m->seed);
        fprintf(json_out, "\"ranges\": [[0, %lu]]}", m->length);
    }
    json_list_end();
    close(fd);
}

static void choose_call(struct thread *t, int role)
{
    struct block *b = &t->block;
    unsigned tag = 0x20 + (unsigned)role;

#ifdef __x86_64__
    block_arguments(b, tag);
#define FIRST b->rdi
#define SECOND b->rsi
#define THIRD b->rdx
#define FOURTH b->r10
#else
    block_fill(b, tag);
#define FIRST b->ebx
#define SECOND b->ecx
#define THIRD b->edx
#define FOURTH b->esi
#endif
    switch (role) {
    case FUTEX:
        b->nr = SYS_futex, FIRST = (uintptr_t)&futex_word, SECOND = 128, THIRD = futex_word, FOURTH = 0;
        break;
    case READ:
        b->nr = SYS_read, FIRST = (uintptr_t)pipe_fds[0], SECOND = (uintptr_t)read_buffer, THIRD = sizeof read_buffer;
        break;
    case IOPERM:
        b->nr = SYS_pause;
        break;
    }
}

/* Registers by the names of struct pt_regs. */
static void json_block(const struct thread *t, int role)
{
    const struct block *b = &t->block;

    fprintf(json_out, "\"regs\": {\"mxcsr\": %u, \"fcw\": %u, ", b->mxcsr, b->fcw);
#define REG(name, value) fprintf(json_out, "\"%s\": %" PRIu64 ", ", name, (uint64_t)(value))
#ifdef __x86_64__
    REG("di", b->rdi), REG("si", b->rsi), REG("dx", b->rdx), REG("r10", b->r10), REG("r8", b->r8), REG("r9", b->r9);
    REG("bx", b->rbx), REG("bp", b->rbp), REG("r12", b->r12), REG("r13", b->r13), REG("r14", b->r14), REG("r15", b->r15);
    if (role == SPIN)
        REG("ax", b->rax_spin), REG("cx", b->rcx_spin), REG("r11", b->r11_spin);
    if (b->has_pkru)
        REG("pkru", b->pkru);
    const char *const st = "\"ln2\", \"0\", \"1\", \"log2e\", \"pi\"";
    int vectors = 16;
#else
    REG("bx", b->ebx), REG("cx", b->ecx), REG("dx", b->edx), REG("si", b->esi), REG("di", b->edi), REG("bp", b->ebp);
    if (role == SPIN)
        REG("ax", b->nr);
    const char *const st = "\"infinity\", \"denormal\", \"ln2\", \"0\", \"1\", \"log2e\", \"pi\"";
    int vectors = 8;
#endif
    if (role != SPIN)
        REG("orig_ax", b->nr);
    REG("ip", (uintptr_t)(role == SPIN ? spin_start : block_after_syscall));
    fprintf(json_out, "\"st\": [%s], \"%s\": [", st, b->has_avx ? "ymm" : "xmm");
    for (int n = 0; n < vectors; n++) {
        fputs(n ? ", \"" : "\"", json_out);
        for (int i = 0; i < (b->has_avx ? 32 : 16); i++)
            fprintf(json_out, "%02x", b->ymm[n][i]);
        fputs("\"", json_out);
    }
    fputs("]}", json_out);
}

static void tell(void)
{
    json_list("threads");
    for (int i = 0; i < count; i++) {
        struct thread *t = &threads[i];
        json_item();
        fprintf(json_out, "{\"tid\": %d, \"role\": \"%s\", \"ioperm\": %s, ", t->tid, roles[i], i == IOPERM ? "true" : "false");
        fprintf(json_out, "\"sigblocked\": %" PRIu64 ", \"sigpending\": %" PRIu64 ", ", t->blocked, t->pending);
        fprintf(json_out, "\"tls\": {\"addr\": %lu, \"value\": %u}, ", t->tls, 0x7150 + i);
#ifdef __x86_64__
        fprintf(json_out, "\"sp_at\": %lu,\n   ", (unsigned long)&t->block.rsp);
#else
        fprintf(json_out, "\"sp_at\": %lu, \"fs_segment\": %lu,\n   ", (unsigned long)&t->block.esp, (unsigned long)t->block.words);
#endif
        json_block(t, i);
        fputc('}', json_out);
    }
    json_list_end();
    json_list("tids");
    for (int i = 0; i < count; i++) {
        json_item();
        fprintf(json_out, "%d", threads[i].tid);
    }
    json_list_end();
    json_close();
    ready();
}

static void *thread_main(void *arg)
{
    int role = (int)(intptr_t)arg;
    struct thread *t = &threads[role];

    t->tid = (pid_t)syscall(SYS_gettid);
    abi_tls[0] = (uint32_t)role;
    abi_tls[1] += (uint32_t)role;
    t->tls = (unsigned long)&abi_tls[1];
    if (role == READ) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGRTMIN + 5); /* beyond 32: a long of the core has no place for it */
        sigaddset(&set, SIGUSR1);
        pthread_sigmask(SIG_BLOCK, &set, NULL);
        syscall(SYS_tgkill, getpid(), t->tid, SIGRTMIN + 5);
        syscall(SYS_tgkill, getpid(), t->tid, SIGUSR1);
        t->pending = 1ULL << (SIGRTMIN + 5 - 1) | 1ULL << (SIGUSR1 - 1);
    }
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &t->blocked, 8);
    if (role == IOPERM)
        check(ioperm(0x80, 1, 1) == 0, "ioperm");
#ifndef __x86_64__
    own_segment(&t->block, role);
#endif
    choose_call(t, role);
    pthread_barrier_wait(&barrier);
    if (role == FUTEX)
        tell();
    if (role == SPIN)
        spin_now(&t->block);
    block_now(&t->block);
}

int main(int argc, char **argv)
{
    check(argc == 3 || argc == 4, "arguments");
    set_filter(argv[2]);
    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_text("filter", argv[2]);
    json_text("abi", BITS);
    map_all(argv[1]);
    check(pipe(pipe_fds) == 0, "pipe");
    count += argc == 4;
    pthread_barrier_init(&barrier, NULL, (unsigned)count);
    for (int role = 1; role < count; role++) {
        pthread_t thread;
        pthread_attr_t attr;
        pthread_attr_init(&attr);
        if (role == SPIN) {
            cpu_set_t cpus;
            CPU_ZERO(&cpus);
            CPU_SET(atoi(argv[3]), &cpus);
            pthread_attr_setaffinity_np(&attr, sizeof cpus, &cpus);
        }
        check(pthread_create(&thread, &attr, thread_main, (void *)(intptr_t)role) == 0, "pthread_create");
    }
    thread_main((void *)FUTEX);
}
