# SPDX-License-Identifier: LGPL-2.1-or-later
"""Generate the completion script for fish 3.1 or later."""

from collections.abc import Iterator, Sequence

from kgcore.cli.commandline import CommandLine, Option, ValueKind

__all__ = ("script",)

_SCRIPT = r"""# fish completion for kgcore: made by "kgcore completion fish", do not edit

# The command on the line. The first operand is one if it is called like one.
function __kgcore_command
    set -l words (commandline -opc)
    set -e words[1]
    set -l skip 0
    for word in $words
        if test $skip = 1
            set skip 0
            continue
        end
        switch $word
            case @VALUED@
                set skip 1
            case '-*'
            case @NAMES@
                echo $word
                return
            case '*'
                echo operand
                return
        end
    end
end

# Whether the line has this command, or, without one, none.
function __kgcore_has
    set -l command (__kgcore_command)
    if test "$command" = operand
        set command default
    else if test -z "$command"
        set command default
    end
    test $command = $argv[1]
end

# Whether the next operand may be a command.
function __kgcore_first
    set -l command (__kgcore_command)
    test -z "$command"
end

# The processes of the dump that the line names, if it opens quickly: no word of it is evaluated.
function __kgcore_processes
    set -l words (commandline -opc)
    set -l limit 1.5
    if set -q KGCORE_COMPLETION_TIMEOUT
        set limit $KGCORE_COMPLETION_TIMEOUT
    end
    command timeout -s KILL $limit $words[1] completion processes -- $words[2..-1] </dev/null 2>/dev/null
end

complete -c kgcore -e
complete -c kgcore -f
"""


def script(commands: Sequence[CommandLine]) -> str:
    """Return the script."""
    valued = [flag for option in commands[0].options if option.metavar is not None for flag in option.names]
    names = [command.name for command in commands if command.name]
    lines = [
        f"complete -c kgcore -n __kgcore_first -a {command.name} -d {_quoted(_sentence(command.description))}"
        for command in commands
        if command.name
    ]
    for command in commands:
        lines.append("")
        condition = f"complete -c kgcore -n '__kgcore_has {command.name or 'default'}'"
        lines += (f"{condition} {rest}" for option in command.options for rest in _option(option))
        lines += (f"{condition}{_value(operand, operand=True)}" for operand in command.operands)
    text = _SCRIPT.replace("@VALUED@", " ".join(valued)).replace("@NAMES@", " ".join(names))
    return text + "\n".join(lines) + "\n"


def _option(option: Option) -> Iterator[str]:
    words = [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.names]
    value = "" if option.metavar is None else _value(option, operand=False)
    yield f"{' '.join(words)}{value} -d {_quoted(option.help)}"


def _value(option: Option, *, operand: bool) -> str:
    required = "" if operand else " -x"
    if option.choices:
        return f"{required} -a {_quoted(' '.join(option.choices))}"
    if option.kind in (ValueKind.FILE, ValueKind.IMAGE):
        return " -F" if operand else " -r -F"
    if option.kind is ValueKind.DIRECTORY:
        return f"{required} -a '(__fish_complete_directories (commandline -ct))'"
    if option.kind is ValueKind.PROCESS:
        return f"{required} -k -a '(__kgcore_processes)'"
    return required


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _sentence(text: str) -> str:
    return " ".join(text.split()).partition(". ")[0].rstrip(".")
