# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/api.md: its examples are run, and print what it shows."""

import doctest
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("drgn")

import kgcore
from tests.vmcore.tools import ROOT, TIMEOUT

DOCUMENT = ROOT / "docs" / "api.md"


def test_examples(tmp_path: Path) -> None:
    """In a process of their own: some of them fork."""
    blocks = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert len(doctest.DocTestParser().get_examples("\n".join(blocks))) > 40
    # A blank line ends what an example prints.
    (tmp_path / "examples.txt").write_text("\n".join(blocks))
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    code = "import doctest, sys; sys.exit(doctest.testfile('examples.txt', module_relative=False).failed)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stdout


def test_public_names_are_shown() -> None:
    """Those that a program calls or makes; the others are what these return."""
    shown = set(re.findall(r"\w+", DOCUMENT.read_text()))
    for name in kgcore.__all__:
        value = getattr(kgcore, name)
        if not inspect.isclass(value) or name.endswith("Sink"):
            assert name in shown or name in ("__version__", "MemorySink")


def test_public_names_load() -> None:
    for name in kgcore.__all__:
        assert getattr(kgcore, name) is not None
