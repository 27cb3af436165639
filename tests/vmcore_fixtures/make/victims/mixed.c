/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Threads in code of the other kind than their program, compiled for each ABI. NAME FILTER MODE...: what the leader and
 * then each further thread does for ever:
 *   same   pause() as the program's ABI has it
 *   code32 in a 32-bit code segment, in the 32-bit pause()
 *   code64 in a 64-bit code segment, in the 64-bit pause()
 *   int80  in the program's own code segment, in the 32-bit pause() */
#include <inttypes.h>
#include <pthread.h>

#include "victim.h"

#define MAX 8
#ifdef __x86_64__
#define IS_64 1
#else
#define IS_64 0
#endif

/* Static programs lie below 4 GiB, where code of both kinds can be. Each thread has its own stack there: the place of a
 * register that is to be recognised. */
static char stacks[MAX][256] __attribute__((aligned(256)));
static pid_t tids[MAX];
static char **modes;
static int count;
static pthread_barrier_t barrier;

extern char code32_after[], code64_after[], int80_after[];
void code32_now(void *stack, uintptr_t tag) __attribute__((noreturn));
void code64_now(void *stack, uintptr_t tag) __attribute__((noreturn));
void int80_now(void *stack, uintptr_t tag) __attribute__((noreturn));

#ifdef __x86_64__
#define ENTER "  mov %edi, %esp\n  mov %esi, %ebx\n"
#define CONSTANTS                                                                                                                \
    "  mov $0xe1000002, %ecx\n  mov $0xe1000003, %edx\n  mov $0xe1000004, %esi\n  mov $0xe1000005, %edi\n"                         \
    "  mov $0xe1000006, %ebp\n"                                                                                                    \
    "  movabs $0xe800000000000008, %r8\n  movabs $0xe800000000000012, %r12\n  movabs $0xe800000000000015, %r15\n"
#define TO_32 "  ljmpl *1f\n  .section .rodata\n1: .long 2f\n  .word 0x23\n  .text\n  .code32\n2:\n"
#define TO_64 ""
#define BACK "  .code64\n"
#else
#define ENTER "  mov 8(%esp), %ebx\n  mov 4(%esp), %esp\n"
#define CONSTANTS                                                                                                                \
    "  mov $0xe1000002, %ecx\n  mov $0xe1000003, %edx\n  mov $0xe1000004, %esi\n  mov $0xe1000005, %edi\n"                         \
    "  mov $0xe1000006, %ebp\n"
#define TO_32 ""
/* The assembler does not make 64-bit code for a 32-bit program: movabs $0xe800000000000008, %r8; ... %r15. */
#define TO_64 "  ljmp $0x33, $2f\n2: .byte 0x49, 0xb8, 8, 0, 0, 0, 0, 0, 0, 0xe8, 0x49, 0xbf, 0x15, 0, 0, 0, 0, 0, 0, 0xe8\n"
#define BACK ""
#endif

__asm__(
    ".text\n"
    ".globl code32_now, code32_after, code64_now, code64_after, int80_now, int80_after\n"
    "code32_now:\n" ENTER CONSTANTS TO_32
    "  mov $29, %eax\n  int $0x80\n"
    "code32_after:\n  ud2\n" BACK
    "int80_now:\n" ENTER CONSTANTS
    "  mov $29, %eax\n  int $0x80\n"
    "int80_after:\n  ud2\n"
    "code64_now:\n" ENTER CONSTANTS
    "  mov $34, %eax\n" TO_64
    "  .byte 0x0f, 0x05\n" /* syscall */
    "code64_after:\n  ud2\n");

static void tell(void)
{
    json_list("threads");
    for (int i = 0; i < count; i++) {
        const char *mode = modes[i];
        json_item();
        fprintf(json_out, "{\"tid\": %d, \"role\": \"%s\"", tids[i], mode);
        if (strcmp(mode, "same")) {
            int to_64 = !strcmp(mode, "code64"), to_32 = !strcmp(mode, "code32");
            const char *after = to_64 ? code64_after : to_32 ? code32_after : int80_after;
            int in_64 = to_64 || (!to_32 && IS_64);
            fprintf(json_out, ", \"regs\": {\"cs\": %d, \"ip\": %lu, \"sp\": %lu, ", in_64 ? 0x33 : 0x23, (unsigned long)after,
                    (unsigned long)stacks[i] + 128);
            fprintf(json_out, "\"bx\": %u, \"dx\": %u, \"si\": %u, \"di\": %u, ", 0xe2000000u + (unsigned)i, 0xe1000003u,
                    0xe1000004u, 0xe1000005u);
            fprintf(json_out, "\"bp\": %u, \"orig_ax\": %d}", 0xe1000006u, to_64 ? 34 : 29);
        }
        fputc('}', json_out);
    }
    json_list_end();
    json_list("tids");
    for (int i = 0; i < count; i++) {
        json_item();
        fprintf(json_out, "%d", tids[i]);
    }
    json_list_end();
    json_close();
    ready();
}

static void *thread_main(void *arg)
{
    int number = (int)(intptr_t)arg;
    void *stack = stacks[number] + 128;
    uintptr_t tag = 0xe2000000u + (unsigned)number;

    tids[number] = (pid_t)syscall(SYS_gettid);
    pthread_barrier_wait(&barrier);
    if (number == 0)
        tell();
    if (!strcmp(modes[number], "code32"))
        code32_now(stack, tag);
    if (!strcmp(modes[number], "code64"))
        code64_now(stack, tag);
    if (!strcmp(modes[number], "int80"))
        int80_now(stack, tag);
    block_for_ever();
    return NULL;
}

int main(int argc, char **argv)
{
    count = argc - 3;
    modes = argv + 3;
    check(count > 0 && count <= MAX, "arguments");
    set_filter(argv[2]);
    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_text("filter", argv[2]);
    pthread_barrier_init(&barrier, NULL, (unsigned)count);
    for (int i = 1; i < count; i++) {
        pthread_t thread;
        check(pthread_create(&thread, NULL, thread_main, (void *)(intptr_t)i) == 0, "pthread_create");
    }
    thread_main((void *)0);
}
