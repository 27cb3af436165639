// SPDX-License-Identifier: LGPL-2.1-or-later
// Preloaded into the process that runs the trials: lets the n-th call of a kind fail, or be interrupted by a signal.
// Only calls of the process that armed it, and of those it forks, count; each process counts for itself.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

int kill(int, int);  // <unistd.h> and the like declare what is replaced here
int getpid(void);

// name of the kind, and the functions that make that system call
#define KINDS(X) \
    X(open) X(read) X(pread) X(preadv) X(write) X(pwrite) X(pwritev) X(lseek) X(ftruncate) X(fallocate) X(fsync) \
    X(rename) X(link) X(unlink) X(mkdir) X(rmdir) X(stat) X(mmap) X(fork) X(pipe) X(dup) X(chmod) X(flock) X(memfd) \
    X(getdents) X(poll) X(fadvise) X(fcntl) X(ioctl) X(statx) X(readlink) X(copy) X(mkfifo) X(socket) X(wait) X(utime)

enum kind {
#define X(name) K_##name,
    KINDS(X)
#undef X
    KIND_COUNT
};

static const char *const names[] = {
#define X(name) #name,
    KINDS(X)
#undef X
};

static atomic_int armed;
static int wanted;      // kind, or -1: any
static long nth;        // of them, from 1
static int how_many;    // from the n-th on; 0: all
static int failure;     // errno; 0: none
static int interruption;  // signal; 0: none
static atomic_long counts[KIND_COUNT + 1];

int campaign_kinds(void) { return KIND_COUNT; }
const char *campaign_name(int kind) { return kind >= 0 && kind < KIND_COUNT ? names[kind] : ""; }
long campaign_count(int kind) { return counts[kind < 0 ? KIND_COUNT : kind]; }
void campaign_disarm(void) { armed = 0; }

void campaign_arm(int kind, long n, int many, int err, int sig)
{
    for (int i = 0; i <= KIND_COUNT; i++)
        counts[i] = 0;
    wanted = kind;
    nth = n;
    how_many = many;
    failure = err;
    interruption = sig;
    armed = 1;
}

// Whether this call shall fail; errno is set then.
static int fails(int kind)
{
    if (!armed)
        return 0;
    long of_kind = ++counts[kind], of_any = ++counts[KIND_COUNT];
    if (wanted >= 0 && wanted != kind)
        return 0;
    long number = wanted < 0 ? of_any : of_kind;
    if (nth <= 0 || number < nth || (how_many && number >= nth + how_many))
        return 0;
    if (interruption)
        kill(getpid(), interruption);
    if (!failure)
        return 0;
    errno = failure;
    return 1;
}

// A function of up to six words. All arguments and results of those below fit into one.
#define WRAP(kind, name) \
    long name(long a, long b, long c, long d, long e, long f); \
    long name(long a, long b, long c, long d, long e, long f) \
    { \
        static long (*real)(long, long, long, long, long, long); \
        if (fails(K_##kind)) \
            return -1; \
        if (!real) \
            *(void **)&real = dlsym(RTLD_NEXT, #name); \
        if (!real) { \
            errno = ENOSYS; \
            return -1; \
        } \
        return real(a, b, c, d, e, f); \
    }
// The same of those that return an int: the upper half of the word means nothing.
#define WRAP_INT(kind, name) \
    int name(long a, long b, long c, long d, long e, long f); \
    int name(long a, long b, long c, long d, long e, long f) \
    { \
        static int (*real)(long, long, long, long, long, long); \
        if (fails(K_##kind)) \
            return -1; \
        if (!real) \
            *(void **)&real = dlsym(RTLD_NEXT, #name); \
        if (!real) { \
            errno = ENOSYS; \
            return -1; \
        } \
        return real(a, b, c, d, e, f); \
    }

// The headers declare these otherwise; without their declarations there is nothing to contradict.
WRAP_INT(open, open)
WRAP_INT(open, open64)
WRAP_INT(open, openat)
WRAP_INT(open, openat64)
WRAP_INT(open, creat)
WRAP_INT(open, creat64)
WRAP_INT(ftruncate, ftruncate)
WRAP_INT(ftruncate, ftruncate64)
WRAP_INT(ftruncate, truncate)
WRAP_INT(ftruncate, truncate64)
WRAP_INT(fallocate, fallocate)
WRAP_INT(fallocate, fallocate64)
WRAP_INT(fsync, fsync)
WRAP_INT(fsync, fdatasync)
WRAP_INT(rename, rename)
WRAP_INT(rename, renameat)
WRAP_INT(rename, renameat2)
WRAP_INT(link, link)
WRAP_INT(link, linkat)
WRAP_INT(link, symlink)
WRAP_INT(link, symlinkat)
WRAP_INT(unlink, unlink)
WRAP_INT(unlink, unlinkat)
WRAP_INT(mkdir, mkdir)
WRAP_INT(mkdir, mkdirat)
WRAP_INT(rmdir, rmdir)
WRAP_INT(stat, stat)
WRAP_INT(stat, stat64)
WRAP_INT(stat, lstat)
WRAP_INT(stat, lstat64)
WRAP_INT(stat, fstat)
WRAP_INT(stat, fstat64)
WRAP_INT(stat, fstatat)
WRAP_INT(stat, fstatat64)
WRAP_INT(statx, statx)
WRAP_INT(fork, fork)
WRAP_INT(pipe, pipe)
WRAP_INT(pipe, pipe2)
WRAP_INT(dup, dup)
WRAP_INT(dup, dup2)
WRAP_INT(dup, dup3)
WRAP_INT(chmod, chmod)
WRAP_INT(chmod, fchmod)
WRAP_INT(chmod, fchmodat)
WRAP_INT(chmod, fchown)
WRAP_INT(chmod, chown)
WRAP_INT(flock, flock)
WRAP_INT(flock, lockf)
WRAP_INT(flock, lockf64)
WRAP_INT(memfd, memfd_create)
WRAP_INT(poll, poll)
WRAP_INT(poll, ppoll)
WRAP_INT(poll, select)
WRAP_INT(poll, epoll_wait)
WRAP_INT(fcntl, fcntl)
WRAP_INT(fcntl, fcntl64)
WRAP_INT(ioctl, ioctl)
WRAP_INT(mkfifo, mkfifo)
WRAP_INT(mkfifo, mkfifoat)
WRAP_INT(socket, socket)
WRAP_INT(socket, connect)
WRAP_INT(socket, bind)
WRAP_INT(wait, waitpid)
WRAP_INT(wait, wait4)
WRAP_INT(utime, utimensat)
WRAP_INT(utime, futimens)
WRAP(read, read)
WRAP(pread, pread)
WRAP(pread, pread64)
WRAP(preadv, readv)
WRAP(preadv, preadv)
WRAP(preadv, preadv64)
WRAP(preadv, preadv2)
WRAP(preadv, preadv64v2)
WRAP(write, write)
WRAP(pwrite, pwrite)
WRAP(pwrite, pwrite64)
WRAP(pwritev, writev)
WRAP(pwritev, pwritev)
WRAP(pwritev, pwritev64)
WRAP(pwritev, pwritev2)
WRAP(pwritev, pwritev64v2)
WRAP(lseek, lseek)
WRAP(lseek, lseek64)
WRAP(mmap, mmap)
WRAP(mmap, mmap64)
WRAP(readlink, readlink)
WRAP(readlink, readlinkat)
WRAP(copy, copy_file_range)
WRAP(copy, sendfile)
WRAP(copy, sendfile64)
WRAP(copy, splice)
WRAP(getdents, getdents64)

// Positive error numbers instead of errno.
#define WRAP_ERROR(kind, name) \
    int name(long a, long b, long c, long d, long e, long f); \
    int name(long a, long b, long c, long d, long e, long f) \
    { \
        static int (*real)(long, long, long, long, long, long); \
        if (fails(K_##kind)) \
            return errno; \
        if (!real) \
            *(void **)&real = dlsym(RTLD_NEXT, #name); \
        return real ? real(a, b, c, d, e, f) : ENOSYS; \
    }
WRAP_ERROR(fallocate, posix_fallocate)
WRAP_ERROR(fallocate, posix_fallocate64)
WRAP_ERROR(fadvise, posix_fadvise)
WRAP_ERROR(fadvise, posix_fadvise64)

// Null pointers instead of -1.
#define WRAP_POINTER(kind, name) \
    void *name(long a, long b, long c); \
    void *name(long a, long b, long c) \
    { \
        static void *(*real)(long, long, long); \
        if (fails(K_##kind)) \
            return NULL; \
        if (!real) \
            *(void **)&real = dlsym(RTLD_NEXT, #name); \
        return real ? real(a, b, c) : NULL; \
    }
WRAP_POINTER(getdents, opendir)
WRAP_POINTER(getdents, fdopendir)
WRAP_POINTER(getdents, readdir)
WRAP_POINTER(getdents, readdir64)
