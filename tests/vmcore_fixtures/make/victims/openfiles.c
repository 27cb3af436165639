/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Open files of every kind, at known offsets, with known flags and contents. NAME FILTER.
 *
 * Files are called NAME-what. Their content is the pattern of their seed within ranges, zeros elsewhere.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#include "victim.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define MAX_FILES 32
static struct {
    int fd;
    const char *what;
    uint64_t seed, ranges[4][2];
    unsigned count;
    char *mapped; /* to ask which of its pages are in memory at the end */
    uint64_t pages;
} files[MAX_FILES];
static unsigned file_count;
static const char *victim;

static char *name_of(const char *directory, const char *what)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s-%s", directory, victim, what);
    return path;
}

/* Write the pattern to a range of the file that was added last. */
static void put(uint64_t offset, uint64_t length)
{
    unsigned i = file_count - 1;
    uint64_t end = (length + 7) / 8 * 8;
    char *data = malloc(end);
    for (uint64_t o = 0; o < end; o += 8) {
        uint64_t word = pattern(files[i].seed, offset + o);
        memcpy(data + o, &word, 8);
    }
    check(pwrite(files[i].fd, data, length, (off_t)offset) == (ssize_t)length, files[i].what);
    free(data);
    files[i].ranges[files[i].count][0] = offset;
    files[i].ranges[files[i].count++][1] = length;
}

static int add(int fd, const char *what)
{
    check(fd >= 0 && file_count < MAX_FILES, what);
    files[file_count].fd = fd;
    files[file_count].what = what;
    files[file_count].seed = splitmix64(0x66696c65UL + file_count);
    file_count++;
    return fd;
}

static void seek(int fd, off_t offset) { check(lseek(fd, offset, SEEK_SET) == offset, "lseek"); }

static void map(uint64_t pages)
{
    unsigned i = file_count - 1;
    files[i].mapped = mmap(NULL, pages * PAGE, PROT_READ, MAP_SHARED, files[i].fd, 0);
    files[i].pages = pages;
    check(files[i].mapped != MAP_FAILED, files[i].what);
}

/* Regular files: on a disk, in a tmpfs, without any file system. */
static void contents(void)
{
    char *path = name_of("/disk/files", "regular");
    int fd = add(open(path, O_CREAT | O_RDWR, 0644), "regular");
    put(0, 40004);
    check(close(fd) == 0 && open(path, O_RDWR | O_APPEND) == fd, "reopen");
    seek(fd, 12345);
    add(open(path, O_RDONLY | O_CLOEXEC | O_NOATIME), "again");
    files[file_count - 1].seed = files[0].seed, files[file_count - 1].count = 1;
    memcpy(files[file_count - 1].ranges, files[0].ranges, sizeof files[0].ranges);

    path = name_of("/disk/files", "deleted");
    fd = add(open(path, O_CREAT | O_RDWR | O_EXCL | O_CLOEXEC, 0600), "deleted");
    put(0, 3 * PAGE + 100);
    put(6 * PAGE, PAGE);
    seek(fd, 4096);
    unlink(path);

    /* Of this one the middle leaves memory. */
    path = name_of("/disk/files", "evicted");
    fd = add(open(path, O_CREAT | O_RDWR | O_SYNC, 0600), "evicted");
    put(0, 64 * PAGE);
    check(fsync(fd) == 0 && posix_fadvise(fd, 16 * PAGE, 32 * PAGE, POSIX_FADV_DONTNEED) == 0, "fadvise");
    map(64);
    unlink(path);

    add(open("/disk/files", O_TMPFILE | O_RDWR, 0600), "nameless");
    put(100, 5000);

    path = name_of("/tmp", "tmpfs");
    fd = add(open(path, O_CREAT | O_RDWR | O_NOFOLLOW, 0644), "tmpfs");
    put(0, 2 * PAGE);
    put(80 * PAGE, 4321);
    seek(fd, 400000000);

    path = name_of("/tmp", "gone\n\x1b[31m\xff");
    fd = add(open(path, O_CREAT | O_WRONLY, 0644), "gone");
    put(0, 777);
    unlink(path);

    fd = add((int)syscall(SYS_memfd_create, "kgcore files", 1 /* MFD_CLOEXEC */), "memfd");
    check(ftruncate(fd, 20 * PAGE) == 0, "ftruncate");
    put(3 * PAGE, 2 * PAGE);
    seek(fd, 8);

    /* Its pages go to the swap. */
    fd = add((int)syscall(SYS_memfd_create, "swapped", 0), "swapped");
    put(0, 32 * PAGE);
    map(32);
    volatile char sum = 0;
    for (uint64_t at = 0; at < 32 * PAGE; at += PAGE)
        sum += files[file_count - 1].mapped[at];
    madvise(files[file_count - 1].mapped, 32 * PAGE, MADV_PAGEOUT);
}

static void sockets(void)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT, .sin6_port = htons(5353)};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    socklen_t size = sizeof in;
    int pair[2];

    int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    check(bind(listening, (void *)&in, sizeof in) == 0 && listen(listening, 5) == 0, "listen");
    check(getsockname(listening, (void *)&in, &size) == 0, "getsockname");
    int client = socket(AF_INET, SOCK_STREAM, 0);
    check(connect(client, (void *)&in, sizeof in) == 0, "connect");
    check(accept4(listening, NULL, NULL, SOCK_NONBLOCK) >= 0, "accept");
    check(socket(AF_INET, SOCK_DGRAM, 0) >= 0, "UDP");
    int six = socket(AF_INET6, SOCK_DGRAM, 0);
    if (six >= 0)
        bind(six, (void *)&in6, sizeof in6);
    check(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0, "socketpair");
    int named = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(un.sun_path, sizeof un.sun_path, "/tmp/%s.socket", victim);
    check(bind(named, (void *)&un, sizeof un) == 0 && listen(named, 1) == 0, "a named socket");
    check(socket(AF_NETLINK, SOCK_RAW, 0) >= 0, "netlink");
}

static void others(void)
{
    int ends[2];
    sigset_t set;
    char some[32];

    check(pipe2(ends, O_NONBLOCK | O_CLOEXEC) == 0, "pipe");
    check(eventfd(3, EFD_SEMAPHORE) >= 0 && epoll_create1(EPOLL_CLOEXEC) >= 0 && inotify_init() >= 0, "anon_inode");
    sigemptyset(&set);
    check(signalfd(-1, &set, 0) >= 0 && timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK) >= 0, "signalfd, timerfd");
    syscall(434 /* pidfd_open */, getpid(), 0);
    int maps = open("/proc/self/maps", O_RDONLY);
    check(read(maps, some, sizeof some) == sizeof some, "maps");
    open("/proc/self/ns/pid", O_RDONLY);
    open("/proc/self/ns/net", O_RDONLY);
    check(open("/sys/kernel/notes", O_RDONLY) >= 0 && open("/dev/zero", O_WRONLY) >= 0, "sysfs, devtmpfs");
    check(open("/disk", O_RDONLY | O_DIRECTORY) >= 0 && open("/disk/files", O_PATH | O_CLOEXEC) >= 0, "directories");
    check(open("/dev/vda", O_RDONLY) >= 0, "a block device");
    check(mkfifo(name_of("/tmp", "fifo"), 0600) == 0 && open(name_of("/tmp", "fifo"), O_RDWR) >= 0, "fifo");
    /* More than the first 64, with gaps, and with both kinds of close-on-exec. */
    for (int i = 0; i < 60; i++)
        check(dup3(files[0].fd, 70 + i * 2, i % 3 ? 0 : O_CLOEXEC) >= 0, "dup3");
    check(dup2(ends[0], 1000) == 1000, "dup2");
    close(74);
}

static void address(const char *key, struct sockaddr *name, socklen_t size)
{
    char text[64] = "";
    if (size < sizeof(sa_family_t) + 1)
        return;
    if (name->sa_family == AF_INET) {
        struct sockaddr_in *in = (void *)name;
        inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
        fprintf(json_out, ", \"%s\": \"%s:%d\"", key, text, ntohs(in->sin_port));
    } else if (name->sa_family == AF_INET6) {
        struct sockaddr_in6 *in6 = (void *)name;
        inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof text);
        fprintf(json_out, ", \"%s\": \"[%s]:%d\"", key, text, ntohs(in6->sin6_port));
    } else if (name->sa_family == AF_UNIX) {
        fprintf(json_out, ", \"%s\": \"%.*s\"", key, (int)(size - sizeof(sa_family_t)), ((struct sockaddr_un *)name)->sun_path);
    }
}

static void tell_fd(int fd)
{
    char path[64], target[4096] = "", info[8192] = "";
    struct stat st;
    struct sockaddr_storage name;
    socklen_t size = sizeof name;

    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    int in = open(path, O_RDONLY);
    check(in >= 0 && read(in, info, sizeof info - 1) > 0, path);
    close(in);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    check(readlink(path, target, sizeof target - 1) > 0, path);
    check(fstat(fd, &st) == 0, "fstat");
    json_item();
    fprintf(json_out, "{\"fd\": %d, \"mode\": %u, \"size\": %llu, \"nlink\": %lu, \"inode\": %llu, \"path\": ", fd, st.st_mode,
            (unsigned long long)st.st_size, (unsigned long)st.st_nlink, (unsigned long long)st.st_ino);
    json_string(json_out, target);
    fprintf(json_out, ", \"fdinfo\": ");
    json_string(json_out, info);
    if (S_ISSOCK(st.st_mode)) {
        int domain = 0, type = 0;
        socklen_t n = sizeof domain;
        getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n);
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n);
        fprintf(json_out, ", \"domain\": %d, \"type\": %d", domain, type);
        if (getsockname(fd, (void *)&name, &size) == 0)
            address("local", (void *)&name, size);
        size = sizeof name;
        if (getpeername(fd, (void *)&name, &size) == 0)
            address("remote", (void *)&name, size);
    }
    fputc('}', json_out);
}

int main(int argc, char **argv)
{
    static int fds[1024];
    unsigned count = 0;

    check(argc == 3, "arguments");
    victim = argv[1];
    set_filter(argv[2]);
    contents();
    sockets();
    others();
    DIR *directory = opendir("/proc/self/fd");
    for (struct dirent *entry; (entry = readdir(directory));)
        if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(directory))
            fds[count++] = atoi(entry->d_name);
    closedir(directory);
    json_open(victim);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    json_list("fds");
    for (unsigned i = 0; i < count; i++)
        tell_fd(fds[i]);
    json_list_end();
    json_list("files");
    for (unsigned i = 0; i < file_count; i++) {
        unsigned char resident[64] = {0};
        json_item();
        fprintf(json_out, "{\"fd\": %d, \"what\": \"%s\", \"seed\": %llu, \"ranges\": [", files[i].fd,
                files[i].what, (unsigned long long)files[i].seed);
        for (unsigned r = 0; r < files[i].count; r++)
            fprintf(json_out, "%s[%llu, %llu]", r ? ", " : "", (unsigned long long)files[i].ranges[r][0],
                    (unsigned long long)files[i].ranges[r][1]);
        fprintf(json_out, "], \"not_resident\": [");
        if (files[i].mapped)
            check(mincore(files[i].mapped, files[i].pages * PAGE, resident) == 0, "mincore");
        for (unsigned p = 0, first = 1; p < files[i].pages; p++)
            if (!(resident[p] & 1))
                fprintf(json_out, "%s%u", first ? "" : ", ", p), first = 0;
        fprintf(json_out, "]}");
    }
    json_list_end();
    json_close();
    ready();
    block_for_ever();
}
