# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kgcore files`` and ``kgcore ps`` on made-up processes; and both kinds of JSON as their schemas and pages say."""

import io
import json
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kgcore
from kgcore.cli import main as cli
from kgcore.cli import render
from kgcore.cli.commands import opening
from kgcore.errors import KgcoreError
from kgcore.model.summary import ProcessSummary
from kgcore.views.openfiles import extract_file, flag_words, open_files
from tests.fake_source import COMPLETE, INCOMPLETE, KERNEL_THREAD, ZOMBIE, FakeSource, opened
from tests.schemas import strict

PACKAGE = Path(kgcore.__file__).parent
SCHEMAS = {name: json.loads((PACKAGE / "schemas" / f"{name}.schema.json").read_text()) for name in ("ps", "files")}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command, on the fake source, in a directory of its own."""
    monkeypatch.setattr(opening, "opened", opened)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vmcore").touch()

    def command(*words: object) -> tuple[int, str, str]:
        return (cli.main([str(word) for word in words]), *capfd.readouterr())

    return command


# Flags


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (0, "O_RDONLY"),
        (0o100001, "O_WRONLY"),
        (0o2102002, "O_RDWR|O_APPEND|O_CLOEXEC"),
        (0o4110002, "O_RDWR|O_SYNC"),
        (0o110002, "O_RDWR|O_DSYNC"),
        (0o20300002, "O_RDWR|O_TMPFILE"),
        (0o300000, "O_RDONLY|O_DIRECTORY"),
        (0o12000000, "O_RDONLY|O_CLOEXEC|O_PATH"),
        (0o3, "O_ACCMODE"),
        (0o40000001, "O_WRONLY|040000000"),
    ],
)
def test_flags_in_words(flags: int, words: str) -> None:
    assert flag_words(flags) == words


# The table


def test_the_table_says_what_is_nowhere_else(run: Run) -> None:
    status, out, err = run("files", COMPLETE)
    assert (status, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert lines["0"].split() == ["0", "character", "O_RDONLY", "0", "0", "--", "--", "/dev/null"]
    assert re.search(r"  all +8.00 KiB ", lines["2"])
    assert "12.0 KiB of 16.0 KiB" in lines["3"]
    assert r"/memfd:\x1b[31m[red]\xff\n (deleted)" in lines["3"]
    assert lines["4"].endswith("socket:[7] inet stream 127.0.0.1:80 -> 127.0.0.1:9")
    assert lines["5"].endswith("?")
    assert lines["6"].split() == ["6", "regular", "O_RDONLY", "60", "5", "--", "0", "B", "/etc/x"]
    assert "\x1b" not in out


def test_lost_descriptors_are_told(run: Run) -> None:
    status, out, err = run("files", INCOMPLETE)
    assert status == 3
    assert "file descriptors 64 to 127, if open, are lost" in err
    assert "/etc/x" in out


def test_without_a_pid_it_is_the_one_that_crashed(run: Run) -> None:
    assert run("files") == run("files", COMPLETE)


def test_kernel_threads_have_none(run: Run) -> None:
    status, out, err = run("files", KERNEL_THREAD)
    assert (status, out) == (1, "")
    assert "kernel thread" in err


# Contents


def test_extract(run: Run, tmp_path: Path) -> None:
    status, out, err = run("files", COMPLETE, "--extract", 2)
    assert (status, out, err) == (0, "Saved fd.100.2\n", "")
    written = tmp_path / "fd.100.2"
    assert written.read_bytes() == (b"abcdefgh" * 1250)
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    status, _, err = run("files", COMPLETE, "--extract", 2)
    assert (status, "exists" in err) == (1, True)
    assert run("files", COMPLETE, "--extract", 2, "--force")[0] == 0


def test_what_is_missing_is_a_hole_and_told(run: Run, tmp_path: Path) -> None:
    status, _, err = run("files", COMPLETE, "--extract", 3, "-o", "out")
    assert status == 3
    assert (tmp_path / "out").read_bytes() == b"abcdefgh" * 512 + bytes(3 * 4096)
    assert (tmp_path / "out").stat().st_blocks * 512 < 4 * 4096
    assert err.splitlines() == [
        "kgcore: file descriptor 3: 4.00 KiB of 16.0 KiB missing, left as holes:",
        "kgcore:   0x2000-0x3000 swapped (swap 0, slot 9)",
    ]


def test_json_names_each_of_many_ranges(run: Run) -> None:
    status, out, err = run("files", COMPLETE, "--extract", 100, "--json")
    assert status == 3
    assert err.splitlines()[-1] == "kgcore:   and 30 more ranges; --json lists them"
    (row,) = json.loads(out)["files"]
    assert [gap[0] for gap in row["content"]["missing"]] == list(range(4096, 100 * 4096, 8192))


def test_python_has_what_the_command_prints(run: Run, tmp_path: Path) -> None:
    source = FakeSource()
    assert json.loads(run("files", COMPLETE, "--json")[1]) == open_files(source, COMPLETE).to_json()
    assert [row.content for row in open_files(source, COMPLETE, contents=False).rows] == [None] * 7
    assert open_files(source, INCOMPLETE).lost[0].startswith("file descriptors 64 to 127")
    (row,) = json.loads(run("files", COMPLETE, "--extract", 3, "-o", "out", "--json")[1])["files"]
    assert extract_file(source, COMPLETE, 3, tmp_path / "own").to_json() == row
    stream = io.BytesIO()
    assert extract_file(source, str(COMPLETE), 3, stream).file.fd == 3
    assert stream.getvalue() == (tmp_path / "own").read_bytes() == (tmp_path / "out").read_bytes()
    with pytest.raises(KgcoreError, match="has no file descriptor 99"):
        extract_file(source, COMPLETE, 99)
    assert extract_file(source, COMPLETE, 6).file.path == b"/etc/x"
    assert (tmp_path / "fd.100.6").read_bytes() == b"abcde"
    assert source.held == 0


def test_standard_output(run: Run, tmp_path: Path) -> None:
    assert run("files", COMPLETE, "--extract", 6, "-o", "-") == (0, "abcde", "")
    assert not [path for path in tmp_path.iterdir() if path.name != "vmcore"]


@pytest.mark.parametrize(("fd", "why"), [(4, "not a regular file"), (99, "has no file descriptor 99")])
def test_what_cannot_be_extracted(run: Run, tmp_path: Path, fd: int, why: str) -> None:
    status, out, err = run("files", COMPLETE, "--extract", fd, "-o", "out")
    assert (status, out) == (1, "")
    assert why in err
    assert not (tmp_path / "out").exists()


def test_the_text_file(run: Run, tmp_path: Path) -> None:
    assert run("files", COMPLETE, "--list", "out")[:2] == (0, "Saved out\n")
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines[0] == "0 : /dev/null : 0"
    assert lines[2] == r"3 : /memfd:\x1b[31m[red]\xff\n (deleted) : 30"
    assert lines[4] == "5 : ? : 50"
    assert len(lines) == 7
    assert run("files", COMPLETE, "--list", "out")[0] == 1
    assert run("files", COMPLETE, "--list", "-")[1].splitlines() == lines


@pytest.mark.parametrize(
    "words",
    [
        ("-o", "x"),
        ("--extract", "x"),
        ("--extract", "-1"),
        ("--extract", "1", "--list", "x"),
        ("--json", "--list", "x"),
        ("--extract", "1", "-o", "-", "--json"),
        ("1", "2"),
        ("not a pid",),
    ],
)
def test_usage(run: Run, words: tuple[str, ...]) -> None:
    status, out, err = run("files", *words)
    assert (status, out) == (2, "")
    assert err


# ps


def test_ps_chooses_as_a_dump_does(run: Run) -> None:
    def pids(*words: object) -> list[int]:
        return [row["pid"] for row in json.loads(run("ps", "--json", *words)[1])["processes"]]

    assert pids() == [KERNEL_THREAD, COMPLETE, INCOMPLETE, ZOMBIE]
    assert pids("--match", "work") == [COMPLETE]  # the base name of its program
    assert pids("--match", "kth*") == [KERNEL_THREAD]
    assert pids("--uid", 1000) == [COMPLETE, ZOMBIE]
    assert pids("--uid", 1000, "--match", "kth*") == []
    assert pids("--sort", "rss")[-2:] == [INCOMPLETE, COMPLETE]
    assert pids("--sort", "comm")[0] == INCOMPLETE
    assert pids("--sort", "uid")[-2:] == [COMPLETE, ZOMBIE]
    assert run("ps", "--sort", "tty")[0] == 2
    assert run("ps", "--uid", "nobody-here")[0] == 2


def test_columns_of_containers_only_where_there_are_any() -> None:
    plain = next(FakeSource().processes())
    group = b"/system.slice/docker-" + b"0123456789abcdef" * 4 + b".scope"
    hostile = replace(plain, pids=(7, 2), cgroup=b"/a/\x1b[31m")

    def table(*processes: ProcessSummary) -> list[list[str]]:
        out = io.StringIO()
        render.show_processes(processes, out)
        return [line.split() for line in out.getvalue().splitlines()]

    assert not {"NSPID", "CGROUP"} & set(table(plain, replace(plain, pids=(7,), cgroup=b"/"))[0])
    title, first, second, third = table(replace(plain, cgroup=group), hostile, plain)
    assert (title[1], title[-2]) == ("NSPID", "CGROUP")
    assert (first[1], first[-2]) == ("-", "docker-0123456789ab.scope")
    assert (second[1], second[-2]) == ("2", r"\x1b[31m")
    assert (third[1], third[-2]) == ("-", "?")


# The schemas


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ps", ()),
        ("ps", ("--match", "nothing")),
        ("files", (COMPLETE,)),
        ("files", (INCOMPLETE,)),
        ("files", (COMPLETE, "--extract", 3)),
    ],
)
def test_json_is_as_the_schema_says(run: Run, name: str, words: tuple[object, ...]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    value = json.loads(run(name, "--json", *words)[1])
    assert list(jsonschema.Draft202012Validator(strict(SCHEMAS[name])).iter_errors(value)) == []


def keys(schema: Any) -> Iterator[str]:
    for part in (schema, *schema["$defs"].values()):
        yield from part["properties"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_key_is_in_the_documentation(name: str) -> None:
    page = (PACKAGE.parent / "docs" / f"{name}.md").read_text()
    documented = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(documented) == sorted(keys(SCHEMAS[name]))
