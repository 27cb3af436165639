# SPDX-License-Identifier: LGPL-2.1-or-later
"""What bash, zsh and fish themselves make of a completion script."""

import os
import pty
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

SHELLS = ("bash", "zsh", "fish")
_PATIENCE = 60


def shell_path(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        if os.environ.get("KGCORE_REQUIRE_VMCORES"):
            pytest.fail(f"{name} is not installed: apt install {name}")
        pytest.skip(f"{name} is not installed")
    return path


class Shell:
    """A shell that has read a script.

    :ivar said: what it printed besides the completions of the last line.
    """

    def __init__(self, name: str, script: str, directory: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.path = shell_path(name)
        self.directory = directory
        self.script = directory / f"script.{name}"
        self.script.write_text(script)
        home = directory / "home"
        home.mkdir(exist_ok=True)
        self.environment = dict(os.environ) | {"HOME": str(home), "ZDOTDIR": str(home), "TERM": "dumb"}
        self.environment |= {"LC_ALL": "C.UTF-8", "XDG_CONFIG_HOME": str(home)} | dict(environment)
        self.said = ""

    def complete(self, *words: str) -> list[str]:
        """What could stand in place of the last word, sorted; words as they are typed, without white space."""
        found = {"bash": self._bash, "zsh": self._zsh, "fish": self._fish}[self.name](words)
        return sorted(line for line in found if line)

    def _bash(self, words: tuple[str, ...]) -> Iterable[str]:
        code = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_TYPE=${TYPE:-63}; _kgcore "$1"\n'
        code += r'printf "%s\0" "${COMPREPLY[@]}"'
        done = self._run([self.path, "--norc", "-c", code, "bash", str(self.script), *words])
        return done.split("\0")

    def _fish(self, words: tuple[str, ...]) -> Iterable[str]:
        code = "source $argv[1]; complete -C $argv[2]"
        return self._run([self.path, "--no-config", "-c", code, str(self.script), " ".join(words)]).splitlines()

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
        )
        self.said = done.stderr
        assert done.returncode == 0, done.stderr
        return done.stdout

    def typed(self, line: str) -> list[str]:
        """The words that a command gets if a person types this into bash."""
        got, ready = self.directory / "got", self.directory / "ready"
        setup = self.directory / "setup.bash"
        setup.write_text(f"source {self.script}\nkgcore() {{ printf '%s\\0' \"$@\" >{got}; : >{ready}; }}\n")
        ready.unlink(missing_ok=True)
        self._at_terminal([self.path, "--norc", "--noprofile", "-i"], setup, line.encode() + b"\n", ready.exists)
        return got.read_text().split("\0")[:-1]

    def _at_terminal(self, command: list[str], setup: Path, keys: bytes, done: Callable[[], bool]) -> None:
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(self.directory)
            os.execve(command[0], command, self.environment)
        try:
            os.write(terminal, f"source {setup}; echo READY''NOW\n".encode())
            self._read(terminal, lambda: "READYNOW" in self.said)
            os.write(terminal, keys)
            self._read(terminal, done)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(terminal)

    def _zsh(self, words: tuple[str, ...]) -> Iterable[str]:
        """zsh completes only where somebody types: its compadd here writes down what it is given."""
        hits, end, setup = (self.directory / name for name in ("hits", "end", "setup.zsh"))
        for path in (hits, end):
            path.unlink(missing_ok=True)
        setup.write_text(f"""
autoload -Uz compinit && compinit -u -D
source {self.script}
zstyle ':completion:*' list-grouped false
zstyle ':completion:*' format ''
bindkey '^I' complete-word
compadd() {{
    if [[ ${{@[1,(i)(-|--)]}} == *-(O|A|D)\\ * ]]; then
        builtin compadd "$@"
        return
    fi
    local -a __hits __shown
    local __position=${{@[(i)-d]}}
    (( __position < $# )) && __shown=("${{(@P)@[__position+1]}}")
    builtin compadd -A __hits -D __shown "$@"
    local __i
    for ((__i = 1; __i <= $#__hits; __i++)); do
        printf '%s\\t%s\\0' "$__hits[__i]" "$__shown[__i]" >>{hits}
    done
    builtin compadd "$@"
}}
_written() {{ : >{end} }}
comppostfuncs=(_written)
""")
        self._at_terminal([self.path, "-f", "-i"], setup, " ".join(words).encode() + b"\t", end.exists)
        # A stroke of the key may complete in several ways, one after the other.
        return sorted(set(hits.read_text().split("\0"))) if hits.exists() else []

    def _read(self, terminal: int, done: Callable[[], bool]) -> None:
        self.said = ""
        limit = time.monotonic() + _PATIENCE
        while not done():
            assert time.monotonic() < limit, self.said
            if select.select([terminal], [], [], 0.05)[0]:
                self.said += os.read(terminal, 65536).decode(errors="replace")
