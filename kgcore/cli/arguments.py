# SPDX-License-Identifier: LGPL-2.1-or-later
"""Share the parser, options and values of the commands, which are checked before a dump is opened.

The options of a single command are in its module, in :mod:`kgcore.cli.commands`.
"""

import argparse
import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from kgcore._version import __version__
from kgcore.cli.request import Channel
from kgcore.errors import KgcoreError
from kgcore.model.process import DEFAULT_MASK
from kgcore.sinks.outputs import standard
from kgcore.sources.base import TaskRef, UserFiles
from kgcore.sources.location import DumpLocation, Location

__all__ = (
    "FILTER_BITS",
    "PLACES",
    "Answer",
    "Parser",
    "Place",
    "UsageError",
    "add_filter_options",
    "add_json",
    "add_mask_option",
    "add_place_options",
    "add_show",
    "add_supply_options",
    "add_task",
    "add_tasks",
    "add_version",
    "duration",
    "existing",
    "file_name",
    "flag",
    "level",
    "number",
    "option",
    "output_name",
    "place_of",
    "size",
    "swap_image",
    "task_of",
    "tasks_of",
    "user_files_of",
    "user_id",
    "vmcore_path",
    "workers",
)


_ALL_BITS = 0x1FF  # of /proc/PID/coredump_filter


def _sum(mask: int) -> str:
    return "+".join(str(1 << bit) for bit in range(mask.bit_length()) if mask >> bit & 1)


FILTER_BITS = f"""\
filter bits (-f takes their sum; the default {DEFAULT_MASK} = {_sum(DEFAULT_MASK)} is the kernel's own default):
   1  anonymous private memory          16  first page of mapped ELF files
   2  anonymous shared memory           32  hugetlb private memory
   4  file-backed private memory        64  hugetlb shared memory
   8  file-backed shared memory         process: each process's own coredump_filter
"""


class UsageError(KgcoreError):
    """The command line is invalid; nothing was opened or written."""


class Answer(Exception):
    """A text to print instead of running the command (``--help``, ``--version``). It is not an error."""


class Parser(argparse.ArgumentParser):
    """An argparse parser that neither prints nor exits: drgn's prompt must survive a typo."""

    def __init__(self, prog: str, **keywords: Any) -> None:
        super().__init__(
            prog,
            add_help=False,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **keywords,
        )
        general = self.add_argument_group("general")
        general.add_argument("-h", "--help", action=_Answer, help="show this help")
        self.general = general

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see {self.prog} --help")


class _Answer(argparse.Action):
    """End the parsing with a text: ``const``, or the parser's help."""

    def __init__(self, option_strings: Sequence[str], dest: str, **keywords: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **keywords)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise Answer(self.const or parser.format_help())


class _Once(argparse.Action):
    """Store the value (a flag stores True), and refuse the option a second time.

    ``-f 1 ... -f 2`` is ambiguous: argparse would silently ignore one of them.
    """

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        given: set[str] = namespace.__dict__.setdefault("given", set())
        if self.dest in given:
            raise argparse.ArgumentError(self, "given twice")
        given.add(self.dest)
        setattr(namespace, self.dest, True if self.nargs == 0 else values)


def flag(group: argparse._ActionsContainer, *names: str, **keywords: Any) -> None:
    """Add an option without a value, which may be given only once."""
    group.add_argument(*names, action=_Once, nargs=0, default=False, **keywords)


def option(group: argparse._ActionsContainer, *names: str, **keywords: Any) -> None:
    """Add an option with a value, which may be given only once."""
    group.add_argument(*names, action=_Once, **keywords)


# Options


def add_version(parser: Parser) -> None:
    """Add ``-V``."""
    parser.general.add_argument(
        "-V", "--version", action=_Answer, const=f"kgcore {__version__}\n", help="show the version"
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


def add_place_options(parser: Parser) -> None:
    """Add the options that name the dump and its symbols, spelled as drgn spells them."""
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
    flag(target, "-k", "--kernel", dest="live", help="the running kernel")
    option(
        target, "--qemu", metavar="ADDRESS", type=file_name, help="a QEMU guest, by its QMP socket: a path or host:port"
    )
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
    option(group, "--architecture", metavar="ARCH", type=_architecture, help="if the dump does not say: x86_64 or i386")


def add_mask_option(group: argparse._ActionsContainer, bits: str = "below") -> None:
    """Add ``-f``.

    :param bits: where a help text lists them.
    """
    option(
        group,
        "-f",
        dest="mask",
        metavar="FILTER",
        type=filter_mask,
        default=DEFAULT_MASK,
        help=f"which memory: sum of the bits {bits}, or 'process' (default {DEFAULT_MASK})",
    )


def add_filter_options(group: argparse._ActionsContainer) -> None:
    """Add the options that choose which memory a core holds."""
    add_mask_option(group)
    flag(group, "--dontdump", help="also memory marked MADV_DONTDUMP")
    flag(group, "--dax", help="also DAX mappings")


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


# Values


def number(text: str, most: int, meaning: str) -> int:
    """Return the number in a text: 0 to ``most``, decimal or with 0x."""
    if not re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number: expected {meaning}")
    value = int(text, 16) if text[1:2] in ("x", "X") else int(text)
    if value > most:
        raise argparse.ArgumentTypeError(f"{text} is out of range: expected {meaning}")
    return value


def level(text: str) -> Channel:
    """Return the channels that ``-v`` names."""
    return Channel(number(text, 7, "a sum of 1 progress, 2 library errors and 4 page faults, 0 to 7"))


def filter_mask(text: str) -> int | None:
    """Return a sum of filter bits, or None for each process's own."""
    meaning = "a sum of filter bits, 0 to 127, or 'process'"
    if text != "process" and 127 < (value := number(text, _ALL_BITS, meaning)):
        # What crash's gcore calls 128 the kernel calls 256 and more of: both are options here.
        raise argparse.ArgumentTypeError(
            f"{text} is out of range: expected {meaning}; for crash's 128 use -f {value & 127} --dontdump, "
            f"for the kernel's 128 and 256 use -f {value & 127} --dax"
        )
    return None if text == "process" else number(text, 127, meaning)


def workers(text: str) -> int:
    """Return a number of worker processes."""
    count = number(text, 1024, "a number of processes, 1 to 1024")
    if not count:
        raise argparse.ArgumentTypeError("must be 1 to 1024")
    return count


def user_id(text: str) -> int:
    """Return a user id. Names other than root belong to the crashed machine, which kgcore cannot ask."""
    if text == "root":
        return 0
    meaning = "a numeric user id"
    try:
        import pwd

        meaning += f" (on this machine {text} is {pwd.getpwnam(text).pw_uid})"
    except (KeyError, ValueError, OSError):
        pass
    return number(text, (1 << 32) - 2, meaning)


_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


def size(text: str) -> int:
    """Return a size in bytes: a number with K, M, G or T."""
    return int(_quantity(text, _SIZES, 1, "size", "bytes, or a number with K, M, G or T (powers of 1024)"))


def duration(text: str) -> float:
    """Return a duration in seconds: a number with s, m or h."""
    return _quantity(text, _SECONDS, 0.001, "duration", "seconds, 0.001 or more, or a number with s, m or h")


def _quantity(text: str, units: Mapping[str, int], least: float, kind: str, meaning: str) -> float:
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([A-Za-z]?)", text)
    if found is None or found[2] not in units:
        raise argparse.ArgumentTypeError(f"{text!r} is not a {kind}: expected {meaning}")
    value = float(found[1]) * units[found[2]]
    if value < least:
        raise argparse.ArgumentTypeError(f"{text} is too small: expected {meaning}")
    return value


def _architecture(text: str) -> str:
    from kgcore.arch import ARCHITECTURES  # takes a while, and mistakes answer at once

    if text.lower() not in ARCHITECTURES:  # drgn spells them in capitals
        raise argparse.ArgumentTypeError(f"{text!r} is not supported: expected {' or '.join(ARCHITECTURES)}")
    return text.lower()


def file_name(text: str) -> str:
    """Return a file name. An empty one is an unset shell variable."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def output_name(text: str) -> str:
    """Return the name of an output; ``-`` is standard output, under any of its names."""
    try:
        return standard(file_name(text))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from error


def swap_image(text: str) -> tuple[str, str]:
    """Return a swap device and its image."""
    device, _, image = text.partition("=")
    if not device or not image:
        raise argparse.ArgumentTypeError(f"{text!r} is not DEV=IMAGE (example: /dev/sda2=sda2.img)")
    return device, image


def existing(path: str, what: str) -> str:
    """Return a path that exists.

    :raises UsageError: it does not exist.
    """
    if not os.path.exists(path):
        raise UsageError(f"no such {what}: {path!r}")
    return path


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


def place_of(parsed: argparse.Namespace, environ: Mapping[str, str]) -> Location:
    """Return what the options of :func:`add_place_options` say.

    :raises UsageError: a file does not exist, or is given twice.
    """
    given = {name for name, value in vars(parsed).items() if value}
    kind = next(kind for kind in PLACES if not kind.options or given.intersection(kind.options))
    return kind.location(parsed, environ)


def _dump_location(parsed: argparse.Namespace, environ: Mapping[str, str]) -> DumpLocation:
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
        core=None if parsed.live or parsed.qemu else vmcore_path(core, environ),
        symbols=tuple(parsed.symbols),
        symbols_from=parsed.symbols_from,
        debug_directories=tuple(parsed.debug_directories),
        kernel_directories=tuple(parsed.kernel_directories),
        vmcoreinfo=parsed.vmcoreinfo,
        architecture=parsed.architecture,
        qemu=parsed.qemu,
        live=parsed.live,
        parts=tuple(parts),
    )


PLACES: list[Place] = [
    Place((), _dump_location),  # whatever else is missing: $KGCORE_VMCORE, or ./vmcore
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
