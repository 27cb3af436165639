# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ordinary guests, and those with something special; not those that swap, nor those with 32-bit kernels."""

from __future__ import annotations

from .moments import Moment
from .recipes import (
    CRASHED,
    CRASHED_SMALL,
    ENTERING,
    FULL,
    HUGE_PAGES,
    INTERRUPTED,
    MAIN,
    MEMORY,
    PAGE_CACHE,
    SMALL_DUMP,
    SPIN,
    SWAP,
    THREADS,
    VFORK,
    VFORK_OLD,
    Derived,
    Recipe,
    Victim,
    derived,
    derived_31,
    simple,
)


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
    return Recipe(
        name,
        suite,
        victims,
        SMALL_DUMP,
        append="isolcpus=1",
        setup=HUGE_PAGES,
        note="committed, reduced",
    )


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


def numa_guest(name: str, suite: str) -> Recipe:
    """A guest in which memory is on its way from one node to the other as it is dumped: a page is about to be copied
    (before 6.0 the function has another name), and no longer in a page table. Since 6.3 those are many at a time."""
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
        # The first page of all, and later ones.
        moments=tuple(
            Moment(at=("migrate_folio", "migrate_page"), skip=skip, after="__x64_sys_migrate_pages")
            for skip in (0, 300, 600)
        ),
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
        moments=(Moment(), INTERRUPTED, *ENTERING),
        note="5-level page tables; a readable vsyscall page; moments at which the spinner is inside an interrupt",
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
