# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guests: which kernel, which machine, which victims, which dumps. One Recipe per fixture."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    victims = (*MAIN, *more, *vfork, *SPIN)
    setup = HUGE_PAGES + SWAP
    return Recipe(name, suite, victims, variants, append="isolcpus=1", setup=setup, note="all ordinary victims")


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
        *SPECIAL,
    )
}
