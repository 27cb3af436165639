/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What servers do to their memory. NAME FILTER KIND:
 *
 * title-exact, title-long, title-page: writes its title over its arguments (setproctitle): to their last byte, into the
 *     environment, over more than a page.
 * buffers: shared memory as databases have it: huge pages, a file of a tmpfs, anonymous; and a private huge page.
 * unsaved: files on a disk with pages that were not written back.
 */
#include "victim.h"

extern char **environ;

static void title(char **argv, const char *kind)
{
    if (strcmp(kind, "title-page") == 0 && getenv("ROOM") == NULL) {
        static char room[8000] = "ROOM=";
        char *with[] = {room, NULL};
        memset(room + 5, 'r', sizeof room - 6);
        execve("/proc/self/exe", argv, with);
        check(0, "execve");
    }
    char *start = argv[0], *end = argv[3] + strlen(argv[3]) + 1, *limit = end;
    for (char **variable = environ; *variable; variable++)
        limit = *variable + strlen(*variable) + 1;
    char *last = strcmp(kind, "title-exact") == 0 ? end : strcmp(kind, "title-long") == 0 ? end + 20 : start + 5000;
    check(last < limit, "room for the title");
    memset(start, 0, (size_t)(limit - start));
    memcpy(start, "server: ", 8);
    for (char *p = start + 8; p < last; p++)
        *p = (char)('a' + (p - start) % 26);
}

static void told(const char *kind, void *p, uint64_t length, uint64_t touched)
{
    check(p != MAP_FAILED, kind);
    for (uint64_t o = 0; o < touched; o += PAGE)
        *(volatile uint64_t *)((char *)p + o) = o + 1;
    json_item();
    fprintf(json_out, "{\"kind\": \"%s\", \"addr\": %lu, \"length\": %lu, \"touched\": %lu}", kind, (uint64_t)p, length,
            touched);
}

static void buffers(const char *name)
{
    const int rw = PROT_READ | PROT_WRITE, huge = MAP_ANONYMOUS | MAP_HUGETLB;
    char path[128];
    snprintf(path, sizeof path, "/tmp/%s-segment", name);
    int fd = open(path, O_CREAT | O_RDWR, 0600);
    check(fd >= 0 && ftruncate(fd, 64 * PAGE) == 0, path);
    json_list("buffers");
    told("hugetlb-shared", mmap(NULL, 6 * MB, rw, MAP_SHARED | huge, -1, 0), 6 * MB, 4 * MB);
    told("hugetlb-private", mmap(NULL, 4 * MB, rw, MAP_PRIVATE | huge, -1, 0), 4 * MB, 2 * MB);
    told("tmpfs-file", mmap(NULL, 64 * PAGE, rw, MAP_SHARED, fd, 0), 64 * PAGE, 50 * PAGE);
    told("anon-shared", mmap(NULL, 32 * PAGE, rw, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 32 * PAGE, 20 * PAGE);
    json_list_end();
}

static void put(int fd, uint64_t page, uint64_t length)
{
    static char data[PAGE];
    memset(data, 'a' + (int)(page % 26), sizeof data);
    check(pwrite(fd, data, length, (off_t)(page * PAGE)) == (ssize_t)length, "pwrite");
}

/* Which pages of a file are dirty, by /proc/kpageflags (KPF_DIRTY 4, KPF_WRITEBACK 8). */
static void tell_dirty(int fd, const char *what)
{
    struct stat status;
    int pagemap = open("/proc/self/pagemap", O_RDONLY), flags = open("/proc/kpageflags", O_RDONLY);
    check(fstat(fd, &status) == 0 && pagemap >= 0 && flags >= 0, what);
    uint64_t pages = ((uint64_t)status.st_size + PAGE - 1) / PAGE, word, bits;
    volatile char *p = mmap(NULL, pages * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    check(p != MAP_FAILED, what);
    json_item();
    fprintf(json_out, "{\"fd\": %d, \"what\": \"%s\", \"size\": %lu, \"dirty\": [", fd, what, (uint64_t)status.st_size);
    const char *comma = "";
    for (uint64_t page = 0; page < pages; page++) {
        (void)p[page * PAGE];
        check(pread(pagemap, &word, 8, (off_t)(((uintptr_t)p / PAGE + page) * 8)) == 8, "pagemap");
        check(pread(flags, &bits, 8, (off_t)((word & ((1UL << 55) - 1)) * 8)) == 8, "kpageflags");
        if (bits & (1 << 4 | 1 << 8)) {
            fprintf(json_out, "%s%lu", comma, page);
            comma = ", ";
        }
    }
    fputs("]}", json_out);
    munmap((void *)p, pages * PAGE);
    close(pagemap);
    close(flags);
}

static void unsaved(const char *name)
{
    static const char *kinds[] = {"rewritten", "new", "clean", "mapped", "deleted", "first"};
    char path[128];
    int fds[6];
    put_file("/proc/sys/vm/dirty_writeback_centisecs", "0");
    put_file("/proc/sys/vm/dirty_expire_centisecs", "10000000");
    for (int i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "/disk/%s-%s", name, kinds[i]);
        fds[i] = open(path, O_CREAT | O_RDWR, 0600);
        check(fds[i] >= 0, path);
        for (uint64_t page = 0; page < 100 && i != 1; page++)
            put(fds[i], page, PAGE);
        check(fsync(fds[i]) == 0, "fsync");
        if (i == 4)
            unlink(path);
    }
    put(fds[0], 3, PAGE);
    put(fds[0], 4, 10);
    put(fds[0], 99, PAGE);
    put(fds[0], 100, 100); /* behind the end */
    for (uint64_t page = 70; page < 90; page++) /* some of it a hole */
        put(fds[1], page, PAGE);
    char *p = mmap(NULL, 100 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fds[3], 0);
    check(p != MAP_FAILED, "mmap");
    p[64 * PAGE] = p[65 * PAGE] = 1;
    put(fds[4], 0, PAGE);
    put(fds[5], 0, 1);
    json_list("files");
    for (int i = 0; i < 6; i++)
        tell_dirty(fds[i], kinds[i]);
    json_list_end();
}

int main(int argc, char **argv)
{
    char name[64], kind[64];
    check(argc == 4, "arguments");
    snprintf(name, sizeof name, "%s", argv[1]);
    snprintf(kind, sizeof kind, "%s", argv[3]);
    set_filter(argv[2]);
    if (strncmp(kind, "title", 5) == 0)
        title(argv, kind);
    json_open(name);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    if (strcmp(kind, "buffers") == 0)
        buffers(name);
    if (strcmp(kind, "unsaved") == 0)
        unsaved(name);
    json_close();
    ready();
    block_for_ever();
}
