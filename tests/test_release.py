# SPDX-License-Identifier: LGPL-2.1-or-later
"""The release of a dump's kernel decides nothing: distributions backport, vendors patch, and the next release is new.

What differs between kernels is probed: types, members, enumerators, symbols, the kernel's own code, and the data.
Each place that has the release at all stands here, with what it does with it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_imports import MODULES

# The formats of dump files have versions, and are what they say: kdump's header, LiME's, BTF's.
FORMATS = ("kgcore.sources.vmcore.dumpfile", "kgcore.sources.vmcore.symbols.btf", "kgcore.sources.drgnversion")

TOLD = "tells it to the user"
COMPARED = "two of the dump's own names of its kernel must be the same; what they say does not matter"
PACKAGE = "names the package with debug information, in a hint"
LIVE = "of the kernel that runs: p_align of notes, and whether a note says where XSAVE's parts are; no byte of memory"
FILES = "looks for the kernel's vmlinux and modules, whose build ids decide"
USES = {
    "kgcore.cli.render.show_facts": TOLD,
    "kgcore.coredump.kgcorenote.vendor_note": TOLD,
    "kgcore.sources.live.image.Reader._dialect": LIVE,
    "kgcore.sources.live.image.Reader.image": TOLD,
    "kgcore.sources.live.source.LiveSource.describe": TOLD,
    "kgcore.sources.vmcore.facts.read_facts": TOLD,
    "kgcore.sources.vmcore.kernel.moduletypes.ModuleTypes._what_to_give": PACKAGE,
    "kgcore.sources.vmcore.opening.kernelcheck.check": COMPARED,
    "kgcore.sources.vmcore.opening.kernelcheck.shift": COMPARED,
    "kgcore.sources.vmcore.opening.program.read_vmcoreinfo_file": "a file without it is no VMCOREINFO",
    "kgcore.sources.vmcore.opening.spaces.base.look_at_names": COMPARED,
    "kgcore.sources.vmcore.opening.spaces.i386.LowMemory.find": COMPARED,
    "kgcore.sources.vmcore.opening.target.Target.__init__": TOLD,
    "kgcore.sources.vmcore.opening.target.Target.describe": TOLD,
    "kgcore.sources.vmcore.opening.whichkernel.KernelSeen.words": TOLD,
    "kgcore.sources.vmcore.opening.whichkernel._candidate": TOLD,
    "kgcore.sources.vmcore.opening.whichkernel._check": COMPARED,
    "kgcore.sources.vmcore.opening.whichkernel._search": COMPARED,
    "kgcore.sources.vmcore.opening.withsymbols._symbols_of": TOLD,
    "kgcore.sources.vmcore.opening.withsymbols._with_btf": PACKAGE,
    "kgcore.sources.vmcore.opening.withsymbols._with_dwarf": FILES,
    "kgcore.sources.vmcore.opening.withsymbols.with_symbols": PACKAGE,
    "kgcore.sources.vmcore.source._Reader.read": TOLD,
    "kgcore.sources.vmcore.symbols.vmcoreinfo": "how a VMCOREINFO begins",
}


def functions(tree: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
    """Each node, with the name of the innermost function or class that has it; not what is called, as ``release()``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(tree, ast.Call) and node is tree.func and isinstance(node, ast.Attribute):
            yield from functions(node, name)
            continue
        inside = name
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = f"{name}.{node.name}"
        yield inside, node
        yield from functions(node, inside)


def takes_release(node: ast.AST) -> bool:
    """Whether a node gets a release, or a version: of VMCOREINFO, of an object's attribute, of utsname."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
        return text.strip("=") == "OSRELEASE"
    if not isinstance(node, ast.Attribute):
        return False
    of_an_image = node.attr == "kernel" and isinstance(node.value, ast.Name) and node.value.id == "image"
    return of_an_image or (isinstance(node.ctx, ast.Load) and node.attr in ("release", "version"))


def compares_numbers(node: ast.AST) -> bool:
    """Whether a node compares something with a release number: ``>= (6, 18)``."""
    if not isinstance(node, ast.Compare):
        return False
    tuples = [each for each in (node.left, *node.comparators) if isinstance(each, ast.Tuple)]
    return any(
        len(each.elts) in (2, 3)
        and all(isinstance(word, ast.Constant) and isinstance(word.value, int) for word in each.elts)
        and isinstance(operation, ast.Lt | ast.LtE | ast.Gt | ast.GtE)
        for each in tuples
        for operation in node.ops
    )


def uses(text: str, module: str) -> set[str]:
    return {name for name, node in functions(ast.parse(text), module) if takes_release(node) or compares_numbers(node)}


@pytest.fixture(scope="module")
def found() -> set[str]:
    read = {name: path for name, path in MODULES.items() if not name.startswith(FORMATS)}
    assert len(read) > 100
    return {use for name, path in read.items() for use in uses(Path(path).read_text(encoding="utf-8"), name)}


def test_every_use_of_the_release_is_known(found: set[str]) -> None:
    new, gone = sorted(found - USES.keys()), sorted(USES.keys() - found)
    assert new == [], "probe instead; or say here why it is certain that nothing depends on it"
    assert gone == [], "no longer there"


@pytest.mark.parametrize(
    "line",
    [
        "return 19 if self._kernel.version >= (6, 18) else 14",
        "release = self._target.release",
        "name = target.vmcoreinfo.get('OSRELEASE', '')",
        "name = info['OSRELEASE']",
        "old = (5, 19) <= number < (6, 2)",
        "number = parsed(image.kernel)",
        "text = prog['init_uts_ns'].name.release",
    ],
)
def test_a_new_use_is_seen(line: str) -> None:
    assert uses(f"class A:\n  def f(self):\n    {line}\n", "m") == {"m.A.f"}
    assert not uses("lock.release()", "m")
    assert not uses("def f(self):\n  '''Reads OSRELEASE.'''\n  return size >= (a, 2) and x == (1, 2)\n", "m")
