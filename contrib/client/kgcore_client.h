/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A program dumps itself, or another one, through kgcore's daemon: kgcore_dump("core", NULL).
 *
 * This file is all of it, for C99 and later and for C++11 and later, on Linux. kgcore_dump() may be called by a handler of
 * SIGSEGV, on an alternate stack, while other threads hold any lock: it allocates no memory, takes no lock and less than
 * 2 KiB of stack, sends no signal (nor does a connection that breaks), and leaves errno as it was. Any number of threads
 * may call it at once.
 *
 * It makes the system calls socket, connect, open, sendmsg, recvmsg, poll, close, gettid, clock_gettime, and where a
 * dump fails statx and unlink; all of them by syscall(). The C library's functions of these names would be points at which
 * a thread may be cancelled, others may have put themselves in their place, and the dynamic linker may take 3 KiB of stack
 * to find each when it is called first.
 *
 * docs/client.md has an example; docs/daemon.md the protocol.
 */
#ifndef KGCORE_CLIENT_H
#define KGCORE_CLIENT_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#else
/* Strict C hides it. */
extern long syscall(long number, ...);
#endif

/** Where the daemon listens, unless options or $KGCORE_SOCKET say otherwise. */
#define KGCORE_SOCKET_PATH "/run/kgcore/socket"

/** A flag: an existing file is written over. It is empty from the moment on at which the daemon is asked. */
#define KGCORE_OVERWRITE 1u
/** A flag: a file that was made for a dump that then failed stays, with what it has. */
#define KGCORE_KEEP_PARTIAL 2u

/** As kgcore_options.tid: the first thread of the core is the process's leader. */
#define KGCORE_LEADER (-1)

/** What became of a dump. */
struct kgcore_result {
    /** 1: the core lacks something, and says what; 0: it is complete. */
    int incomplete;
    /** Bytes of the core. */
    uint64_t size;
    /** What the daemon says of an error, ended by a NUL byte; else empty. */
    char message[256];
};

/**
 * How to dump. All zeros stand for the defaults, so that members that a later version adds need not be known:
 *
 *     struct kgcore_options options = KGCORE_OPTIONS;
 *     options.max_size = 1 << 30;
 */
struct kgcore_options {
    /** sizeof(struct kgcore_options), which tells the versions of this structure apart; 0: the first version's. */
    size_t size;
    /** Sum of KGCORE_OVERWRITE, KGCORE_KEEP_PARTIAL. */
    unsigned flags;
    /** Which process; 0: this one. */
    int pid;
    /** Which thread comes first in the core; 0: the one that calls, of another process the leader. */
    int tid;
    /** Milliseconds after which to give up (ETIMEDOUT); 0: never, but 10 s until the daemon takes the request. */
    unsigned timeout_ms;
    /** Milliseconds after which writing ends, with what matters most; 0: no limit. */
    unsigned max_time_ms;
    /** Milliseconds that the process may stand still at most; 0: no limit. */
    unsigned max_freeze_ms;
    /** Bytes that the core may have at most, which then has what matters most; 0: no limit. */
    uint64_t max_size;
    /** The socket's path; NULL: $KGCORE_SOCKET as it was when the program began, else KGCORE_SOCKET_PATH. */
    const char *socket;
    /**
     * Further settings, "key=value" each, and a NULL behind the last one; NULL: none. The keys are those of docs/daemon.md:
     * filter, freeze, shared, limit, profile, compress, exclude, only, redact. At most KGCORE_MOST_SETTINGS.
     */
    const char *const *settings;
    /** Where to tell what became of it; NULL: nowhere. */
    struct kgcore_result *result;
};

#define KGCORE_MOST_SETTINGS 32

/** The defaults. */
#define KGCORE_OPTIONS {sizeof(struct kgcore_options), 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL}

/* ---- What follows is how it is done. ---- */

/* Strict C hides O_CLOEXEC and O_NOFOLLOW, and O_LARGEFILE, without which the files of 32-bit programs end at 2 GiB. */
#define KGCORE_OPEN_FLAGS_ (O_WRONLY | O_CREAT | 02000000 | 0400000 | 0100000)

enum kgcore_type_ { KGCORE_DUMP_ = 1, KGCORE_DONE_ = 17, KGCORE_ERROR_ = 18 };
enum { KGCORE_PROTOCOL_ = 1, KGCORE_CONNECT_MS_ = 10000, KGCORE_PAUSE_MS_ = 20, KGCORE_MOST_ERRNO_ = 4095 };

/** The head of every message. */
struct kgcore_message_ {
    uint32_t length;
    uint16_t version;
    uint16_t type;
    uint64_t id;
};

/** What both answers begin with. Behind it KGCORE_DONE_ has the core's size, KGCORE_ERROR_ a text. */
struct kgcore_answer_ {
    struct kgcore_message_ head;
    int32_t status;
    uint32_t flags;
};

/** A connection that is waited for until a certain time. */
struct kgcore_wait_ {
    int64_t deadline;
    int forever;
};

/**
 * $KGCORE_SOCKET of a program's start, empty if there was none. It is not read later: getenv() in a signal handler might
 * meet a setenv() of another thread half-way. A program with more rights than its user does not believe the environment.
 */
static char kgcore_socket_[sizeof(((struct sockaddr_un *)0)->sun_path) + 1];

static void kgcore_start_(void) __attribute__((constructor(101)));

static void kgcore_start_(void)
{
    const char *value = getauxval(AT_SECURE) ? NULL : getenv("KGCORE_SOCKET");
    size_t length = strlen(value ? value : "");
    int kept = errno;

    /* Of one that is too long so much is kept that this is seen later. */
    if (length >= sizeof(kgcore_socket_))
        length = sizeof(kgcore_socket_) - 1;
    memcpy(kgcore_socket_, value ? value : "", length);
    memset(kgcore_socket_ + length, 0, sizeof(kgcore_socket_) - length);
    /* With this all functions that the others below call have been called, and the dynamic linker has found them. */
    syscall(SYS_gettid);
    errno = kept;
}

/** Milliseconds of a clock that is never set. */
static inline int64_t kgcore_now_(void)
{
#ifdef __x86_64__
    struct { long long seconds, nanoseconds; } now = {0, 0};
#else
    struct { long seconds, nanoseconds; } now = {0, 0};
#endif
    syscall(SYS_clock_gettime, 1L /* CLOCK_MONOTONIC */, &now);
    return (int64_t)now.seconds * 1000 + now.nanoseconds / 1000000;
}

/** What is left of the time, as poll() has it; 0: nothing. */
static inline int kgcore_left_(const struct kgcore_wait_ *wait)
{
    int64_t left;

    if (wait->forever)
        return -1;
    left = wait->deadline - kgcore_now_();
    return left < 0 ? 0 : left > 1000000000 ? 1000000000 : (int)left;
}

/** Wait until a descriptor is ready; 0 or an errno. */
static inline int kgcore_ready_(int fd, short events, const struct kgcore_wait_ *wait)
{
    struct pollfd waiting;
    long found;

    waiting.fd = fd;
    waiting.events = events;
    waiting.revents = 0;
    do
        found = syscall(SYS_poll, &waiting, 1L, (long)kgcore_left_(wait));
    while (found < 0 && errno == EINTR);
    return found > 0 ? 0 : found < 0 ? errno : ETIMEDOUT;
}

/** Append "key=NUMBER" to a text, with a point before the last three digits if these are of milliseconds; its new end. */
static inline char *kgcore_number_(char *end, const char *key, uint64_t number, int milliseconds)
{
    char digits[24];
    size_t count = 0, length = strlen(key);

    if (!number)
        return end;
    memcpy(end, key, length);
    end += length;
    do {
        digits[count++] = (char)('0' + number % 10);
        number /= 10;
        if (milliseconds && count == 3)
            digits[count++] = '.';
    } while (number || (milliseconds && count < 5));
    while (count)
        *end++ = digits[--count];
    *end++ = '\0';
    return end;
}

/** Connect to the daemon; 0 or an errno. */
static inline int kgcore_connect_(int *connection, const char *path, const struct kgcore_wait_ *limit)
{
    struct sockaddr_un address;
    struct kgcore_wait_ wait = *limit;
    int problem;

    if (!path)
        path = kgcore_socket_[0] ? kgcore_socket_ : KGCORE_SOCKET_PATH;
    if (strlen(path) >= sizeof(address.sun_path))
        return ENAMETOOLONG;
    memset(&address, 0, sizeof(address));
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, path, strlen(path));
    if (wait.forever) {
        wait.deadline = kgcore_now_() + KGCORE_CONNECT_MS_;
        wait.forever = 0;
    }
    *connection = (int)syscall(SYS_socket, (long)AF_UNIX, (long)(SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK), 0L);
    if (*connection < 0)
        return errno;
    for (;;) {
        if (syscall(SYS_connect, (long)*connection, &address, (long)sizeof(address)) == 0)
            return 0;
        problem = errno;
        if (problem == EAGAIN && kgcore_left_(&wait) == 0)
            problem = ETIMEDOUT;
        if (problem != EAGAIN && problem != EINTR)
            break;
        /* Too many are waiting already, which poll() does not tell the end of. */
        if (problem == EAGAIN)
            syscall(SYS_poll, NULL, 0L, (long)KGCORE_PAUSE_MS_);
    }
    syscall(SYS_close, (long)*connection);
    return problem;
}

/** Send the request, and with it the descriptor that the core is written to; 0 or an errno. */
static inline int kgcore_send_(
    int connection, int output, int self, const struct kgcore_options *options, const struct kgcore_wait_ *wait)
{
    char text[192], *end = text;
    struct iovec parts[2 + KGCORE_MOST_SETTINGS];
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct kgcore_message_ head;
    struct msghdr message;
    size_t index, count = 2;
    int problem, tid = options->tid > 0 ? options->tid : options->tid == 0 && options->pid == 0 ? self : 0;

    end = kgcore_number_(end, "pid=", (uint64_t)options->pid, 0);
    end = kgcore_number_(end, "tid=", (uint64_t)tid, 0);
    end = kgcore_number_(end, "max-time=", options->max_time_ms, 1);
    end = kgcore_number_(end, "max-freeze=", options->max_freeze_ms, 1);
    end = kgcore_number_(end, "max-size=", options->max_size, 0);
    parts[0].iov_base = &head;
    parts[0].iov_len = sizeof(head);
    parts[1].iov_base = text;
    parts[1].iov_len = (size_t)(end - text);
    head.length = (uint32_t)(sizeof(head) + parts[1].iov_len);
    for (index = 0; options->settings && options->settings[index]; index++, count++) {
        parts[count].iov_base = (void *)(uintptr_t)options->settings[index];
        parts[count].iov_len = strlen(options->settings[index]) + 1;
        head.length += (uint32_t)parts[count].iov_len;
    }
    head.version = KGCORE_PROTOCOL_;
    head.type = KGCORE_DUMP_;
    head.id = (uint64_t)self;
    memset(&control, 0, sizeof(control));
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    control.head.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.head), &output, sizeof(int));
    memset(&message, 0, sizeof(message));
    message.msg_iov = parts;
    message.msg_iovlen = count;
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof(control.bytes);
    while (syscall(SYS_sendmsg, (long)connection, &message, (long)MSG_NOSIGNAL) < 0) {
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return errno;
        problem = kgcore_ready_(connection, POLLOUT, wait);
        if (problem)
            return problem;
    }
    return 0;
}

/** Receive a packet, its text into the result's message, and how long it is; 0 or an errno. */
static inline int kgcore_receive_(
    int connection, struct kgcore_answer_ *answer, struct kgcore_result *result, size_t *size, const struct kgcore_wait_ *wait)
{
    struct iovec parts[2];
    struct msghdr message;
    long got;
    int problem, reset = 0;

    for (;;) {
        problem = kgcore_ready_(connection, POLLIN, wait);
        if (problem)
            return problem;
        memset(answer, 0, sizeof(*answer));
        memset(result, 0, sizeof(*result));
        parts[0].iov_base = answer;
        parts[0].iov_len = sizeof(*answer);
        parts[1].iov_base = result->message;
        parts[1].iov_len = sizeof(result->message) - 1;
        memset(&message, 0, sizeof(message));
        message.msg_iov = parts;
        message.msg_iovlen = 2;
        /* MSG_TRUNC: how long the packet is, of which only so much is wanted. The kernel drops descriptors in it. */
        got = syscall(SYS_recvmsg, (long)connection, &message, (long)MSG_TRUNC);
        if (got > 0) {
            *size = (size_t)got;
            return 0;
        }
        if (got == 0)
            return EPIPE;
        if (errno == ECONNRESET && !reset)
            reset = 1; /* The daemon has gone without reading all. What it sent before comes after this. */
        else if (errno != EINTR && errno != EAGAIN)
            return errno == ECONNRESET ? EPIPE : errno;
    }
}

/** Wait for the answer; 0 or an errno. */
static inline int kgcore_answer_to_(
    int connection, int self, struct kgcore_result *result, const struct kgcore_wait_ *wait)
{
    struct kgcore_answer_ answer;
    struct kgcore_result unwanted;
    size_t size = 0, last;
    int problem;

    if (!result)
        result = &unwanted;
    do {
        problem = kgcore_receive_(connection, &answer, result, &size, wait);
        if (!problem && (size < sizeof(answer.head) || answer.head.length != size || answer.head.version != KGCORE_PROTOCOL_ ||
                         (answer.head.id != (uint64_t)self && !(answer.head.id == 0 && answer.head.type == KGCORE_ERROR_))))
            problem = EBADMSG; /* (An error without an id is to a request that nobody has read.) */
    } while (!problem && answer.head.type != KGCORE_DONE_ && answer.head.type != KGCORE_ERROR_);
    if (problem) {
        memset(result, 0, sizeof(*result));
        return problem;
    }
    if (answer.head.type == KGCORE_ERROR_ && size >= sizeof(answer) && answer.status > 0 &&
        answer.status <= KGCORE_MOST_ERRNO_) {
        last = sizeof(result->message) - 1;
        if (size - sizeof(answer) > last) {
            /* It is cut off, maybe inside of a character, whose beginning goes as well then. */
            while (last > 0 && ((unsigned char)result->message[last - 1] & 0xc0) == 0x80)
                last--;
            if (last > 0 && ((unsigned char)result->message[last - 1] & 0xc0) == 0xc0)
                result->message[last - 1] = '\0';
        }
        return answer.status;
    }
    if (answer.head.type == KGCORE_DONE_ && size >= sizeof(answer) + sizeof(result->size) &&
        (answer.status == 0 || answer.status == 3)) {
        memcpy(&result->size, result->message, sizeof(result->size));
        result->incomplete = answer.status != 0;
        memset(result->message, 0, sizeof(result->message));
        return 0;
    }
    memset(result, 0, sizeof(*result));
    return EBADMSG;
}

/** The options of whichever version as those of this one; 0 or an errno. */
static inline int kgcore_known_(struct kgcore_options *known, const struct kgcore_options *given)
{
    size_t size, index;

    memset(known, 0, sizeof(*known));
    if (!given)
        return 0;
    size = given->size ? given->size : sizeof(*known); /* (Of the first version, should there be another.) */
    for (index = sizeof(*known); index < size; index++)
        if (((const char *)given)[index])
            return E2BIG; /* It wants something that this version does not know. */
    memcpy(known, given, size < sizeof(*known) ? size : sizeof(*known));
    if (known->flags & ~(KGCORE_OVERWRITE | KGCORE_KEEP_PARTIAL) || known->pid < 0 || known->tid < KGCORE_LEADER)
        return EINVAL;
    for (index = 0; known->settings && known->settings[index]; index++)
        if (index == KGCORE_MOST_SETTINGS)
            return E2BIG;
    return 0;
}

/** What is of interest of struct statx, which not all C libraries show. */
struct kgcore_statx_ {
    char before[32];
    uint64_t inode;
    char between[96];
    uint32_t major, minor;
    char after[112];
};

/** Remove the file that was made, if its name is still its own: what is no core does not keep the name of one. */
static inline void kgcore_remove_(const char *path, int output)
{
#ifdef SYS_statx
    struct kgcore_statx_ made, named;

    memset(&made, 0, sizeof(made));
    memset(&named, 0, sizeof(named));
    if (syscall(SYS_statx, (long)output, "", 0x1000L /* AT_EMPTY_PATH */, 0x100L /* STATX_INO */, &made) == 0 &&
        syscall(SYS_statx, -100L /* AT_FDCWD */, path, 0x100L /* AT_SYMLINK_NOFOLLOW */, 0x100L, &named) == 0 &&
        made.inode == named.inode && made.major == named.major && made.minor == named.minor)
        syscall(SYS_unlink, path);
#else
    (void)path;
    (void)output;
#endif
}

/** Both of the functions below: a path, or, if that is NULL, a descriptor. */
static inline int kgcore_ask_(const char *path, int output, const struct kgcore_options *given)
{
    struct kgcore_options options;
    struct kgcore_wait_ wait = {0, 1};
    int kept = errno, connection, problem, created = 0, self;

    problem = kgcore_known_(&options, given);
    if (problem)
        return problem;
    if (options.timeout_ms) {
        wait.deadline = kgcore_now_() + options.timeout_ms;
        wait.forever = 0;
    }
    self = (int)syscall(SYS_gettid);
    problem = kgcore_connect_(&connection, options.socket, &wait);
    if (problem) {
        errno = kept;
        return problem;
    }
    if (path) {
        created = !(options.flags & KGCORE_OVERWRITE);
        do
            output = (int)syscall(SYS_open, path, (long)(KGCORE_OPEN_FLAGS_ | (created ? O_EXCL : O_TRUNC)), 0600L);
        while (output < 0 && errno == EINTR);
        if (output < 0)
            problem = errno;
    }
    if (!problem)
        problem = kgcore_send_(connection, output, self, &options, &wait);
    /* Whoever refuses a request need not have read it. */
    if (output >= 0 && (!problem || problem == EPIPE || problem == ECONNRESET))
        problem = kgcore_answer_to_(connection, self, options.result, &wait);
    syscall(SYS_close, (long)connection);
    if (path && output >= 0) {
        if (problem && created && !(options.flags & KGCORE_KEEP_PARTIAL))
            kgcore_remove_(path, output);
        syscall(SYS_close, (long)output);
    }
    errno = kept;
    return problem;
}

/**
 * Dump a process, this one by default, into a file.
 *
 * The file is new (EEXIST if there is one, also a dangling symbolic link), with mode 0600; its name is relative to this
 * process's current directory. It is made when the daemon has been reached, and removed if the dump fails.
 *
 * @return 0, or an errno. No daemon: ECONNREFUSED or ENOENT; it died: EPIPE; it speaks another language: EBADMSG; what
 * else it refuses, and why: docs/daemon.md. (Of the file: EEXIST, EACCES and what else open() has.)
 */
static inline int kgcore_dump(const char *path, const struct kgcore_options *options)
{
    return path ? kgcore_ask_(path, -1, options) : EFAULT;
}

/**
 * Dump a process into an open file, a memfd or a pipe, from where the file's offset is; as kgcore_dump().
 *
 * A pipe must have another process at its other end: this one stands still for a while.
 */
static inline int kgcore_dump_fd(int fd, const struct kgcore_options *options)
{
    return fd >= 0 ? kgcore_ask_(NULL, fd, options) : EBADF;
}

#ifdef __cplusplus
}
#endif

#endif
