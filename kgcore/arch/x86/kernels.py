# SPDX-License-Identifier: LGPL-2.1-or-later
"""The two architectures of x86 kernels, and which view of :mod:`kgcore.arch` a task of theirs has."""

from kgcore.arch.architecture import Architecture, SystemCalls
from kgcore.arch.x86.cpuid import layout_here
from kgcore.arch.x86.cpunotes import ENTRY_FRAME_32, ENTRY_FRAME_64, NOTES_32, NOTES_64
from kgcore.arch.x86.ia32 import I386, IA32, IA32_IN_64
from kgcore.arch.x86.x86_64 import X32, X86_64
from kgcore.elf.layout import EM_386, EM_X86_64, ElfClass

__all__ = ("I386_KERNEL", "X86_64_KERNEL", "i386_task", "x86_64_task")

# What is counted as quiet, in 64-bit and in 32-bit programs (arch/x86/entry/syscalls): mmap, mprotect, munmap, brk,
# shmat, clone, fork, vfork, shmdt, mlock, munlock, mlockall, munlockall, prctl, arch_prctl, remap_file_pages, mbind,
# mlock2, pkey_mprotect, clone3, mseal.
_CALLS_64 = SystemCalls(
    number="orig_ax",
    request="ax",
    result="ax",
    instruction=b"\x0f\x05",  # syscall
    ignored=0x40000000,  # __X32_SYSCALL_BIT
    arguments=("di", "si", "dx", "r10", "r8", "r9"),
    madvise=28,
    kcmp=312,
    get_robust_list=274,
    pidfd_getfd=438,
    injected={
        "clone": 56,
        "wait4": 61,
        "close_range": 436,
        "rt_sigaction": 13,
        "sigaltstack": 131,
        "getitimer": 36,
        "timer_gettime": 224,
        "prctl": 157,
    },
    quiet=frozenset((9, 10, 11, 12, 30, 56, 57, 58, 67, 149, 150, 151, 152, 157, 158, 216, 237, 325, 329, 435, 462)),
    suspending=frozenset((130,)),
)
_CALLS_32 = SystemCalls(
    number="orig_ax",
    request="ax",
    result="ax",
    instruction=b"\xcd\x80",  # int $0x80
    ignored=0x40000000,
    arguments=("bx", "cx", "dx", "si", "di", "bp"),
    madvise=219,
    kcmp=349,
    get_robust_list=312,
    pidfd_getfd=438,
    injected={
        "clone": 120,
        "wait4": 114,
        "close_range": 436,
        "rt_sigaction": 174,
        "sigaltstack": 186,
        "getitimer": 105,
        "timer_gettime": 261,
        "prctl": 172,
    },
    quiet=frozenset(
        (2, 45, 90, 91, 117, 120, 125, 150, 151, 152, 153, 172, 190, 192, 257, 274, 376, 380, 384, 397, 398, 435, 462)
    ),
    suspending=frozenset((72, 179)),
)
_NO_SYSTEM_CALL = {"orig_ax": (1 << 64) - 1}
_VARIABLES = {
    "boot_cpu_data": "struct cpuinfo_x86",
    "xstate_offsets": "unsigned int []",
    "xstate_sizes": "unsigned int []",
    "xstate_flags": "unsigned int []",
    "xstate_comp_offsets": "unsigned int []",
    "xstate_supervisor_only_offsets": "unsigned int []",
    "xfeatures_mask_all": "u64",
    "fpu_kernel_cfg": "struct fpu_state_config",
    "fpu_user_cfg": "struct fpu_state_config",
    "fpu_kernel_xstate_size": "unsigned int",
    "fpu_user_xstate_size": "unsigned int",
    "init_fpstate": "struct fpstate | union fpregs_state",
    "gate_vma": "struct vm_area_struct",
    "gate_vma_ops": "struct vm_operations_struct",
    "vsyscall_mode": "unsigned int",
    "vdso_image_64": "struct vdso_image",
    "vdso64_image": "struct vdso_image",
    "page_offset_base": "unsigned long",
    "vmemmap_base": "unsigned long",
    "vmalloc_base": "unsigned long",
    "physical_mask": "phys_addr_t",
    "sme_me_mask": "u64",
    "pgdir_shift": "unsigned int",
    "__pgtable_l5_enabled": "unsigned int",
    "pcpu_hot": "struct pcpu_hot",
}

X86_64_KERNEL = Architecture(
    name="x86_64",
    arches=("x86_64", "x32", "ia32", "ia32-in-64"),
    xsave_here=layout_here,
    machines=frozenset(("x86_64",)),
    elf_machine=EM_X86_64,
    word_size=8,
    page_shifts=(12,),
    top_table=range(1 << 32, 1 << 64),
    user_pages=1 << 47,
    physical_bits=(52, 46),  # with 5-level page tables, and without (arch/x86/include/asm/pgtable_64_types.h)
    notes=NOTES_64,
    entry_frame=ENTRY_FRAME_64,
    ip="ip",
    sp="sp",
    mode="cs",
    no_system_call=_NO_SYSTEM_CALL,
    system_calls={8: _CALLS_64, 4: _CALLS_32},
    variables=_VARIABLES | {"x86_64_regsets": "struct user_regset []"},
)
I386_KERNEL = Architecture(
    name="i386",
    arches=("i386",),
    xsave_here=lambda regsets: None,  # the code that asks is for 64-bit programs
    machines=frozenset(("i386", "i486", "i586", "i686")),
    elf_machine=EM_386,
    word_size=4,
    page_shifts=(12,),
    top_table=range(1 << 32),
    user_pages=0,
    physical_bits=(36, 32),  # with PAE, and without (arch/x86/include/asm/sparsemem.h)
    notes=NOTES_32,
    entry_frame=ENTRY_FRAME_32,
    ip="ip",
    sp="sp",
    mode="cs",
    no_system_call=_NO_SYSTEM_CALL,
    system_calls={4: _CALLS_32},
    variables=_VARIABLES | {"x86_32_regsets": "struct user_regset []"},
)


def x86_64_task(elf_class: ElfClass, long_mode: bool) -> str:
    """Which view a task of an x86_64 kernel has: the kernel decides twice, on different grounds.

    :param elf_class: of the program: its binary format writes the core.
    :param long_mode: the dumping thread is in a 64-bit code segment, which selects the view.
    """
    if elf_class == 64:
        return (X86_64 if long_mode else IA32_IN_64).name
    return (X32 if long_mode else IA32).name


def i386_task() -> str:
    """Which view every task of a 32-bit kernel has."""
    return I386.name
