# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a terminal sees, and what a pipe does: colours, and tables as wide as there is room for."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from kgcore.cli.commands import COMMANDS
from tests.vmcore.conftest import COMMITTED, need

ROOT = Path(__file__).parents[2]
VMCORE = COMMITTED / "k61-crash-small" / "vmcore"

SEEN = {  # by command, what is in its output however narrow the terminal is
    "ps": ["PID", "~CORE/KiB", "110", "crasher"],
    "info": ["kdump", "for cores"],
    "--dry-run": ["RANGE", "MISSING", "000000400000-000000401000"],
    "map": [],
    "files": [],
    "bt": [],
}
EXISTING = [name for name in SEEN if name.startswith("-") or name in COMMANDS]


def environment(**variables: str) -> dict[str, str]:
    names = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "COLORTERM")
    kept = {key: value for key, value in os.environ.items() if key not in names and not key.startswith("DEBUGINFOD")}
    return kept | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | variables


def command(name: str, dump: Path = VMCORE) -> list[str]:
    return [sys.executable, "-m", "kgcore", "-c", str(dump), *name.split()]


def piped(name: str, **variables: str) -> str:
    done = subprocess.run(command(name), env=environment(**variables), capture_output=True, text=True)
    assert "\x1b" not in done.stderr
    return done.stdout


def on_terminal(name: str, columns: int, dump: Path = VMCORE, **variables: str) -> str:
    """What a terminal of a width is given."""
    primary, secondary = pty.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        command(name, dump), env=environment(**variables), stdin=subprocess.DEVNULL, stdout=secondary, stderr=secondary
    )
    os.close(secondary)
    seen = b""
    while True:
        try:
            piece = os.read(primary, 65536)
        except OSError:  # EIO: the other side is closed
            break
        seen += piece
    os.close(primary)
    process.wait(60)
    return seen.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.parametrize("name", EXISTING)
def test_a_pipe_gets_no_escape_sequence(name: str) -> None:
    text = piped(name, FORCE_COLOR="1", CLICOLOR_FORCE="1", COLUMNS="40")
    assert "\x1b" not in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text, "what is piped is whole"
    for word in SEEN[name]:
        assert word in text
    assert text == piped(name, TERM="dumb"), "nor does anything else depend on the surroundings"


@pytest.mark.parametrize("name", EXISTING)
def test_no_colour_and_dumb_terminals(name: str) -> None:
    colours = r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m"
    assert not re.search(colours, on_terminal(name, 100, NO_COLOR="1"))
    assert "\x1b" not in on_terminal(name, 100, TERM="dumb")


@pytest.mark.parametrize("name", EXISTING)
@pytest.mark.parametrize("columns", [60, 100, 160])
def test_as_wide_as_there_is_room_for(name: str, columns: int) -> None:
    lines = plain(on_terminal(name, columns)).splitlines()
    for word in SEEN[name]:
        assert any(word in line for line in lines), "a narrow terminal costs nothing that matters"
    if name == "ps":
        # Of the columns that must not be shortened, what they need.
        least = max(len(line) for line in plain(on_terminal(name, 20)).splitlines())
        assert max(map(len, lines)) <= max(columns, least)
    elif name == "--dry-run":
        rows = [line for line in lines if re.match(r"RANGE|[0-9a-f]{12}-", line)]
        assert max(map(len, rows)) <= max(columns, 80)
    elif name == "info":
        assert max(map(len, lines)) <= columns
        assert len([line for line in lines if not line.startswith(" " * 13)]) == len(piped(name).splitlines())
        assert " ".join(" ".join(lines).split()) == " ".join(piped(name).split()), "only the breaks of lines differ"


SMALL = ("k61-crash-small", "k61-small", "k612-small", "k72-small", "k61-abi-small")
TABLES = [(name, words) for name in SMALL for words in ("ps", "--dry-run {pid}")]
TABLES += [("k61-files", "ps"), ("k61-files", "files {pid}"), ("k61-files", "--dry-run {pid}")]


@pytest.mark.parametrize(("name", "words"), TABLES)
def test_eighty_columns_are_enough(name: str, words: str) -> None:
    """Also where there are pid namespaces and control groups, and mappings above the user's half."""
    fixture = need(name)
    victims = ("crasher", "nspid", "abi_ia32", "openfiles")
    words = words.format(pid=next(victim.pid for victim in fixture.victims.values() if victim.name in victims))
    dump = fixture.dump("vmcore" if name in SMALL else "vmcore.elf")
    lines = [line for line in plain(on_terminal(words, 80, dump)).splitlines() if not line.startswith("kgcore: ")]
    table = lines if words == "ps" else lines[:4]  # behind the plan there are sentences
    assert max(map(len, (line.rstrip() for line in table))) <= 80
    assert re.match(r" *(PID|RANGE|FD) ", table[0])
    assert ("NSPID" in table[0]) == (words == "ps" and "crash" not in name and "abi" not in name)
    wide = plain(on_terminal(words, 250, dump)).splitlines()
    whole = subprocess.run(command(words, dump), env=environment(), capture_output=True, text=True)
    title = next(line for line in wide if not line.startswith("kgcore: "))
    assert title.split() == whole.stdout.splitlines()[0].split(), "where there is room nothing is left out"


def test_a_title_is_bold_on_terminals_only() -> None:
    assert "\x1b[1m" in on_terminal("ps", 100)
    assert "\x1b[1m" not in on_terminal("ps", 100, TERM="dumb")
