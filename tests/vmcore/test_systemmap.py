# SPDX-License-Identifier: LGPL-2.1-or-later
"""System.map files."""

from pathlib import Path

import pytest

pytest.importorskip("drgn")

from drgn import Program, SymbolKind

from kgcore.errors import TargetError
from kgcore.sources.vmcore.symbols.systemmap import is_system_map, read_symbols

TEXT = """         w __start_BTF
00000000000002c0 D cpu_info
00000042 A an_absolute_one
c1000000 T _stext
c1000010 t a_function
c1000400 D init_task
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "System.map"
    path.write_text(TEXT)
    return str(path)


@pytest.mark.parametrize(
    ("start", "moved"), [(None, 0), (0xC1000000, 0), (0xCF000000, 0xE000000)], ids=["linked", "same", "moved"]
)
def test_symbols_move_with_the_text(file: str, start: int | None, moved: int) -> None:
    """But for absolute ones, and for offsets of per-CPU variables, which lie below."""
    prog = Program()
    prog.register_symbol_finder("map", read_symbols(file, start), enable_index=0)
    found = {name: prog.symbol(name).address for name in ("_stext", "init_task", "cpu_info", "an_absolute_one")}
    assert found == {"_stext": 0xC1000000 + moved, "init_task": 0xC1000400 + moved, "cpu_info": 0x2C0,
                     "an_absolute_one": 0x42}  # fmt: skip
    assert (prog.symbol("a_function").kind, prog.symbol("a_function").size) == (SymbolKind.FUNC, 0x3F0)
    assert prog.symbol("init_task").kind == SymbolKind.OBJECT


def test_what_is_one(file: str, tmp_path: Path) -> None:
    assert is_system_map(file)
    other = tmp_path / "vmlinux"
    other.write_bytes(b"\x7fELF" + bytes(10000))
    assert not is_system_map(str(other))
    assert not is_system_map(str(tmp_path / "absent"))


def test_without_text(tmp_path: Path) -> None:
    """Debian's image packages have a file of that name which says where the real one is."""
    path = tmp_path / "System.map"
    path.write_text("ffffffffffffffff B The_real_one_is_in_the_dbg_package\n")
    with pytest.raises(TargetError, match="not a complete System"):
        read_symbols(str(path), None)


def test_more_symbols_than_a_kernel_has(tmp_path: Path) -> None:
    path = tmp_path / "System.map"
    path.write_bytes(TEXT.encode() + b"c1000500 t more\n" * (1 << 19))
    with pytest.raises(TargetError, match="more than 524288 symbols"):
        read_symbols(str(path), None)


def test_names_that_are_no_text(file: str) -> None:
    with Path(file).open("ab") as opened:
        opened.write(b"c1000500 t \xff\xfe\n")
    prog = Program()
    prog.register_symbol_finder("map", read_symbols(file, None), enable_index=0)
    assert prog.symbol(r"\xff\xfe").address == 0xC1000500
