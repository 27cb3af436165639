# SPDX-License-Identifier: LGPL-2.1-or-later
"""Generate the man page kgcore(1) from the parsers, with the sections that no parser has.

Libraries for this render argparse's help, one page per parser. Here the commands share most options, which the page
describes once; and it must work with mandoc and groff, so it uses plain man(7).
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from kgcore import __version__
from kgcore.cli.commandline import CommandLine, Option, command_lines

__all__ = ("man_page",)

_DATE = "2026-11-21"
"""When the texts below changed last. The date of generation would make every build differ."""

_DESCRIPTION = """\
.B kgcore
takes processes out of a vmcore, which kdump saves when a Linux kernel crashes, and writes each as the core file that
the crashed kernel itself would have written: all threads, their registers, memory and mapped files.
Debuggers open it like any other core.
It needs no debug package of the kernel: types and symbols come from the dump itself.
.PP
Name a process by the id of any of its threads in decimal, as in the initial pid namespace
.RI ( PID ),
or by the address of a task_struct in hexadecimal
.RI ( TASK ).
The default is the process that was running on the CPU that crashed.
Each process becomes
.IR core.<tgid> .
.PP
Memory that the dump lacks is missing in the core too, so that a debugger cannot read it.
The core itself, the report and the exit status say what is missing and why.
.PP
If the first operand names a command, kgcore runs that.
Options may come before, between and after operands.
"""

_STATUS = (
    ("0", "Everything is written and complete."),
    ("1", "A process could not be dumped, or a command failed; cores of other processes stay."),
    ("2", "The command line is invalid; nothing was opened or written."),
    ("3", "Everything is written, but the dump lacked part of it."),
)

_ENVIRONMENT = (
    ("KGCORE_VMCORE", "The dump, if -c does not name one."),
    ("KGCORE_COMPLETION_TIMEOUT", "Seconds that completion of PIDs waits for a dump to open (default 1.5)."),
    ("NO_COLOR", "If set and not empty, disables colours. Pipes never get colours."),
    ("COLUMNS", "The width of tables on terminals, instead of the terminal's own."),
)

_FILES = (
    ("./vmcore", "The dump, if neither -c nor KGCORE_VMCORE names one."),
    ("core.<tgid>", "A core. Only its owner can read it, as all files that kgcore writes."),
    ("core.<tgid>.zst, core.<tgid>.gz", "The same with --compress."),
    ("DIR/kgcore-sysroot.json", "What --sysroot DIR lacks of programs and libraries."),
    ("*.schema.json", "JSON Schemas of --report and --json, in kgcore/schemas/ of the installed package."),
)

_SEE_ALSO = ("core(5)", "drgn(1)", "gcore(1)", "gdb(1)", "crash(8)", "kdump(8)", "makedumpfile(8)")

_EXAMPLES = "examples:"
_LEFT_OUT = ("commands:", "exit status:")
"""Parts of the main help that have their own sections on the page."""


def man_page() -> str:
    """Return the page as roff."""
    default, *commands = command_lines()
    return "\n".join((*_head(default, commands), *_body(default, commands), *_tail(default, commands))) + "\n"


def _head(default: CommandLine, commands: Sequence[CommandLine]) -> Iterator[str]:
    yield '.\\" Made by "./dev generate" (tools/manpage.py), do not edit'
    yield '.\\" SPDX-License-Identifier: LGPL-2.1-or-later'
    yield f'.TH KGCORE 1 "{_DATE}" "kgcore {__version__}" "User Commands"'
    yield ".nh"  # an option that is broken in two cannot be searched for
    yield ".ad l"
    yield ".SH NAME"
    yield f"kgcore \\- {_text(default.description[0].lower() + default.description[1:].rstrip('.'))}"
    yield ".SH SYNOPSIS"
    for position, command in enumerate((default, *commands)):
        if position:
            yield ".br"
        yield " ".join((".B kgcore", _text(command.name or ""))).rstrip()
        yield "[\\fIOPTION\\fR]..."
        for operand in command.operands:
            name = " | ".join(f"\\fI{_text(word)}\\fR" for word in (operand.metavar or "").split(" | "))
            yield f"[{name}]..." if operand.repeats else name


def _body(default: CommandLine, commands: Sequence[CommandLine]) -> Iterator[str]:
    yield ".SH DESCRIPTION"
    yield _DESCRIPTION.rstrip("\n")
    yield ".SH OPTIONS"
    yield "These are the options without a command. Commands share some of them and have others."
    yield from _operands(default.operands)
    yield from _options(default.options)
    for block in _blocks(default.epilog):
        if not block.startswith((_EXAMPLES, *_LEFT_OUT)):
            yield from _block(block)
    known = set(default.options)
    yield ".SH COMMANDS"
    for command in commands:
        yield f".SS kgcore {_text(command.name or '')}"
        yield _text(" ".join(command.description.split()))
        yield from _options([option for option in command.options if option not in known])
        yield from _operands([operand for operand in command.operands if operand not in default.operands])
        same = [flag for option in command.options if option in known for flag in option.names]
        if same:
            yield ".PP"
            yield "Also, as above: " + ", ".join(f"\\fB{_text(flag)}\\fR" for flag in same) + "."
        for block in _blocks(command.epilog):
            if not block.startswith(_EXAMPLES):
                yield from _block(block)


def _tail(default: CommandLine, commands: Sequence[CommandLine]) -> Iterator[str]:
    yield ".SH EXIT STATUS"
    for status, text in _STATUS:
        yield from _tagged(f"\\fB{status}\\fR", text)
    yield ".SH ENVIRONMENT"
    for name, text in _ENVIRONMENT:
        yield from _tagged(f"\\fB{_text(name)}\\fR", text)
    yield ".SH FILES"
    for name, text in _FILES:
        yield from _tagged(f"\\fI{_text(name)}\\fR", text)
    yield ".SH EXAMPLES"
    yield "The vmcore is \\fI./vmcore\\fR unless an example names another one."
    for command in (default, *commands):
        for block in _blocks(command.epilog):
            if block.startswith(_EXAMPLES):
                yield from _block(block.partition("\n")[2])
    yield ".SH SEE ALSO"
    pages = [re.fullmatch(r"(.+)(\(\d\))", page) for page in _SEE_ALSO]
    yield " ,\n".join(f".BR {_text(page[1])} {page[2]}" for page in pages if page)


def _options(options: Iterable[Option]) -> Iterator[str]:
    """The options, under the titles of their groups."""
    title = ""
    for option in options:
        if option.group != title:
            title = option.group
            yield ".PP"
            yield f"{_text(title[0].upper() + title[1:])}:"
        names = ", ".join(f"\\fB{_text(flag)}\\fR" for flag in option.names)
        yield from _tagged(names + ("" if option.metavar is None else f" {_value(option)}"), option.help)


def _operands(operands: Iterable[Option]) -> Iterator[str]:
    for operand in operands:
        if operand.help:
            yield from _tagged(f"\\fI{_text(operand.metavar or '')}\\fR", operand.help)


def _value(option: Option) -> str:
    if option.metavar == " | ".join(option.choices):
        return " | ".join(f"\\fB{_text(choice)}\\fR" for choice in option.choices)
    return f"\\fI{_text(option.metavar or '')}\\fR"


def _tagged(tag: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield tag
    yield _text(" ".join(text.split()))


def _blocks(epilog: str) -> list[str]:
    """The paragraphs of a help text."""
    return [block.strip("\n") for block in re.split(r"\n\s*\n", epilog) if block.strip()]


def _block(block: str) -> Iterator[str]:
    """A paragraph: unchanged if laid out by hand, else as running text."""
    lines = block.splitlines()
    if any(line.startswith(" ") for line in lines):
        yield ".PP"
        yield ".nf"
        yield from map(_text, lines)
        yield ".fi"
    else:
        yield ".PP"
        yield _text(" ".join(lines))


def _text(text: str) -> str:
    """Roff that shows exactly this text: hyphens can be copied, and nothing is taken for a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    text = text.replace("^", "\\(ha").replace("~", "\\(ti")
    return f"\\&{text}" if text.startswith(".") else text
