/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libgencore.so: one function, for programs that look it up by dlopen() and dlsym(). */
#include "kgcore_client.h"

#pragma GCC visibility push(default)
int gencore(char *path);
#pragma GCC visibility pop

/** Write a core of the calling process; 0 or an errno (kgcore_dump() in kgcore_client.h). */
int gencore(char *path)
{
    return kgcore_dump(path, NULL);
}
