/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* More VMAs than an ELF header can count: single pages of alternating protection. NAME FILTER COUNT. */
#include "victim.h"

int main(int argc, char **argv)
{
    const uint64_t seed = 0x6d616e79UL;

    check(argc == 4, "arguments");
    uint64_t count = strtoul(argv[3], NULL, 10), length = count * PAGE;
    set_filter(argv[2]);
    char *p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(p != MAP_FAILED, "mmap");
    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    json_field("vmas_at_least", "%lu", count);
    json_list("mappings");
    json_item();
    fprintf(json_out, "{\"name\": \"many\", \"kind\": \"anon-private\", \"addr\": %lu, \"length\": %lu, \"seed\": %lu, ",
            (uint64_t)p, length, seed);
    fprintf(json_out, "\"ranges\": [");
    for (uint64_t o = 0; o < length; o += 64 * PAGE) {
        fill(p, seed, o, PAGE);
        fprintf(json_out, "%s[%lu, %lu]", o ? ", " : "", o, PAGE);
    }
    fputs("]}", json_out);
    json_list_end();
    json_close();
    for (uint64_t o = 0; o < length; o += 2 * PAGE)
        check(mprotect(p + o, PAGE, PROT_READ) == 0, "mprotect");
    ready();
    block_for_ever();
}
