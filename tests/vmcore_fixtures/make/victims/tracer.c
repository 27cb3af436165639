/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A tracer and two tracees: one in a signal-delivery stop, one in a syscall-entry stop. NAME FILTER.
 * Processes: NAME, tracee, tracee_sys.
 */
#include <sys/ptrace.h>

#include "blockregs.h"

static struct block block;

static void tell(const char *name, const char *role)
{
    json_open(name);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    json_list("threads");
    json_thread(getpid(), role, &block);
    json_list_end();
    json_close();
}

int main(int argc, char **argv)
{
    int status;

    check(argc == 3, "arguments");
    set_filter(argv[2]);
    pid_t first = fork();
    if (!first) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        block_arguments(&block, 0x31);
        /* A signal that does nothing by default: it is delivered when the tracer dies, and must not kill. */
        block.nr = SYS_kill, block.rdi = (uint64_t)getpid(), block.rsi = SIGWINCH;
        tell("tracee", "signal-delivery-stop");
        block_now(&block);
    }
    check(waitpid(first, &status, 0) == first && WIFSTOPPED(status), "first tracee");
    pid_t second = fork();
    if (!second) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        block_futex(&block, 0x32);
        tell("tracee_sys", "syscall-entry-stop");
        raise(SIGSTOP);
        block_now(&block);
    }
    check(waitpid(second, &status, 0) == second && WIFSTOPPED(status), "second tracee");
    ptrace(PTRACE_SETOPTIONS, second, 0, PTRACE_O_TRACESYSGOOD);
    for (;;) {
        /* raise() makes system calls of its own on its way back: go on until the futex call's entry. */
        struct {
            uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax, rest[11];
        } regs;
        ptrace(PTRACE_SYSCALL, second, 0, 0);
        check(waitpid(second, &status, 0) == second && WIFSTOPPED(status), "syscall stop");
        check(ptrace(PTRACE_GETREGS, second, 0, &regs) == 0, "GETREGS");
        if (regs.orig_rax == SYS_futex && regs.r9 == 0xaa00000000000006UL)
            break;
    }
    block_futex(&block, 0x30);
    tell(argv[1], "futex");
    ready_as("tracee");
    ready_as("tracee_sys");
    ready();
    block_now(&block);
}
