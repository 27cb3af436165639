/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Anonymous memory that its process gave names (PR_SET_VMA_ANON_NAME). Arguments: NAME FILTER. */
#include "paging.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif
#define PAGES 8UL

static int call(void *p, uint64_t pages, const char *name)
{
    return prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, (unsigned long)p, pages * PAGE, (unsigned long)name);
}

static char *memory(const char *what, int shared)
{
    int flags = MAP_ANONYMOUS | (shared ? MAP_SHARED : MAP_PRIVATE);
    char *p = map_paged(PAGES, PAGE, PROT_READ | PROT_WRITE, flags, -1);
    fill_area(area(what, shared ? "anon-shared" : "anon-private", p, PAGES, few));
    return p;
}

int main(int argc, char **argv)
{
    /* 79 characters, the most. */
    static const char longest[] = "0123456789012345678901234567890123456789012345678901234567890123456789 the end]";
    char *private = memory("named-private", 0), *half = memory("named-half", 0), *gone = memory("named-no-more", 0);
    char *shared = memory("named-shared", 1), *most = memory("named-longest", 0), *heap;

    check(argc == 3 && sizeof longest == 80, "arguments");
    set_filter(argv[2]);
    if (call(private, PAGES, "an arena (of many): a/b/c") != 0) {
        fprintf(stderr, "PR_SET_VMA_ANON_NAME: %s\n", strerror(errno));
        return 96;
    }
    /* It splits the mapping. */
    check(call(half + PAGES / 2 * PAGE, PAGES / 2, "the latter half") == 0, "a half");
    check(call(gone, PAGES, "for a moment") == 0 && call(gone, PAGES, NULL) == 0, "no name");
    check(call(shared, PAGES, "shared by all") == 0, "shared memory");
    /* No bracket may be in a name. */
    check(call(most, PAGES, longest) != 0 && errno == EINVAL, "a bracket");
    char fits[sizeof longest];
    memcpy(fits, longest, sizeof fits);
    fits[sizeof fits - 2] = '.';
    check(call(most, PAGES, fits) == 0, "the longest name");
    /* The heap is called the heap, whatever its name. */
    heap = (char *)(((uintptr_t)sbrk((intptr_t)(3 * PAGE)) + PAGE - 1) & ~(PAGE - 1));
    check(call(heap, 1, "in the heap") == 0, "the heap");

    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    json_field("grain", "8");
    report_areas();
    json_close();
    ready();
    block_for_ever();
}
