/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process with open files that have no name: a deleted one, open twice, and a memfd that it has not mapped. It says
 * `ready` and waits until its standard output is another file; then it exits with 43 if all is as it was, else with the
 * number of the line. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CHECK(x) \
    do { \
        if (!(x)) \
            return __LINE__; \
    } while (0)

int main(void)
{
    static char big[300000], back[300000];
    struct stat before, after;
    for (unsigned i = 0; i < sizeof big; i++)
        big[i] = (char)(i * 2654435761u >> 13);
    int file = open("deleted", O_RDWR | O_CREAT, 0600), again = open("deleted", O_RDONLY);
    CHECK(file >= 0 && again >= 0 && unlink("deleted") == 0);
    CHECK(pwrite(file, big, sizeof big, 8192) == sizeof big && lseek(file, 7, SEEK_SET) == 7);
    int memory = memfd_create("unmapped", 0);
    CHECK(ftruncate(memory, 1 << 20) == 0 && pwrite(memory, big, sizeof big, 100000) == sizeof big);
    CHECK(lseek(memory, 9, SEEK_SET) == 9 && fstat(1, &before) == 0);
    CHECK(write(1, "ready\n", 6) == 6);
    do {
        nanosleep(&(struct timespec){0, 5000000}, NULL);
        CHECK(fstat(1, &after) == 0);
    } while (after.st_ino == before.st_ino && after.st_dev == before.st_dev);

    CHECK(pread(file, back, sizeof back, 8192) == sizeof back && memcmp(big, back, sizeof big) == 0);
    CHECK(lseek(file, 0, SEEK_CUR) == 7 && lseek(file, 0, SEEK_END) == 8192 + sizeof big);
    CHECK(pread(file, back, 8192, 0) == 8192 && back[0] == 0 && memcmp(back, back + 1, 8191) == 0);
    CHECK(pwrite(file, "new", 3, 50) == 3 && pread(again, back, 3, 50) == 3 && memcmp(back, "new", 3) == 0);
    for (int i = 0; i < 4000 && fstat(file, &after) == 0 && after.st_nlink; i++)
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    CHECK(after.st_nlink == 0); /* the name that it had here went away with its directory */
    CHECK(pread(memory, back, sizeof back, 100000) == sizeof back && memcmp(big, back, sizeof big) == 0);
    CHECK(lseek(memory, 0, SEEK_CUR) == 9 && lseek(memory, 0, SEEK_END) == 1 << 20);
    return 43;
}
