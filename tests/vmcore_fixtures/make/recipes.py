# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guest is: which kernel, machine, victims and dumps. One Recipe per fixture; catalogue.py has them all."""

from __future__ import annotations

from dataclasses import dataclass, field

from .moments import Moment

MODULES = ["virtio_pci", "virtio_blk", "ext4", "qemu_fw_cfg"]
FULL = "0x7f"
PYTHON_SUITE = "bookworm"
# On a busy host an emulated timer looks broken, at which a kernel would panic.
CMDLINE = "console=ttyS0 panic=-1 loglevel=4 no_timer_check"
# The thread that spins, alone on CPU 1, is inside an interrupt: the timer's, which comes 250 times a second.
INTERRUPTED = Moment(("update_process_times",), cpu=1)
# And it is on its way there: its registers are in the CPU still, or on no stack of its own.
ENTERING = tuple(Moment((function,), cpu=1) for function in ("asm_sysvec_apic_timer_interrupt", "sync_regs"))


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
    # When to dump (the first is the one for which there is anything else).
    moments: tuple[Moment, ...] = (Moment(),)
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
# The host's makedumpfile takes slab pages of later kernels for user memory.
NEW_ENOUGH = {"trixie": "trixie", "trixie-backports": "sid", "experimental": "sid", "sid": "sid"}


def derived_31(suite: str) -> Derived:
    """Without the memory of processes."""
    return Derived("vmcore.d31-zlib", 31, "zlib", tool=NEW_ENOUGH.get(suite, "host"))
