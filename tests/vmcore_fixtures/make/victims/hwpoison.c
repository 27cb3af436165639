/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory of which some pages are poisoned, as by a memory error. Arguments: NAME FILTER. A core has holes there. */
#include "paging.h"

#define PAGES 16UL

static void nothing(int signal) { (void)signal; }

int main(int argc, char **argv)
{
    check(argc == 3, "arguments");
    /* Who has a poisoned page mapped is told so. */
    signal(SIGBUS, nothing);
    set_filter(argv[2]);
    /* Here the zero pages would be no pages of their own. */
    static const char *const rules[] = {"words", "grain:256"};
    static const mix_t mix = {rules, 2};
    struct {
        const char *name, *kind;
        int flags, fd;
    } const kinds[] = {
        {"poisoned-private", "anon-private", MAP_PRIVATE | MAP_ANONYMOUS, -1},
        {"poisoned-shared", "anon-shared", MAP_SHARED | MAP_ANONYMOUS, -1},
    };
    for (unsigned i = 0; i < 2; i++) {
        char *p = map_paged(PAGES, PAGE, PROT_READ | PROT_WRITE, kinds[i].flags, kinds[i].fd);
        madvise(p, PAGES * PAGE, MADV_NOHUGEPAGE);
        area_t *a = area(kinds[i].name, kinds[i].kind, p, PAGES, mix);
        a->more = ", \"poisoned\": [3, 7, 11, 15]";
        fill_area(a);
        for (unsigned page = 3; page < PAGES; page += 4)
            if (madvise(p + page * PAGE, PAGE, MADV_HWPOISON) != 0) {
                fprintf(stderr, "MADV_HWPOISON: %s\n", strerror(errno));
                return 96;
            }
    }
    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    json_field("grain", "8");
    report_areas();
    json_close();
    ready();
    block_for_ever();
}
