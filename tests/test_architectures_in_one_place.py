# SPDX-License-Identifier: LGPL-2.1-or-later
"""What differs between architectures stands in their own homes; what is neutral asks, and does not name them."""

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import Any

import pytest

from kgcore.arch import ARCHES, ARCHITECTURES
from kgcore.arch.x86.ia32 import GREGS as GREGS_32
from kgcore.arch.x86.x86_64 import GREGS as GREGS_64
from kgcore.cli.commands.dump import parse
from kgcore.cli.parser import UsageError
from kgcore.coredump.plan import make_plan
from kgcore.coredump.writer import write_core
from kgcore.errors import TargetError
from kgcore.filters.coredump import CoredumpFilter
from kgcore.sinks.streams import MemorySink
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.dumpfile.pagesize import page_shifts, usual_page_shift
from tests.builders import FakeMemory, make_image
from tests.test_imports import MODULES

HOMES = (
    "kgcore.arch",
    "kgcore.arch.x86*",
    "kgcore.sources.vmcore.kernel.machine",
    "kgcore.sources.vmcore.kernel.machine.x86*",
    "kgcore.sources.vmcore.kernel.machine.i386",
    "kgcore.sources.vmcore.kernel.machine.orc",
    "kgcore.sources.vmcore.opening.spaces",
    "kgcore.sources.vmcore.opening.spaces.x86_64",
    "kgcore.sources.vmcore.opening.spaces.i386",
)
NAMED = re.compile(r"x86|i[3-6]86|ia32|\bx32|amd64|EM_386|aarch64|arm64|low_?memory|long_?mode", re.IGNORECASE)
REGISTERS = ({*GREGS_32, *GREGS_64} | {"cr2", "cr3", "gdt", "idt"}) - {"flags"}  # a word of many meanings

# Who may name one all the same, what, and why: modules by pattern
ALLOWED: dict[str, tuple[str, str]] = {
    "kgcore.elf.layout": ("EM_386|EM_X86_64|i386|x86_64|aarch64", "the numbers and names of ELF"),
    "kgcore.check.*": ("EM_X86_64|EM_386|x86_64|x32|i386|not an x86 core: ", "shares nothing with what wrote a core"),
    "kgcore.cli.arguments": ("if the dump does not say: x86_64 or i386", "a help text; compared below"),
    "kgcore.cstruct": ("I386", "how that ABI aligns C types"),
    "kgcore.sources.vmcore.dumpfile.kdumpheader": ("I386", "the ABI of headers that 32-bit programs wrote"),
    "kgcore.sources.vmcore.symbols.debuginfo": (r"-\(amd64.*", "names of Debian's kernels"),
    "kgcore.system.stopping": ("x86_64|aarch64", "machines that kgcore itself runs on"),
    "kgcore.model.traces": ("ip", "the key in the JSON of a frame, whatever the register is called"),
}


def constants_and_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of all strings but docstrings, and of all names."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    # A string that stands by itself describes what is above it.
    docstrings |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in docstrings:
            yield line, node.value if isinstance(node.value, str) else node.value.decode("latin-1")
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            if isinstance(name := getattr(node, field, None), str):
                yield line, name


def neutral() -> list[str]:
    return [name for name in MODULES if not any(fnmatchcase(name, home) for home in HOMES)]


def allowed(name: str, text: str) -> bool:
    patterns = (pattern for modules, (pattern, _) in ALLOWED.items() if fnmatchcase(name, modules))
    return any(re.fullmatch(pattern, text) for pattern in patterns)


@pytest.mark.parametrize("name", neutral())
def test_no_architecture_is_named_elsewhere(name: str) -> None:
    found = list(constants_and_names(ast.parse(MODULES[name].read_text())))
    named = [f"{name}:{line}: {text}" for line, text in found if NAMED.search(text) and not allowed(name, text)]
    assert not named


@pytest.mark.parametrize("name", neutral())
def test_no_register_is_named_elsewhere(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text())
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in REGISTERS]
    assert not [f"{name}:{node.lineno}: {node.value!r}" for node in strings if not allowed(name, str(node.value))]


@pytest.mark.parametrize("name", neutral())
def test_no_architecture_is_asked_for(name: str) -> None:
    """No ``if architecture ==``, however it is spelled: there are objects to ask."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq | ast.Is | ast.IsNot):
            sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
            asked = any(re.search(r"\b(architecture|machine|arch)(\.name)?$", side) for side in sides)
            other = any(side == "None" or side.startswith("self.elf_class") for side in sides)
            # Of whatever architecture a dictionary's values are, to look for the one of a name is no question for one.
            looked_up = any(re.search(r"\beach\.", side) for side in sides)
            assert not asked or other or looked_up, f"{name}:{node.lineno}: {ast.unparse(node)}"


def test_what_is_allowed_is_there() -> None:
    for modules, (pattern, reason) in ALLOWED.items():
        trees = (ast.parse(path.read_text()) for name, path in MODULES.items() if fnmatchcase(name, modules))
        texts = {text for tree in trees for _, text in constants_and_names(tree)}
        assert any(re.fullmatch(pattern, text) for text in texts), (modules, reason)


def test_the_dictionaries_agree() -> None:
    """Each architecture of kernels has its line in all three, in the same order."""
    pytest.importorskip("drgn")
    from kgcore.sources.vmcore.kernel.machine import MACHINES
    from kgcore.sources.vmcore.opening.spaces import OPENINGS

    assert list(ARCHITECTURES) == list(MACHINES) == list(OPENINGS)
    assert all(name == each.name for name, each in ARCHITECTURES.items())
    assert all(name == each.name for name, each in ARCHES.items())


def test_the_help_names_all_of_them() -> None:
    assert f"if the dump does not say: {' or '.join(ARCHITECTURES)}" == ALLOWED["kgcore.cli.arguments"][0]


def test_a_program_of_another_one_is_refused() -> None:
    """It was taken for one of x86_64."""
    pytest.importorskip("drgn")
    from drgn import Architecture, Platform, Program

    from kgcore.sources.vmcore.opening.spaces import opening_of, space_of

    for ask in (opening_of, space_of):
        with pytest.raises(TargetError, match="the kernel is of architecture aarch64") as caught:
            ask(Program(Platform(Architecture.AARCH64)))
        assert caught.value.hint == "kgcore reads dumps of x86_64 and i386"


class TestAThirdOne:
    """Made up: lines in the dictionaries are all that the neutral parts want."""

    TOY = replace(
        ARCHITECTURES["x86_64"],
        name="toy",
        machines=frozenset({"toy32", "toy64"}),
        top_table=range(0x1234 << 32, 0x1235 << 32),
        page_shifts=(14, 16),
    )

    @pytest.fixture(autouse=True)
    def registered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(ARCHITECTURES, "toy", self.TOY)

    def test_command_line(self) -> None:
        place = parse(["-c", __file__, "--architecture", "TOY", "100"], {}).place
        assert isinstance(place, DumpLocation)
        assert place.architecture == "toy"
        with pytest.raises(UsageError, match="expected x86_64 or i386 or toy"):
            parse(["-c", __file__, "--architecture", "vax", "100"], {})

    def test_page_sizes(self) -> None:
        assert page_shifts("toy64") == page_shifts("toy") == (14, 16)
        assert usual_page_shift("toy64", 1 << 16) == 16
        assert usual_page_shift("toy64", 4096) == 14

    def test_opening(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("drgn")
        from kgcore.sources.vmcore.opening import spaces
        from kgcore.sources.vmcore.opening.kernelcheck import check, image_of
        from kgcore.sources.vmcore.opening.spaces.base import Checked, KernelVerdict
        from kgcore.sources.vmcore.opening.spaces.x86_64 import X86Opening

        class ToyOpening(X86Opening):
            architecture = self.TOY

            def check(self, memory: Any, info: Any, names: int) -> Checked:
                return Checked(KernelVerdict.CONFIRMED, f"at {names:#x}")

            def image(self, info: Any, address: int) -> int:
                return address - (0x1234 << 32)

        toy = ToyOpening()
        monkeypatch.setitem(spaces.OPENINGS, "toy", toy)
        assert spaces.named("toy") is spaces.opening_of_machine("toy32") is toy
        with pytest.raises(TargetError, match="architecture vax is not supported") as caught:
            spaces.opening_of_machine("vax")
        assert "x86_64 and i386 and toy" in str(caught.value.hint)
        info = {"OSRELEASE": "1", "SYMBOL(swapper_pg_dir)": "123400002000", "SYMBOL(init_uts_ns)": "123400003000"}
        assert spaces.architecture_of(info) == "toy"
        assert check(None, info).why == "at 0x123400003000"  # type: ignore[arg-type]
        assert image_of(info) == 0x3000
        assert spaces.architecture_of({"SYMBOL(swapper_pg_dir)": "ffffffff82000000"}) == "x86_64"

    def test_kernel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("drgn")
        from kgcore.sources.vmcore.kernel.kernel import Kernel
        from kgcore.sources.vmcore.kernel.machine import MACHINES
        from kgcore.sources.vmcore.kernel.machine.x86_64 import X86_64

        class Toy(X86_64):
            architecture = self.TOY

        monkeypatch.setitem(MACHINES, "toy", Toy)
        target = SimpleNamespace(architecture=self.TOY, prog=None, page_shift=14, page_size=1 << 14)
        kernel = Kernel(target)  # type: ignore[arg-type]
        assert isinstance(kernel.machine, Toy)
        assert kernel.architecture is self.TOY

    def test_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A view of tasks is a line in ARCHES."""
        monkeypatch.setitem(ARCHES, "toy", replace(ARCHES["x86_64"], name="toy", machine=4711))
        image = make_image(arch="toy")
        plan = make_plan(image, CoredumpFilter(page_size=image.page_size), FakeMemory())
        sink = MemorySink()
        write_core(plan, FakeMemory(), sink)
        assert sink.data[18:20] == (4711).to_bytes(2, "little")
