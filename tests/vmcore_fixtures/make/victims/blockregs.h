/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Threads that stop in a raw system call (or spin) with every register they can hold set to a known value. */
#ifndef BLOCKREGS_H
#define BLOCKREGS_H
#include <cpuid.h>

#include "victim.h"

struct block {
    uint64_t nr, rdi, rsi, rdx, r10, r8, r9;        /* 0: the system call */
    uint64_t rbx, rbp, r12, r13, r14, r15;          /* 56 */
    uint64_t has_avx;                               /* 104 */
    uint64_t has_pkru, pkru;                        /* 112 */
    uint32_t mxcsr, fcw;                            /* 128 */
    uint64_t rsp;                                   /* 136: filled in on the way */
    uint64_t pad[2];                                /* 144 */
    uint8_t ymm[16][32];                            /* 160 */
    uint64_t r11_spin, rcx_spin, rax_spin;          /* 672: for the spinner only */
};

extern char block_after_syscall[], spin_start[], spin_end[];
void block_now(struct block *b) __attribute__((noreturn));
void spin_now(struct block *b) __attribute__((noreturn));

__asm__(
    ".macro load_fpu\n"
    "  mov %rdi, %r15\n"
    "  mov %rsp, 136(%r15)\n"
    "  fninit\n"
    "  fldcw 132(%r15)\n"
    "  fldpi\n  fldl2e\n  fld1\n  fldz\n  fldln2\n"
    "  ldmxcsr 128(%r15)\n"
    "  cmpq $0, 104(%r15)\n"
    "  je 1f\n"
    ".set i, 0\n"
    ".rept 16\n"
    "  load_ymm %i\n"
    "  .set i, i+1\n"
    ".endr\n"
    "  jmp 2f\n"
    "1:\n"
    ".set i, 0\n"
    ".rept 16\n"
    "  load_xmm %i\n"
    "  .set i, i+1\n"
    ".endr\n"
    "2:\n"
    "  cmpq $0, 112(%r15)\n"
    "  je 3f\n"
    "  mov 120(%r15), %rax\n  xor %ecx, %ecx\n  xor %edx, %edx\n  wrpkru\n"
    "3:\n"
    ".endm\n"
    ".altmacro\n"
    ".macro load_ymm n\n  vmovdqu 160+32*\\n(%r15), %ymm\\n\n.endm\n"
    ".macro load_xmm n\n  movdqu 160+32*\\n(%r15), %xmm\\n\n.endm\n"
    ".text\n"
    ".globl block_now, block_after_syscall, spin_now, spin_start, spin_end\n"
    ".type block_now, @function\n"
    ".type spin_now, @function\n"
    "block_now:\n"
    "  load_fpu\n"
    "  mov 0(%r15), %rax\n"
    "  mov 8(%r15), %rdi\n  mov 16(%r15), %rsi\n  mov 24(%r15), %rdx\n"
    "  mov 32(%r15), %r10\n  mov 40(%r15), %r8\n  mov 48(%r15), %r9\n"
    "  mov 56(%r15), %rbx\n  mov 64(%r15), %rbp\n  mov 72(%r15), %r12\n"
    "  mov 80(%r15), %r13\n  mov 88(%r15), %r14\n  mov 96(%r15), %r15\n"
    "  syscall\n"
    "block_after_syscall:\n"
    "  ud2\n"
    ".size block_now, .-block_now\n"
    "spin_now:\n"
    "  load_fpu\n"
    "  mov 8(%r15), %rdi\n  mov 16(%r15), %rsi\n  mov 24(%r15), %rdx\n"
    "  mov 32(%r15), %r10\n  mov 40(%r15), %r8\n  mov 48(%r15), %r9\n"
    "  mov 56(%r15), %rbx\n  mov 64(%r15), %rbp\n  mov 72(%r15), %r12\n"
    "  mov 80(%r15), %r13\n  mov 88(%r15), %r14\n"
    "  mov 672(%r15), %r11\n  mov 680(%r15), %rcx\n  mov 688(%r15), %rax\n"
    "  mov 96(%r15), %r15\n"
    "spin_start:\n"
    "  jmp spin_start\n"
    "spin_end:\n"
    "  ud2\n"
    ".size spin_now, .-spin_now\n"
    ".noaltmacro\n");

static inline int cpu_has_avx(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (a & 6) == 6;
}

static inline int cpu_has_pku(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & (1u << 4)); /* OSPKE */
}

/* Constants that tell the register, the thread (tag, 0..255) and the victim apart. */
static inline void block_fill(struct block *b, unsigned tag)
{
    uint64_t t = (uint64_t)tag << 32;
    memset(b, 0, sizeof *b);
    b->rbx = 0xbb00000000000001UL | t;
    b->rbp = 0xbb00000000000002UL | t;
    b->r12 = 0xbb00000000000012UL | t;
    b->r13 = 0xbb00000000000013UL | t;
    b->r14 = 0xbb00000000000014UL | t;
    b->r15 = 0xbb00000000000015UL | t;
    b->r11_spin = 0xcc00000000000011UL | t;
    b->rcx_spin = 0xcc00000000000021UL | t;
    b->rax_spin = 0xcc00000000000022UL | t;
    b->has_avx = cpu_has_avx();
    b->has_pkru = cpu_has_pku();
    /* Deny keys 2.. in a pattern of its own; key 0 (all our memory) and 1 stay open. */
    b->pkru = (0x55555550u ^ (tag << 8)) & ~0xfu;
    b->mxcsr = 0x1f80 | ((tag & 3) << 13);
    b->fcw = 0x037f & ~((tag & 3) << 8);
    for (int n = 0; n < 16; n++)
        for (int i = 0; i < 32; i++)
            b->ymm[n][i] = (uint8_t)(tag ^ (n * 16 + i));
}

static inline void json_hex(const uint8_t *p, int n)
{
    while (n--)
        fprintf(json_out, "%02x", *p++);
}

/* Writes the "regs" member of a thread; rsp is known only after the fact: say where it will be written. */
static inline void json_regs(const struct block *b, int spinning, uint64_t rsp)
{
    fprintf(json_out, "\"regs\": {");
    fprintf(json_out, "\"rdi\": %lu, \"rsi\": %lu, \"rdx\": %lu, \"r10\": %lu, \"r8\": %lu, \"r9\": %lu, ", b->rdi, b->rsi,
            b->rdx, b->r10, b->r8, b->r9);
    fprintf(json_out, "\"rbx\": %lu, \"rbp\": %lu, \"r12\": %lu, \"r13\": %lu, \"r14\": %lu, \"r15\": %lu, ", b->rbx, b->rbp,
            b->r12, b->r13, b->r14, b->r15);
    if (spinning)
        fprintf(json_out, "\"r11\": %lu, \"rcx\": %lu, \"rax\": %lu, \"rip\": %lu, ", b->r11_spin, b->rcx_spin, b->rax_spin,
                (uint64_t)spin_start);
    else
        fprintf(json_out, "\"orig_rax\": %lu, \"rip\": %lu, ", b->nr, (uint64_t)block_after_syscall);
    if (rsp)
        fprintf(json_out, "\"rsp\": %lu, ", rsp);
    fprintf(json_out, "\"mxcsr\": %u, \"fcw\": %u, ", b->mxcsr, b->fcw);
    if (b->has_pkru)
        fprintf(json_out, "\"pkru\": %lu, ", b->pkru);
    /* ST(0) first. */
    fprintf(json_out, "\"st\": [\"ln2\", \"0\", \"1\", \"log2e\", \"pi\"], ");
    fprintf(json_out, "\"%s\": [", b->has_avx ? "ymm" : "xmm");
    for (int n = 0; n < 16; n++) {
        fprintf(json_out, n ? ", \"" : "\"");
        json_hex(b->ymm[n], b->has_avx ? 32 : 16);
        fprintf(json_out, "\"");
    }
    fprintf(json_out, "]}");
}

/* Constants in all arguments of a system call; then the call itself and what it needs. */
static inline void block_arguments(struct block *b, unsigned tag)
{
    block_fill(b, tag);
    b->rdi = 0xaa00000000000001UL, b->rsi = 0xaa00000000000002UL, b->rdx = 0xaa00000000000003UL;
    b->r10 = 0xaa00000000000004UL, b->r8 = 0xaa00000000000005UL, b->r9 = 0xaa00000000000006UL;
}

static uint32_t block_word = 4711;

static inline void block_futex(struct block *b, unsigned tag)
{
    block_arguments(b, tag);
    b->nr = SYS_futex, b->rdi = (uint64_t)&block_word, b->rsi = 128, b->rdx = block_word, b->r10 = 0;
}

/* One entry of "threads". */
static inline void json_thread(pid_t tid, const char *role, const struct block *b)
{
    json_item();
    fprintf(json_out, "{\"tid\": %d, \"role\": \"%s\", \"rsp_at\": %lu,\n   ", tid, role, (uint64_t)&b->rsp);
    json_regs(b, 0, 0);
    fputc('}', json_out);
}

#endif
