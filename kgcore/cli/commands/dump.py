# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run ``kgcore [PID | TASK]...``, the default command, and parse drgn's ``%gcore``: write processes as cores."""

from collections.abc import Mapping, Sequence

from kgcore.cli.arguments import (
    FILTER_BITS,
    add_place_options,
    add_show,
    add_supply_options,
    add_tasks,
    add_version,
    place_of,
)
from kgcore.cli.commands.dumping import DumpCommand, add_dump_options, request_of, run
from kgcore.cli.parser import Parser
from kgcore.cli.request import DumpRequest

__all__ = ("make_parser", "parse", "parse_drgn", "run")

_EPILOG = (
    FILTER_BITS
    + """
commands:
  kgcore live PID...           write processes of this machine, which go on afterwards
  kgcore daemon                write the cores of programs that ask for them
  kgcore ask [PID] -o FILE     have the daemon write a core
  kgcore client --build DIR    give C programs what they dump themselves with
  kgcore filter CORE           write a finished core anew, with less in it; - is a core on standard input
  kgcore ps [--json]           list the processes in the dump, by name, user or size (kgcore ps --help)
  kgcore files PID [--json]    list the open files of a process; --extract FD writes the content of one
  kgcore info [--json]         say what the dump is, what it holds, and what that means for cores
  kgcore map [PID | TASK]      show the address space of a process: as a table, --json, or --html FILE
  kgcore bt PID [--json]       show backtraces of its threads without writing a core
  kgcore debug PID             start a debugger on it, with its program and libraries
  kgcore restart CORE          let a process go on from its core; -c VMCORE PID: out of a dump
  kgcore check CORE [--json]   check that a finished core is well-formed and complete
  kgcore check DIR [--json]    check that the files that --sysroot wrote to DIR are complete
  kgcore completion SHELL      print the completion script for bash, zsh or fish

examples:
  kgcore -c vmcore 12345                             core.12345 from ./vmcore, no debug symbols needed
  kgcore -v 4 -f 21 12345 0xffff880136d72040         two processes, by PID and by task_struct, with filter 21
  kgcore -c vmcore -o - 12345 | zstd > core.zst      into a pipe
  kgcore --match 'nginx*' --uid 33 -D /var/tmp       every process with that name and user
  kgcore --all --compress zstd -D /var/tmp           all processes, as core.<tgid>.zst
  kgcore --all --max-time 5m --max-size 2G           within five minutes and two gigabytes, stacks first
  kgcore --swap /dev/sda2=sda2.img 12345             with the memory that was swapped out
  kgcore --root / --sysroot dir 12345                with the program and its libraries, for a debugger elsewhere
  kgcore -c vmcore                                   the process that was current when the kernel crashed

exit status: 0 complete; 1 a process could not be dumped; 2 usage; 3 written, but incomplete.
"""
)

_DRGN_EPILOG = (
    FILTER_BITS
    + """
Without a PID or TASK: crash mode's current context, else the process that was current when the kernel crashed.
"""
)


def parse(words: Sequence[str], environ: Mapping[str, str]) -> DumpCommand:
    """Parse the command line.

    :raises UsageError: it is invalid.
    :raises Answer: ``--help`` or ``--version``.
    """
    parsed = make_parser().parse_intermixed_args(list(words))
    request = request_of(parsed)  # first: its mistakes need no look at the disk
    return DumpCommand(place_of(parsed, environ, cores=False), request)


def parse_drgn(argv: Sequence[str], prog: str) -> DumpRequest:
    """Parse the arguments of drgn's ``%gcore``, where the dump is open already.

    :raises UsageError, Answer: as :func:`parse` does.
    """
    return request_of(_drgn_parser(prog).parse_intermixed_args(list(argv)))


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        "kgcore",
        usage="kgcore [-c VMCORE] [-s SYMBOLS]... [-v LEVEL] [-f FILTER] [-D DIR | -o FILE] [PID | TASK]...\n"
        "       kgcore [--all | [--match GLOB]... [--uid UID]...] [--compress zstd | gzip] [--max-size SIZE] "
        "[--max-time DURATION] ...\n"
        "       kgcore live [--no-registers | --max-freeze DURATION] PID...\n"
        "       kgcore daemon [--socket PATH] [--group NAME] [--max-workers N] [--max-time DURATION]\n"
        "       kgcore ask [--socket PATH] [-f FILTER] [--freeze WAY] -o FILE [PID]\n"
        "       kgcore filter [-f FILTER] [-D DIR | -o FILE] CORE | -\n"
        "       kgcore ps [--json]\n"
        "       kgcore files [--extract FD [-o FILE] | --list FILE] [--json] PID | TASK\n"
        "       kgcore info [--json]\n"
        "       kgcore map [-f FILTER] [--json | --html FILE] [PID | TASK]\n"
        "       kgcore bt [--all-threads] [--kernel-stack] [--json] [PID | TASK]...\n"
        "       kgcore debug [--debugger gdb|lldb] [--print] [PID | TASK] [-- ARGUMENTS]\n"
        "       kgcore restart [--dry-run [--json]] [--fd N=WHAT]... [--clock keep|jump] [--allow WORD,...] CORE\n"
        "       kgcore restart -c VMCORE [--keep DIR] ... PID | TASK\n"
        "       kgcore check CORE | DIR [--json]\n"
        "       kgcore client --build DIR [--cc PROGRAM] | --print-header\n"
        "       kgcore completion bash | zsh | fish",
        description="Write processes of a Linux kernel crash dump as core files that debuggers open.",
        epilog=_EPILOG,
    )
    add_version(parser)
    add_show(parser)
    add_place_options(parser)
    add_dump_options(parser)
    add_supply_options(parser.add_argument_group("further memory"))
    add_tasks(parser)
    return parser


def _drgn_parser(prog: str) -> Parser:
    parser = Parser(
        prog,
        usage=f"{prog.replace('%', '%%')} [-v LEVEL] [-f FILTER] [-D DIR | -o FILE] [PID | TASK]...",
        description="Write processes of this kernel as core files that debuggers open.",
        epilog=_DRGN_EPILOG,
    )
    add_show(parser)
    add_dump_options(parser)
    add_supply_options(parser.add_argument_group("further memory"))
    add_tasks(parser)
    return parser
