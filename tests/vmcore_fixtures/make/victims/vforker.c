/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A parent inside vfork(), its child blocked in the shared memory. NAME FILTER. Processes: NAME, vfork_child. */
#include "blockregs.h"

static struct block block;

int main(int argc, char **argv)
{
    check(argc == 3, "arguments");
    set_filter(argv[2]);
    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    json_close();
    ready();
    pid_t child = vfork();
    check(child >= 0, "vfork");
    if (!child) {
        /* The parent waits, so its stdio may be used. */
        pid_t self = (pid_t)syscall(SYS_getpid);
        block_futex(&block, 0x38);
        json_open("vfork_child");
        json_field("pid", "%d", self);
        json_field("tids", "[%d]", self);
        json_list("threads");
        json_thread(self, "futex", &block);
        json_list_end();
        json_close();
        ready();
        block_now(&block);
    }
    block_for_ever();
}
