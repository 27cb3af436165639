# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write processes of Linux kernel crash dumps as core files that debuggers open.

In drgn, call ``gcore(prog, pid)``. Without a drgn Program::

    with open_vmcore("vmcore") as source:            # a Source; open_running_kernel(), open_qemu() give one, too
        for process in source.processes():           # what kgcore ps shows
            print(process.pid, process.comm, process.rss)
        report = save(source, 4711, "/tmp")          # writes core.4711; a Report: what is in it, what is missing
        print(backtrace(source, 4711).threads)       # kgcore bt
        print(address_map(source, 4711).areas)       # kgcore map; map_html() draws it
        print(open_files(source, 4711).rows)         # kgcore files; extract_file() writes the content of one
        write_sysroot(source, 4711, "sysroot")       # its program and libraries, for a debugger elsewhere
        print(layouts(source))                       # what kgcore needs of kernels, and what this one has
    verdict = check_core("/tmp/core.4711")           # is the core well-formed, is it complete; check_sysroot()

Of this machine, and of this very program::

    report = write_core_dump("core", 4711)           # it goes on; without a PID: this program's own
    with get_core_dump() as core:                    # a file object
        upload(core)

Step by step, and to wherever bytes can go::

        with prepare(source, 4711) as prepared:      # Prepared: the process, its memory, the plan of its core
            report = write(prepared, CompressedSink(FileSink("core.gz"), "gzip"))

The other names are the arguments, results (plain values: ProcessImage, Thread, Vma, Run ...) and exceptions of these
functions. docs/api.md shows their use.

They are loaded when they are first used, as drgn imports this package with every start (for the ``%gcore`` command).
All but gcore, load_types, backtrace and what opens something do without drgn.
"""

from kgcore._version import __version__

TYPE_CHECKING = False  # to type checkers it is true; importing it would take longer than all else here
if TYPE_CHECKING:
    from kgcore.binaries.contents import FileGap
    from kgcore.binaries.sysroot import SysrootFile, SysrootReport, write_sysroot
    from kgcore.check.core import check_core
    from kgcore.check.sysroot import CheckedFile, SysrootVerdict, check_sysroot
    from kgcore.check.verdict import Verdict
    from kgcore.coredump.limits import Limits
    from kgcore.coredump.loads import Segment
    from kgcore.coredump.mappings import VmaPlan
    from kgcore.coredump.notes import Remark
    from kgcore.coredump.ownnotes import Note
    from kgcore.coredump.pipeline import Options, Prepared, prepare, write
    from kgcore.coredump.plan import CorePlan, Part
    from kgcore.coredump.report import Gap, Report, VmaAccount
    from kgcore.coredumper.dumps import get_core_dump, write_core_dump
    from kgcore.coredumper.options import DumpOptions
    from kgcore.coredumper.reader import CoreReader
    from kgcore.errors import (
        BadTask,
        BrokenDump,
        Busy,
        Cancelled,
        KernelThread,
        KgcoreError,
        LimitReached,
        NoCurrentTask,
        NoSuchTask,
        NotRestarted,
        NoUserMemory,
        OutputError,
        StoodStillTooLong,
        TargetError,
    )
    from kgcore.filters.base import Keep
    from kgcore.filters.rules import Rule
    from kgcore.library import open_core, open_live, open_qemu, open_running_kernel, open_vmcore
    from kgcore.model.account import Account
    from kgcore.model.dying import Dying
    from kgcore.model.freeze import Freeze
    from kgcore.model.kinds import VmaKind
    from kgcore.model.layouts import Layout, LayoutName
    from kgcore.model.lost import Lost
    from kgcore.model.memory import Memory, Piece, Provenance, Run
    from kgcore.model.process import (
        CoreDialect,
        FpuState,
        MappedFile,
        OpenFile,
        ProcessImage,
        PsInfo,
        RegisterNote,
        RegisterSet,
        RegisterSource,
        Socket,
        TaskIds,
        TaskTimes,
        Thread,
        Vma,
        XsaveLayout,
    )
    from kgcore.model.siginfo import Fault, SigInfo
    from kgcore.model.state import (
        AlternateStack,
        Clocks,
        Descriptor,
        EpollItem,
        EventFd,
        PendingSignal,
        Pipe,
        PosixTimer,
        ProcessState,
        Rseq,
        SharedMapping,
        SignalAction,
        SignalFd,
        ThreadState,
        TimerFd,
        TimerValue,
    )
    from kgcore.model.summary import ProcessSummary
    from kgcore.model.traces import End, Frame, KernelStack, ThreadTrace
    from kgcore.plugin import gcore, load_types
    from kgcore.saving import save
    from kgcore.sinks.base import PartOutput, Sink
    from kgcore.sinks.compressed import CompressedSink
    from kgcore.sinks.files import FileSink
    from kgcore.sinks.streams import MemorySink, StreamSink
    from kgcore.sources.base import (
        Contents,
        CoreLayout,
        FileContents,
        HasKernelStacks,
        HasMappedFiles,
        HasOpenFiles,
        HasState,
        IsCore,
        KnowsCrash,
        KnowsLayouts,
        OpenFiles,
        Process,
        Source,
        StandsStill,
        TaskRef,
    )
    from kgcore.views.addressmap import AddressMap, Area, StackPointer, address_map
    from kgcore.views.backtrace import Backtrace, backtrace
    from kgcore.views.layouts import layouts
    from kgcore.views.mappage import map_html
    from kgcore.views.openfiles import ContentAccount, OpenFileRow, OpenFileTable, extract_file, open_files

__all__ = (
    "Account",
    "AddressMap",
    "AlternateStack",
    "Area",
    "Backtrace",
    "BadTask",
    "BrokenDump",
    "Busy",
    "Cancelled",
    "CheckedFile",
    "Clocks",
    "CompressedSink",
    "ContentAccount",
    "Contents",
    "CoreDialect",
    "CoreLayout",
    "CorePlan",
    "CoreReader",
    "Descriptor",
    "DumpOptions",
    "Dying",
    "End",
    "EpollItem",
    "EventFd",
    "Fault",
    "FileContents",
    "FileGap",
    "FileSink",
    "FpuState",
    "Frame",
    "Freeze",
    "Gap",
    "HasKernelStacks",
    "HasMappedFiles",
    "HasOpenFiles",
    "HasState",
    "IsCore",
    "Keep",
    "KernelStack",
    "KernelThread",
    "KgcoreError",
    "KnowsCrash",
    "KnowsLayouts",
    "Layout",
    "LayoutName",
    "LimitReached",
    "Limits",
    "Lost",
    "MappedFile",
    "Memory",
    "MemorySink",
    "NoCurrentTask",
    "NoSuchTask",
    "NoUserMemory",
    "NotRestarted",
    "Note",
    "OpenFile",
    "OpenFileRow",
    "OpenFileTable",
    "OpenFiles",
    "Options",
    "OutputError",
    "Part",
    "PartOutput",
    "PendingSignal",
    "Piece",
    "Pipe",
    "PosixTimer",
    "Prepared",
    "Process",
    "ProcessImage",
    "ProcessState",
    "ProcessSummary",
    "Provenance",
    "PsInfo",
    "RegisterNote",
    "RegisterSet",
    "RegisterSource",
    "Remark",
    "Report",
    "Rseq",
    "Rule",
    "Run",
    "Segment",
    "SharedMapping",
    "SigInfo",
    "SignalAction",
    "SignalFd",
    "Sink",
    "Socket",
    "Source",
    "StackPointer",
    "StandsStill",
    "StoodStillTooLong",
    "StreamSink",
    "SysrootFile",
    "SysrootReport",
    "SysrootVerdict",
    "TargetError",
    "TaskIds",
    "TaskRef",
    "TaskTimes",
    "Thread",
    "ThreadState",
    "ThreadTrace",
    "TimerFd",
    "TimerValue",
    "Verdict",
    "Vma",
    "VmaAccount",
    "VmaKind",
    "VmaPlan",
    "XsaveLayout",
    "__version__",
    "address_map",
    "backtrace",
    "check_core",
    "check_sysroot",
    "extract_file",
    "gcore",
    "get_core_dump",
    "layouts",
    "load_types",
    "map_html",
    "open_core",
    "open_files",
    "open_live",
    "open_qemu",
    "open_running_kernel",
    "open_vmcore",
    "prepare",
    "save",
    "write",
    "write_core_dump",
    "write_sysroot",
)

_NAMES = {
    "kgcore.binaries.contents": "FileGap",
    "kgcore.binaries.sysroot": "SysrootFile SysrootReport write_sysroot",
    "kgcore.check.core": "check_core",
    "kgcore.check.sysroot": "CheckedFile SysrootVerdict check_sysroot",
    "kgcore.check.verdict": "Verdict",
    "kgcore.coredump.limits": "Limits",
    "kgcore.coredump.loads": "Segment",
    "kgcore.coredump.mappings": "VmaPlan",
    "kgcore.coredump.notes": "Remark",
    "kgcore.coredump.ownnotes": "Note",
    "kgcore.coredump.pipeline": "Options Prepared prepare write",
    "kgcore.coredump.plan": "CorePlan Part",
    "kgcore.coredump.report": "Gap Report VmaAccount",
    "kgcore.coredumper.dumps": "get_core_dump write_core_dump",
    "kgcore.coredumper.options": "DumpOptions",
    "kgcore.coredumper.reader": "CoreReader",
    "kgcore.errors": "BadTask BrokenDump Busy Cancelled KernelThread KgcoreError LimitReached NoCurrentTask NoSuchTask "
    "NotRestarted NoUserMemory OutputError StoodStillTooLong TargetError",
    "kgcore.filters.base": "Keep",
    "kgcore.filters.rules": "Rule",
    "kgcore.library": "open_core open_live open_qemu open_running_kernel open_vmcore",
    "kgcore.model.account": "Account",
    "kgcore.model.dying": "Dying",
    "kgcore.model.freeze": "Freeze",
    "kgcore.model.kinds": "VmaKind",
    "kgcore.model.layouts": "Layout LayoutName",
    "kgcore.model.lost": "Lost",
    "kgcore.model.memory": "Memory Piece Provenance Run",
    "kgcore.model.process": "CoreDialect FpuState MappedFile OpenFile ProcessImage PsInfo "
    "RegisterNote RegisterSet RegisterSource Socket TaskIds TaskTimes Thread Vma XsaveLayout",
    "kgcore.model.siginfo": "Fault SigInfo",
    "kgcore.model.state": "AlternateStack Clocks Descriptor EpollItem EventFd PendingSignal Pipe PosixTimer "
    "ProcessState Rseq SharedMapping SignalAction SignalFd ThreadState TimerFd TimerValue",
    "kgcore.model.summary": "ProcessSummary",
    "kgcore.model.traces": "End Frame KernelStack ThreadTrace",
    "kgcore.plugin": "gcore load_types",
    "kgcore.saving": "save",
    "kgcore.sinks.compressed": "CompressedSink",
    "kgcore.sinks.base": "PartOutput Sink",
    "kgcore.sinks.files": "FileSink",
    "kgcore.sinks.streams": "MemorySink StreamSink",
    "kgcore.sources.base": "Contents CoreLayout FileContents HasKernelStacks HasMappedFiles HasOpenFiles "
    "HasState IsCore KnowsCrash KnowsLayouts OpenFiles Process Source StandsStill TaskRef",
    "kgcore.views.addressmap": "AddressMap Area StackPointer address_map",
    "kgcore.views.backtrace": "Backtrace backtrace",
    "kgcore.views.layouts": "layouts",
    "kgcore.views.mappage": "map_html",
    "kgcore.views.openfiles": "ContentAccount OpenFileRow OpenFileTable extract_file open_files",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
