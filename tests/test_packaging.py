# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is given to users: built twice, installed as they would, and run."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from pathlib import Path

import pytest

from kgcore import __version__
from kgcore.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
FIXTURE = ROOT / "tests" / "vmcore_fixtures" / "k61-crash-small" / "vmcore"
EPOCH = 1_700_000_000
OUTSIDE = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "KGCORE_VMCORE", "COLUMNS")}


CLIENT = ("Makefile", "gencore.c", "kgcore_client.h")


def tracked() -> list[str]:
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this is no git checkout")
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def built(root: Path, output: Path, **variables: str) -> str:
    """What the build printed."""
    environment = OUTSIDE | {"PYTHONPATH": str(root), "SOURCE_DATE_EPOCH": str(EPOCH)} | variables
    done = subprocess.run(
        [sys.executable, "-m", "tools.build", str(output)], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything, built in the working directory."""
    pytest.importorskip("build.env")  # a directory "build" is a package of that name
    tracked()
    output = tmp_path_factory.mktemp("dist")
    printed = built(ROOT, output)
    for path in output.iterdir():
        assert f"{path}  {path.stat().st_size} bytes" in printed
        assert hashlib.sha256(path.read_bytes()).hexdigest() in printed
    assert sorted(path.name for path in output.iterdir()) == [
        f"kgcore-{__version__}-py3-none-any.whl",
        f"kgcore-{__version__}.tar.gz",
        "kgcore.pyz",
    ]
    return output


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    return next(dist.glob("*.whl"))


def run(*words: object, cwd: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        list(map(str, words)), cwd=cwd, env=OUTSIDE | variables, capture_output=True, text=True, timeout=300
    )


def test_other_place_and_other_time_same_bytes(dist: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "a place with another name" / "kgcore"
    for name in tracked():
        path = elsewhere / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, path)
        path.chmod(0o700 if os.access(ROOT / name, os.X_OK) else 0o600)
        os.utime(path, (time.time() - 12345, time.time() - 12345))
    (elsewhere / "kgcore" / "leftover.py").touch()  # is not in git
    subprocess.run(["git", "-C", str(elsewhere), "init", "-q"], check=True)
    subprocess.run(["git", "-C", str(elsewhere), "add", *tracked()], check=True)
    previous = os.umask(0o077)
    try:
        built(elsewhere, tmp_path / "out", TZ="Pacific/Auckland", LC_ALL="C", PYTHONHASHSEED="7")
    finally:
        os.umask(previous)
    for path in dist.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_wheel_has_what_is_needed(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {name for name in tracked() if name.startswith("kgcore/")}
    assert {name for name in names if name.startswith("kgcore/")} == modules
    assert {"kgcore/py.typed", "kgcore/schemas/report.schema.json"} <= modules
    metadata = zipfile.ZipFile(wheel).read(f"kgcore-{__version__}.dist-info/METADATA").decode().split("\n\n")[0]
    # As a table it is an error from February 2027 on (PEP 639).
    assert "\nLicense-Expression: LGPL-2.1-or-later\n" in metadata
    assert "\nLicense-File: LICENSE\n" in metadata
    assert "\nLicense: " not in metadata
    data = f"kgcore-{__version__}.data/data/share"
    assert {name for name in names if name.startswith(data)} == {
        f"{data}/man/man1/kgcore.1",
        f"{data}/bash-completion/completions/kgcore",
        f"{data}/zsh/site-functions/_kgcore",
        f"{data}/fish/vendor_completions.d/kgcore.fish",
        *(f"{data}/kgcore/client/{name}" for name in CLIENT),
    }
    assert {name.split("/")[0] for name in names} == {
        "kgcore",
        *(f"kgcore-{__version__}.{x}" for x in ("data", "dist-info")),
    }


def test_the_source_distribution_has_all_but_the_large_vmcores(dist: Path) -> None:
    path = next(dist.glob("*.tar.gz"))
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {(0, 0, "", "")}
    assert {member.mtime for member in members} == {EPOCH}
    names = {member.name.partition("/")[2] for member in members if member.isfile()}
    left_out = set(tracked()) - names
    for name in left_out:
        assert name == ".gitignore" or re.match(r"tests/vmcore_fixtures/k(?!61-crash-small)[^/]*-small/", name), name
    assert any("k612-small/" in name for name in left_out)
    made = {name for name in names - set(tracked()) if not name.startswith("kgcore.egg-info/")}
    assert made == {"PKG-INFO", "setup.cfg"}
    assert path.stat().st_size < 8 << 20


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, as pip or pipx make one."""
    directory = tmp_path_factory.mktemp("venv")
    venv.create(directory, with_pip=True)
    done = run(directory / "bin/python", "-m", "pip", "install", "-q", wheel, cwd=directory)
    assert done.returncode == 0, done.stderr
    return directory


def test_the_wheel_installed(installed: Path, tmp_path: Path) -> None:
    kgcore = installed / "bin" / "kgcore"
    done = run(kgcore, "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"kgcore {__version__}\n", "")
    done = run(kgcore, "-c", FIXTURE, "ps", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^ *110 .* crasher ", done.stdout, re.MULTILINE)
    done = run(kgcore, "-c", FIXTURE, "110", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "Saved core.110\n")
    assert run(kgcore, "check", "core.110", cwd=tmp_path).returncode == 3
    where = (
        "import kgcore, importlib.resources as r; print(kgcore.__file__, (r.files('kgcore') / 'py.typed').is_file())"
    )
    done = run(installed / "bin/python", "-c", where, cwd=tmp_path)
    assert done.stdout.startswith(str(installed))
    assert done.stdout.endswith("True\n")
    for name in ("man/man1/kgcore.1", "bash-completion/completions/kgcore", "zsh/site-functions/_kgcore"):
        assert (installed / "share" / name).is_file()
    assert (installed / "share/fish/vendor_completions.d/kgcore.fish").is_file()


def gives_c_programs_their_client(directory: Path, *kgcore: object) -> None:
    header = (ROOT / "contrib/client/kgcore_client.h").read_text()
    done = run(*kgcore, "client", "--print-header", cwd=directory)
    assert (done.returncode, done.stdout, done.stderr) == (0, header, "")
    if shutil.which("gcc") is None:
        return
    done = run(*kgcore, "client", "--build", "built", "--cc", "gcc", cwd=directory)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Saved built/kgcore_client.h\nSaved built/libgencore.so\n"
    assert (directory / "built/kgcore_client.h").read_text() == header
    assert (directory / "built/libgencore.so").read_bytes()[:4] == b"\x7fELF"


def test_the_wheel_has_the_c_client(installed: Path, tmp_path: Path) -> None:
    gives_c_programs_their_client(tmp_path, installed / "bin/kgcore")


def test_installing_it_gives_drgn_the_command(installed: Path, tmp_path: Path) -> None:
    script = "from drgn.commands import run_command; run_command(prog, 'gcore -o it.core 110')"
    (tmp_path / "script.py").write_text(script)
    done = run(installed / "bin/drgn", "-q", "-c", FIXTURE, "script.py", cwd=tmp_path)
    assert "Saved" in done.stdout, done.stderr
    assert (tmp_path / "it.core").read_bytes()[:4] == b"\x7fELF"


# The zipapp


def test_the_zipapp(dist: Path, installed: Path, tmp_path: Path) -> None:
    """With an environment that has drgn and nothing else."""
    app = dist / "kgcore.pyz"
    assert os.access(app, os.X_OK)
    python = installed / "bin/python"
    only = tmp_path / "only"
    venv.create(only)
    site = next((only / "lib").glob("python*")) / "site-packages"
    for path in (next((installed / "lib").glob("python*")) / "site-packages").glob("*drgn*"):
        (site / path.name).symlink_to(path)
    python = only / "bin/python"
    assert run(python, "-c", "import rich", cwd=tmp_path).returncode == 1

    done = run(python, app, "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"kgcore {__version__}\n", "")
    for words in ([], *([name] for name in COMMANDS)):
        done = run(python, app, *words, "--help", cwd=tmp_path)
        assert done.stdout.startswith(f"usage: {' '.join(['kgcore', *words])} "), done.stderr
        assert "pyz" not in done.stdout
        assert "__main__" not in done.stdout
    done = run(python, app, "-c", FIXTURE, "ps", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run(installed / "bin/kgcore", "-c", FIXTURE, "ps", cwd=tmp_path).stdout
    done = run(python, app, "-c", FIXTURE, "110", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "Saved core.110\n")
    assert run(python, app, "check", "core.110", cwd=tmp_path).returncode == 3
    # With a terminal, which is where rich is used.
    both = f"{python} {app} -c {FIXTURE} -v 1 --force 110; {python} {app} -c {FIXTURE} ps"
    seen = run("script", "-qec", both, "/dev/null", cwd=tmp_path, TERM="xterm", NO_COLOR="1")
    assert "Traceback" not in seen.stdout
    assert "ModuleNotFoundError" not in seen.stdout
    assert "crasher" in seen.stdout


def test_the_zipapp_has_the_c_client(dist: Path, tmp_path: Path) -> None:
    gives_c_programs_their_client(tmp_path, sys.executable, "-S", "-E", dist / "kgcore.pyz")


def test_the_zipapp_without_drgn(dist: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "empty")
    python, app = tmp_path / "empty/bin/python", dist / "kgcore.pyz"
    done = run(python, app, "-c", FIXTURE, "ps", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("kgcore: drgn is not installed for this Python")
    assert f"{python} -m pip install drgn" in done.stderr
    assert done.stderr.count("\n") == 1
    for words in (["--help"], ["completion", "bash"], ["--version"]):
        assert run(python, app, *words, cwd=tmp_path).returncode == 0


def test_the_zipapp_is_pure(dist: Path) -> None:
    with zipfile.ZipFile(dist / "kgcore.pyz") as archive:
        names = archive.namelist()
        assert {time.struct_time((*info.date_time, 0, 0, 0))[:6] for info in archive.infolist()} == {
            time.gmtime(EPOCH)[:6]
        }
    expected = {"kgcore/schemas/report.schema.json", "kgcore/py.typed", "rich/table.py", "elftools/elf/elffile.py"}
    assert expected <= set(names)
    assert not [name for name in names if name.endswith((".so", ".pyc")) or name.startswith(("tests/", "drgn/", "/"))]
    assert [name for name in names if "rich" in name and "LICEN" in name.upper()], "others' licences go with it"
