/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory in every state of swapping. Arguments: NAME FILTER SCENARIO[:ARGUMENT]...
 *
 * Which swap device it goes to the guest's script has seen to: the one of the highest priority.
 */
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include "paging.h"

#define HUGE_PAGES (2 * MB / PAGE)
#define SMALL 32UL

static const char *name;
static int is_child;

static char *anon(uint64_t pages)
{
    char *p = map_paged(pages, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    madvise(p, pages * PAGE, MADV_NOHUGEPAGE);
    return p;
}

static area_t *anon_area(const char *what, uint64_t pages, mix_t mix)
{
    area_t *a = area(what, "anon-private", anon(pages), pages, mix);
    fill_area(a);
    return a;
}

static void put(const char *format, const char *argument, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, format, argument);
    put_file(path, text);
}

/* Pages of every compressibility, all of them out. */
static void content(const char *argument)
{
    area_t *a = anon_area("content", argument ? strtoul(argument, NULL, 10) : 6UL * every.count, every);
    push_out(a->name, a->p, a->pages, 1);
}

/* Pages that have much in common with a dictionary. */
static void stocked(const char *argument)
{
    static const char *const rules[] = {"stock:8", "stock:32", "stock:128", "stock:512", "stock:2048", "words", "dict:16", "runs:64"};
    static const mix_t mix = {rules, 8};
    (void)argument;
    area_t *a = anon_area("stocked", 128, mix);
    push_out(a->name, a->p, a->pages, 1);
}

/* Every other page out. */
static void gaps(const char *argument)
{
    (void)argument;
    area_t *a = anon_area("gaps", 64, few);
    push_out(a->name, a->p, a->pages, 2);
}

/* Swapped out, then read here and there: readahead brings the neighbours into the swap cache, not into the page table. */
static void cached(const char *argument)
{
    (void)argument;
    area_t *a = anon_area("cached", 128, few);
    for (int tries = 0; tries < 20; tries++) {
        push_out(a->name, a->p, a->pages, 1);
        put_file("/proc/sys/vm/page-cluster", "3");
        /* It reads ahead while that helps: some pages in a row, and how many of them depends on how the slots lie. */
        for (int i = 0; i < 96; i++)
            if (i % 16 < 4 + tries % 8)
                touch(a->p + i * (long)PAGE);
        put_file("/proc/sys/vm/page-cluster", "0");
        /* Reading ahead, the device may still be at work. */
        usleep(200000);
        int found = 0;
        for (uint64_t i = 0; i < a->pages; i++)
            found += is_swapped(a->p + i * PAGE) && is_resident(a->p + i * PAGE);
        if (found >= 8)
            return;
        fprintf(stderr, "cached: only %d pages were read ahead\n", found);
    }
    check(0, "no readahead into the swap cache");
}

/* Swapped out, then forked; the child has read some, written some, left some. Must come before the other scenarios. */
static void forked(const char *argument)
{
    int to_parent[2], to_child[2];
    char byte;
    (void)argument;
    area_t *reads = anon_area("forked-read", SMALL, few);
    area_t *writes = anon_area("forked-written", SMALL, few);
    area_t *leaves = anon_area("forked-left", SMALL, few);
    area_t *mine = anon_area("forked-read-by-parent", SMALL, few);
    push_out(reads->name, reads->p, reads->pages, 1);
    push_out(writes->name, writes->p, writes->pages, 1);
    push_out(leaves->name, leaves->p, leaves->pages, 1);
    push_out(mine->name, mine->p, mine->pages, 1);
    check(pipe(to_parent) == 0 && pipe(to_child) == 0, "pipe");
    pid_t child = fork();
    check(child >= 0, "fork");
    if (child) {
        check(read(to_parent[0], &byte, 1) == 1, "the child");
        for (uint64_t i = 0; i < mine->pages; i++)
            touch(mine->p + i * PAGE);
        check(write(to_child[1], "x", 1) == 1, "write");
        return;
    }
    static char child_name[64];
    snprintf(child_name, sizeof child_name, "%s_child", name);
    name = child_name;
    is_child = 1;
    pagemap = -1;
    for (uint64_t i = 0; i < reads->pages; i++)
        touch(reads->p + i * PAGE);
    writes->seed ^= 0x5555UL << 40;
    fill_area(writes);
    check(write(to_parent[1], "x", 1) == 1 && read(to_child[0], &byte, 1) == 1, "the parent");
}

/* Swap entries that were moved, and some whose soft-dirty bit is gone. */
static void moved(const char *argument)
{
    (void)argument;
    area_t *a = anon_area("moved", SMALL, few);
    push_out(a->name, a->p, a->pages, 1);
    char *target = anon(2 * SMALL);
    munmap(target, 2 * SMALL * PAGE);
    a->p = mremap(a->p, SMALL * PAGE, SMALL * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    check(a->p != MAP_FAILED, "mremap");

    a = anon_area("soft-clean", SMALL, few);
    put_file("/proc/self/clear_refs", "4");
    push_out(a->name, a->p, a->pages, 1);

    a = anon_area("prot-none", SMALL, few);
    push_out(a->name, a->p, a->pages, 1);
    check(mprotect(a->p, a->pages * PAGE, PROT_NONE) == 0, "mprotect");

    a = anon_area("dontdump", SMALL, few);
    a->kind = "anon-private-dontdump";
    push_out(a->name, a->p, a->pages, 1);
    check(madvise(a->p, a->pages * PAGE, MADV_DONTDUMP) == 0, "DONTDUMP");
}

/* Pages of its own over a file's. */
static void cow(const char *argument)
{
    char path[128];
    (void)argument;
    snprintf(path, sizeof path, "/disk/files/%s-cow", name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    uint64_t seed = splitmix64((uint64_t)getpid());
    for (uint64_t o = 0; o < 2 * SMALL * PAGE; o += 8) {
        uint64_t word = splitmix64(seed ^ o);
        check(write(fd, &word, 8) == 8, "write");
    }
    fsync(fd);
    static const char *const words[] = {"words"};
    static const mix_t plain = {words, 1};
    char *p = map_paged(2 * SMALL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
    for (uint64_t i = 0; i < SMALL; i++)
        touch(p + i * PAGE);
    area("cow-file", "file-private", p, SMALL, plain)->seed = seed;
    area_t *a = area("cow-written", "file-private-written", p + SMALL * PAGE, SMALL, few);
    fill_area(a);
    push_out(a->name, a->p, a->pages, 1);
}

/* ---- shared memory ---- */
/* Take what the cgroup can give, a little at a time, until the pages are gone: shared memory that went to a disk stays in the swap
   cache until then. (Less than what the CPUs hold of the cgroup's charge in advance would take nothing.) */
static void squeeze(const char *what, const char *p, uint64_t pages)
{
    char path[128], text[64];
    for (int tries = 0; tries < 400; tries++) {
        uint64_t left = 0;
        for (uint64_t i = 0; i < pages; i++)
            left += is_resident(p + i * PAGE);
        if (!left)
            return;
        drain();
        snprintf(path, sizeof path, "/cgroup/%s/memory.current", name);
        FILE *in = fopen(path, "r");
        unsigned long now = 0;
        check(in && fscanf(in, "%lu", &now) == 1, path);
        fclose(in);
        snprintf(text, sizeof text, "%lu", now > 256 * PAGE ? now - 192 * PAGE : 0);
        put("/cgroup/%s/memory.high", name, text);
        put("/cgroup/%s/memory.high", name, "max");
        usleep(5000);
    }
    errno = EBUSY;
    check(0, what);
}

static void join_cgroup(void)
{
    char path[128], text[32];
    snprintf(path, sizeof path, "/cgroup/%s", name);
    check(mkdir(path, 0755) == 0 || errno == EEXIST, path);
    snprintf(text, sizeof text, "%d", getpid());
    put("/cgroup/%s/cgroup.procs", name, text);
}

/* The first half goes out, and perhaps one page of every eight comes back then, with its neighbours, into the swap cache. (The other
   half is locked as long as squeeze() may be called.) */
static void half_out(area_t *a, int touched)
{
    fill_area(a);
    uint64_t half = a->pages / 2;
    if (a->written == a->pages) /* no holes */
        check(mlock(a->p + half * PAGE, half * PAGE) == 0, "mlock");
    for (int tries = 0; tries < 3; tries++) {
        drain();
        check(madvise(a->p, half * PAGE, MADV_PAGEOUT) == 0, "MADV_PAGEOUT");
        usleep(30000);
    }
    squeeze(a->name, a->p, half);
    if (!touched)
        return;
    put_file("/proc/sys/vm/page-cluster", "3");
    for (uint64_t i = 0; i < half; i += i < 4 ? 1 : 8)
        touch(a->p + i * PAGE);
    put_file("/proc/sys/vm/page-cluster", "0");
}

static int memfd(const char *what, uint64_t pages)
{
    int fd = (int)syscall(SYS_memfd_create, what, 0);
    check(fd >= 0 && ftruncate(fd, (off_t)(pages * PAGE)) == 0, what);
    return fd;
}

static void shared(const char *argument)
{
    (void)argument;
    char *p = map_paged(2 * SMALL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
    half_out(area("shared-anon", "anon-shared", p, 2 * SMALL, few), 0);

    p = shmat(shmget(IPC_PRIVATE, SMALL * PAGE, IPC_CREAT | 0600), NULL, 0);
    half_out(area("sysv-shm", "anon-shared", p, SMALL, few), 0);

    int fd = memfd("swapped memfd", 2 * SMALL);
    p = map_paged(2 * SMALL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    area_t *a = area("memfd-shared", "anon-shared", p, 2 * SMALL, few);
    half_out(a, 0);
    /* The same memory in a private mapping: one page of its own, which is swapped too. */
    char *q = map_paged(2 * SMALL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
    area_t *b = area("memfd-private", "file-private-deleted", q, 2 * SMALL - 1, few);
    b->seed = a->seed;
    a = area("memfd-private-written", "file-private-written-deleted", q + (2 * SMALL - 1) * PAGE, 1, few);
    fill_area(a);
    push_out(a->name, a->p, 1, 1);

    char path[128];
    snprintf(path, sizeof path, "/tmp/%s-swapped", name);
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    check(fd >= 0 && ftruncate(fd, SMALL * PAGE) == 0, path);
    p = map_paged(SMALL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    half_out(area("tmpfs-shared", "file-shared", p, SMALL, few), 0);

    /* In no page table any more; and holes. */
    fd = memfd("swapped and unmapped", 2 * SMALL);
    p = map_paged(2 * SMALL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    a = area("memfd-unmapped", "anon-shared", p, 2 * SMALL, few);
    a->written = SMALL;
    half_out(a, 0);
    check(madvise(p, 2 * SMALL * PAGE, MADV_DONTNEED) == 0, "DONTNEED");

    p = map_paged(2 * SMALL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
    half_out(area("shared-anon-touched", "anon-shared", p, 2 * SMALL, few), 1);
}

/* ---- huge pages ---- */
static void thp(const char *argument)
{
    (void)argument;
    static const char *const names[] = {"thp-whole", "thp-part", "thp-twice"};
    for (int i = 0; i < 3; i++) {
        char *p = map_paged(HUGE_PAGES, 2 * MB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
        check(madvise(p, 2 * MB, MADV_HUGEPAGE) == 0, "MADV_HUGEPAGE");
        area_t *a = area(names[i], "anon-private-thp", p, HUGE_PAGES, every);
        fill_area(a);
        if (i == 1)
            push_out(a->name, p + 70 * PAGE, 80, 1);
        else
            push_out(a->name, p, HUGE_PAGES, 1);
        for (int j = 0; i == 2 && j < 64; j++)
            touch(p + j * (long)PAGE);
    }

}

static void thp_shared(const char *argument)
{
    (void)argument;
    int fd = memfd("huge", HUGE_PAGES);
    char *p = map_paged(HUGE_PAGES, 2 * MB, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    madvise(p, 2 * MB, MADV_HUGEPAGE);
    area_t *a = area("thp-memfd", "anon-shared", p, HUGE_PAGES, every);
    fill_area(a);
    for (int tries = 0; tries < 3; tries++) {
        check(madvise(p, 2 * MB, MADV_PAGEOUT) == 0, "MADV_PAGEOUT");
        usleep(30000);
    }
    squeeze(a->name, p, HUGE_PAGES);
}

/* Large folios that are not as large (since 6.8; the guest's script has allowed them to those that ask). */
static void mthp(const char *argument)
{
    (void)argument;
    if (access("/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled", F_OK) != 0)
        return;
    char *p = map_paged(64, 64 * 1024, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    check(madvise(p, 64 * PAGE, MADV_HUGEPAGE) == 0, "MADV_HUGEPAGE");
    area_t *a = area("mthp", "anon-private", p, 64, few);
    fill_area(a);
    push_out(a->name, p, 32, 1);
}

/* ---- userfaultfd ---- */
static int uffd(uint64_t features)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    check(fd >= 0, "userfaultfd");
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    if (ioctl(fd, UFFDIO_API, &api) == 0)
        return fd;
    close(fd);
    return -1;
}

static int write_protect(int fd, char *p, uint64_t pages, uint64_t from, uint64_t count)
{
    struct uffdio_register range = {{(uintptr_t)p, pages * PAGE}, UFFDIO_REGISTER_MODE_WP, 0};
    struct uffdio_writeprotect wp = {{(uintptr_t)p + from * PAGE, count * PAGE}, UFFDIO_WRITEPROTECT_MODE_WP};
    return ioctl(fd, UFFDIO_REGISTER, &range) == 0 && ioctl(fd, UFFDIO_WRITEPROTECT, &wp) == 0;
}

/* Swap entries that remember a write protection; its markers in shared memory that is swapped. */
static void protects(const char *argument)
{
    (void)argument;
    int fd = uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
    check(fd >= 0, "userfaultfd write protection");
    area_t *a = anon_area("uffd-wp", SMALL, few);
    check(write_protect(fd, a->p, a->pages, 0, a->pages / 2), "UFFDIO_WRITEPROTECT");
    push_out(a->name, a->p, a->pages, 1);

    a = anon_area("uffd-wp-after", SMALL, few);
    push_out(a->name, a->p, a->pages, 1);
    check(write_protect(fd, a->p, a->pages, 0, a->pages / 2), "UFFDIO_WRITEPROTECT");

    fd = uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
    if (fd < 0)
        return;
    char *p = map_paged(SMALL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
    a = area("uffd-wp-shared", "anon-shared", p, SMALL, few);
    fill_area(a);
    check(write_protect(fd, p, SMALL, 0, SMALL), "UFFDIO_WRITEPROTECT");
    for (int tries = 0; tries < 3; tries++) {
        check(madvise(p, SMALL / 2 * PAGE, MADV_PAGEOUT) == 0, "MADV_PAGEOUT");
        usleep(30000);
    }
    check(mlock(p + SMALL / 2 * PAGE, SMALL / 2 * PAGE) == 0, "mlock");
    squeeze(a->name, p, SMALL / 2);
}

/* ---- zram with a backing device ---- */
static void zram_put(const char *file, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", getenv("ZRAM"), file);
    put_file(path, text);
}

/* Some pages go from zram to its backing device. */
static void writeback(const char *argument)
{
    (void)argument;
    area_t *a = anon_area("written-back", 64, few);
    push_out(a->name, a->p, a->pages, 1);
    zram_put("idle", "all");
    zram_put("writeback", "idle");
    a = anon_area("not-written-back", 64, few);
    push_out(a->name, a->p, a->pages, 1);
}

/* Everything that it has, code and stack included, just before it sleeps. */
static void everything(void)
{
    static char maps[65536];
    int fd = open("/proc/self/maps", O_RDONLY);
    size_t got = 0;
    for (ssize_t n; fd >= 0 && (n = read(fd, maps + got, sizeof maps - 1 - got)) > 0;)
        got += (size_t)n;
    close(fd);
    for (char *line = maps; *line;) {
        char *rest;
        uintptr_t start = strtoul(line, &rest, 16), end = strtoul(rest + 1, &rest, 16);
        madvise((void *)start, end - start, MADV_PAGEOUT);
        line = strchr(rest, '\n');
        if (!line)
            break;
        line++;
    }
}

static const struct {
    const char *name;
    void (*run)(const char *argument);
} scenarios[] = {
    {"forked", forked}, {"content", content},     {"gaps", gaps},
    {"cached", cached}, {"moved", moved},         {"cow", cow},
    {"shared", shared}, {"thp", thp},             {"thp_shared", thp_shared},
    {"mthp", mthp},
    {"uffd", protects}, {"writeback", writeback}, {"stock", stocked},
};

int main(int argc, char **argv)
{
    int all = 0;
    check(argc > 3, "arguments");
    name = argv[1];
    set_filter(argv[2]);
    join_cgroup();
    for (int i = 3; i < argc && !is_child; i++) {
        char *argument = strchr(argv[i], ':');
        int known = !strcmp(argv[i], "everything");
        all |= known;
        if (argument)
            *argument++ = 0;
        for (unsigned s = 0; s < sizeof scenarios / sizeof *scenarios; s++)
            if (!strcmp(argv[i], scenarios[s].name)) {
                scenarios[s].run(argument);
                known = 1;
                break;
            }
        check(known, argv[i]);
    }
    check(munlockall() == 0, "munlockall");
    json_open(name);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    json_field("grain", "8");
    report_areas();
    json_close();
    ready();
    if (all && !is_child)
        everything();
    block_for_ever();
}
