/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Starts a 32-bit program and tells what that will hold. NAME FILTER. */
#include "blockregs.h"
#include "ia32.h"

int main(int argc, char **argv)
{
    char path[] = TRUTH "ia32.addresses";
    unsigned long rip, stack, tls;

    check(argc == 3, "arguments");
    set_filter(argv[2]);
    unlink(path);
    pid_t child = fork();
    if (!child) {
        execl("/victims/ia32.bin", "ia32", path, NULL);
        check(0, "execl");
    }
    FILE *in = NULL;
    for (int i = 0; i < 200 && (!in || fscanf(in, "%lx %lx %lx", &rip, &stack, &tls) != 3); i++) {
        if (in)
            fclose(in);
        usleep(50000);
        in = fopen(path, "r");
    }
    check(in != NULL && waitpid(child, NULL, WNOHANG) == 0, "the 32-bit program");
    unlink(path);
    json_open(argv[1]);
    json_field("pid", "%d", child);
    json_field("tids", "[%d]", child);
    json_field("bits", "32");
    json_list("mappings");
    json_item();
    fprintf(json_out, "{\"name\": \"ia32\", \"kind\": \"anon-private\", \"addr\": %lu, \"length\": %lu, \"seed\": %lu, ",
            (unsigned long)IA32_MAP, (unsigned long)IA32_LENGTH, (unsigned long)IA32_SEED);
    fprintf(json_out, "\"ranges\": [[0, %lu]]}", (unsigned long)IA32_LENGTH);
    json_list_end();
    json_list("threads");
    json_item();
    fprintf(json_out, "{\"tid\": %d, \"role\": \"pause\", \"gs_base\": %lu, \"regs\": {\"ebx\": %u, \"ecx\": %u, \"edx\": %u, ",
            child, tls, IA32_EBX, IA32_ECX, IA32_EDX);
    fprintf(json_out, "\"esi\": %u, \"edi\": %u, \"ebp\": %u, \"orig_eax\": 29, \"eip\": %lu, \"esp\": %lu, ", IA32_ESI, IA32_EDI,
            IA32_EBP, rip, stack);
    fprintf(json_out, "\"fcw\": %u, \"mxcsr\": %u, \"st\": [\"pi\"], \"xmm_byte\": %u}}", IA32_FCW, IA32_MXCSR, IA32_XMM);
    json_list_end();
    json_close();
    ready();
    block_for_ever();
}
