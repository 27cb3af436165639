/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Three processes. "large": 2 GiB, a quarter each of random and ordinary bytes in huge pages and in single ones.
   "ordinary": its child, which has the ordinary half only. "small": 10 MiB of ordinary bytes. NAME DEVICE.
   DEVICE holds the ordinary bytes (program files of the host), as many as are wanted. */
#include <sys/wait.h>

#include "bench.h"

#define QUARTER (512 * MB)
#define SMALL (10 * MB)
#define HUGE (2 * MB)
#define PIECE MB

static int device;

static char *map(uint64_t size, int advice)
{
    char *p = mmap(NULL, size + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(p != MAP_FAILED, "mmap");
    p = (char *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));
    check(madvise(p, size, advice) == 0, "madvise");
    return p;
}

/* Single pages, each from somewhere else: they are first touched in random order. */
static char *scattered(uint64_t size, uint64_t seed)
{
    uint64_t count = size / PAGE;
    uint32_t *order = malloc(count * sizeof *order);
    char *p = map(size, MADV_NOHUGEPAGE);

    check(order != NULL, "malloc");
    for (uint64_t i = 0; i < count; i++)
        order[i] = (uint32_t)i;
    for (uint64_t i = count - 1; i; i--) {
        uint64_t j = splitmix64(seed ^ i) % (i + 1);
        uint32_t other = order[i];
        order[i] = order[j], order[j] = other;
    }
    for (uint64_t i = 0; i < count; i++)
        p[order[i] * PAGE] = 1;
    free(order);
    return p;
}

static void ordinary(char *p, uint64_t size, uint64_t from)
{
    char *piece;
    /* O_DIRECT: the guest has no memory to keep a second copy in its page cache. */
    check(posix_memalign((void **)&piece, PAGE, PIECE) == 0, "posix_memalign");
    for (uint64_t o = 0; o < size; o += PIECE) {
        check(pread(device, piece, PIECE, (off_t)(from + o)) == (ssize_t)PIECE, "reading the ordinary bytes");
        memcpy(p + o, piece, PIECE);
    }
    free(piece);
}

static void child(const char *name, char *unmap, uint64_t size, char *also)
{
    int status;
    pid_t pid = fork();

    check(pid >= 0, "fork");
    if (pid) {
        check(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status), name);
        return;
    }
    if (unmap)
        check(munmap(unmap, size) == 0 && munmap(also, size) == 0, "munmap");
    tell(name);
    for (;;)
        raise(SIGSTOP);
}

int main(int argc, char **argv)
{
    check(argc == 3, "arguments");
    device = open(argv[2], O_RDONLY | O_DIRECT);
    check(device >= 0, argv[2]);
    char *small = map(SMALL, MADV_NOHUGEPAGE);
    ordinary(small, SMALL, 0);
    child("small", NULL, 0, NULL);
    check(munmap(small, SMALL) == 0, "munmap");

    char *huge = map(QUARTER, MADV_HUGEPAGE), *huge_ordinary = map(QUARTER, MADV_HUGEPAGE);
    fill(huge, 1, 0, QUARTER);
    ordinary(huge_ordinary, QUARTER, 0);
    char *single = scattered(QUARTER, 2), *single_ordinary = scattered(QUARTER, 3);
    fill(single, 4, 0, QUARTER);
    ordinary(single_ordinary, QUARTER, QUARTER);
    child("ordinary", huge, QUARTER, single);
    tell("large");
    done(argv[1]);
}
