# SPDX-License-Identifier: LGPL-2.1-or-later
"""The man page kgcore(1): options out of the parsers, with what no parser knows around them.

Libraries that do this render argparse's help, a page for each parser. Here most options are those of all commands,
which are described once; and the page is for mandoc as well as for groff, so it keeps to plain man(7).
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from kgcore import __version__
from kgcore.cli.commandline import CommandLine, Option, command_lines

__all__ = ("man_page",)

_DATE = "2026-11-21"
"""When the texts below changed last: a page with the date of its making would never be made the same way twice."""

_DESCRIPTION = """\
.B kgcore
takes processes out of a vmcore, which is what kdump saves when a Linux kernel crashes, and writes each as the core file
that the crashed kernel itself would have written: all threads, their registers, their memory, their mapped files.
Debuggers open it like any other core.
No debug package of the kernel is needed: types and symbols come out of the dump itself.
.PP
A process is named by the id of any of its threads in decimal, as the initial pid namespace numbers it
.RI ( PID ),
or by the address of its task_struct in hexadecimal
.RI ( TASK ).
Without any it is the process that was on the CPU that crashed.
Each becomes
.IR core.<tgid> .
.PP
Memory that is not in the dump is missing in the core too, so that a debugger refuses to read it.
The core itself, the report and the exit status say what is missing and why.
.PP
If the first operand is the name of a command, that is run instead.
Options may stand before, between and behind operands.
"""

_STATUS = (
    ("0", "All is written and complete."),
    ("1", "A process could not be dumped at all, or a command failed; what was written of others stays."),
    ("2", "The command line makes no sense; nothing was opened or written."),
    ("3", "All is written, but the dump lacked some of it."),
)

_ENVIRONMENT = (
    ("KGCORE_VMCORE", "The dump, if -c does not name one."),
    ("KGCORE_COMPLETION_TIMEOUT", "Seconds that completion of PIDs may wait for a dump to open (default 1.5)."),
    ("NO_COLOR", "If it is set and not empty, nothing is coloured. In a pipe nothing is coloured anyway."),
    ("COLUMNS", "The width of tables on terminals, if it is not to be that of the terminal."),
)

_FILES = (
    ("./vmcore", "The dump, if neither -c nor KGCORE_VMCORE names one."),
    ("core.<tgid>", "A core. Like all files that kgcore writes, it can be read by its owner alone."),
    ("core.<tgid>.zst, core.<tgid>.gz", "The same with --compress."),
    ("DIR/kgcore-sysroot.json", "What --sysroot DIR could not find of programs and libraries."),
    ("*.schema.json", "In kgcore/schemas/ of the installed package: JSON Schemas of what --report and --json write."),
)

_SEE_ALSO = ("core(5)", "drgn(1)", "gcore(1)", "gdb(1)", "crash(8)", "kdump(8)", "makedumpfile(8)")

_EXAMPLES = "examples:"
_LEFT_OUT = ("commands:", "exit status:")
"""Parts of the main help that the page has in sections of their own."""


def man_page() -> str:
    """The page, as roff."""
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
    yield "These are the options without a command. Commands take some of them, too, and others of their own."
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
    yield "The vmcore is \\fI./vmcore\\fR where no other is named."
    for command in (default, *commands):
        for block in _blocks(command.epilog):
            if block.startswith(_EXAMPLES):
                yield from _block(block.partition("\n")[2])
    yield ".SH SEE ALSO"
    pages = [re.fullmatch(r"(.+)(\(\d\))", page) for page in _SEE_ALSO]
    yield " ,\n".join(f".BR {_text(page[1])} {page[2]}" for page in pages if page)


def _options(options: Iterable[Option]) -> Iterator[str]:
    """Under their groups' titles."""
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
    """Paragraphs of a help text."""
    return [block.strip("\n") for block in re.split(r"\n\s*\n", epilog) if block.strip()]


def _block(block: str) -> Iterator[str]:
    """As it stands if it is laid out by hand, else as running text."""
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
    """Roff that shows exactly this: hyphens that can be copied, and nothing that is taken for a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    text = text.replace("^", "\\(ha").replace("~", "\\(ti")
    return f"\\&{text}" if text.startswith(".") else text
