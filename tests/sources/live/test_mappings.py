# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mappings of this machine's processes as values."""

import os

import pytest

from kgcore.model.process import DELETED
from kgcore.sources.live.mappings import MappedFiles, vmas
from kgcore.sources.live.procfs import Mapping

PAGE = 4096


@pytest.mark.parametrize(
    ("name", "shown", "special", "of_file"),
    [
        (b"[anon:an arena]", b"an arena", "", None),
        (b"[anon:]]", b"]", "", None),
        (b"[anon_shmem:a/pool]", b"a/pool", "", b"/dev/zero" + DELETED),
        (b"[vdso]", b"", "[vdso]", None),
        (b"[heap]", b"", "", None),
        (b"[stack]", b"", "", None),
        (b"", b"", "", None),
    ],
)
def test_what_a_process_called_its_memory(name: bytes, shown: bytes, special: str, of_file: bytes | None) -> None:
    """PR_SET_VMA_ANON_NAME: neither a file's name nor one of vm_ops->name, which would keep the mapping whole."""
    files = MappedFiles(os.getpid())
    line = Mapping(PAGE, 2 * PAGE, 0, 0, (0, 1), 0 if of_file is None else 7, name)
    (vma,) = vmas(iter([line]), lambda _start: None, files, PAGE)
    assert (vma.anon_name, vma.name, vma.file and vma.file.path) == (shown, special, of_file)
