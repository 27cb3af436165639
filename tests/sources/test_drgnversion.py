# SPDX-License-Identifier: LGPL-2.1-or-later
"""A drgn that is not there, cannot be loaded, is too old, or is the oldest that will do (``./dev oldest``)."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kgcore.sources.drgnversion import OLDEST

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "vmcore_fixtures"
OTHER = os.environ.get("KGCORE_OTHER_PYTHON")
COMMITTED = sorted(path.name for path in FIXTURES.glob("k*-small") if "686pae" not in path.name)  # that needs -s


def kgcore(
    *words: object, cwd: Path, drgn: Path | None = None, python: str = sys.executable
) -> "subprocess.CompletedProcess[str]":
    """kgcore with a drgn out of a directory."""
    path = os.pathsep.join(str(part) for part in (drgn, ROOT) if part)
    return subprocess.run(
        [python, "-m", "kgcore", *map(str, words)],
        cwd=cwd, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("__version__ = '0.0.22+debian'", f"drgn 0.0.22+debian is too old: kgcore needs drgn {OLDEST} or later"),
        ("", f"drgn of unknown version is too old: kgcore needs drgn {OLDEST} or later"),
        ("import _drgn_", None),
        ("raise ModuleNotFoundError('x', name='_drgn')", "drgn is not installed for this Python"),
        ("raise ImportError('libdw.so.1: no such file')", "cannot load drgn: libdw.so.1"),
    ],
)
def test_a_drgn_that_will_not_do(module: str, message: str | None, tmp_path: Path) -> None:
    directory = tmp_path / "drgn"
    directory.mkdir()
    (directory / "__init__.py").write_text(module + "\nclass Program: pass\n")
    (tmp_path / "vmcore").write_bytes(b"x")
    done = kgcore("ps", cwd=tmp_path, drgn=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    if message is None:  # somebody else's defect is told as one
        assert "unexpected ModuleNotFoundError" in done.stderr
        return
    assert done.stderr.startswith(f"kgcore: {message}")
    assert f"{sys.executable} -m pip install" in done.stderr
    assert done.stderr.count("\n") == 1
    code = "import kgcore\nwith kgcore.open_vmcore('vmcore'): pass"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    assert f"kgcore.errors.KgcoreError: {message}" in done.stderr


def test_one_version_in_all_places() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"drgn>={OLDEST}" in project["dependencies"]
    for name in ("README.md", "CONTRIBUTING.md", "docs/troubleshooting.md"):
        assert re.search(rf"drgn.*\b{re.escape(OLDEST)}\b", (ROOT / name).read_text()), name


def test_a_kernel_that_is_too_new_for_it(tmp_path: Path) -> None:
    """The oldest drgn cannot read the symbols of Linux 7.0; it is said which one can."""
    version = pytest.importorskip("drgn").__version__
    dump = next((FIXTURES / "k72-small").glob("vmcore*"))
    done = kgcore("-c", dump, "ps", cwd=tmp_path)
    if tuple(map(int, re.findall(r"\d+", version)[:3])) >= (0, 1, 0):
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1
        assert f"Linux 7.0 and later need drgn 0.1.0, this is drgn {version}" in done.stderr


@pytest.mark.skipif(OTHER is None, reason="$KGCORE_OTHER_PYTHON names no Python with another drgn (./dev oldest)")
@pytest.mark.parametrize("name", [name for name in COMMITTED if "k72" not in name])
def test_the_same_cores_as_with_another(name: str, tmp_path: Path) -> None:
    """Each process of a dump, byte by byte, and what is told of it."""
    dump = next((FIXTURES / name).glob("vmcore*"))
    told: list[tuple[int, str, str]] = []
    cores: list[dict[str, bytes]] = []
    for python in (sys.executable, OTHER or ""):
        directory = tmp_path / str(len(told))
        directory.mkdir()
        done = kgcore("-c", dump, "--all", "-f", "127", cwd=directory, python=python)
        told.append((done.returncode, done.stdout, done.stderr))
        cores.append({path.name: path.read_bytes() for path in directory.iterdir()})
    assert told[0] == told[1]
    assert sorted(cores[0]) == sorted(cores[1])
    assert cores[0]
    assert [core for core in cores[0] if cores[0][core] != cores[1][core]] == []


NEWER = {
    "ObjectNotFoundError": "LookupError will do",
    "read_c_string": "kgcore.sources.vmcore.kernelreads.kernel_string()",
    "address_ranges": "address_range",
    "crashed_thread": "kgcore.sources.vmcore.kernelreads.crashed_thread()",
    "drgn.helpers.linux.panic": "kgcore.sources.vmcore.facts has its own",
    "drgn.helpers.linux.swap": "",
}
"""What the oldest drgn lacks or does in another way, and what to use instead."""


def test_nothing_newer_is_used() -> None:
    """./dev oldest finds what the tests reach; this finds these at once."""
    for path in (ROOT / "kgcore").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = {getattr(node, "attr", ""), getattr(node, "module", None) or ""}
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("drgn"):
                names |= {alias.name for alias in node.names}
            if path.name != "kernelreads.py":
                assert not names & NEWER.keys(), f"{path}:{getattr(node, 'lineno', 0)}: {NEWER}"
