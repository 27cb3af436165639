/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reserves very much memory, and touches one page of each GiB, so that the upper page tables are there:
   the host fills in the rest (synthetic.py). NAME GIB. */
#include "bench.h"

#define AT ((char *)0x100000000000UL)
#define GIB (1UL << 30)

int main(int argc, char **argv)
{
    check(argc == 3, "arguments");
    uint64_t size = strtoul(argv[2], NULL, 10) * GIB;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    char *p = mmap(AT, size, PROT_READ | PROT_WRITE, flags, -1, 0);
    check(p == AT, "mmap");
    for (uint64_t o = 0; o < size; o += GIB)
        p[o] = 1;
    tell(argv[1]);
    done(argv[1]);
}
