# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real vmcores for tests.

A fixture is a directory with a ``manifest.toml`` (tests/vmcore_fixtures/README.md). The small ones are committed;
the whole
ones are built by ``python3 -m tests.vmcore_fixtures.make`` into ``$KGCORE_CACHE/fixtures``. A test whose fixture is
not there is skipped, unless KGCORE_REQUIRE_VMCORES is set (CI sets it): then it fails.
"""

import ctypes
import gc
import lzma
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.vmcore.record import RECORD

# Dumps, those used last: with the types that they bring themselves (30 MiB each), and with debug information (200 MiB).
KEPT_OPEN = {False: 16, True: 3}
GROWTH = 64 << 20
"""Bytes after which garbage is collected: a Program is in cycles, and Python, which counts objects, is in no hurry."""
COMMITTED = Path(__file__).parent.parent / "vmcore_fixtures"
CACHE = Path(os.environ.get("KGCORE_CACHE") or Path.home() / ".cache" / "kgcore") / "fixtures"

MAIN = ("k510", "k61", "k612", "k72")
"""One guest per kernel series, each with all ordinary victims."""

KERNELS = (
    "k510-rt", "k61-rt", "k612-rt", "k510-full", "k61-full", "k612-full", "k72-full", "k-backports", "k-experimental"
)  # fmt: skip
"""Further kernels, a guest each with a few victims: real-time, not the cloud flavour, and the newest that there are."""


@dataclass(frozen=True)
class Victim:
    """A process of the guest.

    :ivar core: the core that the guest's kernel wrote of it, if there is one.
    :ivar said: what the program said of itself: its mappings and their patterns, its threads' registers.
    """

    name: str
    pid: int
    tids: tuple[int, ...]
    filter: int
    core: Path | None
    fixture: "Fixture" = field(repr=False)

    @cached_property
    def said(self) -> dict[str, Any]:
        import json

        path = self.fixture.path / "truth" / "victims" / f"{self.name}.json"
        return dict(json.loads(path.read_text(errors="surrogateescape")))

    @property
    def proc(self) -> Path:
        """/proc/PID as it was just before the dump."""
        return self.fixture.path / "truth" / "proc" / str(self.pid)

    @property
    def vvar(self) -> int | None:
        """The address of [vvar]; None before 7.3, where no core has it."""
        if self.fixture.version < (7, 3):
            return None
        found = re.search(r"^([0-9a-f]+)-.* \[vvar\]$", (self.proc / "maps").read_text(errors="replace"), re.MULTILINE)
        assert found
        return int(found[1], 16)


@dataclass(frozen=True)
class Fixture:
    """A guest: its dumps and what is known of its processes."""

    path: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return tomllib.loads((self.path / "manifest.toml").read_text())

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def version(self) -> tuple[int, int]:
        found = re.match(r"(\d+)\.(\d+)", str(self.manifest["release"]))
        assert found
        return int(found[1]), int(found[2])

    @cached_property
    def victims(self) -> dict[str, Victim]:
        return {
            victim["name"]: Victim(
                victim["name"],
                victim["pid"],
                tuple(victim.get("tids", ())),
                victim.get("filter", 0),
                self.path / victim["core"] if victim.get("core") else None,
                self,
            )
            for victim in self.manifest["victims"]
        }

    def dump(self, file: str = "vmcore.elf") -> Path:
        return self.path / file

    @property
    def vmlinux(self) -> Path:
        return self.path / "vmlinux"

    def packed_symbols(self, folder: Path) -> tuple[str, ...]:
        """What a committed fixture has to be given with -s, unpacked into a folder; nothing if it needs nothing."""
        names = []
        for path in (self.path / "btf.xz", self.path / "System.map.xz"):
            if path.exists():
                names.append(str(folder / path.stem))
                (folder / path.stem).write_bytes(lzma.decompress(path.read_bytes()))
        return tuple(names)

    @property
    def swaps(self) -> tuple[tuple[str, str], ...]:
        """Images of its swap spaces: (device, path) each."""
        return tuple((swap["device"], str(self.path / swap["image"])) for swap in self.manifest.get("swaps", ()))

    @property
    def swap_devices(self) -> list[str]:
        """Its swap spaces as /proc/swaps had them, in the order of their numbers: none was taken away."""
        return [line.split()[0] for line in (self.path / "truth/system/swaps").read_text().splitlines()[1:]]


def find(name: str, *, committed: bool = True) -> Fixture | None:
    """The fixture of that name; the committed one if there is one, unless the whole one is asked for."""
    for root in (COMMITTED, CACHE)[not committed :]:
        if (root / name / "manifest.toml").exists():
            return Fixture(root / name)
    return None


def some(every: Iterable[str], usually: Iterable[str]) -> tuple[str, ...]:
    """The fixtures for a slow test: some that differ most, or with ``KGCORE_THOROUGH`` in the environment every one."""
    return tuple(every if os.environ.get("KGCORE_THOROUGH") else usually)


def need(name: str, *, committed: bool = True) -> Fixture:
    """The fixture of that name (see :func:`find`); the test is skipped, or fails, if it is not there."""
    fixture = find(name, committed=committed)
    if fixture is not None:
        RECORD.uses(fixture.manifest)
        return fixture
    if (CACHE / f"{name}.unavailable").exists():
        pytest.skip(f"KERNEL UNAVAILABLE TODAY: {name}: {(CACHE / f'{name}.unavailable').read_text().strip()}")
    if os.environ.get("KGCORE_REQUIRE_VMCORES"):
        pytest.fail(f"the fixture {name} has not been built: python3 -m tests.vmcore_fixtures.make {name}")
    pytest.skip(f"the fixture {name} has not been built")


def main_dump(fixture: Fixture) -> str:
    """The dump of a fixture that lacks nothing."""
    files = [dump["file"] for dump in fixture.manifest["dumps"] if dump["level"] == 0]
    return "vmcore.elf" if "vmcore.elf" in files else str(files[0])


def pytest_runtest_logstart(nodeid: str) -> None:
    RECORD.begin()


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    skipped = call.excinfo is not None and call.excinfo.errisinstance(pytest.skip.Exception)
    if call.when == "call" and not skipped:
        RECORD.end(item.path.name, item.name.partition("[")[0], passed=call.excinfo is None)


def pytest_sessionfinish() -> None:
    RECORD.write()


@pytest.fixture(scope="session")
def collected() -> list[int]:
    """How much memory there was in use when garbage was collected, each time."""
    return [resident()]


@pytest.fixture(autouse=True)
def garbage_is_collected(collected: list[int]) -> Iterator[None]:
    """Programs that tests have opened, and let go."""
    yield
    if resident() - collected[-1] > GROWTH:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # the C library would keep most of it
        collected.append(resident())


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="session")
def fixture_dir() -> Callable[[str], Path]:
    """``fixture_dir("k61")``: the directory of a fixture."""
    return lambda name: need(name).path


@pytest.fixture(scope="session")
def extract(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Extractor"]:
    """``extract(fixture, pid)``: a core that kgcore wrote, and its report; each combination is written once."""
    extractor = Extractor(tmp_path_factory.mktemp("cores"))
    yield extractor
    extractor.close()


@dataclass
class Extractor:
    directory: Path
    _targets: dict[bool, dict[Any, Any]] = field(default_factory=lambda: {False: {}, True: {}})
    _done: dict[Any, Any] = field(default_factory=dict)

    def source(
        self, path: Path, *, swap: tuple[tuple[str, str], ...] = (), root: str | None = None, **options: Any
    ) -> Any:
        """An opened dump. ``swap``: (device, image) each; the other options are those of DumpLocation."""
        from kgcore.sources.location import DumpLocation
        from kgcore.sources.vmcore.memory.backing import UserFiles
        from kgcore.sources.vmcore.opening.target import open_target
        from kgcore.sources.vmcore.source import VmcoreSource

        key = (path, swap, root, tuple(sorted(options.items())))
        large = bool(options.get("symbols"))
        targets = self._targets[large]
        found = targets.pop(key, None)
        if found is None:
            target = open_target(DumpLocation(core=str(path), **options))
            found = target, VmcoreSource(target, UserFiles(swap=dict(swap), root=root))
        targets[key] = found
        if len(targets) > KEPT_OPEN[large]:
            del targets[next(iter(targets))]  # not closed: a test may have it still
        RECORD.opens(found[0])
        return found[1]

    def __call__(
        self,
        path: Path,
        task: int | str,
        *,
        symbols: tuple[str, ...] = (),
        swap: tuple[tuple[str, str], ...] = (),
        root: str | None = None,
        **options: Any,
    ) -> tuple[Path, Any]:
        """Extract with the given :class:`kgcore.coredump.pipeline.Options`."""
        from kgcore.coredump.pipeline import Options, dump
        from kgcore.sinks.files import FileSink
        from kgcore.sources.base import TaskRef

        key = (path, task, symbols, swap, root, tuple(sorted(options.items())))
        if key not in self._done:
            out = self.directory / f"core.{len(self._done)}"
            source = self.source(path, symbols=symbols, swap=swap, root=root)
            report = dump(source, TaskRef.parse(str(task)), lambda _: FileSink(str(out)), Options(**options))
            self._done[key] = (out, report)
        path_, report = self._done[key]
        return path_, report

    def close(self) -> None:
        for target, _ in (*self._targets[False].values(), *self._targets[True].values()):
            target.close()
