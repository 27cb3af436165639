/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Mappings of files whose pages are mapped, only in the page cache, or in neither, on several file systems; and page table
   entries that are markers. Arguments: NAME FILTER. */
#include <linux/falloc.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include "paging.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#endif
#define RW (PROT_READ | PROT_WRITE)
#define FILE_PAGES 64UL
#define QUARTER 16UL

static const char *const words_rule[] = {"words"};
static const mix_t words = {words_rule, 1};
static const char *name;

static char *path_of(const char *directory, const char *tail)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s-%s", directory, name, tail);
    return path;
}

/* A file with the pattern of a seed, written in pieces: of long ones some file systems make large folios. */
static int write_file(const char *path, uint64_t seed, uint64_t length, uint64_t piece)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    char *data = malloc(length + 8);
    check(fd >= 0 && data, path);
    for (uint64_t o = 0; o < length; o += 8)
        *(uint64_t *)(data + o) = splitmix64(seed ^ o);
    for (uint64_t o = 0; o < length; o += piece) {
        uint64_t n = length - o < piece ? length - o : piece;
        check(write(fd, data + o, n) == (ssize_t)n, "write");
    }
    check(fsync(fd) == 0, "fsync");
    free(data);
    return fd;
}

static int make_file(const char *path, uint64_t seed, uint64_t length) { return write_file(path, seed, length, PAGE); }

static uint64_t seed_of(const char *what)
{
    uint64_t seed = 0x70616765UL;
    for (; *what; what++)
        seed = splitmix64(seed ^ (unsigned char)*what);
    return seed;
}

static char *label(const char *prefix, const char *tail)
{
    char *text;
    check(asprintf(&text, "%s-%s", prefix, tail) > 0, "asprintf");
    return text;
}

static area_t *file_area(const char *what, const char *kind, char *p, uint64_t pages, uint64_t seed)
{
    area_t *a = area(what, kind, p, pages, words);
    a->seed = seed;
    return a;
}

/* Drop pages of a file from the page cache; p is where they are mapped (but in no page table). */
static void evict(int fd, const char *p, uint64_t from, uint64_t pages)
{
    for (int tries = 0; tries < 50; tries++) {
        uint64_t left = 0;
        fsync(fd);
        posix_fadvise(fd, (off_t)(from * PAGE), (off_t)(pages * PAGE), POSIX_FADV_DONTNEED);
        for (uint64_t i = from; i < from + pages; i++)
            left += is_resident(p + i * PAGE);
        if (!left)
            return;
        drain();
        usleep(20000);
    }
    errno = EBUSY;
    check(0, "pages stay in the page cache");
}

/* Sixteen pages each: mapped; in the page cache only; (on a disk) in neither; written. (A fault maps what is cached of the same
   64 KiB, hence sixteen.) fd is what is mapped, below the file whose page cache it is. */
static void mosaic(const char *prefix, const char *how, int flags, int fd, int below, uint64_t seed, int on_disk)
{
    char *p = map_paged(FILE_PAGES, QUARTER * PAGE, RW, flags, fd);
    int shared = flags == MAP_SHARED;
    area_t *a = file_area(label(label(prefix, how), on_disk ? "partly-uncached" : "mosaic"),
                          shared ? "file-shared" : "file-private", p, 3 * QUARTER, seed);
    area_t *b = area(label(label(prefix, how), "written"), shared ? "file-shared" : "file-private-written",
                     p + 3 * QUARTER * PAGE, QUARTER, words);
    fill_area(b);
    if (on_disk)
        evict(below, p, 2 * QUARTER, QUARTER);
    touch(a->p);
}

static void mosaics(const char *prefix, const char *directory, int on_disk)
{
    uint64_t seed = seed_of(prefix);
    int fd = make_file(path_of(directory, "private"), seed, FILE_PAGES * PAGE);
    mosaic(prefix, "private", MAP_PRIVATE, fd, fd, seed, on_disk);
    fd = make_file(path_of(directory, "shared"), seed ^ 1, FILE_PAGES * PAGE);
    mosaic(prefix, "shared", MAP_SHARED, fd, fd, seed ^ 1, on_disk);
}

/* The end of a file within a page: what was written behind it through the mapping a tmpfs keeps. */
static void edges(const char *prefix, const char *directory, int on_disk)
{
    uint64_t seed = seed_of(label(prefix, "tail"));
    int fd = make_file(path_of(directory, "tail"), seed, 2 * PAGE + 2048);
    char *p = map_paged(6, PAGE, RW, MAP_SHARED, fd);
    fill_mixed(p, seed, words, 2 * PAGE, PAGE);
    area_t *a = file_area(label(prefix, "tail-written"), "file-shared", p, 6, seed);
    a->ranges = on_disk ? "[[0, 10240]]" : "[[0, 12288]]"; /* ext4 makes zeros of it as it writes the page */

    /* Cut after it was read and in part written: even pages of its own are gone behind the end. */
    seed = seed_of(label(prefix, "cut"));
    fd = make_file(path_of(directory, "cut"), seed, 16 * PAGE);
    p = map_paged(16, PAGE, RW, MAP_PRIVATE, fd);
    for (int i = 0; i < 16; i++)
        touch(p + i * (long)PAGE);
    fill_mixed(p, seed, words, 6 * PAGE, 4 * PAGE);
    check(ftruncate(fd, 8 * PAGE) == 0, "ftruncate");
    a = file_area(label(prefix, "cut"), "file-private", p, 16, seed);
    a->ranges = "[[0, 32768]]";

    /* A hole punched under pages of its own, which stay, and others, which become zeros. */
    seed = seed_of(label(prefix, "punched"));
    fd = make_file(path_of(directory, "punched"), seed, 16 * PAGE);
    p = map_paged(16, PAGE, RW, MAP_PRIVATE, fd);
    touch(p);
    fill_mixed(p, seed, words, 4 * PAGE, 4 * PAGE);
    check(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 8 * PAGE) == 0, "punch");
    a = file_area(label(prefix, "punched"), "file-private", p, 16, seed);
    a->ranges = "[[16384, 49152]]";

    /* A file that begins with a hole that nobody has read. */
    seed = seed_of(label(prefix, "late"));
    fd = open(path_of(directory, "late"), O_RDWR | O_CREAT | O_TRUNC, 0644);
    check(fd >= 0 && ftruncate(fd, 16 * PAGE) == 0, "late");
    p = map_paged(16, PAGE, RW, MAP_SHARED, fd);
    fill_mixed(p, seed, words, 12 * PAGE, 2 * PAGE);
    a = file_area(label(prefix, "late"), "file-shared", p, 16, seed);
    a->ranges = "[[49152, 8192]]";
}

/* Reclaimed, not invalidated: what is left in the page cache's tree is a note of when that was, which is no page. */
static void reclaimed(void)
{
    uint64_t seed = seed_of("reclaimed");
    int fd = make_file(path_of("/disk/files", "reclaimed"), seed, FILE_PAGES * PAGE);
    char *p = map_paged(FILE_PAGES, PAGE, PROT_READ, MAP_PRIVATE, fd);
    for (uint64_t i = 0; i < FILE_PAGES; i++)
        touch(p + i * PAGE);
    uint64_t left = 1;
    for (int tries = 0; left && tries < 50; tries++) {
        drain();
        check(madvise(p, FILE_PAGES / 2 * PAGE, MADV_PAGEOUT) == 0, "MADV_PAGEOUT");
        left = 0;
        for (uint64_t i = 0; i < FILE_PAGES / 2; i++)
            left += is_resident(p + i * PAGE);
    }
    check(!left, "pages of a file are not reclaimed");
    file_area("ext4-reclaimed-uncached", "file-private", p, FILE_PAGES, seed);
}

/* An overlay of two directories of the ext4: files of the lower one, copied up or not. */
static void overlay(void)
{
    const char *const directories[] = {"/disk/lower", "/disk/upper", "/disk/work", "/overlay"};
    for (int i = 0; i < 4; i++)
        mkdir(directories[i], 0755);
    uint64_t seed = seed_of("overlay");
    static const char *const tails[] = {"lower-private", "lower-shared", "upper-private", "upper-shared", "stale"};
    int below[5];
    for (int i = 0; i < 5; i++)
        below[i] = make_file(path_of("/disk/lower", tails[i]), seed ^ (uint64_t)i, FILE_PAGES * PAGE);
    check(mount("overlay", "/overlay", "overlay", 0, "lowerdir=/disk/lower,upperdir=/disk/upper,workdir=/disk/work") == 0,
          "mounting an overlay");

    int fd = open(path_of("/overlay", tails[0]), O_RDONLY);
    mosaic("overlay-lower", "private", MAP_PRIVATE, fd, below[0], seed, 1);
    fd = open(path_of("/overlay", tails[1]), O_RDONLY);
    char *p = map_paged(FILE_PAGES, QUARTER * PAGE, PROT_READ, MAP_SHARED, fd);
    evict(below[1], p, 2 * QUARTER, QUARTER);
    touch(p);
    file_area("overlay-lower-shared-partly-uncached", "file-shared-readonly", p, FILE_PAGES, seed ^ 1);

    for (int i = 2; i < 4; i++) {
        fd = open(path_of("/overlay", tails[i]), O_RDWR);
        int up = open(path_of("/disk/upper", tails[i]), O_RDWR);
        check(fd >= 0 && up >= 0, "copying up");
        mosaic("overlay-upper", i == 2 ? "private" : "shared", i == 2 ? MAP_PRIVATE : MAP_SHARED, fd, up, seed ^ (uint64_t)i, 1);
    }

    /* Mapped, and copied up (and changed) only then: the mapping still is of the lower file. */
    fd = open(path_of("/overlay", tails[4]), O_RDONLY);
    p = map_paged(QUARTER, QUARTER * PAGE, PROT_READ, MAP_SHARED, fd);
    touch(p);
    int changed = open(path_of("/overlay", tails[4]), O_RDWR);
    check(changed >= 0 && pwrite(changed, "changed", 7, 0) == 7, "changing");
    file_area("overlay-stale", "file-shared-readonly", p, QUARTER, seed ^ 4);
    char *q = map_paged(QUARTER, QUARTER * PAGE, PROT_READ, MAP_SHARED, changed);
    area_t *a = file_area("overlay-changed", "file-shared", q, QUARTER, seed ^ 4);
    a->ranges = "[[8, 65528]]";
}

/* Large folios, as far as the kernel makes them: a tmpfs of huge pages, and long writes to ext4 (since 6.16). */
static void large(void)
{
    mkdir("/huge", 0755);
    check(mount("tmpfs", "/huge", "tmpfs", 0, "huge=always,size=64m") == 0, "mounting a tmpfs of huge pages");
    uint64_t seed = seed_of("large"), pages = 2 * MB / PAGE + 100;
    int fd = write_file(path_of("/huge", "large"), seed, pages * PAGE, MB);
    char *p = map_paged(pages, 2 * MB, RW, MAP_SHARED, fd);
    touch(p);
    file_area("tmpfs-huge-shared", "file-shared", p, pages, seed);

    /* Not aligned as the huge page is; one page of its own. */
    p = map_paged(256, PAGE, RW, MAP_PRIVATE, fd);
    touch(p + 3 * PAGE);
    file_area("tmpfs-huge-private", "file-private", p, 200, seed);
    fill_area(area("tmpfs-huge-private-written", "file-private-written", p + 200 * PAGE, 1, words));

    /* In the page cache as one huge page, in no page table. */
    fd = write_file(path_of("/huge", "unmapped"), seed ^ 1, 2 * MB, MB);
    p = map_paged(300, PAGE, PROT_READ, MAP_PRIVATE, fd);
    file_area("tmpfs-huge-untouched", "file-private", p, 300, seed ^ 1);

    fd = write_file(path_of("/huge", "punched"), seed ^ 2, 2 * MB, MB);
    p = map_paged(64, PAGE, RW, MAP_SHARED, fd);
    touch(p);
    check(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8 * PAGE, 8 * PAGE) == 0, "punch");
    file_area("tmpfs-huge-punched", "file-shared", p, 64, seed ^ 2)->ranges = "[[0, 32768], [65536, 196608]]";

    fd = write_file(path_of("/disk/files", "large"), seed ^ 3, pages * PAGE, pages * PAGE);
    p = map_paged(pages, PAGE, RW, MAP_PRIVATE, fd);
    touch(p + 20 * PAGE);
    file_area("ext4-large", "file-private", p, pages, seed ^ 3);
}

/* Huge pages of hugetlbfs: shared and in no page table; a private mapping with a page of its own. */
static void hugetlb(void)
{
    int fd = (int)syscall(SYS_memfd_create, "huge", 4 /* MFD_HUGETLB */);
    if (fd < 0 || ftruncate(fd, 4 * MB) != 0) {
        fprintf(stderr, "no hugetlb: %s\n", strerror(errno));
        return;
    }
    uint64_t n = 4 * MB / PAGE;
    char *p = mmap(NULL, 4 * MB, RW, MAP_SHARED, fd, 0);
    area_t *a = area("hugetlb-unmapped", "hugetlb-shared", p, n, words);
    fill_area(a);
    munmap(p, 4 * MB);
    a->p = mmap(NULL, 4 * MB, RW, MAP_SHARED, fd, 0);
    p = mmap(NULL, 4 * MB, RW, MAP_PRIVATE, fd, 0);
    check(a->p != MAP_FAILED && p != MAP_FAILED, "hugetlb");
    touch(p);
    file_area("hugetlb-file", "hugetlb-private", p, n / 2, a->seed);
    fill_area(area("hugetlb-file-written", "hugetlb-private-written", p + 2 * MB, n / 2, words));
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

static int register_range(int fd, char *p, uint64_t pages, uint64_t mode)
{
    struct uffdio_register range = {{(uintptr_t)p, pages * PAGE}, mode, 0};
    return ioctl(fd, UFFDIO_REGISTER, &range) == 0;
}

static int protect(int fd, char *p, uint64_t pages)
{
    struct uffdio_writeprotect wp = {{(uintptr_t)p, pages * PAGE}, UFFDIO_WRITEPROTECT_MODE_WP};
    return ioctl(fd, UFFDIO_WRITEPROTECT, &wp) == 0;
}

static char *shared_memory(const char *what, uint64_t pages)
{
    int fd = (int)syscall(SYS_memfd_create, what, 0);
    check(fd >= 0 && ftruncate(fd, (off_t)(pages * PAGE)) == 0, what);
    return map_paged(pages, PAGE, RW, MAP_SHARED, fd);
}

static void faults(void)
{
    uint64_t n = 32;
    int fd = uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
    check(fd >= 0, "userfaultfd");

    char *p = map_paged(n, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    madvise(p, n * PAGE, MADV_NOHUGEPAGE);
    area_t *a = area("uffd-missing", "anon-private", p, n, words);
    a->written = 8;
    fill_area(a);
    check(register_range(fd, p, n, UFFDIO_REGISTER_MODE_MISSING), "UFFDIO_REGISTER");

    p = shared_memory("uffd missing", n);
    a = area("uffd-missing-shared", "anon-shared", p, n, words);
    a->written = 8;
    fill_area(a);
    check(register_range(fd, p, n, UFFDIO_REGISTER_MODE_MISSING), "UFFDIO_REGISTER");

    p = map_paged(n, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    madvise(p, n * PAGE, MADV_NOHUGEPAGE);
    a = area("uffd-wp", "anon-private", p, n, words);
    a->written = 24;
    fill_area(a);
    check(register_range(fd, p, n, UFFDIO_REGISTER_MODE_WP) && protect(fd, p, n), "UFFDIO_WRITEPROTECT");

    /* Markers: of shared memory that is write-protected and in the page table no more; where nothing ever was. */
    fd = uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
    if (fd < 0)
        return;
    p = shared_memory("uffd wp", n);
    a = area("uffd-wp-shared", "anon-shared", p, n, words);
    a->written = 24;
    fill_area(a);
    check(register_range(fd, p, n, UFFDIO_REGISTER_MODE_WP) && protect(fd, p, n), "UFFDIO_WRITEPROTECT");
    check(madvise(p, 16 * PAGE, MADV_DONTNEED) == 0, "DONTNEED");

    fd = uffd(UFFD_FEATURE_MINOR_SHMEM);
    if (fd >= 0) {
        p = shared_memory("uffd minor", n);
        /* The kernel may not resolve such a fault for a core: there it writes zeros for what is in the page cache. */
        a = area("uffd-minor", "anon-shared-uffd-minor", p, n, words);
        fill_area(a);
        check(madvise(p, 16 * PAGE, MADV_DONTNEED) == 0, "DONTNEED");
        check(register_range(fd, p, n, UFFDIO_REGISTER_MODE_MINOR), "UFFDIO_REGISTER");
    }
    fd = uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED);
    if (fd >= 0) {
        p = map_paged(n, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1);
        madvise(p, n * PAGE, MADV_NOHUGEPAGE);
        a = area("uffd-wp-unpopulated", "anon-private", p, n, words);
        a->written = 8;
        fill_area(a);
        check(register_range(fd, p, n, UFFDIO_REGISTER_MODE_WP) && protect(fd, p, n), "UFFDIO_WRITEPROTECT");
    }
    fd = uffd(UFFD_FEATURE_POISON);
    if (fd >= 0) {
        struct {
            struct uffdio_range range;
            uint64_t mode, updated;
        } poison = {{0, 8 * PAGE}, 0, 0};
        p = map_paged(n, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1);
        madvise(p, n * PAGE, MADV_NOHUGEPAGE);
        a = area("uffd-poison", "anon-private", p, n, words);
        a->written = 8;
        fill_area(a);
        check(register_range(fd, p, n, UFFDIO_REGISTER_MODE_MISSING), "UFFDIO_REGISTER");
        poison.range.start = (uintptr_t)p + 16 * PAGE;
        check(ioctl(fd, _IOWR(UFFDIO, 0x08, poison), &poison) == 0, "UFFDIO_POISON");
    }
}

/* Guard pages over what is in the page cache (since 6.15): faults, all the same. */
static void guards(void)
{
    uint64_t n = 32, seed = seed_of("guarded");
    char *p = shared_memory("guarded", n);
    area_t *a = area("guarded-shared", "anon-shared", p, n, words);
    fill_area(a);
    if (madvise(p + 8 * PAGE, 8 * PAGE, MADV_GUARD_INSTALL) != 0)
        a->more = ", \"guards\": []";
    else {
        a->more = ", \"guards\": [8, 9, 10, 11, 12, 13, 14, 15]";
        a->ranges = "[[0, 32768], [65536, 65536]]";
    }
    int fd = make_file(path_of("/disk/files", "guarded"), seed, n * PAGE);
    p = map_paged(n, PAGE, PROT_READ, MAP_PRIVATE, fd);
    if (madvise(p + 8 * PAGE, 8 * PAGE, MADV_GUARD_INSTALL) == 0) {
        a = file_area("guarded-file", "file-private", p, n, seed);
        a->more = ", \"guards\": [8, 9, 10, 11, 12, 13, 14, 15]";
        a->ranges = "[[0, 32768], [65536, 65536]]";
    }
}

/* A block device's own page cache: the second disk's, where nobody looks. */
static void block_device(void)
{
    uint64_t seed = seed_of("block"), n = 16, at = 3UL << 30;
    int fd = open("/dev/vdb", O_RDWR);
    check(fd >= 0, "/dev/vdb");
    for (uint64_t o = 0; o < n * PAGE; o += 8) {
        uint64_t word = splitmix64(seed ^ o);
        check(pwrite(fd, &word, 8, (off_t)(at + o)) == 8, "write");
    }
    fsync(fd);
    char *p = mmap(NULL, n * PAGE, PROT_READ, MAP_SHARED, fd, (off_t)at);
    check(p != MAP_FAILED, "mapping a disk");
    touch(p);
    file_area("block-device", "file-shared", p, n, seed);
}

int main(int argc, char **argv)
{
    check(argc == 3, "arguments");
    name = argv[1];
    set_filter(argv[2]);
    mosaics("ext4", "/disk/files", 1);
    mosaics("tmpfs", "/tmp", 0);
    edges("ext4", "/disk/files", 1);
    edges("tmpfs", "/tmp", 0);
    reclaimed();
    overlay();
    large();
    hugetlb();
    faults();
    guards();
    block_device();
    sync();
    json_open(name);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    json_field("grain", "8");
    report_areas();
    json_close();
    ready();
    block_for_ever();
}
