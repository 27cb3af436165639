/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One mapping per filter bit and page state. Arguments: NAME FILTER [GRAIN]. */
#include <inttypes.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#include "victim.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

static const char *name;
static unsigned count;

/* Report a mapping; ranges is a JSON list of [offset, length] that hold the pattern of the seed. */
static void report(const char *what, const char *kind, void *addr, uint64_t length, uint64_t seed, const char *ranges)
{
    json_item();
    fprintf(json_out, "{\"name\": \"%s\", \"kind\": \"%s\", \"addr\": %lu, \"length\": %" PRIu64 ", \"seed\": %" PRIu64 ", ", what,
            kind, (unsigned long)addr, length, seed);
    fprintf(json_out, "\"ranges\": %s}", ranges);
}

static uint64_t next_seed(void) { return splitmix64(0x6b67636f7265ULL + ++count); }

static char *whole(uint64_t length)
{
    static char text[64];
    snprintf(text, sizeof text, "[[0, %" PRIu64 "]]", length);
    return text;
}

/* Keep one unmapped page after each mapping, so that the kernel merges none of them. */
static char *map_apart(uint64_t length, int prot, int flags, int fd, off_t offset)
{
    char *p = mmap(NULL, length + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(p != MAP_FAILED, "reserve");
    munmap(p, length + 2 * PAGE);
    p = mmap(p + PAGE, length, prot, flags | MAP_FIXED, fd, offset);
    check(p != MAP_FAILED, "mmap");
    return p;
}

static char *anon(uint64_t length) { return map_apart(length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

/* A mapping of huge page alignment. */
static char *anon_aligned(uint64_t length)
{
    char *p = mmap(NULL, length + 4 * MB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(p != MAP_FAILED, "reserve");
    char *q = (char *)(((uintptr_t)p + 4 * MB - 1) & ~(2 * MB - 1));
    munmap(p, length + 4 * MB);
    q = mmap(q, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    check(q != MAP_FAILED, "mmap aligned");
    return q;
}

static void anonymous(void)
{
    uint64_t s, n;
    char *p;

    s = next_seed(), n = 64 * PAGE, p = anon(n);
    fill(p, s, 0, n);
    report("anon-full", "anon-private", p, n, s, whole(n));

    /* Every third page, and in it only a piece: the rest of the page is zero. */
    s = next_seed(), n = 96 * PAGE, p = anon(n);
    char text[4096] = "[", *end = text + 1;
    for (uint64_t o = 0; o < n; o += 3 * PAGE) {
        fill(p, s, o + 512, 1024);
        end += sprintf(end, "%s[%" PRIu64 ", 1024]", o ? ", " : "", o + 512);
    }
    strcpy(end, "]");
    report("anon-sparse", "anon-private", p, n, s, text);

    p = anon(32 * PAGE);
    report("anon-untouched", "anon-private", p, 32 * PAGE, 0, "[]");

    p = anon(32 * PAGE);
    for (int i = 0; i < 32; i++)
        *(volatile char *)(p + i * PAGE);
    report("anon-zero-page", "anon-private", p, 32 * PAGE, 0, "[]");

    s = next_seed(), n = 16 * PAGE, p = anon(n);
    fill(p, s, 0, n);
    memset(p, 0, 8 * PAGE); /* pages of its own that hold zeros: makedumpfile's zero pages */
    report("anon-written-zero", "anon-private", p, n, s, "[[32768, 32768]]");

    s = next_seed(), n = 4 * MB, p = anon_aligned(n);
    madvise(p, n, MADV_HUGEPAGE);
    fill(p, s, 0, n);
    report("thp-full", "anon-private-thp", p, n, s, whole(n));

    /* Written in the first huge page only; one 4K page discarded again, so the huge page is split. */
    s = next_seed(), n = 4 * MB, p = anon_aligned(n);
    madvise(p, n, MADV_HUGEPAGE);
    fill(p, s, 0, 64 * PAGE);
    madvise(p + 8 * PAGE, PAGE, MADV_DONTNEED);
    report("thp-split", "anon-private-thp", p, n, s, "[[0, 32768], [36864, 225280]]");

    p = anon_aligned(2 * MB);
    madvise(p, 2 * MB, MADV_HUGEPAGE);
    *(volatile char *)p;
    report("thp-zero", "anon-private-thp", p, 2 * MB, 0, "[]");

    s = next_seed(), n = 16 * PAGE, p = anon(n);
    fill(p, s, 0, n);
    check(mprotect(p, n, PROT_NONE) == 0, "mprotect");
    report("prot-none", "anon-private", p, n, s, whole(n));

    s = next_seed(), n = 16 * PAGE, p = anon(n);
    fill(p, s, 0, n);
    check(madvise(p, n, MADV_DONTDUMP) == 0, "DONTDUMP");
    report("dontdump", "anon-private-dontdump", p, n, s, whole(n));

    s = next_seed(), n = 16 * PAGE, p = anon(n);
    fill(p, s, 0, n);
    check(mlock(p, n) == 0, "mlock");
    report("mlocked", "anon-private", p, n, s, whole(n));

    /* Adjacent VMAs that differ in protection only: rw, r, rwx, none, rw. */
    s = next_seed(), n = 20 * PAGE, p = anon(n);
    fill(p, s, 0, n);
    mprotect(p + 4 * PAGE, 4 * PAGE, PROT_READ);
    mprotect(p + 8 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    mprotect(p + 12 * PAGE, 4 * PAGE, PROT_NONE);
    report("adjacent", "anon-private", p, n, s, whole(n));

    s = next_seed(), n = 32 * PAGE, p = anon(n);
    fill(p, s, 0, n);
    char *target = anon(2 * n);
    munmap(target, 2 * n);
    p = mremap(p, n, 2 * n, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    check(p != MAP_FAILED, "mremap");
    report("mremapped", "anon-private", p, 2 * n, s, whole(n));

    s = next_seed(), n = 8 * PAGE;
    p = map_apart(n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0);
    fill(p, s, 0, n);
    report("growsdown", "anon-private", p, n, s, whole(n));

    s = next_seed(), n = 16 * PAGE, p = anon(n);
    fill(p, s, 0, n);
    if (madvise(p + 4 * PAGE, 4 * PAGE, MADV_GUARD_INSTALL) == 0)
        report("guarded", "anon-private", p, n, s, "[[0, 16384], [32768, 32768]]");

    /* Written, then forked: the child exits, the pages were shared copy-on-write. */
    s = next_seed(), n = 8 * PAGE, p = anon(n);
    fill(p, s, 0, n);
    pid_t child = fork();
    if (!child)
        _exit(0);
    waitpid(child, NULL, 0);
    report("forked", "anon-private", p, n, s, whole(n));
}

static void shared_anonymous(void)
{
    uint64_t s, n;
    char *p;

    s = next_seed(), n = 32 * PAGE;
    p = map_apart(n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    fill(p, s, 0, 16 * PAGE);
    report("shared-anon", "anon-shared", p, n, s, "[[0, 65536]]");

    s = next_seed(), n = 16 * PAGE;
    int id = shmget(IPC_PRIVATE, n, IPC_CREAT | 0600);
    p = shmat(id, NULL, 0);
    check(p != (void *)-1, "shmat");
    fill(p, s, 0, n);
    report("sysv-shm", "anon-shared", p, n, s, whole(n));

    s = next_seed(), n = 16 * PAGE;
    int fd = (int)syscall(SYS_memfd_create, "kgcore test", 0);
    check(fd >= 0 && ftruncate(fd, (off_t)n) == 0, "memfd");
    p = map_apart(n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    fill(p, s, 0, n);
    report("memfd-shared", "anon-shared", p, n, s, whole(n));

    /* In the page cache, in no page table of ours. */
    s = next_seed();
    fd = (int)syscall(SYS_memfd_create, "unmapped", 0);
    check(fd >= 0 && ftruncate(fd, (off_t)n) == 0, "memfd");
    p = map_apart(n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    fill(p, s, 0, n);
    check(madvise(p, n, MADV_DONTNEED) == 0, "DONTNEED");
    report("memfd-not-present", "anon-shared", p, n, s, whole(n));

    s = next_seed();
    fd = (int)syscall(SYS_memfd_create, "private", 0);
    check(fd >= 0 && ftruncate(fd, (off_t)n) == 0, "memfd");
    p = map_apart(n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    fill(p, s, 0, n);
    munmap(p, n);
    p = map_apart(n, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    fill(p, s ^ 1, PAGE, PAGE);
    fill(p, s, PAGE, PAGE); /* written, with the same contents: a private copy among file pages */
    report("memfd-private", "file-private-written-deleted", p, n, s, whole(n));
}

static void huge(void)
{
    struct {
        const char *what, *kind;
        int flags;
    } const kinds[] = {{"hugetlb-private", "hugetlb-private", MAP_PRIVATE}, {"hugetlb-shared", "hugetlb-shared", MAP_SHARED}};
    for (int i = 0; i < 2; i++) {
        uint64_t s = next_seed(), n = 2 * MB;
        char *p = mmap(NULL, n, PROT_READ | PROT_WRITE, kinds[i].flags | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
        if (p == MAP_FAILED) {
            fprintf(stderr, "%s: no hugetlb page: %s\n", name, strerror(errno));
            continue;
        }
        fill(p, s, 0, n / 2);
        report(kinds[i].what, kinds[i].kind, p, n, s, "[[0, 1048576]]");
    }
}

/* A file of n bytes with a pattern, on a directory; returns its descriptor (read and write). */
static int make_file(const char *path, uint64_t seed, uint64_t n)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    check(fd >= 0, path);
    for (uint64_t o = 0; o < n; o += 8) {
        uint64_t word = pattern(seed, o);
        check(write(fd, &word, n - o < 8 ? n - o : 8) > 0, "write");
    }
    fsync(fd);
    return fd;
}

static void files(const char *directory, const char *prefix)
{
    char path[256], label[64];
    uint64_t s, n = 16 * PAGE;
    char *p;
    int fd, i;
#define PATH(tail) (snprintf(path, sizeof path, "%s/%s-%s", directory, name, tail), path)
#define LABEL(tail) (snprintf(label, sizeof label, "%s-%s", prefix, tail), label)

    s = next_seed(), fd = make_file(PATH("clean"), s, n);
    p = map_apart(n, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    for (i = 0; i < 16; i++)
        *(volatile char *)(p + i * PAGE);
    report(LABEL("private-clean"), "file-private", p, n, s, whole(n));

    s = next_seed(), fd = make_file(PATH("dirty"), s, n);
    p = map_apart(n, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    fill(p, s ^ 0x5555000000000000ULL, 4 * PAGE, 2 * PAGE);
    report(LABEL("private-dirty"), "file-private-written", p, n, s, "[[0, 16384], [24576, 40960]]");
    report(LABEL("private-dirty-written"), "file-private-written-part", p, n, s ^ 0x5555000000000000ULL, "[[16384, 8192]]");

    s = next_seed(), fd = make_file(PATH("untouched"), s, n);
    p = map_apart(n, PROT_READ, MAP_PRIVATE, fd, 0);
    report(LABEL("private-untouched"), "file-private", p, n, s, whole(n));

    /* Clean and dropped from the page cache (on a disk): the kernel reads it again, a vmcore does not hold it. */
    s = next_seed(), fd = make_file(PATH("uncached"), s, n);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    p = map_apart(n, PROT_READ, MAP_PRIVATE, fd, 0);
    report(LABEL("private-uncached"), "file-private", p, n, s, whole(n));

    s = next_seed(), fd = make_file(PATH("shared"), s, n);
    p = map_apart(n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    fill(p, s, 0, 8 * PAGE);
    report(LABEL("shared"), "file-shared", p, n, s, whole(n));

    s = next_seed(), fd = make_file(PATH("readonly"), s, n);
    close(fd);
    fd = open(path, O_RDONLY);
    p = map_apart(n, PROT_READ, MAP_SHARED, fd, 0);
    *(volatile char *)p;
    report(LABEL("shared-readonly"), "file-shared-readonly", p, n, s, whole(n));

    s = next_seed(), fd = make_file(PATH("gone private"), s, n);
    p = map_apart(n, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    *(volatile char *)p;
    unlink(path);
    report(LABEL("private-deleted"), "file-private-deleted", p, n, s, whole(n));

    s = next_seed(), fd = make_file(PATH("gone shared"), s, n);
    p = map_apart(n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    fill(p, s, 0, PAGE);
    unlink(path);
    report(LABEL("shared-deleted"), "file-shared-deleted", p, n, s, whole(n));

    /* From page 4 of the file on: offset o of the mapping holds the file's word at o + 4 pages. */
    s = next_seed(), fd = make_file(PATH("offset"), s, n);
    p = map_apart(n - 4 * PAGE, PROT_READ, MAP_PRIVATE, fd, 4 * PAGE);
    *(volatile char *)p;
    report(LABEL("private-offset"), "file-private-pgoff4", p, n - 4 * PAGE, s, "[]");

    /* 2.5 pages of file under 6 pages of mapping: half a page of zeros, then SIGBUS. */
    s = next_seed(), fd = make_file(PATH("short"), s, 2 * PAGE + 2048);
    p = map_apart(6 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
    *(volatile char *)p;
    report(LABEL("private-beyond-eof"), "file-private", p, 6 * PAGE, s, "[[0, 10240]]");

    s = next_seed(), fd = make_file(PATH("new\nline\\ \"q\" \x1b[31m\xff"), s, n);
    p = map_apart(n, PROT_READ, MAP_PRIVATE, fd, 0);
    *(volatile char *)p;
    report(LABEL("private-odd-name"), "file-private", p, n, s, whole(n));

    s = next_seed(), fd = make_file(PATH("sparse"), s, 2 * PAGE);
    check(ftruncate(fd, 8 * PAGE) == 0, "ftruncate");
    p = map_apart(8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    *(volatile char *)(p + 4 * PAGE);
    report(LABEL("shared-hole"), "file-shared", p, 8 * PAGE, s, "[[0, 8192]]");

    /* ELF magic without the x bit, the x bit without ELF magic, neither: the header-page rule. */
    struct {
        const char *tail;
        const char *head;
        int mode;
    } const heads[] = {{"elf-magic", "\177ELF", 0644}, {"exec-bit", "#!xx", 0755}, {"plain-head", "none", 0644}};
    for (i = 0; i < 3; i++) {
        s = next_seed(), fd = make_file(PATH(heads[i].tail), s, 4 * PAGE);
        check(pwrite(fd, heads[i].head, 4, 0) == 4 && fchmod(fd, (mode_t)heads[i].mode) == 0, "head");
        p = map_apart(4 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
        report(LABEL(heads[i].tail), "file-private-header", p, 4 * PAGE, s, "[[8, 16376]]");
    }
}

static void exec_mapping(void)
{
    struct stat st;
    int fd = open("/proc/self/exe", O_RDONLY);
    check(fd >= 0 && fstat(fd, &st) == 0, "exe");
    uint64_t n = ((uint64_t)st.st_size + PAGE - 1) & ~(PAGE - 1);
    char *p = map_apart(n, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    report("elf-mapped", "file-private-header", p, n, 0, "[]");
}

int main(int argc, char **argv)
{
    check(argc == 3 || argc == 4, "arguments");
    name = argv[1];
    if (argc == 4)
        grain = strtoul(argv[3], NULL, 0);
    set_filter(argv[2]);
    json_open(name);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    json_text("filter", argv[2]);
    json_field("grain", "%" PRIu64, grain);
    json_list("mappings");
    anonymous();
    shared_anonymous();
    huge();
    files("/disk/files", "ext4");
    files("/tmp", "tmpfs");
    exec_mapping();
    json_list_end();
    json_close();
    ready();
    block_for_ever();
}
