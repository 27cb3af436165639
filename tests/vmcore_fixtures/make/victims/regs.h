/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* blockregs.h or ia32regs.h, whichever fits, for victims that are compiled for both. */
#ifndef REGS_H
#define REGS_H
#ifdef __x86_64__
#include "blockregs.h"
#define FIRST_ARGUMENT rdi
#define SECOND_ARGUMENT rsi
#else
#include "ia32regs.h"
#define FIRST_ARGUMENT ebx
#define SECOND_ARGUMENT ecx

static inline void block_arguments(struct block *b, unsigned tag) { block_fill(b, tag); }

static uint32_t block_word = 4711;

static inline void block_futex(struct block *b, unsigned tag)
{
    block_fill(b, tag);
    b->nr = SYS_futex, b->ebx = (uintptr_t)&block_word, b->ecx = 128, b->edx = block_word, b->esi = 0;
}

/* One entry of "threads", registers by the names of struct pt_regs. */
static inline void json_thread(pid_t tid, const char *role, const struct block *b)
{
    json_item();
    fprintf(json_out, "{\"tid\": %d, \"role\": \"%s\", \"sp_at\": %lu,\n   ", tid, role, (unsigned long)&b->esp);
    fprintf(json_out, "\"regs\": {\"bx\": %u, \"cx\": %u, \"dx\": %u, \"si\": %u, \"di\": %u, \"bp\": %u, ", b->ebx, b->ecx,
            b->edx, b->esi, b->edi, b->ebp);
    fprintf(json_out, "\"orig_ax\": %u, \"ip\": %lu, \"mxcsr\": %u, \"fcw\": %u}}", b->nr,
            (unsigned long)block_after_syscall, b->mxcsr, b->fcw);
}
#endif
#endif
