# SPDX-License-Identifier: LGPL-2.1-or-later
"""Provide kgcore inside drgn: ``gcore(prog, pid)`` and ``load_types(prog)``, and the commands ``%gcore`` and
``%load_types``, also in drgn's crash mode.

drgn imports this module in every session, so it imports its own needs only when a command runs.
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, SupportsIndex

from drgn import Object, Program, ProgramFlags, TypeKind

from kgcore.cli.console import Console, OutputLost, reason
from kgcore.errors import KgcoreError
from kgcore.model.process import DEFAULT_MASK
from kgcore.sources.base import NO_USER_FILES, Source, TaskRef, UserFiles

if TYPE_CHECKING:
    from kgcore.coredump.report import Report
    from kgcore.filters.rules import Rule

__all__ = ("gcore", "load_types")


def gcore(
    prog: Program,
    pid: int | str | Object | None = None,
    *,
    filter: int | Literal["process"] = DEFAULT_MASK,  # noqa: A002  (the name that the command line and the kernel use)
    output: str | os.PathLike[str] | BinaryIO | None = None,
    missing: Literal["omit", "zero"] = "omit",
    dontdump: bool = False,
    dax: bool = False,
    rules: Iterable["Rule"] = (),
    note: bool = True,
    state: bool = True,
    share_zeros: bool = False,
    swap: Mapping[str, str | os.PathLike[str]] | None = None,
    root: str | os.PathLike[str] | None = None,
    sysroot: str | os.PathLike[str] | None = None,
    force: bool = False,
    jobs: int | None = None,
    compress: Literal["zstd", "gzip"] | None = None,
    max_size: int | None = None,
    max_time: float | None = None,
    limit: Literal["priority", "largest-first", "truncate"] = "priority",
    profile: Literal["full", "mini"] = "full",
    progress: Callable[[int, int], None] | None = None,
) -> "Report":
    """
    Write a process of a Linux kernel program as a core file.

    >>> from kgcore import gcore
    >>> gcore(prog, 4711)                        # writes core.4711
    >>> gcore(prog, task, output="/tmp/it.core", filter=0x7f)

    :param prog: A Program of a vmcore or of a running kernel. It stays as it is.
    :param pid: Id of any of its threads in the initial pid namespace, address of a ``struct task_struct``, or a
        ``struct task_struct *``. None: crash mode's current context, else the task that was current in the crash.
    :param filter: Sum of the coredump_filter bits, or "process" for the process's own setting.
    :param output: A file name, a directory for ``core.<tgid>`` (default: the current one), or a binary file object,
        which need not be seekable.
    :param missing: What to do with memory that the dump lacks: "omit" it, so that debuggers cannot read it, or write
        "zero" bytes.
    :param dontdump: Also memory marked ``MADV_DONTDUMP``.
    :param dax: Also DAX mappings.
    :param rules: ``Rule("exclude", "name:[heap]")`` and the like: which memory to leave out, or to write as zeros. The
        first that fits a mapping decides.
    :param note: Add the vendor note that lists what is missing.
    :param state: Let that note also say what the process had of the kernel: signal actions, timers, limits, what is in
        pipes and other descriptors.
    :param share_zeros: Let long ranges that were never touched share one range of zeros in the file. Otherwise the
        file is as long as all its memory. Automatic if the file would be longer than file systems allow.
    :param swap: Images of swap devices and swap files: path as in /proc/swaps, to path of the image.
    :param root: Take missing pages of mapped files from the same files under this directory.
    :param sysroot: A directory for the program, its interpreter and its libraries, laid out for gdb's
        ``set sysroot``; ``kgcore check`` says which of them are complete.
    :param force: Overwrite existing files.
    :param jobs: How many worker processes read and compress. None: one per usable CPU. They are forked, unless this
        process has other threads: then it works alone.
    :param compress: Compress the core; in a directory it is then ``core.<tgid>.zst`` or ``core.<tgid>.gz``.
    :param max_size: Write at most this many bytes. The rest counts as missing.
    :param max_time: Write for at most this many seconds.
    :param limit: What these two cost first: what matters least ("priority"), the ends of the largest mappings
        ("largest-first"), or the end of the file in the kernel's order ("truncate").
    :param profile: "mini": of all that memory only what debuggers need for backtraces.
    :param progress: Called at intervals with the bytes of memory written so far, and in all.
    :return: What the core holds, and what is missing and why.
    :raises KgcoreError: The process cannot be found or has no memory, or the output cannot be written.
    :raises TypeError, ValueError: A parameter is invalid.
    """
    from kgcore.coredump.limits import Limits
    from kgcore.coredump.pipeline import Options
    from kgcore.saving import CoreWriter, destination

    options = Options(
        mask=_mask(filter),
        dontdump=dontdump,
        dax=dax,
        rules=tuple(rules),
        missing=missing,
        vendor_note=note,
        state=state,
        share_zeros=share_zeros,
        profile=profile,
    )
    for name, most in (("max_size", max_size), ("max_time", max_time)):
        if most is not None and most <= 0:
            raise ValueError(f"{name} is {most}: expected more than 0")
    limits = Limits(max_size, max_time, rule=limit)
    directory, file = destination(output or ".")
    writer = CoreWriter(
        options,
        directory=directory,
        output=file,
        force=force,
        compress=compress,
        sysroot=sysroot,
        jobs=jobs,
        limits=limits,
    )
    ref = _current(prog) if pid is None else _reference(pid)
    with _source(prog, UserFiles.of(swap, root)) as source:
        return writer.save(source, ref, progress)


def _mask(filter_: int | str) -> int | None:
    """:raises TypeError, ValueError: it is not a mask."""
    if filter_ == "process":
        return None
    meaning = "expected a sum of filter bits, 0 to 0x7f, or 'process'"
    if not isinstance(filter_, SupportsIndex):
        raise TypeError(f"filter is {filter_!r}: {meaning}")
    mask = index(filter_)  # what numpy and the like take for an integer, too
    if not 0 <= mask <= 0x7F:
        raise ValueError(f"filter is {mask:#x}: {meaning}")
    return mask


def load_types(prog: Program) -> None:
    """
    Give a Linux kernel program the kernel's own types and symbols (BTF and kallsyms), without a vmlinux.

    >>> from kgcore import load_types
    >>> load_types(prog)
    >>> prog["init_task"].comm

    The finders have the lowest priority: debug information, also if loaded later, wins. Types, enumerators, functions
    and per-CPU variables are those that the kernel describes; other variables are those that kgcore and many helpers of
    drgn use. Macros, source lines and unwind information of the kernel are missing. The size of a symbol is an
    estimate: up to the next one. A second call changes nothing.

    :param prog: A Program of a vmcore or of a running kernel.
    :raises KgcoreError: It is not a Linux kernel of x86_64, or has no BTF. The program is then unchanged.
    """
    from kgcore.sources import drgnversion

    drgnversion.ensure()
    from kgcore.sources.vmcore.opening.foreign import add_types

    add_types(prog)


def _reference(pid: int | str | Object) -> TaskRef:
    """:raises TypeError: it does not name a process."""
    if not isinstance(pid, Object):
        try:
            return TaskRef.of(pid)
        except TypeError:
            raise TypeError(f"expected a PID or a struct task_struct *, not {type(pid).__name__}") from None
    type_name = re.sub(r"\b(const|volatile) ", "", pid.type_.type_name())
    if type_name == "struct task_struct *":
        return _task(pid.value_())
    if type_name == "struct task_struct":
        return _task(pid.address_of_().value_())
    if pid.type_.unaliased_kind() == TypeKind.INT:
        return _reference(int(pid))
    raise TypeError(f"expected a PID or a struct task_struct *, not {type_name}")


def _task(address: int) -> TaskRef:
    return TaskRef(f"{address:#x}", address=address)


def _current(prog: Program) -> TaskRef:
    """The current context of crash mode if it is set, else the task that was current when the kernel crashed."""
    context = prog.config.get("crash_context")
    return TaskRef.current() if context is None else _reference(context)


@contextlib.contextmanager
def _source(prog: Program, user_files: UserFiles = NO_USER_FILES) -> Iterator[Source]:
    from kgcore.sources import drgnversion

    drgnversion.ensure()
    from kgcore.sources.vmcore.opening.foreign import from_program
    from kgcore.sources.vmcore.source import VmcoreSource

    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise KgcoreError("this program is not a Linux kernel", hint="open a vmcore: drgn -c VMCORE")
    with from_program(prog) as target:
        for message in target.messages:
            print(f"gcore: {message}", file=sys.stderr)
        yield VmcoreSource(target, user_files)


# Commands


class _Failures(Console):
    """A console that keeps failures until the end: drgn itself prints the error that a command raises."""

    def __init__(self) -> None:
        super().__init__(sys.stdout, sys.stderr, "gcore")
        self.lines: list[str] = []

    def fail(self, line: str) -> None:
        self.lines.append(line)


def _run(prog: Program, name: str, words: Sequence[str], current: Callable[[Program], TaskRef]) -> "list[Report]":
    from dataclasses import replace

    from drgn.commands import CommandArgumentError, CommandError

    from kgcore.cli.commands.dump import parse_drgn
    from kgcore.cli.commands.dumping import refuse_terminal
    from kgcore.cli.extract import extract
    from kgcore.cli.librarylog import routed
    from kgcore.cli.parser import Answer, UsageError

    console = _Failures()
    try:
        request = parse_drgn(words, name)
        refuse_terminal(request, console.out)
        if request.tasks == (TaskRef.current(),):
            request = replace(request, tasks=(current(prog),))
        with routed(request.show, console), _source(prog, request.user_files) as source:
            outcome = extract(source, request, console)
    except Answer as answer:
        print(answer)
        return []
    except UsageError as error:
        raise CommandArgumentError(str(error)) from error
    except KgcoreError as error:
        raise CommandError(reason(error)) from error
    except OutputLost as error:
        raise (error.__cause__ or error) from None
    if console.lines:
        raise CommandError("\n".join(console.lines))
    if console.lost is not None:
        raise console.lost.__cause__ or console.lost
    return outcome.reports


_DESCRIPTION = "write processes as core files that debuggers open"
_USAGE = "**{}** [*OPTION*]... [*PID* | *TASK*]..."
_LONG = "Write processes of this kernel as core files, core.<tgid> each. {} --help shows the options."
_TYPES = "load the kernel's own types and symbols, without a vmlinux"
_TYPES_LONG = "Load types from the kernel's BTF and symbols from its kallsyms, with the lowest priority."
_TYPES_CRASH = " Without a vmlinux, do this before crash mode's own commands (set, ps, ...); gcore does not need it."


def _kernel(prog: Program) -> bool:
    return bool(prog.flags & ProgramFlags.IS_LINUX_KERNEL)


def _load_types(prog: Program, name: str, words: Sequence[str], **_: Any) -> None:
    from drgn.commands import CommandArgumentError, CommandError

    if words:
        raise CommandArgumentError(f"{name} takes no arguments")
    try:
        load_types(prog)
    except KgcoreError as error:
        raise CommandError(reason(error)) from error


def _register_command() -> None:
    """Add ``%gcore`` and ``%load_types``. Commands need drgn 0.1.0; older ones have only the functions."""
    try:
        from drgn.commands import custom_command, parse_shell_command
    except ImportError:
        return

    @custom_command(
        name="gcore",
        description=_DESCRIPTION,
        usage=_USAGE.format("gcore"),
        long_description=_LONG.format("%gcore"),
        parse=parse_shell_command,
        enabled=_kernel,
    )
    def _cmd_gcore(prog: Program, name: str, words: Sequence[str], **_: Any) -> "list[Report]":
        return _run(prog, "%" + name, words, _current)

    custom_command(
        name="load_types",
        description=_TYPES,
        usage="**load_types**",
        long_description=_TYPES_LONG,
        parse=parse_shell_command,
        enabled=_kernel,
    )(_load_types)


def _register_crash_command() -> None:
    """Add both to drgn's crash mode. Its interface is not public: a drgn without it, or with a different one, only
    lacks these commands."""
    try:
        from drgn.commands import parse_shell_command
        from drgn.commands._crash.common import crash_custom_command, crash_get_context
    except (ImportError, AttributeError):
        return

    def current(prog: Program) -> TaskRef:
        try:
            return _reference(crash_get_context(prog))
        except Exception:  # noqa: BLE001
            # Whatever it is (LookupError where nothing crashed, or where drgn has no types), we may know better.
            return TaskRef.current()

    def run(prog: Program, name: str, words: Sequence[str], **_: Any) -> "list[Report]":
        return _run(prog, name, words, current)

    with contextlib.suppress(TypeError, AttributeError):
        crash_custom_command(
            name="gcore",
            description=_DESCRIPTION,
            usage=_USAGE.format("gcore"),
            long_description=_LONG.format("gcore"),
            parse=parse_shell_command,
        )(run)
        crash_custom_command(
            name="load_types",
            description=_TYPES,
            usage="**load_types**",
            long_description=_TYPES_LONG + _TYPES_CRASH,
            parse=parse_shell_command,
        )(_load_types)


_register_command()
_register_crash_command()
