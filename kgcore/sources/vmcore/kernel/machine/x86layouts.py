# SPDX-License-Identifier: LGPL-2.1-or-later
"""What kgcore needs of x86 kernels only: the rows of the table of layouts that belong to the architecture."""

from kgcore.sources.vmcore.kernel.layouts.base import (
    EVERYWHERE,
    Row,
    Use,
    Way,
    constants,
    lines,
    members,
    symbols,
    types,
)

__all__ = ("COMMON", "I386_ONLY", "X86_64_ONLY")

_THREAD, _MM = "struct thread_struct", "struct mm_struct"

_SECTIONS = (
    *symbols("mem_section"),
    *lines("NUMBER(SECTION_SIZE_BITS) LENGTH(mem_section) SIZE(mem_section) OFFSET(mem_section.section_mem_map)"),
)

COMMON = (
    Row(
        "registers of a thread: traps, I/O permissions, TLS, thread flags",
        Use.REGISTERS,
        (
            Way(
                EVERYWHERE,
                (
                    *members("struct task_struct", "thread thread_info"),
                    *members("struct thread_info", "flags"),
                    *members(_THREAD, "cr2 error_code trap_nr tls_array"),
                ),
            ),
        ),
        "no core is written",
        needed=True,
        also=types(_THREAD),
    ),
    Row(
        "I/O permission bitmap",
        Use.REGISTERS,
        (
            Way("5.5", (*members(_THREAD, "io_bitmap"), *members("struct io_bitmap", "bitmap max"))),
            Way(EVERYWHERE, members(_THREAD, "io_bitmap_ptr")),
        ),
        "cores have no I/O permission bitmap",
        also=types("struct io_bitmap"),
    ),
    Row(
        "floating-point and vector registers",
        Use.REGISTERS,
        (
            Way(
                "6.16 (cb7ca40a3882)",
                (*members("struct fpu", "fpstate"), *members("struct fpstate", "size regs")),
                lacks=members(_THREAD, "fpu"),
            ),
            Way(
                "5.16 (87d0e5be0fac)",
                (
                    *members(_THREAD, "fpu"),
                    *members("struct fpu", "fpstate"),
                    *members("struct fpstate", "size regs"),
                ),
            ),
            Way(
                EVERYWHERE,
                (*members(_THREAD, "fpu"), *members("struct fpu", "state"), *symbols("fpu_kernel_xstate_size")),
            ),
        ),
        "cores have no floating-point registers",
        also=types("struct fpu", "struct fpstate"),
    ),
    Row(
        "the layout of extended registers (XSAVE)",
        Use.REGISTERS,
        (
            Way("6.1", symbols("xstate_offsets xstate_sizes xstate_flags")),
            Way(EVERYWHERE, symbols("xstate_offsets xstate_sizes xstate_comp_offsets")),
        ),
        "cores have the registers of the x87 and SSE only, none of AVX and later",
        also=(
            *types("struct user_regset"),
            *members("struct user_regset", "core_note_type n"),
            *symbols("xstate_fx_sw_bytes init_fpstate"),
            *constants("XFEATURE_MAX"),
        ),
    ),
    Row(
        "protection keys",
        Use.REGISTERS,
        (Way("5.14 (954436989cc5)", members(_THREAD, "pkru")),),
        "",
    ),
    Row(
        "user-mode shadow stacks",
        Use.REGISTERS,
        (Way("6.6 (2d39a6add422)", members(_THREAD, "features")),),
        "",
    ),
    Row(
        "the current task of a CPU",
        Use.REGISTERS,
        (
            Way("6.2 to 6.14 (e57ef2ed97c1)", (*symbols("pcpu_hot"), *members("struct pcpu_hot", "current_task"))),
            Way(EVERYWHERE, symbols("current_task")),
        ),
        "a thread that was just being switched in or out may lack the registers of its CPU",
        also=types("struct pcpu_hot"),
    ),
    Row(
        "whether a CPU was entering or leaving the kernel",
        Use.REGISTERS,
        (Way(EVERYWHERE, symbols("__entry_text_start __entry_text_end")),),
        "",
    ),
    Row(
        "whether the floating-point registers of a running thread are in memory",
        Use.REGISTERS,
        (Way("5.2 (5f409e20b794)", symbols("switch_fpu_return"), how="by the bit that this function clears"),),
        "",
    ),
    Row(
        "whether a debugger set the trap flag",
        Use.REGISTERS,
        (
            Way(EVERYWHERE, symbols("user_disable_single_step"), how="by the bit that this function clears"),
            Way(EVERYWHERE, how="bit 24"),
        ),
        "",
    ),
    Row(
        "whether registers of user mode are at the end of kernel stacks",
        Use.REGISTERS,
        (Way(EVERYWHERE, (*symbols("init_task"), *members("struct task_struct", "tasks flags mm stack"))),),
        "",
        value="machine.entry_frames_fit",
    ),
    Row(
        "how the kernel aligns notes in cores",
        Use.CORES,
        (
            Way(EVERYWHERE, symbols("elf_core_dump"), how="by the constants that this function stores"),
            Way("6.5 (cf264e1329fb)", types("struct cachestat")),
            Way(EVERYWHERE, how="not at all"),
        ),
        "",
    ),
    Row(
        "which first pages of files the kernel writes into cores",
        Use.CORES,
        (
            Way("5.18 (390031c94211)", members("struct core_vma_metadata", "pgoff"), how="of executable and ELF files"),
            Way(
                "5.10 (a07279c9a8cd)",
                types("struct core_vma_metadata"),
                how="of executable files; of ELF files if the code compares with their magic",
            ),
            Way("4.18", types("struct coredump_params"), how="of ELF files"),
            Way(EVERYWHERE, how="of both, as it is unknown"),
        ),
        "",
        also=symbols("dump_vma_snapshot do_coredump vfs_coredump"),
    ),
    Row(
        "how the kernel writes floating-point registers into cores",
        Use.CORES,
        (
            Way("5.14 (eb6f51723f03)", symbols("copy_xstate_to_uabi_buf"), how="with unused parts cleared"),
            Way(EVERYWHERE, how="as they are in memory"),
        ),
        "",
        also=symbols("elf_coredump_extra_notes_write"),
    ),
    Row(
        "the vdso of a process",
        Use.MEMORY,
        (
            Way(
                EVERYWHERE,
                (
                    *members(_MM, "context"),
                    *members("mm_context_t", "vdso_image"),
                    *members("struct vdso_image", "data size"),
                ),
            ),
        ),
        "cores lack the pages of the vdso that the process did not touch",
        also=types("mm_context_t"),
    ),
)
X86_64_ONLY = (
    Row(
        "where the kernel's image is in memory, and how many levels page tables have",
        Use.OPENING,
        (
            Way("5.1 (65f750e5457a)", lines("NUMBER(phys_base) NUMBER(pgtable_l5_enabled) NUMBER(sme_mask)")),
            Way(EVERYWHERE, lines("NUMBER(phys_base) NUMBER(pgtable_l5_enabled)")),
            Way(EVERYWHERE, symbols("phys_base")),
        ),
        "the dump cannot be opened, unless --vmcoreinfo gives it",
        needed=True,
        also=(*symbols("sme_me_mask"), *lines("NUMBER(KERNEL_IMAGE_SIZE)")),
        value="machine.encryption_mask",
    ),
    Row(
        "where all memory is mapped",
        Use.MEMORY,
        (
            Way("4.8 (021182e52fe0)", symbols("page_offset_base")),
            Way(EVERYWHERE, how="without RANDOMIZE_MEMORY: the fixed address that page tables prove"),
        ),
        "",
        value="machine.page_offset",
    ),
    Row(
        "where struct page is",
        Use.MEMORY,
        (
            Way("4.9 (25dfe4785332)", symbols("vmemmap_base")),
            Way(EVERYWHERE, lines("SYMBOL(vmemmap)")),
            Way(EVERYWHERE, how="without RANDOMIZE_MEMORY: the fixed address"),
            Way(EVERYWHERE, _SECTIONS, how="without SPARSEMEM_VMEMMAP: by the sections of memory"),
        ),
        "",
        value="machine.vmemmap",
    ),
    Row(
        "where the memory of the only CPU is, in a kernel for one",
        Use.REGISTERS,
        (
            Way("6.15 (9d7de2aa8b41)", lacks=symbols("fixed_percpu_data irq_stack_union"), how="at 0"),
            Way("5.2 (e6401c130931)", symbols("fixed_percpu_data")),
            Way(EVERYWHERE, symbols("irq_stack_union")),
        ),
        "",
    ),
    Row(
        "page tables of the kernel, to prove what an ELF dump lacks",
        Use.SWAP,
        (Way("4.13 (65ade2f872b4)", symbols("init_top_pgt")),),
        "",
    ),
    Row(
        "segment registers and their bases",
        Use.REGISTERS,
        (
            Way("4.7 (296f781a4b7f)", members(_THREAD, "ds es fsindex gsindex fsbase gsbase")),
            Way(EVERYWHERE, members(_THREAD, "ds es fsindex gsindex fs gs")),
        ),
        "no core is written",
        needed=True,
        also=(
            *symbols("boot_cpu_data"),
            *types("struct cpuinfo_x86"),
            *members("struct cpuinfo_x86", "x86_capability"),
            *members("mm_context_t", "ldt"),
            *members("struct ldt_struct", "nr_entries entries"),
        ),
    ),
    Row(
        "room above the saved registers on a kernel stack (FRED)",
        Use.REGISTERS,
        (
            Way("6.9 (65c9cc9e2c14)", symbols("fred_entry_from_user")),
            Way(EVERYWHERE, lacks=symbols("fred_entry_from_user"), how="none"),
        ),
        "",
        value="machine.pt_regs_padding",
    ),
    Row(
        "which register sets the kernel has",
        Use.REGISTERS,
        (Way(EVERYWHERE, symbols("x86_64_regsets")),),
        "cores have no extended registers (XSAVE)",
    ),
    Row(
        "whether a program is 32-bit",
        Use.CORES,
        (
            Way(EVERYWHERE, (*symbols("elf_format compat_elf_format"), *members(_MM, "binfmt"))),
            Way(EVERYWHERE, (*symbols("elf_format"), *members(_MM, "binfmt")), how="a kernel without 32-bit programs"),
        ),
        "cores of 32-bit programs may be in the 64-bit form",
        also=members(_MM, "task_size"),
    ),
    Row(
        "the vsyscall page",
        Use.CORES,
        (
            Way("5.11 (ff170cd05953)", (*symbols("gate_vma vsyscall_mode"), *members("mm_context_t", "flags"))),
            Way(EVERYWHERE, (*symbols("gate_vma vsyscall_mode"), *members("mm_context_t", "ia32_compat"))),
            Way(EVERYWHERE, lacks=symbols("gate_vma"), how="a kernel without it"),
        ),
        "",
    ),
    Row(
        "the code segment of Xen guests",
        Use.CORES,
        (Way(EVERYWHERE, (*symbols("pv_info"), *members("struct pv_info", "extra_user_64bit_cs"))),),
        "",
        also=types("struct pv_info"),
    ),
    Row(
        "unwind tables of the kernel (ORC)",
        Use.STACKS,
        (
            Way(
                "4.14 (ee9f8fce9964)",
                (
                    *symbols("__start_orc_unwind_ip __stop_orc_unwind_ip __start_orc_unwind"),
                    *types("struct orc_entry"),
                    *members(_THREAD, "sp"),
                    *members("struct inactive_task_frame", "bp ret_addr"),
                ),
            ),
        ),
        "kernel stacks only with -s vmlinux",
        needed=True,
        also=(
            *types("struct inactive_task_frame"),
            *members("struct orc_entry", "end type"),
            *symbols("ret_from_fork_asm ret_from_fork _stext _etext modules"),
            *members("struct module", "arch"),
            *members("struct mod_arch_specific", "num_orcs orc_unwind_ip orc_unwind"),
        ),
    ),
)
I386_ONLY = (
    Row(
        "whether page tables are those of PAE",
        Use.OPENING,
        (Way(EVERYWHERE, lines("CONFIG_X86_PAE")), Way(EVERYWHERE, how="without PAE")),
        "",
    ),
    Row(
        "where struct page is",
        Use.MEMORY,
        (
            Way(EVERYWHERE, symbols("mem_map")),
            Way(EVERYWHERE, _SECTIONS),
        ),
        "no page comes out of the page cache or the swap cache",
    ),
    Row(
        "GS of threads off the CPU",
        Use.REGISTERS,
        (
            Way("5.13 (3fb0fdb3bbe7)", members(_THREAD, "gs"), lacks=symbols("stack_canary")),
            Way(EVERYWHERE, symbols("stack_canary"), how="it is among the saved registers"),
        ),
        "",
    ),
    Row(
        "room above the saved registers on a kernel stack (vm86)",
        Use.REGISTERS,
        (Way(EVERYWHERE, members(_THREAD, "vm86")), Way(EVERYWHERE, lacks=members(_THREAD, "vm86"))),
        "",
        value="machine.pt_regs_padding",
    ),
    Row(
        "which CPU has which segment table",
        Use.REGISTERS,
        (Way("4.15", members("struct cpu_entry_area", "gdt")),),
        "",
        also=types("struct cpu_entry_area"),
    ),
    Row(
        "which register sets the kernel has",
        Use.REGISTERS,
        (Way(EVERYWHERE, symbols("x86_32_regsets")),),
        "cores have no extended registers (XSAVE)",
    ),
)
