# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules on processes of real dumps: what a victim says it wrote is gone where a rule names it, and there elsewhere."""

from pathlib import Path

import pytest

from kgcore.check.core import check_core
from kgcore.cli import main as cli
from tests.vmcore.conftest import main_dump, need
from tests.vmcore.corefile import Core
from tests.vmcore.patterns import PAGE, pattern

SMALL = ("k510-small", "k61-small", "k612-small", "k72-small")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("action", ["exclude", "redact", "only"])
def test_a_rule_by_address(name: str, action: str, tmp_path: Path) -> None:
    """One page of a mapping of the victim's: its neighbours have what it wrote there."""
    fixture = need(name)
    victim = fixture.victims["memory"]
    grain = victim.said["grain"]
    mapping = next(
        one for one in victim.said["mappings"] if one["name"] == "anon-private" or one["ranges"] == [[0, one["length"]]]
    )
    start, seed = mapping["addr"] + PAGE, mapping["seed"]
    path = tmp_path / "core"
    rule = f"addr:{start:x}-{start + PAGE:x}"
    words = ["-c", str(fixture.dump(main_dump(fixture))), "-v", "0", "-f", "127", "-o", str(path)]
    assert cli.main([*words, f"--{action}", rule, str(victim.pid)]) in (0, 3)
    assert check_core(path).ok
    core = Core(path)

    def holds(address: int) -> bytes | None:
        try:
            return core.read(address, PAGE)
        except ValueError:
            return None

    here, before, behind = (pattern(seed, offset, PAGE, grain) for offset in (PAGE, 0, 2 * PAGE))
    kept = {"exclude": (before, None, behind), "redact": (before, bytes(PAGE), behind), "only": (None, here, None)}
    assert (holds(start - PAGE), holds(start), holds(start + PAGE)) == kept[action]
