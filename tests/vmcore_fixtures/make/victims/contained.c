/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process as container engines make them: in a control group, and in pid namespaces of its own. NAME FILTER GROUP
 * LEVELS: directory of the control group; how many pid namespaces below the first (0: none).
 */
#include "victim.h"

static pid_t outer_id(void)
{
    char link[64];
    ssize_t n = readlink("/proc/self", link, sizeof link - 1);
    check(n > 0, "/proc/self");
    link[n] = 0;
    return atoi(link);
}

static void tell_file(const char *key, const char *path)
{
    char text[4096] = "";
    int fd = open(path, O_RDONLY);
    check(fd >= 0 && read(fd, text, sizeof text - 1) > 0, path);
    close(fd);
    json_text(key, text);
}

int main(int argc, char **argv)
{
    char path[512], pid[16];

    check(argc == 5, "arguments");
    set_filter(argv[2]);
    snprintf(path, sizeof path, "%s/cgroup.procs", argv[3]);
    snprintf(pid, sizeof pid, "%d", getpid());
    put_file(path, pid);
    for (int level = atoi(argv[4]); level > 0; level--) {
        check(unshare(CLONE_NEWPID) == 0, "unshare");
        if (fork())
            block_for_ever();
    }
    json_open(argv[1]);
    json_field("pid", "%d", outer_id());
    json_field("tids", "[%d]", outer_id());
    json_field("ns_pid", "%d", getpid());
    json_field("levels", "%d", atoi(argv[4]));
    tell_file("cgroup", "/proc/self/cgroup");
    tell_file("status", "/proc/self/status");
    json_close();
    ready();
    block_for_ever();
}
