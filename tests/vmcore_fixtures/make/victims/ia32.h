/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the 32-bit program holds; shared with the 64-bit one that tells of it. */
#ifndef IA32_H
#define IA32_H
#define IA32_MAP 0x20000000u
#define IA32_LENGTH 0x8000u
#define IA32_SEED 0x32323232u
#define IA32_EBX 0x32b00001u
#define IA32_ECX 0x32b00002u
#define IA32_EDX 0x32b00003u
#define IA32_ESI 0x32b00004u
#define IA32_EDI 0x32b00005u
#define IA32_EBP 0x32b00006u
#define IA32_FCW 0x027fu
#define IA32_MXCSR 0x3f80u
#define IA32_XMM 0x5au
#endif
