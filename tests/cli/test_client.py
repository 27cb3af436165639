# SPDX-License-Identifier: LGPL-2.1-or-later
"""kgcore client: what C programs dump themselves with."""

import io
import subprocess
from pathlib import Path

import pytest

from kgcore.cli import sharedfiles
from kgcore.cli.commands import client
from kgcore.cli.console import Console
from kgcore.cli.parser import UsageError
from kgcore.cli.sharedfiles import shared_file
from kgcore.errors import KgcoreError, OutputError
from tests.contrib.cclient import CLIENT, compiler


def run(*words: object, **environ: str) -> str:
    console = Console(io.StringIO(), io.StringIO())
    assert client.run(client.parse([str(word) for word in words], environ), console) == 0
    assert console.err.getvalue() == ""  # type: ignore[attr-defined]
    return str(console.out.getvalue())  # type: ignore[attr-defined]


def test_the_header(tmp_path: Path) -> None:
    assert run("--print-header") == (CLIENT / "kgcore_client.h").read_text()


def test_build(tmp_path: Path) -> None:
    """The compiler's own words are obeyed, and nothing is overwritten unasked."""
    target = tmp_path / "new" / "place"
    compiler("gcc")
    said = run("--build", target, "--cc", "gcc '-DUNUSED=two words'")
    assert said == f"Saved {target}/kgcore_client.h\nSaved {target}/libgencore.so\n"
    assert sorted(path.name for path in target.iterdir()) == ["kgcore_client.h", "libgencore.so"]
    names = subprocess.run(["nm", "-D", "--defined-only", target / "libgencore.so"], capture_output=True, text=True)
    assert names.stdout.split()[1:] == ["T", "gencore"]
    assert (target / "libgencore.so").stat().st_mode & 0o777 == 0o755
    before = (target / "libgencore.so").stat().st_ino
    with pytest.raises(OutputError, match=r"kgcore_client\.h exists .--force overwrites it"):
        run("--build", target)
    (target / "kgcore_client.h").unlink()
    with pytest.raises(OutputError, match=r"libgencore\.so exists"):
        run("--build", target)
    assert (target / "libgencore.so").stat().st_ino == before
    run("--build", target, "--force", CC="gcc")
    assert (target / "libgencore.so").stat().st_ino != before


def test_the_same_flags_as_the_makefile() -> None:
    makefile = (CLIENT / "Makefile").read_text()
    (shared,) = (line for line in makefile.splitlines() if line.startswith("SHARED = "))
    (default,) = (line for line in makefile.splitlines() if line.startswith("CFLAGS ?= "))
    words = [*default.split()[2:], *shared.split()[2:]]
    assert sorted(client._FLAGS) == sorted(word for word in words if not word.startswith("-W") or "," in word)


def test_compilers_that_fail(tmp_path: Path) -> None:
    with pytest.raises(KgcoreError, match=r"there is no C compiler /no/such .apt install gcc"):
        run("--build", tmp_path / "a", "--cc", "/no/such")
    with pytest.raises(KgcoreError, match="the C compiler failed: false"):
        run("--build", tmp_path / "a", CC="false")
    with pytest.raises(KgcoreError, match=r"the C compiler failed: sh -c 'echo \\x1b.*\n  \\x1b"):
        run("--build", tmp_path / "a", "--cc", "sh -c 'echo \033; exit 1'")
    with pytest.raises(KgcoreError, match="the C compiler failed: true"):
        run("--build", tmp_path / "a", CC="true")
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--build x --print-header",
        "--print-header --force",
        "--print-header --cc gcc",
        "--build x --build y",
        "--build x --cc '",
        "--build x y",
    ],
)
def test_usage(words: str) -> None:
    with pytest.raises(UsageError):
        client.parse(words.split(" ") if words else [], {})
    with pytest.raises(UsageError):
        client.parse(["--build", "x", "--cc", " "], {})


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot make"):
        run("--build", tmp_path / "file")


def test_files_that_nobody_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharedfiles, "_places", lambda name: [Path("/no", name)])
    with pytest.raises(KgcoreError, match=r"client/kgcore_client\.h is not installed with kgcore"):
        shared_file("client/kgcore_client.h")
