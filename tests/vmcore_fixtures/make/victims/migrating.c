/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory that another process moves between the two nodes of the machine, again and again: with luck a dump has pages on their
   way, whose page table entries are migration entries. Arguments: NAME FILTER. */
#include "paging.h"

/* Up to 6.2 one page is on its way at a time: a huge one for the longest. */
#define SMALL_PAGES 512UL
#define THP_PAGES 4096UL

/* As a program of its own (NAME PID), so that it shares none of the memory. */
static int move_for_ever(const char *whose, int pid)
{
    unsigned long nodes[2] = {1, 2};
    char path[128];
    snprintf(path, sizeof path, TRUTH "%s.ready", whose);
    while (access(path, F_OK) != 0)
        usleep(50000);
    /* Of pages on their way the kernel's own core has zeros, sometimes: no more of it then. */
    for (int i = 0; access("/tmp/stop", F_OK) != 0 && kill(pid, 0) == 0; i ^= 1)
        syscall(SYS_migrate_pages, pid, 3UL, &nodes[i], &nodes[1 - i]);
    return 0;
}

int main(int argc, char **argv)
{
    char pid[16];
    check(argc >= 3, "arguments");
    if (argc == 4)
        return move_for_ever(argv[1], atoi(argv[3]));
    snprintf(pid, sizeof pid, "%d", getpid());
    pid_t mover = fork();
    check(mover >= 0, "fork");
    if (!mover)
        return execl("/proc/self/exe", argv[0], argv[1], argv[2], pid, (char *)NULL);
    set_filter(argv[2]);
    char *p = map_paged(SMALL_PAGES, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    check(madvise(p, SMALL_PAGES * PAGE, MADV_NOHUGEPAGE) == 0, "MADV_NOHUGEPAGE");
    fill_area(area("moving", "anon-private", p, SMALL_PAGES, few));
    p = map_paged(THP_PAGES, 2 * MB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    check(madvise(p, THP_PAGES * PAGE, MADV_HUGEPAGE) == 0, "MADV_HUGEPAGE");
    fill_area(area("moving-thp", "anon-private-thp", p, THP_PAGES, few));
    p = map_paged(SMALL_PAGES / 2, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
    fill_area(area("moving-shared", "anon-shared", p, SMALL_PAGES / 2, few));
    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    json_field("grain", "8");
    report_areas();
    json_close();
    ready();
    block_for_ever();
}
