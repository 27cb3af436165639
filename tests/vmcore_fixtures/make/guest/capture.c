/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copies what /proc says of processes into a directory: capture TARGET PID... (many threads: a shell is too slow). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const process_files[] = {"maps",  "status", "stat",   "auxv",  "cmdline", "coredump_filter",
                                            "limits", "statm", "environ", "comm", NULL};
static const char *const task_files[] = {"status", "stat", "syscall", "comm", NULL};

static long copy(const char *from_dir, const char *to_dir, const char *name)
{
    char path[512], data[65536];
    long total = 0;
    ssize_t got;

    snprintf(path, sizeof path, "%s/%s", from_dir, name);
    int in = open(path, O_RDONLY);
    if (in < 0)
        return -1;
    snprintf(path, sizeof path, "%s/%s", to_dir, name);
    int out = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    while (out >= 0 && (got = read(in, data, sizeof data)) > 0)
        if (write(out, data, (size_t)got) == got)
            total += got;
    close(in);
    close(out);
    return total;
}

static void links(const char *from_dir, const char *to_dir)
{
    char path[512], target[4096];
    snprintf(path, sizeof path, "%s/links", to_dir);
    FILE *out = fopen(path, "w");
    snprintf(path, sizeof path, "%s/exe", from_dir);
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n >= 0)
        fprintf(out, "exe\t%.*s\n", (int)n, target);
    snprintf(path, sizeof path, "%s/fd", from_dir);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        char link[1024];
        snprintf(link, sizeof link, "%s/%s", path, entry->d_name);
        if ((n = readlink(link, target, sizeof target - 1)) >= 0)
            fprintf(out, "fd/%s\t%.*s\n", entry->d_name, (int)n, target);
    }
    if (dir)
        closedir(dir);
    fclose(out);
}

int main(int argc, char **argv)
{
    for (int i = 2; i < argc; i++) {
        char from[256], to[256], task[600], task_to[600];
        snprintf(from, sizeof from, "/proc/%s", argv[i]);
        snprintf(to, sizeof to, "%s/%s", argv[1], argv[i]);
        mkdir(to, 0755);
        long maps = 0;
        for (int f = 0; process_files[f]; f++) {
            long size = copy(from, to, process_files[f]);
            if (!strcmp(process_files[f], "maps"))
                maps = size;
        }
        /* With tens of thousands of VMAs it would be tens of megabytes. */
        if (maps < 1000000)
            copy(from, to, "smaps");
        links(from, to);
        snprintf(task, sizeof task, "%s/task", from);
        snprintf(task_to, sizeof task_to, "%s/task", to);
        mkdir(task_to, 0755);
        DIR *dir = opendir(task);
        for (struct dirent *entry; dir && (entry = readdir(dir));) {
            char a[900], b[900];
            if (entry->d_name[0] == '.')
                continue;
            snprintf(a, sizeof a, "%s/%s", task, entry->d_name);
            snprintf(b, sizeof b, "%s/%s", task_to, entry->d_name);
            mkdir(b, 0755);
            for (int f = 0; task_files[f]; f++)
                copy(a, b, task_files[f]);
        }
        if (dir)
            closedir(dir);
    }
    return 0;
}
