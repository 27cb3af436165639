/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What every victim shares: patterns, the JSON of what it did, and raw blocking with known registers.
 *
 * A victim writes /truth/victims/NAME.json, then touches NAME.ready as the last thing before its final state.
 */
#ifndef VICTIM_H
#define VICTIM_H
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define MB (1UL << 20)
#define TRUTH "/truth/victims/"

static inline uint64_t splitmix64(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

/* Bytes that hold the same word: 8, or more to make dumps that compress well. A power of two. */
static uint64_t grain = 8;

/* The 8-byte word at offset o of a mapping with seed s. */
static inline uint64_t pattern(uint64_t seed, uint64_t o) { return splitmix64(seed ^ (o & ~(grain - 1))); }

static inline void fill(void *start, uint64_t seed, uint64_t from, uint64_t length)
{
    for (uint64_t o = from; o < from + length; o += 8)
        *(volatile uint64_t *)((char *)start + o) = pattern(seed, o);
}

static inline void check(int good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "VICTIM FAILED: %s: %s\n", what, strerror(errno));
    exit(97);
}

static inline void put_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    check(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), path);
    close(fd);
}

/* ---- JSON: one object per process, written piece by piece ---- */
static FILE *json_out;
static char json_name[64];
static int json_first;

static inline void json_string(FILE *out, const char *s)
{
    fputc('"', out);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        /* Bytes that are not ASCII are written as \u00XX: Latin-1, one code point per byte. */
        if (c < 0x20 || c == '"' || c == '\\' || c > 0x7e)
            fprintf(out, "\\u%04x", c);
        else
            fputc(c, out);
    }
    fputc('"', out);
}

static inline void json_open(const char *name)
{
    char path[128];
    snprintf(json_name, sizeof json_name, "%s", name);
    snprintf(path, sizeof path, TRUTH "%s.json", name);
    json_out = fopen(path, "w");
    check(json_out != NULL, path);
    fprintf(json_out, "{\"name\": \"%s\"", name);
}

static inline void json_field(const char *key, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(json_out, ",\n \"%s\": ", key);
    vfprintf(json_out, format, args);
    va_end(args);
}

static inline void json_text(const char *key, const char *text)
{
    fprintf(json_out, ",\n \"%s\": ", key);
    json_string(json_out, text);
}

static inline void json_list(const char *key)
{
    fprintf(json_out, ",\n \"%s\": [", key);
    json_first = 1;
}

static inline void json_item(void)
{
    fputs(json_first ? "\n  " : ",\n  ", json_out);
    json_first = 0;
}

static inline void json_list_end(void) { fputs("]", json_out); }

static inline void json_close(void)
{
    fputs("\n}\n", json_out);
    check(fclose(json_out) == 0, "closing the JSON");
}

static inline void ready_as(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, TRUTH "%s.ready", name);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    check(fd >= 0, path);
    close(fd);
}

static inline void ready(void) { ready_as(json_name); }

/* The final state of a victim whose registers do not matter. */
static inline void block_for_ever(void)
{
    for (;;)
        syscall(SYS_pause);
}

static inline void set_filter(const char *text) { put_file("/proc/self/coredump_filter", text); }

#endif
