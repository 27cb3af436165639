/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Ids of every kind different, odd names, long arguments, CPU times of its own and of a dead child. NAME FILTER. */
#include <time.h>

#include "regs.h"

static const char odd_argument[] = "odd \x1b[1m\n\t\"'\\ \xc3\xa9\xff$(x)";
static const char odd_comm[] = "a) (b\n\"\x1b\xff%s";
static struct block block;

static void burn(double seconds)
{
    while ((double)clock() / CLOCKS_PER_SEC < seconds)
        getppid();
}

static void final(const char *name)
{
    burn(0.15);
    pid_t child = fork();
    if (!child) {
        burn(0.1);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    check(setpriority(PRIO_PROCESS, 0, 7) == 0, "nice");
    check(setgid(54321) == 0 && setuid(12345) == 0, "setuid");
    prctl(PR_SET_DUMPABLE, 1); /* gone with the change of ids */
    prctl(PR_SET_NAME, odd_comm);
    block_futex(&block, 0x60);
    json_open(name);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    json_field("ids", "{\"uid\": %d, \"gid\": %d, \"ppid\": %d, \"pgrp\": %d, \"sid\": %d, \"nice\": 7}", getuid(), getgid(),
               getppid(), getpgrp(), getsid(0));
    json_text("comm", odd_comm);
    json_list("threads");
    json_thread(getpid(), "futex", &block);
    json_list_end();
    json_close();
    ready();
    block_now(&block);
}

int main(int argc, char **argv)
{
    if (argc > 3)
        final(argv[2]);
    check(argc == 3, "arguments");
    set_filter(argv[2]);
    pid_t session = fork();
    if (!session) {
        check(setsid() > 0, "setsid");
        pid_t group = fork();
        if (!group)
            block_for_ever();
        check(setpgid(group, group) == 0, "setpgid");
        if (!fork()) {
            char *args[] = {(char *)odd_argument, "final", argv[1], "an argument that makes the command line longer than eighty bytes",
                            "", "last one, beyond what the note PRPSINFO can hold", NULL};
            check(setpgid(0, group) == 0, "setpgid");
            execv("/proc/self/exe", args);
            check(0, "execv");
        }
        block_for_ever();
    }
    block_for_ever();
}
