# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs in C, which say what a compiler or the processor makes of something."""

import shutil
import subprocess
from pathlib import Path

import pytest


def compiled(folder: Path, text: str, *flags: str) -> Path:
    """A program; the test is skipped where there is no compiler, or none for that width."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    (folder / "program.c").write_text(text)
    program = folder / "program"
    done = subprocess.run(["gcc", *flags, "-o", program, folder / "program.c"], capture_output=True, check=False)
    if done.returncode and "-m32" in flags:
        pytest.skip("no gcc-multilib")
    assert done.returncode == 0, done.stderr
    return program


def output(folder: Path, text: str, flag: str) -> bytes:
    """What such a program prints."""
    return subprocess.run([compiled(folder, text, flag)], check=True, capture_output=True).stdout
