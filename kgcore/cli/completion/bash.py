# SPDX-License-Identifier: LGPL-2.1-or-later
"""Generate the completion script for bash 4.4 or later."""

from collections.abc import Sequence

from kgcore.cli.commandline import CommandLine, ValueKind

__all__ = ("script",)

_NO_NAME = "''"

_SCRIPT = r"""# bash completion for kgcore: made by "kgcore completion bash", do not edit

# _kgcore_value COMMAND OPTION: what its value is, in $kind and $choices. 1: it has none.
_kgcore_value() {
    kind='' choices=''
    case $1/$2 in
@VALUES@
        *) return 1 ;;
    esac
}

# The processes of the dump that the line names, a "PID<tab>NAME" each, if it opens quickly.
_kgcore_processes() {
    timeout -s KILL "${KGCORE_COMPLETION_TIMEOUT:-1.5}" "${1/#\~\//$HOME/}" completion processes -- "${@:2}" \
        </dev/null 2>/dev/null
}

_kgcore() {
    local IFS=$' \t\n' words=() raw=${COMP_WORDS[COMP_CWORD]} word current prefix
    local command='' operands=0 pending='' only_operands='' kind choices options operand operand_choices i joined=''

    # Bash takes --core=FILE for three words. Put together again what it took apart.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if ((${#words[@]} > 1)) && [[ $joined || $word == [=:]* ]]; then
            words[${#words[@]} - 1]+=$word
        else
            words+=("$word")
        fi
        if [[ $word == *[=:] && ${#word} -eq 1 ]]; then joined=1; else joined=''; fi
    done
    [[ $raw == [=:] ]] && raw=''
    current=${words[${#words[@]} - 1]}
    unset "words[${#words[@]} - 1]"
    prefix=${current%"$raw"} # readline has it already

    for word in "${words[@]:1}"; do
        if [[ $pending ]]; then
            pending=''
        elif [[ $only_operands || $word != -* ]]; then
            if ((operands++ == 0)) && [[ ! $only_operands ]]; then
                case $word in
                    @COMMANDS@) command=$word ;;
                esac
            fi
        elif [[ $word == -- ]]; then
            only_operands=1
        elif _kgcore_value "$command" "$word"; then
            pending=$word
        fi
    done
    case $command in
@OPERANDS@
    esac

    COMPREPLY=()
    kind='' choices=''
    if [[ $pending ]]; then
        _kgcore_value "$command" "$pending"
    elif [[ ! $only_operands && $current == --*=* ]] && _kgcore_value "$command" "${current%%=*}"; then
        current=${current#*=}
    elif [[ ! $only_operands && $current == -* ]]; then
        choices=$options
    else
        kind=$operand choices=$operand_choices
        [[ $operands -eq 0 && ! $command && ! $only_operands ]] && choices='@WORDS@'
    fi

    # Files are left to readline, which knows best how to quote them.
    case $kind in
        file) return ;;
        image) [[ $current != *=* ]] || return ;;
        directory)
            compopt -o dirnames +o default 2>/dev/null
            return
            ;;
    esac
    compopt +o default +o bashdefault 2>/dev/null
    for word in $choices; do
        [[ $word != "$current"* ]] || COMPREPLY+=("$word")
    done
    if [[ $kind == process ]]; then
        local pid name found=()
        while IFS=$'\t' read -r pid name; do
            [[ $pid == "$current"* && $pid != *[!0-9]* ]] || continue
            # What is displayed may be inserted: it must mean nothing to the shell.
            found+=("$pid (${name//[^a-zA-Z0-9._+@:\/-]/_})")
        done < <(_kgcore_processes "${words[@]}")
        # 37: menu-complete, 42: insert-completions; both insert all of it. So does completion if there is only one.
        if [[ ${COMP_TYPE:-9} == 37 || ${COMP_TYPE:-9} == 42 ]] || ((${#found[@]} + ${#COMPREPLY[@]} == 1)); then
            found=("${found[@]%% *}")
        fi
        COMPREPLY+=("${found[@]}")
    fi
    [[ ! $prefix || $current == "$raw" ]] || COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
}

complete -o bashdefault -o default -F _kgcore kgcore
"""


def script(commands: Sequence[CommandLine]) -> str:
    """Return the script."""
    values: dict[str, list[str]] = {}
    operands = []
    for command in commands:
        for option in command.options:
            if option.metavar is not None:
                row = f"kind={option.kind.value} choices='{' '.join(option.choices)}'"
                values.setdefault(row, []).extend(f"{command.name or ''}/{flag}" for flag in option.names)
        flags = " ".join(flag for option in command.options for flag in option.names)
        kind = next((operand.kind for operand in command.operands), ValueKind.TEXT)
        choices = " ".join(choice for operand in command.operands for choice in operand.choices)
        row = f"options='{flags}' operand={kind.value} operand_choices='{choices}'"
        operands.append(f"        {command.name or _NO_NAME}) {row} ;;")
    rows = [f"        {' | '.join(patterns)}) {row} ;;" for row, patterns in values.items()]
    names = [command.name for command in commands if command.name]
    text = _SCRIPT.replace("@VALUES@", "\n".join(rows)).replace("@OPERANDS@", "\n".join(operands))
    return text.replace("@COMMANDS@", " | ".join(names)).replace("@WORDS@", " ".join(names))
