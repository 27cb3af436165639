/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory of pages that compress each in its own way, and what the kernel says of where they are.
 *
 * A mapping has a mix: page i is filled by the rule mix[i % length] (tests/vmcore/patterns.py has the same rules in Python).
 */
#ifndef PAGING_H
#define PAGING_H
#include "victim.h"

#ifndef MADV_COLD
#define MADV_COLD 20
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#define MAX_AREAS 64
/* The seed and the size of the dictionary (initramfs.py). */
#define STOCK 0x73746f636bUL
#define STOCK_SIZE 16384UL
/* Types of swap entries from here on up mean something else (migration, poison, markers of userfaultfd). */
#define MAX_SWAP_TYPE 22

typedef struct {
    const char *const *rules;
    unsigned count;
} mix_t;

/* Every way in which a page may compress: sizes of all classes, and runs of zeros within pages. */
static const char *const every_rule[] = {
    "words",    "zero",     "byte:255",  "byte:1",    "grain:4096", "grain:16",  "grain:32",  "grain:64",  "grain:128",
    "grain:256", "grain:512", "grain:1024", "grain:2048", "nibbles",  "count",     "dict:2",    "dict:4",    "dict:8",
    "dict:16",  "dict:32",  "dict:64",   "dict:128",  "dict:256",   "runs:8",    "runs:16",   "runs:32",   "runs:64",
    "runs:128", "runs:256", "runs:512",  "runs:1024", "head:8",     "head:16",   "head:32",   "head:64",   "head:96",
    "head:160", "head:240", "head:320",  "head:400",  "head:480",   "head:600",  "head:720",  "head:840",  "head:960",
    "head:1080", "head:1200", "head:1320", "head:1440", "head:1560", "head:1680", "head:1800", "head:1920", "head:2040",
    "head:2160", "head:2280", "head:2400", "head:2520", "head:2640", "head:2760", "head:2880", "head:3000", "head:3120",
    "head:3240", "head:3360", "head:3480", "head:3600", "head:3680", "head:3760", "head:3840", "head:3920", "head:4000",
    "head:4040", "head:4088", "tail:8",   "tail:1000", "tail:2000",  "tail:3000", "tail:4000",
};
static const mix_t every = {every_rule, sizeof every_rule / sizeof *every_rule};

/* A few, for mappings that are about something else than compression. */
static const char *const few_rules[] = {"head:1200", "grain:256", "words", "head:2400", "zero", "dict:32", "runs:32",
                                        "grain:4096"};
static const mix_t few = {few_rules, sizeof few_rules / sizeof *few_rules};

/* The word at offset o of a mapping, by the rule of its page. */
static inline uint64_t ruled(const char *rule, uint64_t seed, uint64_t o)
{
    const char *colon = strchr(rule, ':');
    uint64_t n = colon ? strtoul(colon + 1, NULL, 10) : 0;

    switch (rule[0]) {
    case 'w': /* words: does not compress */
        return splitmix64(seed ^ o);
    case 'z': /* zero */
        return 0;
    case 'b': /* byte:N */
        return n * 0x0101010101010101UL;
    case 'g': /* grain:N: each N bytes repeat a word */
        return splitmix64(seed ^ (o & ~(n - 1)));
    case 'h': /* head:N: N bytes of words, then zeros */
        return o % PAGE < n ? splitmix64(seed ^ o) : 0;
    case 't': /* tail:N */
        return o % PAGE >= PAGE - n ? splitmix64(seed ^ o) : 0;
    case 'r': /* runs:N: of N bytes each, a quarter words, the rest zeros */
        return splitmix64(~seed ^ (o & ~(n - 1))) & 3 ? 0 : splitmix64(seed ^ o);
    case 'n': /* nibbles: sixteen letters */
        return (splitmix64(seed ^ o) & 0x0f0f0f0f0f0f0f0fUL) + 0x6161616161616161UL;
    case 'd': /* dict:N: N words in any order */
        return splitmix64(seed ^ splitmix64(seed ^ o) % n);
    case 's': /* stock:N: of N bytes each, copied from anywhere in the dictionary that zram is given */
        return splitmix64(STOCK ^ (splitmix64(~seed ^ (o & ~(n - 1))) % (STOCK_SIZE / n) * n + o % n));
    case 'c': /* count */
        return seed + o;
    }
    check(0, rule);
    return 0;
}

static inline void fill_mixed(void *start, uint64_t seed, mix_t mix, uint64_t from, uint64_t length)
{
    for (uint64_t o = from; o < from + length; o += 8)
        *(volatile uint64_t *)((char *)start + o) = ruled(mix.rules[o / PAGE % mix.count], seed, o);
}

/* ---- what the victim will report ---- */
typedef struct {
    const char *name, *kind;
    char *p;
    uint64_t pages, seed;
    mix_t mix;
    /* The first and the number of the pages that were written; the others are zeros. */
    uint64_t from, written;
    /* JSON: the ranges, if they are not that simple; a further member with its comma. */
    const char *ranges, *more;
} area_t;
static area_t areas[MAX_AREAS];
static unsigned area_count;

static inline area_t *area(const char *name, const char *kind, char *p, uint64_t pages, mix_t mix)
{
    check(p != MAP_FAILED && area_count < MAX_AREAS, name);
    area_t *a = &areas[area_count++];
    *a = (area_t){name, kind, p, pages, splitmix64(0x73776170UL + area_count + ((uint64_t)getpid() << 20)), mix, 0, pages, NULL, ""};
    return a;
}

static inline void fill_area(const area_t *a) { fill_mixed(a->p, a->seed, a->mix, a->from * PAGE, a->written * PAGE); }

/* One unmapped page after each mapping, so that the kernel merges none of them; align is a power of two. */
static inline char *map_paged(uint64_t pages, uint64_t align, int prot, int flags, int fd)
{
    uint64_t length = pages * PAGE;
    char *p = mmap(NULL, length + align + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(p != MAP_FAILED, "reserve");
    munmap(p, length + align + PAGE);
    p = (char *)(((uintptr_t)p + align) & ~(align - 1));
    p = mmap(p, length, prot, flags | MAP_FIXED, fd, 0);
    check(p != MAP_FAILED, "mmap");
    return p;
}

/* ---- where a page is ---- */
static int pagemap = -1; /* a child must open its own */

static inline uint64_t pagemap_word(const char *p)
{
    uint64_t word = 0;
    if (pagemap < 0)
        pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    check(pagemap >= 0 && pread(pagemap, &word, 8, (off_t)((uintptr_t)p / PAGE * 8)) == 8, "pagemap");
    return word;
}

/* Whether the page table has a swap entry. (Shared memory has its swap entries in the page cache, where pagemap does not look.) */
static inline int is_swapped(const char *p)
{
    uint64_t word = pagemap_word(p);
    return (word >> 62 & 1) && (word & 31) <= MAX_SWAP_TYPE;
}

/* Whether the page is in memory: mapped, in the page cache, or in the swap cache. */
static inline int is_resident(const char *p)
{
    unsigned char resident = 0;
    check(mincore((void *)p, PAGE, &resident) == 0, "mincore");
    return resident & 1;
}

/* Whether the page table has the zero page: since 6.12 splitting a huge page leaves that for what was all zeros. */
static inline int is_zero_page(const char *p)
{
    uint64_t word = pagemap_word(p), flags = 0;
    if (!(word >> 63))
        return 0;
    int fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
    check(fd >= 0 && pread(fd, &flags, 8, (off_t)((word & ((1UL << 55) - 1)) * 8)) == 8, "kpageflags");
    close(fd);
    return flags >> 24 & 1;
}

static inline void touch(const char *p) { *(volatile const char *)p; }

/* Each CPU keeps pages that it has not put on a list yet, and what is kept is not reclaimed. move_pages() empties that. */
static inline void drain(void)
{
    void *page = (void *)((uintptr_t)&areas & ~(PAGE - 1));
    int node = 0, status;
    syscall(SYS_move_pages, 0, 1UL, &page, &node, &status, 0);
}

/* Push pages out until they are in memory no more (step 2: every other one). A page that a disk took stays in the swap cache
   until it has been mapped and pushed out once more. */
static inline void push_out(const char *what, char *p, uint64_t pages, unsigned step)
{
    uint64_t left = 0;
    for (int tries = 0; tries < 100; tries++) {
        for (uint64_t i = 0; i < pages; i += step)
            if (step > 1)
                check(madvise(p + i * PAGE, PAGE, MADV_PAGEOUT) == 0, "MADV_PAGEOUT");
        if (step == 1)
            check(madvise(p, pages * PAGE, MADV_PAGEOUT) == 0, "MADV_PAGEOUT");
        left = 0;
        for (uint64_t i = 0; i < pages; i += step)
            left += is_resident(p + i * PAGE) && !is_zero_page(p + i * PAGE);
        if (!left)
            return;
        usleep(10000 + 5000 * tries);
        drain();
        for (uint64_t i = 0; i < pages; i += step)
            if (is_resident(p + i * PAGE))
                touch(p + i * PAGE);
    }
    fprintf(stderr, "%s: %lu pages of %lu remain:", what, left, pages);
    for (uint64_t i = 0; i < pages; i += step)
        if (is_resident(p + i * PAGE))
            fprintf(stderr, " %lu (%016lx)", i, pagemap_word(p + i * PAGE));
    fputs("\n", stderr);
    errno = EBUSY;
    check(0, what);
}

/* ---- the report ---- */
static inline void numbers(const char *key, const area_t *a, uint64_t (*of)(const char *))
{
    const char *comma = "";
    fprintf(json_out, ", \"%s\": [", key);
    for (uint64_t i = 0; i < a->pages; i++) {
        uint64_t told = of(a->p + i * PAGE);
        if (told)
            fprintf(json_out, "%s%lu", comma, told == ~0UL ? i : told - 1), comma = ", ";
    }
    fputs("]", json_out);
}

/* What numbers() is given: ~0 is the page's own number, 0 nothing, else a value plus one. */
static inline uint64_t n_swapped(const char *p) { return is_swapped(p) ? ~0UL : 0; }
static inline uint64_t n_type(const char *p) { return is_swapped(p) ? (pagemap_word(p) & 31) + 1 : 0; }
static inline uint64_t n_offset(const char *p)
{
    return is_swapped(p) ? (pagemap_word(p) >> 5 & ((1UL << 50) - 1)) + 1 : 0;
}
static inline uint64_t n_cached(const char *p) { return is_swapped(p) && is_resident(p) ? ~0UL : 0; }
static inline uint64_t n_absent(const char *p) { return is_resident(p) ? 0 : ~0UL; }

static inline void report_areas(void)
{
    json_list("mappings");
    for (unsigned i = 0; i < area_count; i++) {
        const area_t *a = &areas[i];
        json_item();
        fprintf(json_out, "{\"name\": \"%s\", \"kind\": \"%s\", \"addr\": %lu, \"length\": %lu, \"seed\": %lu, \"ranges\": ", a->name,
                a->kind, (uint64_t)a->p, a->pages * PAGE, a->seed);
        if (a->ranges)
            fputs(a->ranges, json_out);
        else if (a->written)
            fprintf(json_out, "[[%lu, %lu]]", a->from * PAGE, a->written * PAGE);
        else
            fputs("[]", json_out);
        fputs(", \"mix\": [", json_out);
        for (unsigned m = 0; m < a->mix.count; m++)
            fprintf(json_out, "%s\"%s\"", m ? ", " : "", a->mix.rules[m]);
        fprintf(json_out, "]%s", a->more);
        numbers("swapped", a, n_swapped);
        numbers("swap_type", a, n_type);
        numbers("swap_offset", a, n_offset);
        numbers("swap_cached", a, n_cached);
        numbers("not_resident", a, n_absent);
        fputs("}", json_out);
    }
    json_list_end();
}

#endif
