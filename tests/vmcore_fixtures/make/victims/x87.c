/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Blocked with known values in the x87, for CPUs that have nothing but that. NAME FILTER. */
#include "victim.h"

int main(int argc, char **argv)
{
    check(argc == 3, "arguments");
    set_filter(argv[2]);
    json_open(argv[1]);
    json_field("pid", "%d", getpid());
    json_field("tids", "[%d]", getpid());
    json_close();
    ready();
    for (;;)
        __asm__ volatile("fninit\n  fldpi\n  fldl2e\n  fld1\n  fldz\n  fldln2\n  int $0x80" : : "a"(SYS_pause) : "memory");
}
