# SPDX-License-Identifier: LGPL-2.1-or-later
"""What makedumpfile left out, by its level, and whether it was makedumpfile."""

import pytest

pytest.importorskip("drgn")

from kgcore.sources.vmcore.dumpfile.levels import left_out, why_left_out

USER = "makedumpfile level {} excluded user memory from this dump; level 17 keeps it"
FILES = "makedumpfile level {} excluded pages of files from this dump; level 17 keeps them"
UNKNOWN = "the dump excludes user memory; makedumpfile level 17 keeps it"


@pytest.mark.parametrize("level", range(32))
def test_levels(level: int) -> None:
    expected = USER if level & 8 else FILES if level & 6 else ""
    assert left_out(level) == expected.format(level)


@pytest.mark.parametrize(
    ("described", "told"),
    [
        ({"dump_level": "31"}, USER.format(31)),
        ({"dump_level": "8", "cut_off_bytes": "5"}, USER.format(8)),
        ({"dump_level": "23"}, FILES.format(23)),
        ({"dump_level": "17"}, ""),  # it must have been cut off
        ({"format": "ELF64"}, UNKNOWN),
        ({"format": "ELF64", "cut_off_bytes": "5"}, ""),
    ],
)
def test_who_left_memory_out(described: dict[str, str], told: str) -> None:
    assert why_left_out(described) == told
