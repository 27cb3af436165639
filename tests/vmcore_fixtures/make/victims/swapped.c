/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory that was pushed out to swap: private and shared, whole and every other page. NAME FILTER [GRAIN]. */
#include <inttypes.h>

#include "victim.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#define PAGES 64

/* Bit 62 of its word in /proc/self/pagemap: the page is swapped out. (Shared memory has its swap entries in the page cache, where
   pagemap does not look; smaps counts them.) */
static int is_swapped(const char *p)
{
    uint64_t word = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY);
    check(fd >= 0 && pread(fd, &word, 8, (off_t)((uintptr_t)p / PAGE * 8)) == 8, "pagemap");
    close(fd);
    return word >> 62 & 1;
}

static int is_resident(char *p)
{
    unsigned char resident = 0;
    check(mincore(p, PAGE, &resident) == 0, "mincore");
    return resident & 1;
}

/* Fill a mapping, push every step-th page out, and report which pages went. */
static void push_out(const char *what, const char *kind, char *p, uint64_t seed, int step)
{
    check(p != MAP_FAILED, what);
    madvise(p, PAGES * PAGE, MADV_NOHUGEPAGE);
    fill(p, seed, 0, PAGES * PAGE);
    for (int tries = 0; tries < 50; tries++) {
        for (int i = 0; i < PAGES; i += step)
            check(madvise(p + i * PAGE, PAGE, MADV_PAGEOUT) == 0, "MADV_PAGEOUT");
        usleep(20000);
        int out = 0;
        for (int i = 0; i < PAGES; i += step) {
            /* What a disk took stays in the swap cache until it has been mapped and pushed out once more. */
            if (!is_resident(p + i * PAGE))
                out++;
            else
                *(volatile char *)(p + i * PAGE);
        }
        if (out == PAGES / step)
            break;
    }
    json_item();
    fprintf(json_out, "{\"name\": \"%s\", \"kind\": \"%s\", \"addr\": %lu, \"length\": %lu, \"seed\": %" PRIu64 ", ", what,
            kind, (unsigned long)p, PAGES * PAGE, seed);
    fprintf(json_out, "\"ranges\": [[0, %lu]], \"swapped\": [", PAGES * PAGE);
    for (int i = 0, first = 1; i < PAGES; i++)
        if (is_swapped(p + i * PAGE)) {
            fprintf(json_out, "%s%d", first ? "" : ", ", i);
            first = 0;
        }
    fputs("]}", json_out);
}

static char *map(int flags)
{
    return mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
}

int main(int argc, char **argv)
{
    check(argc == 3 || argc == 4, "arguments");
    if (argc == 4)
        grain = strtoul(argv[3], NULL, 0);
    set_filter(argv[2]);
    json_open(argv[1]);
    json_field("grain", "%" PRIu64, grain);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    json_list("mappings");
    push_out("swapped", "anon-private", map(MAP_PRIVATE), 0x5a1UL, 1);
    push_out("swapped-half", "anon-private", map(MAP_PRIVATE), 0x5a2UL, 2);
    push_out("swapped-shared", "anon-shared", map(MAP_SHARED), 0x5a3UL, 1);
    json_list_end();
    json_close();
    ready();
    block_for_ever();
}
