/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Busybox has no priorities: swapon PATH PRIORITY. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/swap.h>

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    if (swapon(argv[1], SWAP_FLAG_PREFER | (atoi(argv[2]) & SWAP_FLAG_PRIO_MASK)) != 0) {
        perror(argv[1]);
        return 1;
    }
    return 0;
}
