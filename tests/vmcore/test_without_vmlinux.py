# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ladder of "no vmlinux": a kernel that says less of itself, rung by rung. Each says what to give, and that helps.

The dumps are real; their symbol tables are what kernels of other configurations have.
"""

from pathlib import Path

import pytest

from kgcore.errors import TargetError
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.opening.target import open_target
from tests.vmcore.conftest import need
from tests.vmcore.kallsyms_forms import COMMITTED, Form, Reformed
from tests.vmcore.tools import kgcore

_FORM = Form(wide=False, addresses="per-cpu")
_NAME = "k510-small"
_BTF = "or BTF that was made of it once (pahole --btf_encode_detached FILE.btf vmlinux)"
_MAP = "or its System.map"
_TEXT = "tTwW"


def refusal(made: Reformed, *symbols: Path) -> str:
    """What kgcore says: the package, whatever it is, comes first."""
    location = DumpLocation(core=str(made.path), symbols=tuple(map(str, symbols)), symbols_from="btf")
    with pytest.raises(TargetError) as caught:
        open_target(location)
    message, hint = caught.value.message, caught.value.hint
    assert hint is not None
    assert hint.startswith(f"install linux-image-{made.release}-dbg and give its vmlinux with -s")
    return f"{message} ({hint})"


def core_of(path: Path, core: Path, *symbols: Path) -> bytes:
    pid = next(iter(need(_NAME).victims.values())).pid
    options = [word for symbol in symbols for word in ("-s", symbol)]
    done = kgcore("-c", path, *options, "--no-kgcore-note", "-o", core, pid, cwd=core.parent)
    assert done.status in (0, 3), done.remarks
    return core.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The core that comes out if the kernel says everything of itself."""
    return core_of(COMMITTED / _NAME / "vmcore", tmp_path_factory.mktemp("whole") / "core")


def test_no_btf(whole: bytes, tmp_path: Path) -> None:
    made = Reformed(_NAME, _FORM, tmp_path, lambda name, _kind, _at: name not in ("__start_BTF", "__stop_BTF"))
    said = refusal(made)
    assert "has no type information (no CONFIG_DEBUG_INFO_BTF)" in said
    assert _BTF in said
    (tmp_path / "made.btf").write_bytes(made.btf)
    assert core_of(made.path, tmp_path / "core", tmp_path / "made.btf") == whole


def test_no_symbols_of_variables(whole: bytes, tmp_path: Path) -> None:
    """No CONFIG_KALLSYMS_ALL: BTF is there, but the symbols that say where it starts are not."""
    made = Reformed(_NAME, _FORM, tmp_path, lambda _name, kind, _at: kind in _TEXT)
    assert 20_000 < len(made.known)
    assert "__start_BTF" not in made.known
    said = refusal(made)
    assert "has no variables (no CONFIG_KALLSYMS_ALL)" in said
    assert said.endswith(f"{_MAP})")
    assert core_of(made.path, tmp_path / "core", made.system_map(tmp_path / "System.map")) == whole


def test_no_symbols(whole: bytes, tmp_path: Path) -> None:
    """No CONFIG_KALLSYMS."""
    made = Reformed(_NAME, None, tmp_path)
    said = refusal(made)
    assert "the kernel's symbol table (kallsyms) was not found in its memory" in said
    assert _MAP in said
    assert core_of(made.path, tmp_path / "core", made.system_map(tmp_path / "System.map")) == whole


def test_neither(whole: bytes, tmp_path: Path) -> None:
    """Nothing at all: System.map and BTF together; what is asked for after the first is the second."""
    made = Reformed(_NAME, None, tmp_path)
    lines = made.system_map(tmp_path / "System.map").read_text().splitlines(keepends=True)
    (tmp_path / "System.map").write_text("".join(line for line in lines if "_BTF" not in line))
    said = refusal(made, tmp_path / "System.map")
    assert "has no type information" in said
    assert _BTF in said
    (tmp_path / "made.btf").write_bytes(made.btf)
    assert _MAP in refusal(made, tmp_path / "made.btf")
    assert core_of(made.path, tmp_path / "core", tmp_path / "made.btf", tmp_path / "System.map") == whole


def test_system_map_of_another_build(tmp_path: Path) -> None:
    made = Reformed(_NAME, None, tmp_path)
    other = made.system_map(tmp_path / "System.map", moved=0x2000)
    with pytest.raises(
        TargetError, match=r"System.map is not the System.map of the kernel in the dump, 5.10.0-.*: \w+"
    ):
        open_target(DumpLocation(core=str(made.path), symbols=(str(other),), symbols_from="btf"))


def test_names_that_thin_lto_changed(whole: bytes, tmp_path: Path) -> None:
    """LLVM appends ".llvm." and a number to a static symbol that it makes global. All of these may be: the same core.

    Parts and copies of functions have suffixes of their own, which do not stand for the function.
    """
    made = Reformed(_NAME, None, tmp_path)
    static = ("special_mapping_vmops", "shmem_vm_ops", "shmem_anon_vm_ops", "special_mapping_name", "vsyscall_mode",
              "gate_vma", "swap_info", "elf_format", "compat_elf_format", "x86_64_regsets")  # fmt: skip
    path = made.system_map(tmp_path / "System.map")
    text, changed = path.read_text().splitlines(), 0
    for number, line in enumerate(text):
        if line.rpartition(" ")[2] in static:
            text[number] = f"{line}.llvm.{9876543210 + number}"
            changed += 1
    assert changed >= 8
    path.write_text("\n".join([*text, "ffffffff81000010 t copied.isra.0", "ffffffff81000020 t copied.cold",
                               "ffffffff81000030 t twice.llvm.1", "ffffffff81000040 t twice.llvm.2", ""]))  # fmt: skip
    assert core_of(made.path, tmp_path / "core", path) == whole
    with open_target(DumpLocation(core=str(made.path), symbols=(str(path),), symbols_from="btf")) as target:
        assert (
            target.symbol_address("shmem_vm_ops")
            == {made.table.name(tokens): address for tokens, address in made.table.symbols}["shmem_vm_ops"]
        )
        assert target.symbol_address("copied") is None
        assert target.symbol_address("twice") is None
