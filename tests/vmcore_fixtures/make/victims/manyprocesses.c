/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Many processes. NAME FILTER COUNT. */
#include "victim.h"

int main(int argc, char **argv)
{
    check(argc == 4, "arguments");
    set_filter(argv[2]);
    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    json_list("children");
    for (int left = atoi(argv[3]); left > 0; left--) {
        pid_t child = fork();
        check(child >= 0, "fork");
        if (!child)
            block_for_ever();
        json_item();
        fprintf(json_out, "%d", child);
        fflush(json_out);
    }
    json_list_end();
    json_close();
    ready();
    block_for_ever();
}
