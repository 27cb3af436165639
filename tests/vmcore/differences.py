# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a core that the kernel wrote may differ from ours of the same moment, each difference with its reason.

The kernel writes a core because of a signal, a little later and from inside the process; we find the process as it
was. Nothing but what stands here is tolerated.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.vmcore.corefile import Core, Phdr, ThreadNotes

REGISTER_NAMES = {
    2: "PRFPREG",
    0x200: "386_TLS",
    0x201: "386_IOPERM",
    0x202: "X86_XSTATE",
    0x204: "X86_SHSTK",
    0x46E62B7F: "PRXFPREG",
}

PRSTATUS_BY_SIGNAL = {
    "si_signo": "the signal that made the kernel write its core",
    "cursig": "the same",
    "sigpend": "the kernel sends SIGKILL to all other threads before it writes (zap_process())",
    "utime_s": "the time that dying took",
    "utime_us": "the same",
    "stime_s": "the same",
    "stime_us": "the same",
}
PSINFO_BY_SIGNAL = {
    "state": "the kernel looks while the process is running to write its core",
    "sname": "the same",
    "zomb": "follows from sname; a traced process counts as a zombie there",
}
# What "flag" may gain: PF_DUMPCORE and PF_SIGNALED; PF_EXITING (before 5.16) or PF_POSTCOREDUMP when a thread other
# than the leader took the signal; PF_NO_NOTIFY_SIGNAL, while nothing may interrupt the dump (7.3). What it may lose:
# PF_FREEZER_SKIP, which a task has while it sleeps (before 6.1).
PF_BY_SIGNAL = 0x200 | 0x400 | 0x4 | 0x8 | 0x800000 | 0x40000000
# linux/errno.h: what a system call that a signal interrupts puts into ax, before it is known whether it is restarted
INTERRUPTED = {-4, -512, -513, -514, -516}
ENOSYS = -38
RESTART_SYSCALL = 219


@dataclass(frozen=True)
class Expected:
    """What a test knows of its victim beyond the signal.

    :ivar running: ids of threads that ran in user mode when the dump was made: all their registers have moved on.
    :ivar tracer_died: the tracer had to be killed first, which gave its tracees a new parent.
    :ivar pages: addresses of pages that change while the process dies.
    :ivar vvar: the address of [vvar], in which the time goes on.
    :ivar from_disk: mappings (start, end) that the kernel read from the disk to write them; a vmcore has no disk.
    :ivar returned: the blocked system calls came to an end of their own before the signal.
    :ivar loses_tls: before 5.16 the kernel clears FS and GS of all threads but the first on the way to the core
        (do_exit()
        calls deactivate_mm() before it waits for the dumper), so that its own cores lack thread-local storage.
    :ivar no_file_note: so many mappings that the kernel gives up NT_FILE (4 MiB, fill_files_note()). Ours has it:
        without it no debugger finds the process's files.
    :ivar marks_image: before 5.14 the kernel puts the mask of features (``sw_reserved``) into its own saved image when
        it makes NT_X86_XSTATE (xstateregs_get()), which is after NT_PRFPREG. A dump of a later moment has it.
    :ivar proc_times: our times are those of /proc/PID/stat: whole ticks of 10 ms, user and system scaled to the true
        run time (cputime_adjust()). The kernel's core has its own samples of who ran at a tick, which no file of /proc
        shows.
    :ivar interrupted: ptrace stopped the threads for our core: a sleep then went on as restart_syscall(2), number 219.
    :ivar dying: the dump is of a moment at which the kernel was writing this very core: the signal is the same.
    """

    running: frozenset[int] = frozenset()
    tracer_died: bool = False
    pages: frozenset[int] = frozenset()
    vvar: int | None = None
    from_disk: frozenset[tuple[int, int]] = frozenset()
    returned: bool = False
    loses_tls: bool = False
    no_file_note: bool = False
    dying: bool = False
    proc_times: bool = False
    interrupted: bool = False
    marks_image: bool = False


def compare(kernel: Core, ours: Core, expected: Expected = Expected()) -> Iterator[str]:
    """Every difference that is not accounted for, as a line."""
    disk = sorted(expected.from_disk)
    yield from _headers(kernel, ours, disk, expected)
    yield from _notes(kernel, ours, expected)
    yield from _threads(kernel, ours, expected)
    yield from _psinfo(kernel, ours, expected)
    if kernel.auxv != ours.auxv:
        yield "NT_AUXV differs"
    if expected.no_file_note:
        if kernel.files or not ours.files:
            yield "NT_FILE: the kernel has it, or we have not"
    elif kernel.files != ours.files:
        yield f"NT_FILE differs: {set(kernel.files) ^ set(ours.files)}"
    yield from _memory(kernel, ours, expected, disk)


def _headers(kernel: Core, ours: Core, disk: list[tuple[int, int]], expected: Expected) -> Iterator[str]:
    if kernel.e_ident != ours.e_ident:
        yield f"e_ident: {kernel.e_ident!r}, ours {ours.e_ident!r}"
    if disk:  # ranges are left out of our segments, so numbers and offsets move; the segments are compared one by one
        in_order = [phdr.p_vaddr for phdr in ours.loads] == sorted(phdr.p_vaddr for phdr in ours.loads)
        if not in_order and ours.loads[-1].p_vaddr < 1 << 63:
            yield "segments out of order"
        theirs = [load for load in kernel.loads if not _within(load, disk)]
        mine = [load for load in ours.loads if not _within(load, disk)]
        if [load._replace(p_offset=0) for load in theirs] != [load._replace(p_offset=0) for load in mine]:
            yield f"PT_LOAD: {set(theirs) ^ set(mine)}"
        return
    for name, value in kernel.header.items():
        if ours.header[name] != value:
            yield f"{name}: {value}, ours {ours.header[name]}"
    if kernel.section != ours.section:
        yield f"section header 0: {kernel.section}, ours {ours.section}"
    for theirs_, ours_ in zip(kernel.phdrs, ours.phdrs, strict=False):
        if theirs_.p_type == 4 and expected.no_file_note:
            ours_ = ours_._replace(p_filesz=theirs_.p_filesz)  # one small note fits into the padding
        if theirs_ != ours_:
            yield f"program header: {theirs_}, ours {ours_}"
    if kernel.size != ours.size:
        yield f"file size: {kernel.size}, ours {ours.size}"


def _within(load: Phdr, ranges: list[tuple[int, int]]) -> bool:
    return any(start <= load.p_vaddr < end for start, end in ranges)


def _notes(kernel: Core, ours: Core, expected: Expected) -> Iterator[str]:
    def shape(core: Core) -> list[tuple[str, int, int]]:
        """Notes but for those of further threads, whose order is that of their arrival in the kernel."""
        notes = [(note.owner, note.type, len(note.desc)) for note in core.notes]
        if expected.no_file_note:
            notes = [note for note in notes if note[1] != 0x46494C45]
        starts = [number for number, note in enumerate(notes) if note[:2] == ("CORE", 1)]
        end = len(notes) - (notes[-1][1] == 0x205)
        return notes[: starts[1]] + notes[end:] if len(starts) > 1 else notes

    if shape(kernel) != shape(ours):
        yield f"notes: {shape(kernel)}, ours {shape(ours)}"
    layout = [[note.desc for note in core.notes if note.type == 0x205] for core in (kernel, ours)]
    if layout[0] != layout[1]:
        yield f"NT_X86_XSAVE_LAYOUT: {layout[0]}, ours {layout[1]}"
    size = len(ours.process_note(0x53494749) or b"")
    if expected.dying:
        if kernel.process_note(0x53494749) != ours.process_note(0x53494749):
            yield f"NT_SIGINFO: {kernel.process_note(0x53494749)!r}, ours {ours.process_note(0x53494749)!r}"
    elif ours.process_note(0x53494749) != bytes(size):
        yield "NT_SIGINFO is not zeros, though there was no signal"


def _threads(kernel: Core, ours: Core, expected: Expected) -> Iterator[str]:
    if set(kernel.threads) != set(ours.threads):
        yield f"threads: {sorted(kernel.threads)}, ours {sorted(ours.threads)}"
    first = next(iter(kernel.threads))
    for tid in kernel.threads.keys() & ours.threads.keys():
        for text in _thread(kernel.threads[tid], ours.threads[tid], tid, tid == first, expected):
            yield f"thread {tid}: {text}"


def _thread(theirs: ThreadNotes, ours: ThreadNotes, tid: int, first: bool, expected: Expected) -> Iterator[str]:
    for name, value in theirs.prstatus.items():
        mine = ours.prstatus[name]
        if expected.dying and "time" not in name:
            pass
        elif name == "sigpend":
            value &= ~(1 << 8)  # SIGKILL
        elif (
            name in PRSTATUS_BY_SIGNAL
            or (name == "ppid" and expected.tracer_died)
            or (expected.proc_times and "time" in name)
        ):
            continue
        if value != mine:
            yield f"{name}: {value:#x}, ours {mine:#x}"
    if not expected.dying and (ours.prstatus["cursig"] or ours.prstatus["si_signo"]):
        yield "has a signal"
    # A kernel that was writing its core had filled in the notes before, and worked on.
    earlier, later = (theirs, ours) if expected.dying else (ours, theirs)
    for part in () if expected.proc_times else ("utime", "stime"):
        before = earlier.prstatus[part + "_s"] * 1_000_000 + earlier.prstatus[part + "_us"]
        if later.prstatus[part + "_s"] * 1_000_000 + later.prstatus[part + "_us"] < before:
            yield f"{part}: less later on"
    if [(note.owner, note.type, len(note.desc)) for note in theirs.regsets] != [
        (note.owner, note.type, len(note.desc)) for note in ours.regsets
    ]:
        yield f"register notes: {[note[:2] for note in theirs.regsets]}, ours {[note[:2] for note in ours.regsets]}"
    if tid in expected.running:
        return
    for name, value in theirs.regs.items():
        mine = ours.regs[name]
        bits = 64 if "r8" in theirs.regs else 32
        if (
            name == "ax"
            and _signed(mine, bits) == ENOSYS
            and (_signed(value, bits) in INTERRUPTED or expected.returned)
        ):
            continue  # a blocked system call that the signal ended
        if name == "orig_ax" and expected.interrupted and value == RESTART_SYSCALL:
            continue
        if name in ("fs_base", "gs_base", "fs", "gs") and expected.loses_tls and not first and value == 0:
            continue
        if value != mine:
            yield f"{name}: {value:#x}, ours {mine:#x}"
    for note in theirs.regsets:
        mine_ = ours.note(note.type)
        marked = expected.marks_image and len(note.desc) == 512
        if mine_ is not None and marked and mine_[464:472] == (ours.note(0x202) or b"")[464:472]:
            mine_ = mine_[:464] + note.desc[464:472] + mine_[472:]
        if mine_ is not None and mine_ != note.desc:
            at = next(at for at, (a, b) in enumerate(zip(note.desc, mine_, strict=False)) if a != b)
            yield f"NT_{REGISTER_NAMES.get(note.type, hex(note.type))} differs from byte {at} on"


def _signed(value: int, bits: int) -> int:
    return value - (value >> bits - 1 << bits)


def _psinfo(kernel: Core, ours: Core, expected: Expected) -> Iterator[str]:
    for name, value in kernel.psinfo.items():
        mine = ours.psinfo[name]
        if name == "flag" and isinstance(value, int) and isinstance(mine, int):
            if (value ^ mine) & ~PF_BY_SIGNAL:
                yield f"NT_PRPSINFO flag: {value:#x}, ours {mine:#x}"
        elif name in PSINFO_BY_SIGNAL or (name == "ppid" and expected.tracer_died):
            continue
        elif value != mine:
            yield f"NT_PRPSINFO {name}: {value!r}, ours {mine!r}"


def _memory(kernel: Core, ours: Core, expected: Expected, disk: list[tuple[int, int]]) -> Iterator[str]:
    for load in kernel.loads:
        if _within(load, disk):
            continue
        for address, theirs in kernel.segment(load):
            try:
                mine = ours.read(address, len(theirs))
            except ValueError as error:
                yield str(error)
                continue
            if mine == theirs:
                continue
            for at in range(0, len(theirs), 4096):
                if expected.vvar is not None and address + at - expected.vvar in VVAR:
                    yield from VVAR[address + at - expected.vvar](theirs[at : at + 4096], mine[at : at + 4096])
                elif theirs[at : at + 4096] != mine[at : at + 4096] and address + at not in expected.pages:
                    yield f"the page at {address + at:#x} differs"


def _time(theirs: bytes, ours: bytes) -> Iterator[str]:
    """``struct vdso_clock`` (include/vdso/datapage.h) at the start of a page: what does not go on, and the seconds."""
    if theirs[4:8] != ours[4:8] or theirs[0x10:0x28] != ours[0x10:0x28] or not any(ours[0x10:0x28]):
        yield "the clock of [vvar] is another one"
    before, after = (int.from_bytes(page[0x28:0x30], "little") for page in (ours, theirs))
    if not 0 < before <= after <= before + 3600:
        yield f"the clock of [vvar] stands at {after}, ours at {before}"


def _seeds(theirs: bytes, ours: bytes) -> Iterator[str]:
    """``struct vdso_rng_data``: how often the kernel's random numbers got a new seed, and whether they ever did."""
    before, after = (int.from_bytes(page[:8], "little") for page in (ours, theirs))
    if not before <= after <= before + 100 or theirs[8] < ours[8] or theirs[9:] != ours[9:]:
        yield f"the random numbers of [vvar] have had {after} seeds, ours {before}"


# enum vdso_pages
VVAR = {0: _time, 2 * 4096: _seeds}
"""What goes on in [vvar], by the page's offset."""
