# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guests: which kernel, which machine, which victims, which dumps. One Recipe per fixture."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

MODULES = ["virtio_pci", "virtio_blk", "ext4", "qemu_fw_cfg"]
FULL = "0x7f"
PYTHON_SUITE = "bookworm"


@dataclass(frozen=True)
class Victim:
    """One program run in the guest. It may make several processes, each with a JSON of its own (names)."""

    names: tuple[str, ...]
    program: str
    arguments: tuple[str, ...] = ()
    # Shell lines that take its cores; by default each process gets SIGABRT and is waited for.
    cores: tuple[str, ...] | None = None
    # Shell lines that are run before it is started.
    before: tuple[str, ...] = ()
    # Processes without a core of their own, and why.
    without_core: dict[str, str] = field(default_factory=dict)

    def start_line(self) -> str:
        """The line of the guest's script that starts it."""
        words = " ".join(f"'{word}'" for word in self.arguments)
        return f"start {','.join(self.names)} {self.program} {words}"

    def core_lines(self) -> tuple[str, ...]:
        """The lines of the guest's script that make its cores."""
        if self.cores is not None:
            return self.cores
        return tuple(f"core {name}" for name in self.names if name not in self.without_core)


@dataclass(frozen=True)
class Derived:
    """A dump that makedumpfile makes of QEMU's ELF."""

    file: str
    level: int
    compressor: str
    flattened: bool = False
    # Whose makedumpfile: the host's, or that of a suite.
    tool: str = "host"


@dataclass(frozen=True)
class Recipe:
    """One fixture."""

    name: str
    suite: str
    victims: tuple[Victim, ...]
    derived: tuple[Derived, ...] = ()
    cpu: str = "max,-la57,-cx16"
    ram: int = 640
    append: str = ""
    setup: str = ""
    vmcoreinfo: bool = True
    elf: bool = True
    qemu_kdump: bool = True
    # Crash it for real, with a crash kernel that brings /proc/vmcore; no core of the kernel's own then.
    kexec: bool = False
    boot_timeout: int = 300
    # Which kernel of the suite: cloud, or full.
    flavour: str = "cloud"
    # Two nodes of memory, a CPU each.
    numa: bool = False
    # How many moments to dump (the first is the one for which there is anything else).
    moments: int = 1
    # Further modules.
    modules: tuple[str, ...] = ()
    # The size of a third disk to swap to; with one the guest has the shell functions of guest/swap.
    swap_mib: int = 0
    note: str = ""


def simple(name: str, *arguments: str, program: str = "") -> Victim:
    """A victim of one process, called NAME FILTER ..."""
    return Victim((name,), program or name, (name, *(arguments or (FULL,))))


MEMORY = (
    simple("memory"),
    simple("memory33", "0x33", program="memory"),
    simple("memory01", "0x1", program="memory"),
    simple("memory10", "0x10", program="memory"),
)
THREADS = (simple("threads"),)
DYNAMIC = (simple("dynamic", "0x33"),)
SPIN = (simple("spin", FULL, "1"),)
IOURING = (simple("iouring"),)
SWAPPED = (simple("swapped"),)
IA32 = (simple("ia32"),)
PAGE_CACHE = (
    Victim(("pagecache",), "pagecache", ("pagecache", FULL), before=("echo 16 > /proc/sys/vm/nr_hugepages",)),
)
PYTHON = (Victim(("python",), "python3.11", ("/victims/python.py", "python", "0x33")),)
STATES = (
    simple("stopped"),
    simple("zleader"),
    simple("nspid"),
    simple("identity", "0x33"),
    Victim(
        ("zombie_parent", "zombie"),
        "zombie",
        ("zombie_parent", FULL),
        without_core={"zombie": "a zombie has no memory"},
    ),
    # The tracees stay stopped until their tracer is dead; the signals wait for them meanwhile.
    Victim(
        ("tracer", "tracee", "tracee_sys"),
        "tracer",
        ("tracer", FULL),
        cores=("abort tracee", "abort tracee_sys", "core tracer", "wait_gone tracee", "wait_gone tracee_sys"),
    ),
)
# The parent can die only after its child has left the shared memory.
VFORK_CORES = ("abort vforker", "core vfork_child", "wait_gone vforker")
VFORK = (Victim(("vforker", "vfork_child"), "vforker", ("vforker", FULL), cores=VFORK_CORES),)
VFORK_OLD = (
    Victim(
        ("vforker", "vfork_child"),
        "vforker",
        ("vforker", FULL),
        cores=VFORK_CORES,
        without_core={"vforker": "before 5.16 a dump kills all processes that share the memory"},
    ),
)
CRASHED = (*MEMORY[:1], *THREADS, *DYNAMIC, simple("crasher"), *SPIN)
CRASHED_SMALL = (simple("crasher", "0x33"), simple("spin", "0x33", "1"))
MAIN = (*MEMORY, *THREADS, *DYNAMIC, *STATES, *IOURING, *SWAPPED, *IA32)

# khugepaged must not move memory while it is being dumped: it takes page tables away for a moment.
HUGE_PAGES = """
echo 4000000000 > /sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs
echo always > /sys/kernel/mm/transparent_hugepage/enabled
echo 10 > /proc/sys/vm/nr_hugepages
"""
SWAP = """
dd if=/dev/zero of=/disk/swap bs=1M count=32 2>/dev/null
mkswap /disk/swap > /dev/null && swapon /disk/swap
"""


def derived(zstd_tool: str) -> tuple[Derived, ...]:
    """The variants of every main guest; the host's makedumpfile knows no zstd."""
    return (
        Derived("vmcore.d1-zlib", 1, "zlib"),
        Derived("vmcore.d17-lzo", 17, "lzo"),
        Derived("vmcore.d31-zstd", 31, "zstd", tool=zstd_tool),
    )


DERIVED_61 = (
    *derived("trixie"),
    Derived("vmcore.d17-zlib", 17, "zlib"),
    Derived("vmcore.d17-zstd", 17, "zstd", tool="trixie"),
    Derived("vmcore.d23-zlib", 23, "zlib"),
    Derived("vmcore.d17-flat", 17, "zlib", flattened=True),
    Derived("vmcore.d31-elf", 31, "elf"),
)


SMALL_DUMP = (Derived("vmcore.d1-zlib", 1, "zlib"),)


def main_guest(name: str, suite: str, variants: tuple[Derived, ...], *more: Victim) -> Recipe:
    """A guest with every ordinary victim. The spinner comes last, alone on CPU 1."""
    vfork = VFORK_OLD if suite == "bullseye" else VFORK
    victims = (*MAIN, *PAGE_CACHE, *more, *vfork, *SPIN)
    return Recipe(
        name,
        suite,
        victims,
        variants,
        append="isolcpus=1",
        setup=HUGE_PAGES + SWAP,
        modules=("overlay",),
        note="all ordinary victims",
    )


def small_guest(name: str, suite: str) -> Recipe:
    """A guest whose dump becomes small enough to be committed (reduce.py): patterns that compress, filters that leave
    out the programs' text."""
    victims = (
        simple("memory", FULL, "512"),
        *(simple(name, "0x33") for name in ("threads", "dynamic", "zleader", "nspid", "identity", "iouring")),
        simple("spin", "0x33", "1"),
    )
    return Recipe(name, suite, victims, SMALL_DUMP, append="isolcpus=1", setup=HUGE_PAGES, note="committed, reduced")


def kexec_guest(name: str, suite: str, victims: tuple[Victim, ...], variants: tuple[Derived, ...]) -> Recipe:
    """A guest that really crashes: a victim's thread is current on CPU 0, a spinner on CPU 1."""
    return Recipe(
        name,
        suite,
        victims,
        variants,
        ram=832,
        append="isolcpus=1 crashkernel=192M",
        setup=HUGE_PAGES,
        elf=False,
        qemu_kdump=False,
        vmcoreinfo=False,
        kexec=True,
        note="a real crash: /proc/vmcore of a crash kernel; no kernel cores",
    )


ZRAM_MODULES = ("zram", "lzo", "lzo_rle", "lz4", "lz4hc", "zstd", "deflate", "loop")
# The host's makedumpfile takes slab pages of later kernels for user memory.
NEW_ENOUGH = {"trixie": "trixie", "sid": "sid"}
ZRAM_ALGORITHMS = {
    "bullseye": ("lzo", "lzo-rle", "lz4", "lz4hc", "zstd", "deflate"),
    "bookworm": ("lzo", "lzo-rle", "lz4", "lz4hc", "zstd", "deflate"),
    "trixie": ("lz4", "lz4hc", "zstd", "deflate"),
    "sid": ("lz4", "lz4hc", "zstd", "deflate"),
}
# Large folios of 64 KiB, and huge ones in shared memory, for those that ask.
SWAP_HUGE = """
for sizes in shmem_enabled hugepages-64kB/enabled; do
    file=/sys/kernel/mm/transparent_hugepage/$sizes
    case $sizes in shmem*) word=advise ;; *) word=madvise ;; esac
    [ -e $file ] && echo $word > $file
done
"""


# What of memory can be swapped out in which way; what is shared apart, because getting it out takes all else along.
SWAP_STATES = ("forked", "moved", "cow", "thp", "mthp")
SWAP_SHARED = ("uffd", "thp_shared", "shared")


def swap_dumps(suite: str) -> tuple[Derived, ...]:
    """The variants of the guests that swap."""
    return Derived("vmcore.d1-zlib", 1, "zlib"), derived_31(suite)


def derived_31(suite: str) -> Derived:
    """Without the memory of processes."""
    return Derived("vmcore.d31-zlib", 31, "zlib", tool=NEW_ENOUGH.get(suite, "host"))


def swapper(name: str, *scenarios: str, before: str = "") -> Victim:
    """A victim whose memory is swapped out in the ways named; with "forked" it has a child."""
    names = (name, f"{name}_child") if "forked" in scenarios else (name,)
    return Victim(names, "swap", (name, FULL, *scenarios), before=(before,) if before else ())


def zram_guest(name: str, suite: str) -> Recipe:
    """A guest with a zram device for each compressor, each with a victim of its own; a swap disk; a swap file."""
    algorithms = ZRAM_ALGORITHMS[suite]
    victims = [
        swapper(f"zram_{algorithm.replace('-', '_')}", "content", "gaps", before=f"zram {algorithm}")
        for algorithm in algorithms
    ]
    victims += [
        swapper("zram_states", *SWAP_STATES, before=f"zram {algorithms[0]}"),
        swapper("zram_shared", *SWAP_SHARED),
        swapper("zram_everything", "gaps", "everything"),
        swapper("zram_writeback", "writeback", "gaps", before="loop_device; zram zstd backing_dev=/dev/loop0"),
        swapper("swap_disk", "forked", "moved", "cow", "content:200", "cached", before="swap_disk"),
        swapper("swap_disk_shared", "uffd", "shared"),
        swapper("swap_disk_everything", "gaps", "everything"),
        swapper("swap_file", "cached", "content:200", "gaps", before="swap_file"),
    ]
    if suite == "sid":  # the cloud kernel has zswap too (in front of zram it would be in the way)
        victims.append(swapper("zswap_zsmalloc_zstd", "content", "gaps", before="zswap zsmalloc zstd"))
    if suite in ("trixie", "sid"):  # since 6.12
        victims += [
            swapper(
                f"zram_{algorithm}_dictionary",
                "stock",
                "gaps",
                before=f"zswap_off; zram {algorithm} 'algorithm_params=algo={algorithm} dict=/recipe/stock'",
            )
            for algorithm in ("zstd", "lz4")
        ]
    return Recipe(
        name,
        suite,
        tuple(victims),
        swap_dumps(suite),
        ram=512,
        setup=HUGE_PAGES + SWAP_HUGE,
        qemu_kdump=False,
        modules=ZRAM_MODULES,
        swap_mib=32,
        note="swap: zram of every compressor, a disk, a file",
    )


ZSWAP_MODULES = ("crc32c_generic", "lzo", "lzo_rle", "lz4", "lz4hc", "zstd", "deflate", "zsmalloc", "z3fold", "zbud")
ZSWAP_ALGORITHMS = ("lzo", "lzo-rle", "lz4", "lz4hc", "zstd", "deflate")
ZSWAP_POOLS = {
    "bullseye": ("zbud", "z3fold", "zsmalloc"),
    "bookworm": ("zbud", "z3fold", "zsmalloc"),
    "trixie": ("zbud", "zsmalloc"),
    "sid": ("zsmalloc",),
}


def zswap_guest(name: str, suite: str) -> Recipe:
    """A guest that swaps to a disk with zswap in front of it: every pool, every compressor. The cloud kernels have none
    (up to 6.12), and of the others there is no vmlinux."""
    victims = [swapper("swap_disk", "content:200", before="swap_disk")]
    for pool in ZSWAP_POOLS[suite]:
        for algorithm in ZSWAP_ALGORITHMS if pool == "zsmalloc" else ("lzo", "zstd"):
            label = f"zswap_{pool}_{algorithm.replace('-', '_')}"
            victims.append(swapper(label, "content", "gaps", before=f"zswap {pool} {algorithm}"))
    victims += [
        swapper("zswap_states", *SWAP_STATES, "cached"),
        swapper("zswap_shared", *SWAP_SHARED),
        swapper("zswap_everything", "gaps", "everything"),
    ]
    if suite in ("bullseye", "bookworm"):  # later there is no such choice
        parameter = "/sys/module/zswap/parameters/same_filled_pages_enabled"
        victims.append(swapper("zswap_unsame", "content", before=f"echo N > {parameter}"))
    victims.append(simple("hwpoison"))
    return Recipe(
        name,
        suite,
        tuple(victims),
        swap_dumps(suite),
        ram=512,
        setup=HUGE_PAGES + SWAP_HUGE,
        qemu_kdump=False,
        flavour="full",
        modules=ZSWAP_MODULES,
        swap_mib=256,  # half of it must remain free: else pages that are read leave the swap cache
        note="swap: zswap of every pool and compressor over a disk; no vmlinux",
    )


def numa_guest(name: str, suite: str) -> Recipe:
    """A guest in which memory is on its way from one node to the other as it is dumped, perhaps: since 6.3 many pages
    are unmapped before the first is copied, before that to meet one takes luck."""
    victim = Victim(
        ("migrating",), "migrating", ("migrating", FULL), cores=("touch /tmp/stop; sleep 2", "core migrating")
    )
    return Recipe(
        name,
        suite,
        (victim,),
        ram=384,
        setup=HUGE_PAGES,
        qemu_kdump=False,
        numa=True,
        moments=3,
        note="pages being moved between two nodes",
    )


# Programs and libraries on a disk, as on any machine: those of the initial ramdisk can never leave memory.
ON_DISK = """
mkdir -p /disk/root
cp -a /victims /lib /lib64 /disk/root/
for directory in victims lib lib64; do mount --bind /disk/root/$directory /$directory; done
"""
DROP_CACHES = "sync; echo 3 > /proc/sys/vm/drop_caches"


def disk_guest(name: str, suite: str) -> Recipe:
    """A guest whose programs are files of a disk, and in the page cache in parts only."""
    upgrade = "cp /victims/dynamic /victims/new && mv /victims/new /victims/dynamic"
    libc = "/lib/x86_64-linux-gnu/libc.so.6"
    victims = (
        Victim(("upgraded",), "dynamic", ("upgraded", "0x33")),  # a newer file takes its place after that
        Victim(("dynamic",), "dynamic", ("dynamic", "0x33"), before=(upgrade, DROP_CACHES)),
        # Of what is mapped, only what was touched stays; the program is read whole, of a library a part.
        Victim(
            ("threads",),
            "threads",
            ("threads", FULL),
            before=(
                DROP_CACHES,
                "cat /victims/dynamic > /dev/null",
                f"dd if={libc} of=/dev/null bs=4096 skip=100 count=16",
            ),
        ),
    )
    variants = (Derived("vmcore.d17-lzo", 17, "lzo"), Derived("vmcore.d23-zlib", 23, "zlib"), derived_31(suite))
    return Recipe(
        name,
        suite,
        victims,
        variants,
        ram=448,
        setup=HUGE_PAGES + ON_DISK + DROP_CACHES,
        qemu_kdump=False,
        note="programs on a disk, in the page cache in parts",
    )


def abi_guest(name: str, suite: str, variants: tuple[Derived, ...], spinner: str) -> Recipe:
    """A guest with programs of each ABI, and with threads in code of another kind than their program. Debian's cloud
    kernels know no x32; the others do if asked.

    :param spinner: of which ABI the thread is that runs in user mode.
    """
    victims = (
        *(simple(f"abi_{abi}", FULL, program=_of(abi, "abi")) for abi in ("64", "ia32", "x32")),
        *(simple(f"dynamic_{abi}", "0x33", program=_of(abi, "dynamic")) for abi in ("64", "ia32", "x32")),
        *mixed_victims(),
        simple(f"spin_{spinner}", FULL, "1", program=_of(spinner, "abi")),
    )
    return Recipe(
        name,
        suite,
        victims,
        variants,
        ram=512,
        append="isolcpus=1 syscall.x32=y vsyscall=emulate",
        setup=HUGE_PAGES,
        qemu_kdump=False,
        flavour="full",
        modules=("crc32c_generic",),
        note="programs of each ABI: 64-bit, ia32, x32",
    )


def _of(abi: str, program: str) -> str:
    return program if abi == "64" else f"{program}-{abi}"


def mixed_victims() -> tuple[Victim, ...]:
    """The leader's code decides about the notes, the program about their class: every combination."""
    return (
        simple("mixed", FULL, "same", "code32", "int80"),
        simple("mixed_int80", FULL, "int80", "code32", program="mixed"),
        simple("mixed_code32", FULL, "code32", "same", "int80", program="mixed"),
        simple("mixed_ia32", FULL, "same", "code64", program="mixed-ia32"),
        simple("mixed_ia32_code64", FULL, "code64", "same", "code32", program="mixed-ia32"),
        simple("mixed_x32_code32", FULL, "code32", "same", "code64", program="mixed-x32"),
    )


def i386_victims() -> tuple[Victim, ...]:
    """The ordinary victims for 32-bit kernels."""
    return (
        *(replace(victim, program="memory-ia32") for victim in MEMORY),
        simple("abi_ia32", FULL, program="abi-ia32"),
        simple("dynamic", "0x33", program="dynamic-ia32"),
        simple("stopped", FULL, program="stopped-ia32"),
        simple("zleader", FULL, program="zleader-ia32"),
        simple("nspid", FULL, program="nspid-ia32"),
        simple("identity", "0x33", program="identity-ia32"),
        Victim(
            ("zombie_parent", "zombie"),
            "zombie-ia32",
            ("zombie_parent", FULL),
            without_core={"zombie": "a zombie has no memory"},
        ),
        Victim(("swapped",), "swapped-ia32", ("swapped", FULL), before=("swap_disk",)),
        # Pages that compress, and such as do not.
        Victim(("swapped_zram",), "swapped-ia32", ("swapped_zram", FULL, "256"), before=("zram lzo-rle",)),
        Victim(("swapped_huge",), "swapped-ia32", ("swapped_huge", FULL)),
        simple("spin", FULL, "1", program="abi-ia32"),
    )


def i386_guest(name: str, suite: str, flavour: str, ram: int = 640, **more: Any) -> Recipe:
    """A 32-bit kernel."""
    return Recipe(
        name,
        suite,
        i386_victims(),
        ram=ram,
        append="isolcpus=1",
        setup=HUGE_PAGES,
        flavour=flavour,
        modules=("crc32c_generic", *ZRAM_MODULES),
        swap_mib=32,
        **more,
    )


def i386_fpu_guest(name: str, suite: str, victims: tuple[Victim, ...], **more: Any) -> Recipe:
    """A 32-bit kernel that saves less of the floating-point state."""
    return Recipe(
        name,
        suite,
        victims,
        ram=256,
        setup=HUGE_PAGES,
        flavour="686",
        modules=("crc32c_generic",),
        qemu_kdump=False,
        **more,
    )


I386_SMALL = Recipe(
    "k61-686pae-small",
    "bookworm",
    (
        simple("memory", "0x33", "4096", program="memory-ia32"),
        simple("abi_ia32", "0x33", program="abi-ia32"),
        simple("spin", "0x33", "1", program="abi-ia32"),
    ),
    ram=512,
    append="isolcpus=1",
    setup=HUGE_PAGES,
    flavour="686-pae",
    modules=("crc32c_generic",),
    note="committed, reduced",
)
ABI_SMALL = Recipe(
    "k61-abi-small",
    "bookworm",
    (
        *(simple(f"abi_{abi}", "0x33", program=_of(abi, "abi")) for abi in ("ia32", "x32")),
        simple("mixed_code32", "0x33", "code32", "same", program="mixed"),
    ),
    (Derived("vmcore.d1-zlib", 1, "zlib"),),
    ram=512,
    append="isolcpus=1 syscall.x32=y",
    setup=HUGE_PAGES,
    qemu_kdump=False,
    flavour="full",
    modules=("crc32c_generic",),
    note="committed, reduced",
)
SMALL = (*MEMORY[:1], *THREADS, *SPIN)
SPECIAL = (
    Recipe(
        "k61-la57",
        "bookworm",
        SMALL,
        cpu="max,-cx16",
        append="isolcpus=1 vsyscall=emulate",
        setup=HUGE_PAGES,
        note="5-level page tables; a readable vsyscall page",
    ),
    Recipe(
        "k61-novmcoreinfo",
        "bookworm",
        SMALL,
        vmcoreinfo=False,
        append="isolcpus=1 vsyscall=none",
        setup=HUGE_PAGES,
        note="dumps without VMCOREINFO; no vsyscall page",
    ),
    Recipe(
        "k61-huge1g",
        "bookworm",
        (simple("huge1g"),),
        ram=2560,
        append="hugepagesz=1G hugepages=1",
        elf=False,
        note="a hugetlb page of 1 GiB",
    ),
    Recipe(
        "k61-many",
        "bookworm",
        (simple("manyvmas", FULL, "66000"), simple("manythreads", FULL, "2000")),
        setup="echo 200000 > /proc/sys/vm/max_map_count",
        note="a process of more than 65534 VMAs, one of 2000 threads",
    ),
    kexec_guest("k61-kexec", "bookworm", CRASHED, derived("trixie")),
    kexec_guest("k72-kexec", "sid", CRASHED, derived("sid")),
    kexec_guest("k61-crash-small", "bookworm", CRASHED_SMALL, SMALL_DUMP),
)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        main_guest("k61", "bookworm", DERIVED_61, *PYTHON),
        main_guest("k510", "bullseye", derived("trixie")),
        main_guest("k612", "trixie", derived("trixie")),
        main_guest("k72", "sid", derived("sid")),
        small_guest("k61-small", "bookworm"),
        small_guest("k510-small", "bullseye"),
        small_guest("k612-small", "trixie"),
        small_guest("k72-small", "sid"),
        zram_guest("k61-zram", "bookworm"),
        zram_guest("k510-zram", "bullseye"),
        zram_guest("k612-zram", "trixie"),
        zram_guest("k72-zram", "sid"),
        zswap_guest("k61-zswap", "bookworm"),
        zswap_guest("k510-zswap", "bullseye"),
        zswap_guest("k612-zswap", "trixie"),
        zswap_guest("k72-zswap", "sid"),
        disk_guest("k61-disk", "bookworm"),
        disk_guest("k510-disk", "bullseye"),
        disk_guest("k612-disk", "trixie"),
        disk_guest("k72-disk", "sid"),
        numa_guest("k61-numa", "bookworm"),
        numa_guest("k510-numa", "bullseye"),
        numa_guest("k612-numa", "trixie"),
        numa_guest("k72-numa", "sid"),
        abi_guest("k61-abi", "bookworm", derived("trixie"), "ia32"),
        abi_guest("k510-abi", "bullseye", derived("trixie"), "x32"),
        abi_guest("k612-abi", "trixie", derived("trixie"), "ia32"),
        abi_guest("k72-abi", "sid", derived("sid"), "x32"),
        ABI_SMALL,
        I386_SMALL,
        i386_guest("k61-686pae", "bookworm", "686-pae", 5120, note="32-bit kernel, PAE, RAM above 4 GiB"),
        i386_guest("k61-686", "bookworm", "686", note="32-bit kernel without PAE"),
        i386_guest("k510-686pae", "bullseye", "686-pae", note="32-bit kernel, PAE"),
        i386_fpu_guest(
            "k61-686-fsave",
            "bookworm",
            (simple("x87", FULL, program="x87-i686"),),
            cpu="pentium2,-fxsr",
            note="a CPU with an x87 only, without FXSAVE",
        ),
        i386_fpu_guest(
            "k61-686-fxsave",
            "bookworm",
            (simple("abi_ia32", FULL, program="abi-ia32"),),
            append="noxsave",
            note="no XSAVE",
        ),
        *SPECIAL,
    )
}
