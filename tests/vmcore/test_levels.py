# SPDX-License-Identifier: LGPL-2.1-or-later
"""What makedumpfile left out, by its level, and whether it was makedumpfile."""

import pytest

pytest.importorskip("drgn")

from kgcore.sources.vmcore.dumpfile.levels import left_out, why_left_out

USER = "user memory was left out of this dump by makedumpfile level {}; level 17 keeps it"
FILES = "pages of files were left out of this dump by makedumpfile level {}; level 17 keeps them"
UNKNOWN = "user memory was left out when the dump was made; makedumpfile level 17 keeps it"


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
