/* Faults inside of malloc(), in a thread, on an alternate stack of 16 KiB; its handler dumps it to argv[1]. */
#define _GNU_SOURCE
#include "kgcore_client.h"

#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>

enum { SIZE = 16384, LARGE = 2000 };
static char stack[SIZE] __attribute__((aligned(64)));
static const char *target;
static volatile sig_atomic_t in_handler;

static void handler(int number, siginfo_t *info, void *context)
{
    struct kgcore_result result;
    struct kgcore_options options = KGCORE_OPTIONS;
    char line[80] = "dumped\n";
    int problem;

    (void)context;
    if (in_handler)
        _exit(9);
    in_handler = 1;
    options.result = &result;
    errno = 77;
    problem = kgcore_dump(target, &options);
    if (number != SIGSEGV || info->si_signo != number || errno != 77)
        _exit(8);
    if (!problem)
        (void)!write(1, line, strlen(line));
    _exit(problem);
}

static void *corrupts(void *unused)
{
    stack_t alternate;
    void *volatile first, *second, **freed;
    int secret = 4711;

    memset(&alternate, 0, sizeof(alternate));
    alternate.ss_sp = stack;
    alternate.ss_size = SIZE;
    sigaltstack(&alternate, NULL);
    first = malloc(LARGE);
    freed = (void **)first;
    second = malloc(LARGE);
    printf("%d %p\n", (int)syscall(SYS_gettid), (void *)&secret);
    fflush(stdout);
    free(first);
    freed[1] = (void *)16; /* The next one in the list of what is free. */
    return (char *)malloc(3000) + (second == unused) + secret;
}

int main(int argc, char **argv)
{
    struct sigaction action;
    pthread_t thread;

    (void)argc;
    target = argv[1];
    mallopt(M_ARENA_MAX, 1);
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = handler;
    action.sa_flags = SA_ONSTACK | SA_SIGINFO;
    sigaction(SIGSEGV, &action, NULL);
    pthread_create(&thread, NULL, corrupts, NULL);
    pthread_join(thread, NULL);
    return 1;
}
