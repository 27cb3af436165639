/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One private hugetlb page of 1 GiB, written in a few places. NAME FILTER. */
#include "victim.h"

#define GB (1UL << 30)

int main(int argc, char **argv)
{
    /* The first and last page, both sides of 2 MiB and 512 MiB borders, and some pages between. */
    static const uint64_t places[] = {0, 2 * MB - PAGE, 2 * MB, 100 * MB + 3 * PAGE, 512 * MB - PAGE, 512 * MB, GB - PAGE};
    const uint64_t seed = 0x16b67636f7265UL;

    check(argc == 3, "arguments");
    set_filter(argv[2]);
    char *p = mmap(NULL, GB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (30 << 26), -1, 0);
    check(p != MAP_FAILED, "1 GiB page");
    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    json_list("mappings");
    json_item();
    fprintf(json_out, "{\"name\": \"huge1g\", \"kind\": \"hugetlb-private\", \"addr\": %lu, \"length\": %lu, \"seed\": %lu, ",
            (uint64_t)p, GB, seed);
    fprintf(json_out, "\"ranges\": [");
    for (unsigned i = 0; i < sizeof places / sizeof *places; i++) {
        fill(p, seed, places[i], PAGE);
        fprintf(json_out, "%s[%lu, %lu]", i ? ", " : "", places[i], PAGE);
    }
    fputs("]}", json_out);
    json_list_end();
    json_close();
    ready();
    block_for_ever();
}
