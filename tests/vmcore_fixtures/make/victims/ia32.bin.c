/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The 32-bit program: no libc (the host has no 32-bit one), int 0x80 only. Argument: where to write its addresses. */
#include "ia32.h"

typedef unsigned long long u64;
typedef unsigned int u32;

extern char ia32_after_pause[];
static struct {
    u32 entry, base, limit, flags;
} descriptor = {0xffffffffu, 0, 0xfffff, 0x51}; /* 32-bit data, pages, usable */
static u32 tls_block[16];

static int call(int number, u32 a, u32 b, u32 c, u32 d, u32 e)
{
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
    return result;
}

static u64 splitmix64(u64 x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static char *hex(char *out, u32 value)
{
    for (int shift = 28; shift >= 0; shift -= 4)
        *out++ = "0123456789abcdef"[(value >> shift) & 15];
    *out++ = ' ';
    return out;
}

__attribute__((used, noreturn)) void ia32_main(u32 *stack)
{
    static char text[64];
    static const u32 mxcsr = IA32_MXCSR;
    static const unsigned short fcw = IA32_FCW;
    static unsigned char xmm[16] __attribute__((aligned(16)));
    u32 args[6] = {IA32_MAP, IA32_LENGTH, 3, 0x32, 0xffffffffu, 0};

    call(90, (u32)args, 0, 0, 0, 0); /* mmap: private, anonymous, fixed */
    for (u32 o = 0; o < IA32_LENGTH; o += 8)
        *(volatile u64 *)(IA32_MAP + o) = splitmix64((u64)IA32_SEED ^ o);
    for (int i = 0; i < 16; i++)
        xmm[i] = IA32_XMM;
    descriptor.base = (u32)tls_block;
    tls_block[0] = 0x7132;
    call(243, (u32)&descriptor, 0, 0, 0, 0); /* set_thread_area */
    __asm__ volatile("mov %0, %%gs" : : "r"(descriptor.entry * 8 + 3));
    char *end = hex(hex(hex(text, (u32)ia32_after_pause), (u32)stack), (u32)tls_block);
    int fd = call(5, stack[2], 0x241, 0644, 0, 0); /* open: write, create, truncate */
    call(4, (u32)fd, (u32)text, (u32)(end - text), 0, 0);
    call(6, (u32)fd, 0, 0, 0, 0);
    __asm__ volatile("fninit\n fldcw %0\n fldpi\n ldmxcsr %1\n movdqa %2, %%xmm0\n movdqa %%xmm0, %%xmm7\n"
                     :
                     : "m"(fcw), "m"(mxcsr), "m"(xmm));
    __asm__ volatile("mov %0, %%esp\n"
                     "mov %1, %%ebx\n mov %2, %%ecx\n mov %3, %%edx\n mov %4, %%esi\n mov %5, %%edi\n mov %6, %%ebp\n"
                     "mov $29, %%eax\n"
                     "int $0x80\n"
                     ".globl ia32_after_pause\n"
                     "ia32_after_pause: ud2\n"
                     :
                     : "a"(stack), "i"(IA32_EBX), "i"(IA32_ECX), "i"(IA32_EDX), "i"(IA32_ESI), "i"(IA32_EDI), "i"(IA32_EBP));
    __builtin_unreachable();
}

__asm__(".globl _start\n_start: mov %esp, %eax\n and $-16, %esp\n sub $12, %esp\n push %eax\n call ia32_main\n");
