/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A parent that does not reap its dead child. NAME FILTER. Processes: NAME, zombie. */
#include "victim.h"

int main(int argc, char **argv)
{
    siginfo_t info;

    check(argc == 3, "arguments");
    set_filter(argv[2]);
    pid_t child = fork();
    if (!child)
        _exit(3);
    check(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0, "waitid");
    json_open("zombie");
    json_field("pid", "%d", child);
    json_field("tids", "[]");
    json_field("exit_code", "3");
    json_close();
    ready();
    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    json_close();
    ready();
    block_for_ever();
}
