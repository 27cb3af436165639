/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process with an io_uring worker blocked in the opening of a FIFO: a thread of its own, PF_IO_WORKER (in mainline
 * 5.10 a kernel thread, but stable 5.10 has the later code). NAME FILTER. Ends with status 96 when the kernel refuses.
 */
#include <dirent.h>
#include <linux/io_uring.h>

#include "blockregs.h"

static struct block block;

static pid_t other_thread(void)
{
    pid_t found = 0;
    DIR *dir = opendir("/proc/self/task");
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (entry->d_name[0] != '.' && atoi(entry->d_name) != getpid())
            found = atoi(entry->d_name);
    closedir(dir);
    return found;
}

int main(int argc, char **argv)
{
    struct io_uring_params params;

    check(argc == 3, "arguments");
    set_filter(argv[2]);
    memset(&params, 0, sizeof params);
    int ring = (int)syscall(__NR_io_uring_setup, 4, &params);
    if (ring < 0) {
        fprintf(stderr, "io_uring_setup: %s\n", strerror(errno));
        return 96;
    }
    size_t size = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
    char *sq = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    struct io_uring_sqe *sqe = mmap(NULL, params.sq_entries * sizeof *sqe, PROT_READ | PROT_WRITE, MAP_SHARED, ring,
                                    IORING_OFF_SQES);
    check(sq != MAP_FAILED && sqe != MAP_FAILED, "mmap rings");
    mkfifo("/tmp/fifo", 0600);
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_OPENAT;
    sqe->flags = IOSQE_ASYNC;
    sqe->fd = AT_FDCWD;
    sqe->addr = (uint64_t)"/tmp/fifo";
    sqe->open_flags = O_RDONLY;
    *(uint32_t *)(sq + params.sq_off.array) = 0;
    __atomic_store_n((uint32_t *)(sq + params.sq_off.tail), 1, __ATOMIC_RELEASE);
    check(syscall(__NR_io_uring_enter, ring, 1, 0, 0, NULL, 0) == 1, "io_uring_enter");
    pid_t worker = 0;
    for (int i = 0; i < 100 && !(worker = other_thread()); i++)
        usleep(20000);
    block_futex(&block, 0x50);
    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_field("worker", worker ? "%d" : "null", worker);
    json_list("threads");
    json_thread(getpid(), "futex", &block);
    json_list_end();
    json_close();
    ready();
    block_now(&block);
}
