# SPDX-License-Identifier: LGPL-2.1-or-later
"""Define a process as plain values: a source makes them, and everything downstream uses them.

Nothing here depends on the source of the process (a vmcore today; a live process or a core later) or on drgn. Names are
the kernel's. Integers are unsigned unless a comment says otherwise; times are nanoseconds.
"""

import stat
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from enum import Enum
from operator import attrgetter
from typing import Literal, NamedTuple

from kgcore.model.dying import Dying
from kgcore.model.kinds import VmaKind

__all__ = (
    "DEFAULT_MASK",
    "DELETED",
    "VM_DONTCOPY",
    "VM_DONTDUMP",
    "VM_EXEC",
    "VM_GROWSDOWN",
    "VM_HUGEPAGE",
    "VM_HUGETLB",
    "VM_IO",
    "VM_LOCKED",
    "VM_MAYSHARE",
    "VM_MAYWRITE",
    "VM_MERGEABLE",
    "VM_MIXEDMAP",
    "VM_NOHUGEPAGE",
    "VM_NORESERVE",
    "VM_PFNMAP",
    "VM_RAND_READ",
    "VM_READ",
    "VM_SEQ_READ",
    "VM_SHARED",
    "VM_UFFD_MISSING",
    "VM_UFFD_WP",
    "VM_WIPEONFORK",
    "VM_WRITE",
    "CoreDialect",
    "FileType",
    "FpuState",
    "MappedFile",
    "OpenFile",
    "ProcessImage",
    "PsInfo",
    "RegisterNote",
    "RegisterSet",
    "RegisterSource",
    "Socket",
    "TaskIds",
    "TaskTimes",
    "Thread",
    "Vma",
    "XsaveLayout",
    "file_type",
)

# include/linux/mm.h; these have had the same values in every kernel with the fields we read.
DEFAULT_MASK = 0x33  # of coredump_filter: MMF_DUMP_FILTER_DEFAULT, include/linux/sched/coredump.h

VM_READ = 0x1
VM_WRITE = 0x2
VM_EXEC = 0x4
VM_SHARED = 0x8
VM_MAYWRITE = 0x20
VM_MAYSHARE = 0x80  # mapped with MAP_SHARED; without VM_SHARED from a file that was opened for reading only
VM_GROWSDOWN = 0x100
VM_UFFD_MISSING = 0x200
VM_PFNMAP = 0x400
VM_UFFD_WP = 0x1000
VM_LOCKED = 0x2000
VM_IO = 0x4000
VM_SEQ_READ = 0x8000
VM_RAND_READ = 0x10000
VM_DONTCOPY = 0x20000
VM_NORESERVE = 0x200000
VM_HUGETLB = 0x400000
VM_WIPEONFORK = 0x2000000
VM_DONTDUMP = 0x4000000
VM_MIXEDMAP = 0x10000000
VM_HUGEPAGE = 0x20000000
VM_NOHUGEPAGE = 0x40000000
VM_MERGEABLE = 0x80000000

DELETED = b" (deleted)"  # what d_path() puts behind the name of a file that has it no longer


@dataclass(frozen=True, slots=True)
class TaskIds:
    """The ids of a task as one pid namespace numbers them: that of the dumping task. 0: not visible there.

    :ivar pid: of the thread; ``ppid``, ``pgrp`` and ``sid`` of its parent, process group and session.
    """

    pid: int
    ppid: int
    pgrp: int
    sid: int


@dataclass(frozen=True, slots=True)
class TaskTimes:
    """CPU times in nanoseconds. For a group leader ``utime`` and ``stime`` are those of the whole group.

    :ivar cutime: in user mode, of the children that were waited for; ``cstime`` in the kernel.
    """

    utime: int
    stime: int
    cutime: int
    cstime: int


class RegisterSource(Enum):
    """Where a thread's user-mode general registers were found."""

    ENTRY_FRAME = "entry-frame"  # struct pt_regs at the top of the kernel stack
    CPU_NOTE = "cpu-note"  # the NT_PRSTATUS that the crash path or QEMU wrote for the CPU
    QEMU_NOTE = "qemu-note"  # QEMU's own note about the CPU
    LIVE_CPU = "live-cpu"  # asked of a running guest's monitor
    PTRACE = "ptrace"  # of a stopped thread, as ptrace(2) tells them
    CORE = "core"  # of its note in a core
    UNAVAILABLE = "unavailable"  # nowhere; every register is 0 and listed as unknown


@dataclass(frozen=True, slots=True)
class RegisterSet:
    """General registers in user mode by their ``struct pt_regs`` names (``ax``, ``orig_ax``, ``ip``, ``fs_base`` ...).

    :ivar values: register name to unsigned value, as wide as the architecture's ``elf_gregset_t`` has them.
    :ivar source: where they were found.
    :ivar unknown: names whose value was not found; they are 0 in ``values``.
    :ivar where: if nothing is known, where it was looked for, as the end of a sentence ("they are not ...").
    """

    values: Mapping[str, int]
    source: RegisterSource
    unknown: frozenset[str] = frozenset()
    where: str = "known"


@dataclass(frozen=True, slots=True, kw_only=True)
class XsaveLayout:
    """The machine's XSAVE area in standard (not compacted) format, as its kernel measured it with CPUID leaf 0xD.

    :ivar user_size: bytes of NT_X86_XSTATE (``x86_64_regsets[REGSET_XSTATE].n * 8``).
    :ivar user_features: XCR0-like mask of the user features (word 0 of ``xstate_fx_sw_bytes``).
    :ivar offsets: feature number to byte offset in the standard format (``xstate_offsets``).
    :ivar sizes: feature number to bytes (``xstate_sizes``).
    :ivar aligned: feature numbers that the compacted format aligns to 64 bytes (CPUID.0xD ECX[1]).
    :ivar init_image: ``init_fpstate``'s bytes: what a component holds in its initial state; empty: unknown.
    """

    user_size: int
    user_features: int
    offsets: Mapping[int, int] = field(hash=False)
    sizes: Mapping[int, int] = field(hash=False)
    aligned: frozenset[int] = frozenset()
    init_image: bytes = b""


@dataclass(frozen=True, slots=True)
class FpuState:
    """A thread's floating-point and extended state as the kernel last saved it.

    :ivar image: raw ``union fpregs_state``: an FXSAVE image or an XSAVE area, standard or compacted, whole.
    :ivar stale: the live registers were in a CPU when the dump was made; this is the state of the last switch-out.
    :ivar pkru: ``thread.pkru`` where the kernel keeps PKRU outside the image (>= 5.14), else None.
    """

    image: bytes
    stale: bool = False
    pkru: int | None = None


class RegisterNote(NamedTuple):
    """A register set that a kernel handed over in the form of a note: by ptrace (PTRACE_GETREGSET), or in a core.

    :ivar type: NT_*, known to kgcore or not.
    :ivar owner: the note's name without its NUL: ``CORE`` for NT_PRFPREG, ``LINUX`` for most others.
    :ivar desc: its description, whole.
    """

    type: int
    owner: bytes
    desc: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """One thread with everything its notes need.

    :ivar task: address of its ``struct task_struct``; 0: the source does not see the kernel.
    :ivar tid: its id in the initial pid namespace (``ids.pid`` is the id for the notes).
    :ivar comm: its name, raw, at most 15 bytes.
    :ivar state: the raw task state word (``__state``).
    :ivar flags: ``task->flags`` (PF_*).
    :ivar ids: for its notes.
    :ivar times: for its notes.
    :ivar regs: its general registers in user mode.
    :ivar fpu: its floating-point and vector registers; None: missing.
    :ivar sigpend: ``pending.signal.sig[0]``: signals pending for this thread alone.
    :ivar sighold: ``blocked.sig[0]``.
    :ivar ioperm: 8192 bytes, 1 = denied, if the task has an I/O permission bitmap.
    :ivar shstk: a user shadow stack is enabled (``thread.features & 1``).
    :ivar cpu: the CPU it was running on when the dump was made, else None.
    :ivar tls: its thread-local segments: number of the GDT entry and the descriptor as the CPU has it, 8 bytes.
    :ivar regsets: register sets that are notes already, in the order that the core has them in. They are written as
        they are, instead of what ``fpu``, ``ioperm``, ``shstk`` and ``tls`` would give. They do not include
        NT_PRSTATUS: that is made of ``regs`` and of the rest here.
    :ivar forced_tf: the kernel itself set the trap flag (TIF_FORCED_TF); it does not show it to users.
    """

    task: int
    tid: int
    comm: bytes
    state: int
    flags: int
    ids: TaskIds
    times: TaskTimes
    sigpend: int
    sighold: int
    regs: RegisterSet
    fpu: FpuState | None = None
    ioperm: bytes | None = None
    shstk: bool = False
    cpu: int | None = None
    forced_tf: bool = False
    tls: tuple[tuple[int, int], ...] = ()
    regsets: tuple[RegisterNote, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PsInfo:
    """What NT_PRPSINFO says of the process, from its group leader (which may have exited before its threads).

    :ivar state: the raw task state word (``__state``).
    :ivar nice: -20 to 19.
    :ivar flags: ``task->flags`` (PF_*).
    :ivar uid: real user id in the credentials' own user namespace, 65534 if it has none there; ``gid`` the same.
    :ivar ids: of the leader.
    :ivar comm: the leader's name, raw, at most 15 bytes.
    :ivar psargs: the first ``min(arg_end - arg_start, 79)`` bytes of the arguments, NULs and all; None: not readable.
    """

    state: int
    nice: int
    flags: int
    uid: int
    gid: int
    ids: TaskIds
    comm: bytes
    psargs: bytes | None


@dataclass(frozen=True, slots=True)
class MappedFile:
    """The file behind a mapping.

    :ivar path: the name as NT_FILE has it (``/memfd:x (deleted)``), relative to the process's root; None if it
        cannot be built.
    :ivar nlink: ``i_nlink``; 0 for deleted files, memfd, SysV and anonymous shared memory.
    :ivar mode: ``i_mode``.
    :ivar size: ``i_size`` in bytes.
    :ivar dax: the inode has S_DAX.
    """

    path: bytes | None
    nlink: int
    mode: int
    size: int
    dax: bool = False

    @property
    def deleted(self) -> bool:
        """Whether its name was deleted."""
        return self.nlink == 0 or (self.path is not None and self.path.endswith(DELETED))

    @property
    def name(self) -> bytes | None:
        """:attr:`path` without the kernel's mark of deleted files."""
        return None if self.path is None else self.path.removesuffix(DELETED)


@dataclass(frozen=True, slots=True)
class Socket:
    """The properties of a socket.

    :ivar family: as in ``AF_INET``, without that prefix, in lower case; a number where the name is not known.
    :ivar type: as in ``SOCK_STREAM``, the same.
    :ivar local: its own address, as ``127.0.0.1:80``, ``[::1]:80`` or a path (``@x``: an abstract one); b"": none.
    :ivar remote: that of its peer; b"": not connected, or not known.
    """

    family: str
    type: str
    local: bytes = b""
    remote: bytes = b""


FileType = Literal["regular", "directory", "character", "block", "fifo", "socket", "symlink", "anon_inode", "unknown"]

_FILE_TYPES: dict[int, FileType] = {
    stat.S_IFREG: "regular",
    stat.S_IFDIR: "directory",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFLNK: "symlink",
    0: "anon_inode",
}


def file_type(mode: int) -> FileType:
    """Return the type of a file by its ``i_mode``."""
    return _FILE_TYPES.get(stat.S_IFMT(mode), "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """A file descriptor.

    :ivar fd: its number.
    :ivar file: address of its ``struct file``: the same for descriptors that share an offset (``dup()``, ``fork()``).
    :ivar path: as ``/proc/PID/fd`` shows it (``pipe:[123]``, ``/x (deleted)``), relative to the process's root; None if
        it cannot be built.
    :ivar type: of what the path leads to.
    :ivar flags: as ``/proc/PID/fdinfo`` has them, O_CLOEXEC, which is the descriptor's, included.
    :ivar offset: ``f_pos``; signed.
    :ivar mode: ``i_mode``, ``nlink`` ``i_nlink`` and ``inode`` ``i_ino``.
    :ivar socket: the properties of a socket; None: not a socket, or unknown.
    :ivar size: ``i_size`` in bytes.
    :ivar in_memory: its content is only in memory (tmpfs, memfd): absent pages are zeros.
    """

    fd: int
    file: int
    path: bytes | None
    type: FileType
    flags: int
    offset: int
    mode: int
    size: int
    nlink: int
    inode: int
    in_memory: bool = False
    socket: Socket | None = None

    @property
    def deleted(self) -> bool:
        """Whether it has no name, or its name was deleted."""
        return self.nlink == 0 or (self.path is not None and self.path.endswith(DELETED))

    @property
    def unsaved(self) -> bool:
        """Whether its content exists only in the dump: it was in memory, or deleted."""
        return self.type == "regular" and (self.deleted or self.in_memory)


@dataclass(frozen=True, slots=True)
class Vma:
    """A mapping: ``struct vm_area_struct`` as values.

    :ivar start: user virtual address.
    :ivar end: first address after it.
    :ivar file: the mapped file; None: it is anonymous.
    :ivar flags: ``vm_flags`` (VM_*).
    :ivar pgoff: offset in the file, in pages (:attr:`ProcessImage.page_size`).
    :ivar anon: it has an ``anon_vma``, that is, private pages were made.
    :ivar name: what ``vm_ops->name`` says (``[vdso]``, ``[vvar]``, ``[vsyscall]``), else "".
    :ivar anon_name: what its process called anonymous memory, raw: ``prctl(PR_SET_VMA)``; empty: nothing.
    :ivar struct: address of its ``struct vm_area_struct``; 0: it has none of its own.
    :ivar continued: it is a part of a mapping, and the one before it is another part of the same.
    :ivar held: how many bytes from its start the source has, where somebody left out the rest before; None: all.
    :ivar kinds: what it may be, where the source cannot tell; (): it is what the rest here says.
    :ivar place: its place in the order in which memory must be read that can be read only forward.
    """

    start: int
    end: int
    flags: int
    _: KW_ONLY
    pgoff: int = 0
    file: MappedFile | None = None
    anon: bool = False
    name: str = ""
    anon_name: bytes = b""
    struct: int = field(default=0, compare=False)
    continued: bool = field(default=False, compare=False)
    held: int | None = None
    kinds: tuple[VmaKind, ...] = ()
    place: int = field(default=0, compare=False)

    def as_kind(self, kind: VmaKind) -> "Vma":
        """Return it as the one of its kinds that it may be."""
        file = self.file or (MappedFile(None, 1, 0, 0) if kind.mapped else None)
        file = file and replace(file, nlink=kind.nlink, dax=kind.dax, mode=kind.mode)
        return replace(self, flags=self.flags | kind.flags, anon=kind.anon, name=kind.name, file=file, kinds=())

    @property
    def mapped(self) -> bytes:
        """What is mapped there: what ``vm_ops->name`` says, else the path of its file; raw, or empty."""
        if self.name:
            return self.name.encode("utf-8", "surrogateescape")
        return self.file.path or b"" if self.file is not None else b""

    def part(self, start: int, end: int, page_size: int) -> "Vma":
        """Return a part of it as a mapping, as the kernel splits one: whole pages from one address up to another."""
        pgoff = self.pgoff + (start - self.start) // page_size
        held = None if self.held is None else min(max(self.held - (start - self.start), 0), end - start)
        continued = self.continued or start > self.start
        return replace(self, start=start, end=end, pgoff=pgoff, held=held, continued=continued)


@dataclass(frozen=True, slots=True)
class CoreDialect:
    """How the process's own kernel writes cores, where releases differ.

    :ivar note_align: ``p_align`` of PT_NOTE: 0 or 4.
    :ivar raw_fpregs: NT_PRFPREG and NT_X86_XSTATE are copies of the saved image (before 5.14), so that the bytes
        which XSAVE leaves alone are what memory held, instead of zeros.
    :ivar xsave_layout: writes NT_X86_XSAVE_LAYOUT (6.12).
    :ivar header_by_mode: by the filter's bit for ELF headers, keeps the first page of executable files (5.10).
    :ivar header_by_magic: by the same bit, keeps the first page of files with an ELF magic (not in 5.10 to 5.17).
    """

    note_align: int = 4
    raw_fpregs: bool = False
    xsave_layout: bool = True
    header_by_mode: bool = True
    header_by_magic: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessImage:
    """A whole process.

    :ivar tgid: id of the process in the initial pid namespace.
    :ivar psinfo: the content of NT_PRPSINFO.
    :ivar dialect: how its kernel writes cores.
    :ivar xsave: how the machine lays out vector registers; None: it has no XSAVE, or that is not known.
    :ivar arch: key into :data:`kgcore.arch.ARCHES` (``"x86_64"``, ``"ia32"``).
    :ivar page_size: bytes of a page of the machine, a power of two.
    :ivar threads: all threads that still have the address space; the requested one (else the leader) first.
    :ivar vmas: in address order, the gate VMA (``[vsyscall]``) last.
    :ivar auxv: (a_type, a_val) pairs up to and with AT_NULL.
    :ivar dump_filter: the process's own ``coredump_filter`` (bits 0 to 8); None: not known, but what the source has is
        what a filter kept.
    :ivar warnings: what could not be determined, as sentences; the report contains them, too.
    :ivar kernel: release of the kernel (``6.1.0-13-amd64``).
    :ivar start_brk: where ``brk()`` began, and ``brk`` where it ended: the heap. Both 0: not known.
    :ivar start_stack: an address in the stack that the program was started with. 0: not known.
    :ivar dying: the signal that it was dying of, if it was.
    :ivar notes: its notes, where they stand in a core already: each with its header and padding, in order. They are
        written as they are, and none is made of the rest.
    :ivar named: what anonymous memory is called is known: ``[heap]``, and names that the process gave.
    """

    tgid: int
    arch: str
    page_size: int
    threads: tuple[Thread, ...]
    psinfo: PsInfo
    vmas: tuple[Vma, ...]
    auxv: tuple[tuple[int, int], ...]
    dump_filter: int | None
    dialect: CoreDialect = field(default_factory=CoreDialect)
    xsave: XsaveLayout | None = None
    warnings: tuple[str, ...] = ()
    kernel: str = ""
    start_brk: int = 0
    brk: int = 0
    start_stack: int = 0
    dying: Dying | None = None
    notes: tuple[bytes, ...] = ()
    named: bool = True

    def vma_at(self, address: int) -> Vma | None:
        """Find the mapping of an address; None: not mapped."""
        index = bisect_right(self.vmas, address, key=attrgetter("start")) - 1
        return self.vmas[index] if index >= 0 and address < self.vmas[index].end else None

    def name_of(self, vma: Vma) -> bytes:
        """Return what /proc/PID/maps shows of a mapping: its file, ``[heap]``, ``[stack]``, ``[vdso]`` ..., or nothing.

        As fs/proc/task_mmu.c has it since 6.6 (vma_is_initial_heap(), vma_is_initial_stack()). A name that the process
        gave (``[anon:NAME]``, ``[anon_shmem:NAME]``) stands for that of /dev/zero, but not for ``[heap]``.
        """
        if vma.file is not None:
            return b"[anon_shmem:%b]" % vma.anon_name if vma.anon_name else vma.mapped
        if vma.mapped:
            return vma.mapped
        if vma.start < self.brk and vma.end > self.start_brk:
            return b"[heap]"
        if vma.start <= self.start_stack <= vma.end:
            return b"[stack]"
        return b"[anon:%b]" % vma.anon_name if vma.anon_name else b""
