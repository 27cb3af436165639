# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the library opens is what the command line opens, by the same function, with the same options."""

import inspect
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kgcore import library
from kgcore.cli.arguments import add_place_options, add_supply_options
from kgcore.cli.commands import dump, opening
from kgcore.cli.console import Console
from kgcore.cli.parser import Parser
from kgcore.sources.base import NO_USER_FILES, Source, UserFiles
from kgcore.sources.location import DumpLocation
from tests.fake_source import COMPLETE, FakeSource

Opened = tuple[DumpLocation, UserFiles]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Opened]:
    found: list[Opened] = []

    @contextmanager
    def open_source(location: DumpLocation, files: UserFiles, tell: Callable[[str], None]) -> Iterator[Source]:
        found.append((location, files))
        yield FakeSource(current=COMPLETE)

    monkeypatch.setattr(library, "open_source", open_source)
    monkeypatch.chdir(tmp_path)
    for name in ("vmcore", "part", "vmlinux", "map", "info", "sda2.img"):
        (tmp_path / name).touch()
    for name in ("d1", "d2", "k1"):
        (tmp_path / name).mkdir()
    return found


def command(words: str) -> None:
    """What ``kgcore`` opens."""
    parsed = dump.parse(shlex.split(words), {})
    console = Console(inspect.cleandoc, inspect.cleandoc)  # type: ignore[arg-type]  # says nothing
    with opening.opened(parsed.place, parsed.show, console, parsed.request.user_files):
        pass


SHARED = "-s vmlinux -s map --symbols-from btf --debug-directory d1 --debug-directory d2 --kernel-directory k1"
KEYWORDS: dict[str, Any] = {
    "symbols": [Path("vmlinux"), "map"],
    "symbols_from": "btf",
    "debug_directories": ("d1", "d2"),
    "kernel_directories": Path("k1"),
    "vmcoreinfo": Path("info"),
}
FILES = "--vmcoreinfo info --swap /dev/sda2=sda2.img --root d1"
GIVEN: dict[str, Any] = {"swap": {"/dev/sda2": Path("sda2.img")}, "root": Path("d1")}


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (f"-c vmcore -c part {SHARED} {FILES}", lambda **own: library.open_vmcore("vmcore", Path("part"), **own)),
        (f"-k {SHARED} {FILES}", library.open_running_kernel),
        (f"--qemu x:1 {SHARED} {FILES}", lambda **own: library.open_qemu("x:1", **own)),
    ],
)
def test_both_open_the_same(
    opened: list[Opened], words: str, call: Callable[..., AbstractContextManager[Source]]
) -> None:
    command(words)
    with call(**KEYWORDS, **GIVEN) as source:
        assert isinstance(source, FakeSource)
    assert opened[0] == opened[1]
    location, files = opened[1]
    assert (location.symbols, location.kernel_directories) == (("vmlinux", "map"), ("k1",))
    assert files == UserFiles({"/dev/sda2": "sda2.img"}, "d1")


def test_the_plainest_call_is_the_plainest_command(opened: list[Opened]) -> None:
    command("-c vmcore")
    with library.open_vmcore(Path("vmcore")):
        pass
    assert opened[0] == opened[1] == (DumpLocation(core="vmcore"), NO_USER_FILES)


def test_every_option_is_a_parameter() -> None:
    parser = Parser("kgcore")
    before = {action.dest for action in parser._actions}
    add_place_options(parser)
    add_supply_options(parser)
    options = {action.dest for action in parser._actions} - before
    chosen = {"core", "running", "qemu"}  # each has a function of its own
    for call, lacks in (
        (library.open_vmcore, set()),
        (library.open_running_kernel, {"architecture"}),  # it is this machine's
        (library.open_qemu, set()),
    ):
        parameters = set(inspect.signature(call).parameters)
        assert parameters - {"core", "parts", "address", "tell"} == options - chosen - lacks


@pytest.mark.parametrize("swap", ["/dev/sda2=sda2.img", [("/dev/sda2", "sda2.img")], 5])
def test_what_is_no_mapping_is_no_swap(swap: Any) -> None:
    for call in (partial(library.open_vmcore, "vmcore"), library.open_running_kernel):
        with pytest.raises(TypeError, match=r"swap is .*: it takes a mapping, of the path of a swap device or file"):
            call(swap=swap)


@pytest.mark.parametrize("wrong", [{"root": 5}, {"symbols": 5}, {"symbols": [5]}, {"swap": {"/dev/sda2": 5}}])
def test_what_is_no_path_is_no_file(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        library.open_vmcore("vmcore", **wrong)
    with pytest.raises(TypeError):
        library.open_vmcore(None)  # type: ignore[arg-type]
