/*
 * handler CORE MILLISECONDS [measured]: dumps itself in a signal handler on an alternate stack of 16 KiB, and says what
 * came of it: the problem, errno, and bytes of stack. (Valgrind does not like that to be measured.)
 */
#define _GNU_SOURCE
#include "kgcore_client.h"

#include <signal.h>
#include <stdio.h>

enum { SIZE = 16384, PATTERN = 0x5a };
static char stack[SIZE] __attribute__((aligned(64)));
static const char *target;
static unsigned timeout_ms;
static int problem, errno_after;
static int measured;
static long used;

static void handler(int number)
{
    struct kgcore_options options = KGCORE_OPTIONS;
    const char *lowest = stack;

    (void)number;
    options.timeout_ms = timeout_ms;
    errno = 77;
    problem = kgcore_dump(target, &options);
    errno_after = errno;
    while (measured && *lowest == PATTERN)
        lowest++;
    used = (long)((const char *)__builtin_frame_address(0) - lowest);
}

static void ignores(int number)
{
    (void)number;
}

int main(int argc, char **argv)
{
    stack_t alternate;
    struct sigaction action;

    if (argc < 3)
        return 2;
    measured = argc > 3;
    target = argv[1];
    timeout_ms = (unsigned)atoi(argv[2]);
    memset(stack, PATTERN, SIZE);
    memset(&alternate, 0, sizeof(alternate));
    alternate.ss_sp = stack;
    alternate.ss_size = SIZE;
    sigaltstack(&alternate, NULL);
    memset(&action, 0, sizeof(action));
    action.sa_handler = handler;
    action.sa_flags = SA_ONSTACK;
    sigaction(SIGUSR1, &action, NULL);
    action.sa_handler = ignores; /* Without SA_RESTART: it interrupts what waits. */
    action.sa_flags = 0;
    sigaction(SIGUSR2, &action, NULL);
    raise(SIGUSR1);
    printf("%d %d %ld\n", problem, errno_after, used);
    return 0;
}
