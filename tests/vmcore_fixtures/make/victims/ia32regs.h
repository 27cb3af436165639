/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* blockregs.h for 32-bit programs. */
#ifndef IA32REGS_H
#define IA32REGS_H
#include <asm/ldt.h>
#include <cpuid.h>

#include "victim.h"

struct block {
    uint32_t nr, ebx, ecx, edx, esi, edi, ebp; /* 0: the system call */
    uint32_t mxcsr, fcw, has_avx;              /* 28 */
    uint32_t esp;                              /* 40: filled in on the way */
    uint32_t words[5];                         /* 44: a segment of the thread's own */
    uint8_t ymm[8][32];                        /* 64 */
};

extern char block_after_syscall[], spin_start[];
void block_now(struct block *b) __attribute__((noreturn));
void spin_now(struct block *b) __attribute__((noreturn));

/* The smallest denormal number and infinity, which the x87's tags call special. */
static const unsigned char ia32_denormal[10] __attribute__((used)) = {1};
static const unsigned char ia32_infinity[10] __attribute__((used)) = {0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x7f};

__asm__(
    ".macro load_all\n"
    "  mov 4(%esp), %eax\n"
    "  mov %esp, 40(%eax)\n"
    "  fninit\n"
    "  fldcw 32(%eax)\n"
    "  fldpi\n  fldl2e\n  fld1\n  fldz\n  fldln2\n"
    "  fldt ia32_denormal\n  fldt ia32_infinity\n"
    "  ldmxcsr 28(%eax)\n"
    "  cmpl $0, 36(%eax)\n"
    "  je 1f\n"
    ".set i, 0\n"
    ".rept 8\n"
    "  load_ymm %i\n"
    "  .set i, i+1\n"
    ".endr\n"
    "  jmp 2f\n"
    "1:\n"
    ".set i, 0\n"
    ".rept 8\n"
    "  load_xmm %i\n"
    "  .set i, i+1\n"
    ".endr\n"
    "2:\n"
    "  mov 4(%eax), %ebx\n  mov 8(%eax), %ecx\n  mov 12(%eax), %edx\n"
    "  mov 16(%eax), %esi\n  mov 20(%eax), %edi\n  mov 24(%eax), %ebp\n"
    "  mov (%eax), %eax\n"
    ".endm\n"
    ".altmacro\n"
    ".macro load_ymm n\n  vmovdqu 64+32*\\n(%eax), %ymm\\n\n.endm\n"
    ".macro load_xmm n\n  movdqu 64+32*\\n(%eax), %xmm\\n\n.endm\n"
    ".text\n"
    ".globl block_now, block_after_syscall, spin_now, spin_start\n"
    ".type block_now, @function\n"
    ".type spin_now, @function\n"
    "block_now:\n"
    "  load_all\n"
    "  int $0x80\n"
    "block_after_syscall:\n"
    "  ud2\n"
    ".size block_now, .-block_now\n"
    "spin_now:\n"
    "  load_all\n"
    "spin_start:\n"
    "  jmp spin_start\n"
    ".size spin_now, .-spin_now\n"
    ".noaltmacro\n");

/* Constants that tell the register, the thread (tag, 0..255) and the victim apart; the high bit shows sign extension. */
static inline void block_fill(struct block *b, unsigned tag)
{
    unsigned a, c, d, t = tag << 16;
    b->nr = 0xe0000000u | t;
    b->ebx = 0xe0000001u | t, b->ecx = 0xe0000002u | t, b->edx = 0xe0000003u | t;
    b->esi = 0xe0000004u | t, b->edi = 0xe0000005u | t, b->ebp = 0xe0000006u | t;
    b->mxcsr = 0x1f80 | ((tag & 3) << 13);
    b->fcw = 0x037f & ~((tag & 3) << 8);
    if (__get_cpuid(1, &a, &d, &c, &d) && (c & bit_OSXSAVE) && (c & bit_AVX)) {
        __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
        b->has_avx = (a & 6) == 6;
    }
    for (int n = 0; n < 8; n++)
        for (int i = 0; i < 32; i++)
            b->ymm[n][i] = (uint8_t)(tag ^ (n * 16 + i));
}

/* FS becomes a segment of the thread's own; its flags differ from thread to thread. (GS is the C library's.) */
static inline void own_segment(struct block *b, int number)
{
    struct user_desc desc = {.entry_number = (unsigned)-1, .base_addr = (uintptr_t)b->words, .limit = 0xfffff};
    desc.seg_32bit = 1, desc.useable = 1;
    desc.limit_in_pages = number != 1;
    desc.read_exec_only = number == 2;
    b->words[0] = 0xf5f5f500u + (unsigned)number;
    check(syscall(SYS_set_thread_area, &desc) == 0, "set_thread_area");
    __asm__ volatile("mov %w0, %%fs" : : "r"(desc.entry_number * 8 + 3));
}

#endif
