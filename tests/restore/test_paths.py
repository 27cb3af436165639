# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of then as names of now."""

import os
from pathlib import Path

import pytest

from kgcore.restore.paths import Paths

MOVED = ((b"/home", b"/there"), (b"/home/me", b"/mine"), (b"/init", b"/tmp/program"))


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (b"/home", b"/there"),
        (b"/home/you/x", b"/there/you/x"),
        (b"/home/me", b"/mine"),
        (b"/home/me/x", b"/mine/x"),
        (b"/home/men/x", b"/there/men/x"),
        (b"/homes/x", b"/homes/x"),
        (b"/init", b"/tmp/program"),
        (b"pipe:[7]", b"pipe:[7]"),
    ],
)
def test_the_longest_beginning_counts(then: bytes, now: bytes) -> None:
    assert Paths(MOVED).of(then) == now


def test_the_root_directory_may_be_elsewhere() -> None:
    assert Paths(((b"/", b"/there"),)).of(b"/bin/sh") == b"/there/bin/sh"


def test_a_sysroot_has_some_files(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").touch()
    paths = Paths(MOVED, os.fsencode(tmp_path))
    assert paths.of(b"/bin/sh") == os.fsencode(tmp_path / "bin" / "sh")
    assert paths.of(b"/bin/ls") == b"/bin/ls"
    assert paths.of(b"/home/x") == b"/there/x"
    assert paths.of(b"/bin/s\0h") == b"/bin/s\0h"
