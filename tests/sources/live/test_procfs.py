# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of /proc as values: against this machine's own, and names that try to break the parser."""

import os
from pathlib import Path

import pytest

from kgcore.model import process as model
from kgcore.sources.live.procfs import Mapping, mappings, read, stat_of, status_of, vm_flags_of

SMAPS = b"""\
55e0c0000000-55e0c0001000 r-xp 00002000 fd:01 123456                     /a b/c\\012d (deleted)
Size:                  4 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me dd
7f0000000000-7f0000200000 rw-s 00000000 00:0f 77                         /dev/zero (deleted)
Anonymous:             0 kB
VmFlags: rd wr sh mr mw me ms ht
7f0000400000-7f0000401000 ---p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  8 kB
VmFlags: mr mw me dc io pf wf
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


def test_mappings() -> None:
    found = list(mappings(SMAPS))
    assert found[0] == Mapping(
        0x55E0C0000000,
        0x55E0C0001000,
        model.VM_READ | model.VM_EXEC,
        0x2000,
        (0xFD, 1),
        123456,
        b"/a b/c\nd (deleted)",
    )
    assert [one.name for one in found[1:]] == [b"/dev/zero (deleted)", b"", b"[vsyscall]"]
    assert found[1].flags & model.VM_MAYSHARE
    assert found[3].start == 0xFFFFFFFFFF600000


def test_flags_of_smaps() -> None:
    found = vm_flags_of(SMAPS)
    may = 0x70  # VM_MAYREAD, VM_MAYWRITE, VM_MAYEXEC
    assert found[0x55E0C0000000][:2] == (model.VM_READ | model.VM_EXEC | model.VM_DONTDUMP | may, False)
    shared = model.VM_READ | model.VM_WRITE | model.VM_SHARED | model.VM_MAYSHARE | model.VM_HUGETLB
    assert found[0x7F0000000000][:2] == (shared | may, False)
    unlike = model.VM_IO | model.VM_PFNMAP | model.VM_DONTCOPY | model.VM_WIPEONFORK
    assert found[0x7F0000400000][:2] == (unlike | may, True)  # swapped out: it has pages of its own
    assert found[0x7F0000400000].forking == {b"dc", b"wf"}
    assert found[0x7F0000000000].forking == frozenset()
    assert 0xFFFFFFFFFF600000 not in found


def test_our_own_mappings_are_all_there() -> None:
    raw = read("/proc/self/maps")
    assert len(list(mappings(raw))) == len(raw.splitlines())


@pytest.mark.parametrize("name", [b"a) R 1 2 3", b"))))", b"two words", b"new\nline", b""])
def test_stat_of_a_program_with_an_odd_name(name: bytes) -> None:
    line = read("/proc/self/stat")
    after = line.rpartition(b") ")[2]
    found = stat_of(b"77 (" + name + b") " + after)
    assert found.comm == name
    assert found.ppid == os.getppid()
    assert found.threads >= 1


def test_our_own_stat() -> None:
    found = stat_of(read("/proc/self/stat"))
    command = Path("/proc/self/cmdline").read_bytes()
    assert found.arg_end - found.arg_start == len(command)
    assert found.letter == "R"
    assert not found.exited


def test_status() -> None:
    found = status_of(read("/proc/self/status"))
    assert int(found["Tgid"][0]) == os.getpid()
    assert found["Uid"] == [b"%d" % os.getuid()] * 4 or len(found["Uid"]) == 4


def test_what_is_no_stat() -> None:
    with pytest.raises(ValueError, match="too short"):
        stat_of(b"1 (x) R 1 2")
