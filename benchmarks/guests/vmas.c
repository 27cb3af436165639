/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Many mappings, as of a program that maps thousands of files: three of four are anonymous pages of alternating
   protection, the fourth is a page of one of 256 files. Every eighth page was written. NAME COUNT FILE. */
#include "bench.h"

#define FILES 256

int main(int argc, char **argv)
{
    int files[FILES];
    char path[256];

    check(argc == 4, "arguments");
    uint64_t count = strtoul(argv[2], NULL, 10);
    for (int i = 0; i < FILES; i++) {
        snprintf(path, sizeof path, "%s-%d", argv[3], i);
        files[i] = open(path, O_RDWR | O_CREAT, 0644);
        check(files[i] >= 0 && ftruncate(files[i], (off_t)(4 * FILES * PAGE)) == 0, path);
    }
    char *p = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(p != MAP_FAILED, "mmap");
    for (uint64_t i = 0; i < count; i += 8)
        fill(p + i * PAGE, 1, 0, PAGE);
    for (uint64_t i = 1; i < count; i += 2)
        if (i % 4 == 1)
            check(mprotect(p + i * PAGE, PAGE, PROT_READ) == 0, "mprotect");
        else
            check(mmap(p + i * PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, files[i / 4 % FILES],
                       (off_t)(i / 4 / FILES * PAGE)) != MAP_FAILED, "mapping a file");
    for (int i = 0; i < FILES; i++)
        close(files[i]);
    tell(argv[1]);
    done(argv[1]);
}
