# SPDX-License-Identifier: LGPL-2.1-or-later
"""What kgcore needs of a kernel to open its dump, with and without vmlinux, and to say what the dump is."""

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

__all__ = ("ROWS",)

ROWS = (
    Row(
        "VMCOREINFO: the release, and where the kernel is",
        Use.OPENING,
        (Way(EVERYWHERE, lines("OSRELEASE PAGESIZE SYMBOL(init_uts_ns) SYMBOL(swapper_pg_dir)")),),
        "the dump cannot be opened, unless --vmcoreinfo gives it",
        needed=True,
        also=lines("SYMBOL(_stext) OFFSET(uts_namespace.name)"),
    ),
    Row(
        "the kernel's own symbol table (kallsyms)",
        Use.OWN_TYPES,
        (
            Way(
                "6.0 (f09bddbd8661)",
                lines(
                    "SYMBOL(kallsyms_names) SYMBOL(kallsyms_num_syms) SYMBOL(kallsyms_token_table) "
                    "SYMBOL(kallsyms_token_index)"
                ),
            ),
            Way("4.6 (2213e9a66bb8)", lines("SYMBOL(_stext)"), how="found in memory by its format"),
        ),
        "the dump opens only with -s vmlinux, or with BTF and System.map",
        also=lines("SYMBOL(kallsyms_offsets) SYMBOL(kallsyms_addresses) SYMBOL(kallsyms_relative_base)"),
    ),
    Row(
        "the kernel's own type information (BTF)",
        Use.OWN_TYPES,
        (Way("5.7 (90ceddcb4950)", symbols("__start_BTF __stop_BTF")),),
        "the dump opens only with -s vmlinux, or with BTF made once from it",
    ),
    Row(
        "variables in the symbol table (CONFIG_KALLSYMS_ALL), and the first task",
        Use.OPENING,
        (Way(EVERYWHERE, symbols("init_task")),),
        "the dump opens only with -s vmlinux",
        needed=True,
    ),
    Row(
        "whether a BTF file is of this kernel (-s)",
        Use.OPENING,
        (
            Way(
                EVERYWHERE,
                (
                    *symbols("init_task init_mm"),
                    *members("struct task_struct", "comm pid real_parent tasks"),
                    *members("struct mm_struct", "pgd"),
                ),
                how="by these, and by all that VMCOREINFO and the symbol table say of types",
            ),
        ),
        "",
        also=(
            *members("struct task_struct", "tgid thread_pid nsproxy"),
            *members("struct pid", "numbers"),
            *members("struct upid", "nr"),
            *members("struct nsproxy", "uts_ns"),
            *lines("BUILD-ID"),
        ),
    ),
    Row(
        "whether an address is in the kernel's image",
        Use.OPENING,
        (Way(EVERYWHERE, symbols("_text _end")),),
        "names of kernel functions may be wrong near the ends of the image",
        also=symbols("_stext _etext"),
    ),
    Row(
        "whether this is the kernel that crashed, or the one that saved the dump",
        Use.OPENING,
        (Way(EVERYWHERE, symbols("elfcorehdr_addr")),),
        "a dump of a capture kernel is taken for one of the kernel that crashed",
        also=symbols("crashk_res"),
    ),
    Row(
        "the kernel's name and version",
        Use.FACTS,
        (
            Way(
                EVERYWHERE,
                (
                    *symbols("init_uts_ns"),
                    *members("struct uts_namespace", "name"),
                    *members("struct new_utsname", "version"),
                ),
            ),
        ),
        "info does not show the kernel's build",
    ),
    Row(
        "the time of the crash",
        Use.FACTS,
        (Way(EVERYWHERE, lines("CRASHTIME")),),
        "",
    ),
    Row(
        "the kernel's log, for the panic message",
        Use.FACTS,
        (
            Way(
                "5.10 (896fbe20b4e2)",
                (
                    *symbols("prb"),
                    *members("struct printk_ringbuffer", "desc_ring text_data_ring"),
                    *members("struct prb_desc_ring", "count_bits descs infos head_id tail_id"),
                    *members("struct prb_desc", "state_var text_blk_lpos"),
                    *members("struct prb_data_ring", "size_bits data"),
                    *members("struct prb_data_blk_lpos", "begin next"),
                    *members("struct printk_info", "seq ts_nsec text_len facility flags level caller_id dev_info"),
                    *members("struct dev_printk_info", "subsystem device"),
                ),
            ),
        ),
        "info does not show the panic message",
        also=(*constants("desc_committed desc_finalized LOG_CONT"), *members("atomic64_t", "counter")),
    ),
    Row(
        "CPUs that are online",
        Use.FACTS,
        (Way(EVERYWHERE, (*symbols("__cpu_online_mask"), *members("struct cpumask", "bits"))),),
        "info does not show the number of CPUs",
        also=symbols("nr_cpu_ids"),
    ),
    Row(
        "types of modules that describe themselves (BTF)",
        Use.SWAP,
        (
            Way(
                "5.11 (36e68442d1af)",
                (
                    *symbols("btf_idr"),
                    *members("struct btf", "data data_size name start_id start_str_off"),
                    *members("struct idr", "idr_rt"),
                ),
            ),
        ),
        "zram and zsmalloc as modules are read only where kgcore knows their layouts, or with -s zram.ko",
    ),
    Row(
        "the list of loaded modules",
        Use.SWAP,
        (Way(EVERYWHERE, (*symbols("modules"), *members("struct module", "list name"))),),
        "zram and zsmalloc are read only if they are built in",
        also=(
            *types("struct module"),
            *members("struct module", "mem core_layout core_kallsyms arch"),
            *members("struct mod_kallsyms", "num_symtab strtab symtab"),
            *members("struct module_memory", "base size"),
            *members("struct module_layout", "base size"),
        ),
    ),
)
