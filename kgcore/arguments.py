# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line as values: everything is parsed and checked here, before a dump is opened.

The options of a dump exist once, in :func:`_add_dump_options`; the shell's ``kgcore`` and drgn's ``%gcore`` share them.
"""

import argparse
import glob
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TextIO

from kgcore import __version__
from kgcore.errors import KgcoreError
from kgcore.request import (
    STDOUT,
    CheckCommand,
    Command,
    DumpCommand,
    DumpRequest,
    InfoCommand,
    Place,
    PsCommand,
    Show,
)
from kgcore.sources.base import Supplies, TaskRef

__all__ = ("Answer", "UsageError", "parse", "parse_dump", "refuse_terminal", "vmcore_path")


class UsageError(KgcoreError):
    """The command line makes no sense; nothing was opened and nothing written."""


class Answer(Exception):
    """Not an error: a text to print instead of running (``--help``, ``--version``)."""


_FILTER_BITS = """\
filter bits (-f takes their sum; the default 51 = 1+2+16+32 is the kernel's own default):
   1  anonymous private memory          16  first page of mapped ELF files
   2  anonymous shared memory           32  hugetlb private memory
   4  file-backed private memory        64  hugetlb shared memory
   8  file-backed shared memory         process: each process's own coredump_filter
"""

_EPILOG = (
    _FILTER_BITS
    + """
commands:
  kgcore ps [--json]           the processes in the dump
  kgcore info [--json]         what the dump is, what it holds, and what that means for cores
  kgcore check CORE [--json]   whether a finished core is well-formed and complete
  kgcore check DIR [--json]    whether the files that --sysroot wrote to DIR are whole

examples:
  kgcore -c vmcore 12345                             core.12345 out of ./vmcore, no debug symbols needed
  kgcore -v 4 -f 21 12345 0xffff880136d72040         two processes, by PID and by task_struct, other memory
  kgcore -c vmcore -o - 12345 | zstd > core.zst      straight into a pipe
  kgcore --swap /dev/sda2=sda2.img 12345             with the memory that was swapped out
  kgcore --root / --sysroot dir 12345                with the program and its libraries, for a debugger elsewhere
  kgcore -c vmcore                                   the process that was current when the kernel crashed

exit status: 0 complete; 1 a process could not be dumped; 2 usage; 3 written, but the dump lacked some of it.
"""
)

_DRGN_EPILOG = (
    _FILTER_BITS
    + """
Without a PID or TASK: crash mode's current context, else the process that was current when the kernel crashed.
"""
)


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Command:
    """Understand the command line of ``kgcore``.

    :raises UsageError: it makes no sense.
    :raises Answer: ``--help`` or ``--version``.
    """
    words = list(argv)
    match _take_command(words):
        case "ps":
            parsed = _ps_parser().parse_intermixed_args(words)
            return PsCommand(_place(parsed, environ), Show(parsed.show), parsed.json)
        case "info":
            parsed = _info_parser().parse_intermixed_args(words)
            return InfoCommand(_place(parsed, environ), Show(parsed.show), parsed.json)
        case "check":
            parsed = _check_parser().parse_intermixed_args(words)
            return CheckCommand(_existing(parsed.path, "core"), parsed.json)
        case _:
            parsed = _dump_parser().parse_intermixed_args(words)
            request = _request(parsed)  # first: its mistakes need no look at the disk
            return DumpCommand(_place(parsed, environ), request)


def parse_dump(argv: Sequence[str], prog: str) -> DumpRequest:
    """Understand the arguments of drgn's ``%gcore``, which has its dump already.

    :raises UsageError, Answer: as :func:`parse` does.
    """
    return _request(_drgn_parser(prog).parse_intermixed_args(list(argv)))


def refuse_terminal(request: DumpRequest, out: TextIO) -> None:
    """A core is no text.

    :raises UsageError: it would go to a terminal.
    """
    if request.output == STDOUT and out.isatty():
        raise UsageError("standard output is a terminal", hint="use a pipe, or -o FILE")


def vmcore_path(given: str | None, environ: Mapping[str, str]) -> str:
    """The dump to open: the one given, else ``$KGCORE_VMCORE``, else ``./vmcore``.

    :raises UsageError: there is no such file; the hint names the dumps that kdump left on this machine.
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
        f"no vmcore {path!r}{origin}", hint=f"name it with -c VMCORE, in $KGCORE_VMCORE, or have it as ./vmcore{there}"
    )


# Parsers


class _Parser(argparse.ArgumentParser):
    """argparse without the freedom to print and exit: drgn's prompt must survive a typo."""

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

    Of ``-f 1 ... -f 2`` one would be ignored in silence, and nobody can say for sure which was meant.
    """

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        given: set[str] = namespace.__dict__.setdefault("given", set())
        if self.dest in given:
            raise argparse.ArgumentError(self, "given twice")
        given.add(self.dest)
        setattr(namespace, self.dest, True if self.nargs == 0 else values)


def _flag(group: argparse._ActionsContainer, *names: str, **keywords: Any) -> None:
    group.add_argument(*names, action=_Once, nargs=0, default=False, **keywords)


def _option(group: argparse._ActionsContainer, *names: str, **keywords: Any) -> None:
    group.add_argument(*names, action=_Once, **keywords)


def _dump_parser() -> _Parser:
    parser = _Parser(
        "kgcore",
        usage="kgcore [-c VMCORE] [-s SYMBOLS]... [-v LEVEL] [-f FILTER] [-D DIR | -o FILE] [PID | TASK]...\n"
        "       kgcore ps [--json]\n"
        "       kgcore info [--json]\n"
        "       kgcore check CORE | DIR [--json]",
        description="Turn processes inside a Linux kernel crash dump into core dumps that debuggers open.",
        epilog=_EPILOG,
    )
    _add_version(parser)
    _add_show(parser)
    _add_place_options(parser)
    _add_dump_options(parser)
    return parser


def _drgn_parser(prog: str) -> _Parser:
    parser = _Parser(
        prog,
        usage=f"{prog.replace('%', '%%')} [-v LEVEL] [-f FILTER] [-D DIR | -o FILE] [PID | TASK]...",
        description="Write processes of this kernel as core dumps that debuggers open.",
        epilog=_DRGN_EPILOG,
    )
    _add_show(parser)
    _add_dump_options(parser)
    return parser


def _ps_parser() -> _Parser:
    parser = _Parser("kgcore ps", description="List the processes in a vmcore.")
    _add_version(parser)
    _add_show(parser)
    _add_place_options(parser)
    _flag(parser.general, "--json", help="as JSON")
    return parser


def _info_parser() -> _Parser:
    parser = _Parser("kgcore info", description="Say what a vmcore is, what it holds, and what that means for cores.")
    _add_version(parser)
    _add_show(parser)
    _add_place_options(parser)
    _flag(parser.general, "--json", help="as JSON")
    return parser


def _check_parser() -> _Parser:
    parser = _Parser(
        "kgcore check",
        description="Read a finished core, or the files that --sysroot wrote, back and say whether they are in order.",
    )
    _add_version(parser)
    _flag(parser.general, "--json", help="as JSON")
    parser.add_argument("path", metavar="CORE | DIR")
    return parser


def _add_version(parser: _Parser) -> None:
    parser.general.add_argument(
        "-V", "--version", action=_Answer, const=f"kgcore {__version__}\n", help="show the version"
    )


def _add_show(parser: _Parser) -> None:
    _option(
        parser.general,
        "-v",
        dest="show",
        metavar="LEVEL",
        type=_level,
        default=Show.FAULTS,
        help="sum of 1 progress, 2 library errors, 4 page faults (default 4)",
    )


def _add_place_options(parser: _Parser) -> None:
    """Which dump, and its symbols: the names that drgn gives these options."""
    group = parser.add_argument_group("the dump")
    target = group.add_mutually_exclusive_group()
    target.add_argument(
        "-c",
        "--core",
        metavar="VMCORE",
        type=_name,
        action="append",
        default=[],
        help="the vmcore (default: $KGCORE_VMCORE, else ./vmcore); of a split set each file with a -c of its own",
    )
    _flag(target, "-k", "--kernel", dest="live", help="the running kernel")
    _option(
        target, "--qemu", metavar="ADDRESS", type=_name, help="a QEMU guest, by its QMP socket: a path or host:port"
    )
    group.add_argument(
        "-s",
        "--symbols",
        metavar="SYMBOLS",
        type=_name,
        action="append",
        default=[],
        help="vmlinux, a module's debug file, raw BTF or a System.map; may be given more than once "
        "(default: found, or not needed)",
    )
    _option(
        group,
        "--symbols-from",
        choices=("auto", "dwarf", "btf"),
        default="auto",
        help="debug information, or what the dump itself holds (default: auto)",
    )
    for kind, what in (("debug", "debug information"), ("kernel", "the kernel image and modules")):
        group.add_argument(
            f"--{kind}-directory",
            dest=f"{kind}_directories",
            metavar="DIR",
            type=_name,
            action="append",
            default=[],
            help=f"also look here for {what}; may be given more than once",
        )
    _option(group, "--vmcoreinfo", metavar="FILE", type=_name, help="use this VMCOREINFO instead of the dump's")
    _option(
        group, "--architecture", metavar="ARCH", type=_architecture, help="where the dump does not tell (x86_64, i386)"
    )


def _add_dump_options(parser: _Parser) -> None:
    """What to write: the options that ``kgcore`` and ``%gcore`` have in common."""
    group = parser.add_argument_group("the core")
    _option(
        group,
        "-f",
        dest="mask",
        metavar="FILTER",
        type=_filter,
        default=0x33,
        help="which memory: sum of the bits below, or 'process' (default 51)",
    )
    _flag(group, "--dontdump", help="also memory marked MADV_DONTDUMP")
    _flag(group, "--dax", help="also DAX mappings")
    _option(
        group,
        "--missing",
        choices=("omit", "zero"),
        default="omit",
        help="memory that the dump lacks: leave it out, so that debuggers refuse to read it, or fill in zeros "
        "(default: omit)",
    )
    _flag(group, "--no-kgcore-note", help="leave out the note that lists what is missing and why")
    group.add_argument(
        "--swap",
        metavar="DEV=IMAGE",
        type=_swap,
        action="append",
        default=[],
        help="image of a swap device or swap file, called as /proc/swaps has it; may be given more than once",
    )
    _option(
        group,
        "--root",
        metavar="DIR",
        type=_name,
        help="take pages of mapped files that the dump lacks from DIR, where it holds the very files that were mapped",
    )
    output = group.add_mutually_exclusive_group()
    _option(output, "-D", dest="directory", metavar="DIR", type=_name, help="write core.<tgid> there")
    _option(output, "-o", dest="output", metavar="FILE", type=_name, help="write one core to FILE; -: standard output")
    _option(
        group,
        "--sysroot",
        metavar="DIR",
        type=_name,
        help="also write the program, its interpreter and its libraries there, for gdb's set sysroot",
    )
    _flag(group, "--force", help="overwrite files")
    _flag(group, "--dry-run", help="show what would be written, and write nothing")
    _option(group, "--report", metavar="FILE", type=_name, help="write what was saved and what is missing, as JSON")
    parser.add_argument(
        "tasks",
        metavar="PID | TASK",
        nargs="*",
        help="id of any thread in decimal, or address of a task_struct in hexadecimal "
        "(default: the process that was current in the crash)",
    )


def _take_command(words: list[str]) -> str | None:
    """Remove the name of a sub-command from the words: it is one if it is the first operand.

    No PID or TASK is spelled like one, so nobody has to choose.
    """
    valued = {flag for action in _dump_parser()._actions if action.nargs != 0 for flag in action.option_strings}
    position = 0
    while position < len(words):
        word = words[position]
        if word in valued:
            position += 1
        elif not word.startswith("-"):
            return words.pop(position) if word in ("ps", "info", "check") else None
        position += 1
    return None


# Values


def _number(text: str, most: int, meaning: str) -> int:
    if not re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number: it takes {meaning}")
    value = int(text, 16) if text[1:2] in ("x", "X") else int(text)
    if value > most:
        raise argparse.ArgumentTypeError(f"{text} is out of range: it takes {meaning}")
    return value


def _level(text: str) -> Show:
    return Show(_number(text, 7, "a sum of 1 progress, 2 library errors and 4 page faults, 0 to 7"))


def _filter(text: str) -> int | None:
    return None if text == "process" else _number(text, 127, "a sum of filter bits, 0 to 127, or 'process'")


def _architecture(text: str) -> str:
    # drgn spells them X86_64 or x86_64; kgcore reads no others.
    if text.lower() not in ("x86_64", "i386"):
        raise argparse.ArgumentTypeError(f"{text!r} is none that kgcore knows: x86_64, i386")
    return text.lower()


def _name(text: str) -> str:
    """A file name. An empty one is a shell variable that was not set."""
    if not text:
        raise argparse.ArgumentTypeError("an empty name")
    return text


def _swap(text: str) -> tuple[str, str]:
    device, _, image = text.partition("=")
    if not device or not image:
        raise argparse.ArgumentTypeError(f"{text!r} is not DEV=IMAGE, such as /dev/sda2=sda2.img")
    return device, image


def _existing(path: str, what: str) -> str:
    if not os.path.exists(path):
        raise UsageError(f"no such {what}: {path!r}")
    return path


def _place(parsed: argparse.Namespace, environ: Mapping[str, str]) -> Place:
    for path in parsed.symbols:
        _existing(path, "symbol file")
    for path in (*parsed.debug_directories, *parsed.kernel_directories):
        _existing(path, "directory")
    if parsed.vmcoreinfo:
        _existing(parsed.vmcoreinfo, "VMCOREINFO file")
    core, *parts = parsed.core or [None]
    for position, part in enumerate(parts, 1):
        if part in parsed.core[:position]:
            raise UsageError(
                f"argument -c/--core: {part!r} is given twice", hint="a split set has several files, each once"
            )
        _existing(part, "vmcore")
    return Place(
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


def _request(parsed: argparse.Namespace) -> DumpRequest:
    try:
        tasks = tuple(TaskRef.parse(text) for text in parsed.tasks) or (TaskRef("current"),)
    except KgcoreError as error:
        raise UsageError(error.message, hint=error.hint) from error
    if parsed.output and len(tasks) > 1:
        raise UsageError("-o takes one process", hint="give -D DIR to write several, each as core.<tgid>")
    if parsed.directory and not os.path.isdir(parsed.directory):
        raise UsageError(f"-D: {parsed.directory!r} is not a directory")
    if parsed.dry_run and parsed.report:
        raise UsageError("--dry-run writes nothing, so it has no --report")
    if parsed.sysroot and os.path.lexists(parsed.sysroot) and not os.path.isdir(parsed.sysroot):
        raise UsageError(f"--sysroot: {parsed.sysroot!r} is not a directory")
    # Found out now rather than after an hour of writing cores.
    if parsed.report and os.path.lexists(parsed.report) and not parsed.force:
        raise UsageError(f"--report: {parsed.report!r} exists", hint="--force overwrites it")
    return DumpRequest(
        tasks=tasks,
        mask=parsed.mask,
        dontdump=parsed.dontdump,
        dax=parsed.dax,
        missing=parsed.missing,
        note=not parsed.no_kgcore_note,
        directory=parsed.directory or "",
        output=parsed.output,
        force=parsed.force,
        dry_run=parsed.dry_run,
        report=parsed.report,
        show=parsed.show,
        supplies=_supplies(parsed),
        sysroot=parsed.sysroot,
    )


def _supplies(parsed: argparse.Namespace) -> Supplies:
    images: dict[str, str] = {}
    for device, image in parsed.swap:
        if device in images:
            raise UsageError(f"argument --swap: {device!r} is given twice")
        images[device] = _existing(image, "swap image")
    if parsed.root and not os.path.isdir(parsed.root):
        raise UsageError(f"--root: {parsed.root!r} is not a directory")
    return Supplies(images, parsed.root)
