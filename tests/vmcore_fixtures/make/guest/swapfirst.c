/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Makes each CPU take its swap slots from the newest device: swapfirst TYPE.
 *
 * A CPU keeps slots of the device it used last (up to 6.13 single ones, later a cluster), whatever the priorities are. So
 * swap out pages on each until one goes to the device wanted; they are freed when this program ends.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define MADV_PAGEOUT 21
#define PAGE 4096UL
#define PAGES 4096UL

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    uint64_t wanted = strtoul(argv[1], NULL, 10);
    int pagemap = open("/proc/self/pagemap", O_RDONLY);
    for (int cpu = 0; cpu < sysconf(_SC_NPROCESSORS_ONLN); cpu++) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        sched_setaffinity(0, sizeof set, &set);
        char *p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED || madvise(p, PAGES * PAGE, MADV_NOHUGEPAGE) != 0)
            return 1;
        unsigned long page = 0, good = 0;
        for (; page < PAGES && good < 4; page++) {
            uint64_t word = 0;
            /* Not the same word everywhere: that a swap device need not store. */
            *(volatile uint64_t *)(p + page * PAGE) = page + 1;
            for (int tries = 0; tries < 20 && !(word >> 62 & 1); tries++) {
                madvise(p + page * PAGE, PAGE, MADV_PAGEOUT);
                if (pread(pagemap, &word, 8, (off_t)((uintptr_t)p / PAGE + page) * 8) != 8)
                    return 1;
            }
            good = word >> 62 & 1 && (word & 31) == wanted ? good + 1 : 0;
        }
        if (good < 4) {
            fprintf(stderr, "CPU %d does not swap to type %lu\n", cpu, wanted);
            return 1;
        }
    }
    return 0;
}
