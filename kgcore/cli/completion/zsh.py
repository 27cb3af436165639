# SPDX-License-Identifier: LGPL-2.1-or-later
"""Generate the completion script for zsh 5.3 or later."""

import re
from collections.abc import Iterator, Sequence

from kgcore.cli.commandline import CommandLine, Option, ValueKind

__all__ = ("script",)

_SCRIPT = r"""#compdef kgcore
# zsh completion for kgcore: made by "kgcore completion zsh", do not edit

# The processes of the dump that the line names, if it opens quickly.
_kgcore_processes() {
    local -a pids shown
    local pid name program=${(Q)_kgcore_line[1]}
    while IFS=$'\t' read -r pid name; do
        [[ $pid == <-> ]] || continue
        pids+=($pid)
        shown+=("$pid  $name")
    done < <(timeout -s KILL ${KGCORE_COMPLETION_TIMEOUT:-1.5} ${program/#\~\//$HOME/} completion processes -- \
        ${(Q)_kgcore_line[2,-1]} </dev/null 2>/dev/null)
    (( $#pids )) || return 1
    local expl
    _wanted -V processes expl process compadd -l -d shown -a pids
}

_kgcore_image() {
    compset -P '*=' && _files
}

_kgcore_commands() {
    local -a commands=(
@COMMANDS@
    )
    _describe -t commands command commands
}

_kgcore_first() {
    local -i result=1
    _kgcore_commands && result=0
    _kgcore_processes && result=0
    return result
}

_kgcore() {
    local curcontext=$curcontext command='' skip='' word
    local -a state line _kgcore_line
    local -A opt_args
    local -i i
    _kgcore_line=("${(@)words[1,CURRENT-1]}")

    # The first operand is a command if it is called like one.
    for ((i = 2; i < CURRENT; i++)); do
        word=$words[i]
        if [[ -n $skip ]]; then
            skip=
            continue
        fi
        case $word in
            (@VALUED@) skip=1 ;;
            (--) break ;;
            (-*) ;;
            (@NAMES@)
                command=$word
                words[i]=()
                (( CURRENT-- ))
                break
                ;;
            (*) break ;;
        esac
    done

    case $command in
@CASES@
    esac
}

if [[ $funcstack[1] == _kgcore ]]; then
    _kgcore "$@"
else
    compdef _kgcore kgcore
fi
"""


def script(commands: Sequence[CommandLine]) -> str:
    """Return the script."""
    valued = [flag for option in commands[0].options if option.metavar is not None for flag in option.names]
    names = [command.name for command in commands if command.name]
    described = [
        f"        {_quoted(f'{command.name}:{_first_sentence(command.description)}')}"
        for command in commands
        if command.name
    ]
    cases = []
    for command in commands:
        specs = [spec for option in command.options for spec in _specs(option)]
        specs += _operands(command)
        lines = " \\\n".join(f"                {_quoted(spec)}" for spec in specs)
        cases.append(f"        ({command.name or chr(39) * 2})\n            _arguments -S \\\n{lines}\n            ;;")
    text = _SCRIPT.replace("@COMMANDS@", "\n".join(described)).replace("@CASES@", "\n".join(cases))
    return text.replace("@VALUED@", "|".join(valued)).replace("@NAMES@", "|".join(names))


def _specs(option: Option) -> Iterator[str]:
    """For _arguments, one for each name."""
    once = "*" if option.repeats else f"({' '.join(option.names)})"
    for flag in option.names:
        spec = f"{once}{flag}"
        if option.metavar is not None:
            spec += "=" if flag.startswith("--") else "+"
        spec += f"[{_escaped(option.help)}]"
        if option.metavar is not None:
            spec += f":{_escaped(option.metavar)}:{_action(option)}"
        yield spec


def _operands(command: CommandLine) -> Iterator[str]:
    if command.name is None:
        yield "1: :_kgcore_first"
        yield "*: :_kgcore_processes"
    for operand in command.operands if command.name else ():
        yield f"{'*' if operand.repeats else ''}:{_escaped(operand.metavar or '')}:{_action(operand)}"


def _action(option: Option) -> str:
    if option.choices:
        return f"({' '.join(option.choices)})"
    actions = {
        ValueKind.FILE: "_files",
        ValueKind.DIRECTORY: "_files -/",
        ValueKind.PROCESS: "_kgcore_processes",
        ValueKind.IMAGE: "_kgcore_image",
        ValueKind.TEXT: " ",
    }
    return actions[option.kind]


def _escaped(text: str) -> str:
    """For what _arguments takes apart at colons and brackets."""
    return re.sub(r"([\\\[\]:])", r"\\\1", text)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _first_sentence(text: str) -> str:
    return " ".join(text.split()).partition(". ")[0].rstrip(".").replace(":", "\\:")
