# SPDX-License-Identifier: LGPL-2.1-or-later
"""Configurations of kernels that nobody packages, each an extreme that real users have; built_kernels.py builds them.

Options are words: ``NAME`` is y, ``NAME=m`` a value, ``-NAME`` n; with ``?`` in front, only where the kernel knows the
option. What is not named is n (allnoconfig), so that few files are compiled.
"""

from __future__ import annotations

from dataclasses import dataclass

# What the guests of the fixtures need: a machine of QEMU's, /dev/vda with ext4, the victims' system calls, truth in
# /proc, a core of the kernel's own, VMCOREINFO.
GUEST = """
64BIT EXPERT PRINTK TTY ?LEGACY_TTYS=y UNIX98_PTYS SERIAL_8250 SERIAL_8250_CONSOLE SERIAL_8250_PNP
PCI ?PCI_DIRECT PCI_MSI ACPI HIGH_RES_TIMERS NO_HZ_IDLE X86_LOCAL_APIC X86_IO_APIC
BLOCK BLK_DEV VIRTIO_MENU VIRTIO VIRTIO_PCI ?VIRTIO_PCI_LEGACY VIRTIO_BLK EXT4_FS FW_CFG_SYSFS BLK_DEV_INITRD
BINFMT_ELF BINFMT_SCRIPT COREDUMP ELF_CORE CORE_DUMP_DEFAULT_ELF_HEADERS IA32_EMULATION
PROC_FS PROC_SYSCTL PROC_PAGE_MONITOR PROC_KCORE SYSFS DEVTMPFS TMPFS SHMEM HUGETLBFS
MULTIUSER SYSVIPC POSIX_TIMERS FUTEX EPOLL EVENTFD SIGNALFD TIMERFD AIO IO_URING ADVISE_SYSCALLS MEMBARRIER RSEQ
FHANDLE X86_IOPL_IOPERM X86_INTEL_MEMORY_PROTECTION_KEYS ?X86_VSYSCALL_EMULATION
CGROUPS NAMESPACES PID_NS USER_NS CHECKPOINT_RESTORE MAGIC_SYSRQ KEXEC CRASH_DUMP ?BASE_FULL VM_EVENT_COUNTERS
?SLUB ?SLUB_DEBUG KALLSYMS DEBUG_KERNEL PANIC_ON_OOPS DEBUG_FS
"""
MEMORY = "SPARSEMEM_VMEMMAP COMPACTION MIGRATION TRANSPARENT_HUGEPAGE TRANSPARENT_HUGEPAGE_MADVISE MEMCG SWAP"
KASLR = "RELOCATABLE RANDOMIZE_BASE RANDOMIZE_MEMORY"
DWARF = "?DEBUG_INFO DEBUG_INFO_DWARF4"
BTF = "BPF_SYSCALL DEBUG_INFO_BTF KALLSYMS_ALL"
SMP = "SMP NR_CPUS=8"
ZRAM = """
CRYPTO CRYPTO_LZO CRYPTO_LZ4 CRYPTO_LZ4HC CRYPTO_842 CRYPTO_ZSTD CRYPTO_DEFLATE BLK_DEV_LOOP
ZSWAP ?ZBUD ?Z3FOLD ?Z3FOLD_DEPRECATED ZSMALLOC ZSMALLOC_STAT
ZRAM_WRITEBACK ZRAM_MEMORY_TRACKING ZRAM_MULTI_COMP
?ZRAM_BACKEND_LZ4 ?ZRAM_BACKEND_LZ4HC ?ZRAM_BACKEND_ZSTD ?ZRAM_BACKEND_DEFLATE ?ZRAM_BACKEND_842 ?ZRAM_BACKEND_LZO
"""
USUAL = (GUEST, MEMORY, KASLR, DWARF, BTF, SMP)
MARKERS = (
    *USUAL,
    "-PTE_MARKER_UFFD_WP USERFAULTFD MEMORY_HOTPLUG MEMORY_HOTREMOVE ZONE_DEVICE DEVICE_PRIVATE",
    "X86_MCE MEMORY_FAILURE HWPOISON_INJECT OVERLAY_FS",
)


@dataclass(frozen=True)
class Configuration:
    """A kernel to build.

    :ivar name: of the kernel: the end of its release, and, behind "built-", the flavour of a recipe.
    :ivar suite: the suite of Debian whose linux-source package it is built from.
    :ivar options: all of them, in words; later ones win.
    :ivar clang: the version of clang and LLVM that build it; "" for gcc.
    :ivar quick: it is built even if nobody asked for it.
    """

    name: str
    suite: str
    options: tuple[str, ...]
    clang: str = ""
    quick: bool = False

    def wanted(self) -> dict[str, tuple[str, bool]]:
        """Each option, its value, and whether a kernel may be without it."""
        found: dict[str, tuple[str, bool]] = {}
        for word in " ".join(self.options).split():
            bare = word.removeprefix("?")
            name, _, value = bare.removeprefix("-").partition("=")
            found[name] = ("n" if bare.startswith("-") else value or "y", bare != word)
        return found


CONFIGURATIONS = {
    one.name: one
    for one in (
        # Embedded: one CPU, nothing moves, no huge pages, no modules, page descriptors in sections.
        Configuration(
            "up",
            "bullseye",
            (GUEST, DWARF, BTF, "SWAP PREEMPT_NONE -SMP -RANDOMIZE_BASE -MODULES -SPARSEMEM_VMEMMAP"),
            quick=True,
        ),
        # Other numbers of swap entries than Debian's kernels have: no PTE markers, but device memory.
        Configuration(
            "markers",
            "bookworm",
            MARKERS,
            quick=True,
        ),
        # And none at all but for markers.
        Configuration(
            "nomigration",
            "bookworm",
            (
                *USUAL,
                "-COMPACTION -MIGRATION -TRANSPARENT_HUGEPAGE -TRANSPARENT_HUGEPAGE_MADVISE -MEMORY_FAILURE",
                "USERFAULTFD PTE_MARKER_UFFD_WP",
            ),
        ),
        # What developers boot: structures with locks' names and classes, larger stacks, a shadow of all memory.
        Configuration(
            "debug",
            "trixie",
            (
                *USUAL,
                "KASAN KASAN_OUTLINE KASAN_VMALLOC DEBUG_PAGEALLOC DEBUG_PAGEALLOC_ENABLE_DEFAULT PAGE_POISONING",
                "PAGE_OWNER PAGE_EXTENSION LOCKDEP PROVE_LOCKING DEBUG_LIST DEBUG_VM DEBUG_SPINLOCK DEBUG_MUTEXES",
                "SLUB_DEBUG_ON DEBUG_RWSEMS DEBUG_OBJECTS DEBUG_OBJECTS_WORK SCHED_DEBUG LATENCYTOP SCHEDSTATS",
                "USERFAULTFD",
            ),
        ),
        # All that gives mappings names and page table entries further bits.
        Configuration(
            "flags",
            "sid",
            (
                *USUAL,
                "ANON_VMA_NAME MEM_SOFT_DIRTY USERFAULTFD AMD_MEM_ENCRYPT X86_KERNEL_IBT X86_USER_SHADOW_STACK",
                "X86_FRED HUGETLB_PAGE_OPTIMIZE_VMEMMAP HUGETLB_PAGE_OPTIMIZE_VMEMMAP_DEFAULT_ON LRU_GEN",
                "LRU_GEN_ENABLED MEMCG_V1 CPU_SUP_AMD CPU_SUP_INTEL EFI EFI_STUB OVERLAY_FS NUMA X86_64_ACPI_NUMA",
                "PER_VMA_LOCK",
            ),
        ),
        # Android, hardened distributions: names with suffixes, members in any order, checked calls.
        Configuration(
            "thinlto",
            "trixie",
            (*USUAL, "LTO_CLANG_THIN CFI_CLANG RANDSTRUCT_FULL SHADOW_CALL_STACK=n INIT_STACK_ALL_ZERO USERFAULTFD"),
            clang="16",
        ),
        # The ladder without vmlinux, rung by rung: compiled as "markers", so that ccache has nearly all of it.
        Configuration("nobtf", "bookworm", (*MARKERS, "-DEBUG_INFO_BTF KALLSYMS_ALL")),
        Configuration("fewsyms", "bookworm", (*MARKERS, "-KALLSYMS_ALL")),
        Configuration("nokallsyms", "bookworm", (*MARKERS, "-KALLSYMS -KALLSYMS_ALL"), quick=True),
        # zram with all that it can do; objects of up to 4 pages, of up to 16.
        Configuration(
            "swap4",
            "trixie",
            (
                *USUAL,
                ZRAM,
                "ZSMALLOC_CHAIN_SIZE=4 MODULES MODULE_COMPRESS MODULE_COMPRESS_XZ ZRAM=m DEBUG_INFO_BTF_MODULES",
            ),
        ),
        Configuration("swap16", "sid", (*USUAL, ZRAM, "ZSMALLOC_CHAIN_SIZE=16 ZRAM")),
    )
}
