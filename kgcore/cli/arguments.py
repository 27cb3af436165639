# SPDX-License-Identifier: LGPL-2.1-or-later
"""Share the options of the commands, and what they say; both are checked before a dump is opened.

The options of a single command are in its module, in :mod:`kgcore.cli.commands`.
"""

import argparse
import glob
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from kgcore._version import __version__
from kgcore.cli.parser import Answering, Parser, UsageError, flag, option
from kgcore.cli.request import Channel
from kgcore.cli.values import architecture, file_name, filter_mask, level, rule, swap_image
from kgcore.errors import KgcoreError
from kgcore.filters.rules import Action
from kgcore.model.process import DEFAULT_MASK
from kgcore.sources.base import TaskRef, UserFiles
from kgcore.sources.location import CoreLocation, DumpLocation, LiveLocation, Location

__all__ = (
    "FILTER_BITS",
    "PLACES",
    "Place",
    "add_filter_options",
    "add_json",
    "add_mask_option",
    "add_place_options",
    "add_show",
    "add_supply_options",
    "add_task",
    "add_tasks",
    "add_version",
    "dump_of",
    "existing",
    "place_of",
    "task_of",
    "tasks_of",
    "user_files_of",
    "vmcore_path",
)


def _sum(mask: int) -> str:
    return "+".join(str(1 << bit) for bit in range(mask.bit_length()) if mask >> bit & 1)


FILTER_BITS = f"""\
filter bits (-f takes their sum; the default {DEFAULT_MASK} = {_sum(DEFAULT_MASK)} is the kernel's own default):
   1  anonymous private memory          16  first page of mapped ELF files
   2  anonymous shared memory           32  hugetlb private memory
   4  file-backed private memory        64  hugetlb shared memory
   8  file-backed shared memory         process: each process's own coredump_filter
"""


# Options


def add_version(parser: Parser) -> None:
    """Add ``-V``."""
    parser.general.add_argument(
        "-V", "--version", action=Answering, const=f"kgcore {__version__}\n", help="show the version"
    )


def add_show(parser: Parser) -> None:
    """Add ``-v``."""
    option(
        parser.general,
        "-v",
        dest="show",
        metavar="LEVEL",
        type=level,
        default=Channel.FAULTS,
        help="sum of 1 progress, 2 library errors, 4 page faults (default 4)",
    )


def add_json(parser: Parser) -> None:
    """Add ``--json``."""
    flag(parser.general, "--json", help="as JSON")


def add_place_options(parser: Parser, *, live: bool = False) -> None:
    """Add the options that name the dump and its symbols, spelled as drgn spells them.

    :param live: the command can also take the processes of this machine.
    """
    group = parser.add_argument_group("the dump")
    target = group.add_mutually_exclusive_group()
    target.add_argument(
        "-c",
        "--core",
        metavar="VMCORE",
        type=file_name,
        action="append",
        default=[],
        help="the vmcore (default: $KGCORE_VMCORE, else ./vmcore); repeat -c for each file of a split set",
    )
    flag(target, "-k", "--kernel", dest="running", help="the running kernel")
    option(
        target, "--qemu", metavar="ADDRESS", type=file_name, help="a QEMU guest, by its QMP socket: a path or host:port"
    )
    if live:
        flag(target, "--live", help="this machine's own processes, by /proc (see kgcore live --help)")
    group.add_argument(
        "-s",
        "--symbols",
        metavar="SYMBOLS",
        type=file_name,
        action="append",
        default=[],
        help="vmlinux, a module's debug file, raw BTF or a System.map; may be repeated (default: searched for)",
    )
    option(
        group,
        "--symbols-from",
        choices=("auto", "dwarf", "btf"),
        default="auto",
        help="take types and symbols from debug information (dwarf) or from the dump itself (btf) (default: auto)",
    )
    for kind, what in (("debug", "debug information"), ("kernel", "the kernel image and modules")):
        group.add_argument(
            f"--{kind}-directory",
            dest=f"{kind}_directories",
            metavar="DIR",
            type=file_name,
            action="append",
            default=[],
            help=f"also search DIR for {what}; may be repeated",
        )
    option(
        group,
        "--vmcoreinfo",
        metavar="FILE | ADDRESS",
        type=file_name,
        help="use this VMCOREINFO instead of the dump's: a file, or a physical address (0x...) in the dump",
    )
    option(group, "--architecture", metavar="ARCH", type=architecture, help="if the dump does not say: x86_64 or i386")


def add_mask_option(group: argparse._ActionsContainer, bits: str = "below", *, held: bool = False) -> None:
    """Add ``-f``.

    :param bits: where a help text lists them.
    :param held: what is there is what a filter has left, and the default is all of it.
    """
    default = "all that there is" if held else str(DEFAULT_MASK)
    option(
        group,
        "-f",
        dest="mask",
        metavar="FILTER",
        type=filter_mask,
        default=None if held else DEFAULT_MASK,
        help=f"which memory: sum of the bits {bits}, or 'process' (default {default})",
    )


def add_filter_options(group: argparse._ActionsContainer, *, held: bool = False) -> None:
    """Add the options that choose which memory a core holds.

    :param held: as in :func:`add_mask_option`.
    """
    add_mask_option(group, held=held)
    flag(group, "--dontdump", help="also memory marked MADV_DONTDUMP")
    flag(group, "--dax", help="also DAX mappings")
    group.set_defaults(rules=())
    actions: tuple[tuple[Action, str], ...] = (
        ("exclude", "leave out memory: name:GLOB ([heap] or a file's name), file:GLOB, size:>1G or addr:START-END"),
        ("only", "leave out all memory that no rule names"),
        ("redact", "write zeros in the place of memory, and say so in the report"),
    )
    for action, what in actions:
        group.add_argument(
            f"--{action}",
            dest="rules",
            metavar="RULE",
            type=partial(rule, action),
            action=_Rules,
            help=f"{what}; may be repeated, the first rule that fits decides",
        )


class _Rules(argparse.Action):
    """Keeps all rules in the order of the command line, of whichever option."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, option: str | None = None
    ) -> None:
        namespace.rules = (*namespace.rules, value)


def add_supply_options(group: argparse._ActionsContainer) -> None:
    """Add the options that name further sources of memory: swap images and files."""
    group.add_argument(
        "--swap",
        metavar="DEV=IMAGE",
        type=swap_image,
        action="append",
        default=[],
        help="image of a swap device or swap file, named as in /proc/swaps; may be repeated",
    )
    option(
        group,
        "--root",
        metavar="DIR",
        type=file_name,
        help="take missing pages of mapped files from the same files under DIR",
    )


_WHICH_TASK = (
    "id of any thread in decimal, or address of a task_struct in hexadecimal "
    "(default: the process that was current in the crash)"
)


def add_task(parser: Parser) -> None:
    """Add the operand that names a process."""
    parser.add_argument("task", metavar="PID | TASK", nargs=argparse.OPTIONAL, help=_WHICH_TASK)


def add_tasks(parser: Parser) -> None:
    """Add the operands that name processes."""
    parser.add_argument("tasks", metavar="PID | TASK", nargs=argparse.ZERO_OR_MORE, help=_WHICH_TASK)


def add_pids(parser: Parser) -> None:
    """Add the operands that name processes of this machine."""
    parser.add_argument(
        "tasks", metavar="PID", nargs=argparse.ZERO_OR_MORE, help="id of any thread of a process, in decimal"
    )


# Of several options


def vmcore_path(given: str | None, environ: Mapping[str, str]) -> str:
    """Return the dump to open: the one given, else ``$KGCORE_VMCORE``, else ``./vmcore``.

    :raises UsageError: it does not exist; the hint names the dumps that kdump left on this machine.
    """
    variable = environ.get("KGCORE_VMCORE")
    path = given or variable or "vmcore"
    if os.path.exists(path):
        return path
    origin = "" if given else " (from $KGCORE_VMCORE)" if variable else " in the current directory"
    # kdump-tools, Debian's and Ubuntu's, names its dumps dump.<date>.
    found = sorted(glob.glob("/var/crash/*/vmcore") + glob.glob("/var/crash/*/dump.*"))
    there = f"; found on this machine: {', '.join(found)}" if found else ""
    raise UsageError(
        f"no vmcore {path!r}{origin}", hint=f"use -c VMCORE, set $KGCORE_VMCORE, or put it at ./vmcore{there}"
    )


class Place(NamedTuple):
    """A kind of source on the command line.

    :ivar options: those that lead to it, by their names in the parsed arguments; (): none has to.
    :ivar location: makes its location of all options.
    """

    options: tuple[str, ...]
    location: Callable[[argparse.Namespace, Mapping[str, str]], Location]


def place_of(parsed: argparse.Namespace, environ: Mapping[str, str], *, cores: bool = True) -> Location:
    """Return what the options of :func:`add_place_options` say, or a core that stands in the place of a process.

    :param cores: a core of a process will do.
    :raises UsageError: a file does not exist, or is given twice.
    """
    given = {name for name, value in vars(parsed).items() if value}
    if cores and (core := _core_of(parsed)) is not None:
        if other := given & {"running", "qemu", "live", "symbols", "vmcoreinfo", "architecture", "swap"}:
            raise UsageError(f"{core!r} is a core of a process, which takes no --{sorted(other)[0]}")
        return CoreLocation(core)
    kind = next(kind for kind in PLACES if not kind.options or given.intersection(kind.options))
    return kind.location(parsed, environ)


def _core_of(parsed: argparse.Namespace) -> str | None:
    """Return the core of a process that is named with ``-c``, or in the place of a PID, which it takes away."""
    if len(getattr(parsed, "core", [])) == 1 and _is_core(parsed.core[0]):
        return str(parsed.core[0])
    words = [*getattr(parsed, "tasks", ()), *filter(None, [getattr(parsed, "task", None)])]
    # What may be a PID or an address is one; ./12345 is not
    files = [word for word in words if not re.fullmatch("(0[xX])?[0-9a-fA-F]+", word) and os.path.exists(word)]
    if not files or getattr(parsed, "core", None):
        return None
    if "task" in parsed:
        parsed.task = None
    else:
        parsed.tasks.remove(files[0])
    return str(files[0])


def _is_core(path: str) -> bool:
    """Whether a file is a core of a process; a vmcore may have the same headers."""
    from kgcore.sources.corefile.recognising import is_process_core

    return is_process_core(path)


def dump_of(parsed: argparse.Namespace, environ: Mapping[str, str]) -> DumpLocation:
    """Return the dump that the options of :func:`add_place_options` name.

    :raises UsageError: a file does not exist, or is given twice.
    """
    for path in parsed.symbols:
        existing(path, "symbol file")
    for path in (*parsed.debug_directories, *parsed.kernel_directories):
        existing(path, "directory")
    if parsed.vmcoreinfo and not re.fullmatch("0x[0-9a-fA-F]{1,16}", parsed.vmcoreinfo):
        existing(parsed.vmcoreinfo, "VMCOREINFO file")
    core, *parts = parsed.core or [None]
    for position, part in enumerate(parts, 1):
        if part in parsed.core[:position]:
            raise UsageError(f"argument -c/--core: {part!r} is given twice", hint="give each file of a split set once")
        existing(part, "vmcore")
    return DumpLocation(
        core=None if parsed.running or parsed.qemu else vmcore_path(core, environ),
        symbols=tuple(parsed.symbols),
        symbols_from=parsed.symbols_from,
        debug_directories=tuple(parsed.debug_directories),
        kernel_directories=tuple(parsed.kernel_directories),
        vmcoreinfo=parsed.vmcoreinfo,
        architecture=parsed.architecture,
        qemu=parsed.qemu,
        live=parsed.running,
        parts=tuple(parts),
    )


PLACES: list[Place] = [
    Place(("live",), lambda parsed, environ: LiveLocation()),
    Place((), dump_of),  # whatever else is missing: $KGCORE_VMCORE, or ./vmcore
]
"""Kinds of sources; the first that an option leads to is meant."""


def task_of(parsed: argparse.Namespace) -> TaskRef:
    """Return the process that was named, or the current one.

    :raises UsageError: it is neither a PID nor an address.
    """
    return TaskRef.current() if parsed.task is None else _task(parsed.task)


def tasks_of(parsed: argparse.Namespace) -> tuple[TaskRef, ...]:
    """Return the processes that were named.

    :raises UsageError: one is neither a PID nor an address.
    """
    return tuple(map(_task, parsed.tasks))


def _task(word: str) -> TaskRef:
    try:
        return TaskRef.parse(word)
    except KgcoreError as error:
        raise UsageError(error.message, hint=error.hint) from error


def user_files_of(parsed: argparse.Namespace) -> UserFiles:
    """Return what the options of :func:`add_supply_options` say.

    :raises UsageError: an image or the directory does not exist, or a device is given twice.
    """
    images: dict[str, str] = {}
    for device, image in parsed.swap:
        if device in images:
            raise UsageError(f"argument --swap: {device!r} is given twice")
        images[device] = existing(image, "swap image")
    if parsed.root and not os.path.isdir(parsed.root):
        raise UsageError(f"--root: {parsed.root!r} is not a directory")
    return UserFiles(images, parsed.root)


def existing(path: str, what: str) -> str:
    """Return a path that exists.

    :raises UsageError: it does not exist.
    """
    if not os.path.exists(path):
        raise UsageError(f"no such {what}: {path!r}")
    return path
