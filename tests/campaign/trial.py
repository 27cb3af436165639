# SPDX-License-Identifier: LGPL-2.1-or-later
"""One trial: kgcore runs in a process of its own, is measured, and what it did is judged."""

import ctypes
import io
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kgcore.check.core import check_core
from kgcore.cli import main as cli
from tests.campaign.damage import CLASSES, Fault, Trial
from tests.campaign.material import Base, Material
from tests.campaign.measured import ROOT
from tests.vmcore.corefile import Core

CPU = 10
MEMORY = 300 << 20
_WALL = 120  # seconds, for what waits and uses no CPU; machines are busy
_TREE_EVERY = 25  # one trial of so many starts the interpreter anew, as a user would
_BAD = re.compile(r"Traceback \(|unexpected |Exception ignored|Fatal Python error|Segmentation|core dumped")
_CLEANING = ("", "unlink", "rmdir", "open", "stat", "getdents", "fcntl", "dup")
"""Calls without which nothing can be removed."""
_RESULTS = re.compile(r"core\.\d+(\.gz|\.zst)?|report\.json|sysroot|list|extracted|map\.html|ROOT", re.ASCII)


@dataclass
class Result:
    number: int
    kind: str
    words: list[str]
    faults: list[str] = field(default_factory=list)
    cpu: float = 0
    peak: int = 0
    status: int = 0
    said: str = ""
    whole: bool = False  # the interpreter was started for it
    cores: int = 0
    compared: int = 0
    what: str = ""


class Injector:
    """The library that is preloaded into this process, if it is."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self.there = hasattr(self._library, "campaign_arm")
        self.kinds: dict[str, int] = {}
        if self.there:
            self._library.campaign_name.restype = ctypes.c_char_p
            self._library.campaign_count.restype = ctypes.c_long
            count = self._library.campaign_kinds()
            self.kinds = {self._library.campaign_name(kind).decode(): kind for kind in range(count)}

    def arm(self, kind: str, nth: int, many: int, error: int, number: int) -> None:
        which = self.kinds[kind] if kind else -1
        self._library.campaign_arm(which, ctypes.c_long(nth), many, error, number)

    def disarm(self) -> None:
        self._library.campaign_disarm()

    def counts(self) -> dict[str, int]:
        found = {name: self._library.campaign_count(kind) for name, kind in self.kinds.items()}
        found[""] = self._library.campaign_count(-1)
        return found


class Runner:
    """Runs trials. It lives in a process that has imported all of kgcore, and forks for each."""

    def __init__(self, material: Material, seed: int, directory: Path, *, keep: bool = False) -> None:
        self._material = material
        self._seed = seed
        self._directory = directory
        self._keep = keep
        self._injector = Injector()
        self._classes = [name for name, (_, make) in CLASSES.items() if self._possible(name)]
        self._weights = [CLASSES[name][0] for name in self._classes]
        self._counts: dict[tuple[str, ...], dict[str, int]] = {}
        become_subreaper()

    def _possible(self, name: str) -> bool:
        if name in ("system calls that fail", "signals"):
            return self._injector.there
        return bool(self._material.bases.get(name, True))

    @property
    def classes(self) -> list[str]:
        return self._classes

    def run(self, number: int) -> Result:
        rng = random.Random(f"{self._seed}/{number}")
        kind = rng.choices(self._classes, self._weights)[0]
        trial = CLASSES[kind][1](self._material, rng)
        result = Result(number, kind, trial.words, what=trial.what)
        result.whole = trial.fault is None and not trial.memory and number % _TREE_EVERY == 0
        place = self._directory / f"trial.{number}"
        shutil.rmtree(place, ignore_errors=True)
        for name in ("out", "tmp", "home"):
            (place / name).mkdir(parents=True)
        if trial.sysroot is not None:
            shutil.copytree(trial.sysroot, place / "ROOT", symlinks=True)
            for act in trial.extras:
                act(place / "ROOT")
        words = [word.replace("OUT", str(place / "out")).replace("ROOT", str(place / "ROOT")) for word in trial.words]
        undo = apply(trial)
        try:
            fault = self._nth(trial, words, place) if trial.fault else None
            self._measure(words, place, fault, result, trial.memory)
        finally:
            undo()
        with suppress(OSError):
            judge(trial, result, place)
        result.words = words
        if not self._keep:
            shutil.rmtree(place, ignore_errors=True)
        return result

    def _nth(self, trial: Trial, words: list[str], place: Path) -> tuple[Fault, int] | None:
        """Which call is to fail. How many there are is counted in a run without a fault."""
        assert trial.fault is not None
        key = tuple(trial.words)
        if key not in self._counts:
            idle = Result(0, "", words)
            self._measure(words, place, (Fault(), 0), idle)
            self._counts[key] = read_counts(place / "counts")
            for name in ("out", "tmp"):
                shutil.rmtree(place / name)
                (place / name).mkdir()
        count = self._counts[key].get(trial.fault.kind, 0)
        return trial.fault, 1 + int(trial.fault.share * max(count, 1))

    def _measure(
        self, words: list[str], place: Path, fault: tuple[Fault, int] | None, result: Result, memory: int = 0
    ) -> None:
        out = place / "said"
        started = time.monotonic()
        child = os.fork()
        if not child:
            self._child(words, place, fault, out, whole=result.whole, memory=memory)
        state, used = waited(child, started, result)
        orphans = left_over()
        result.status = -os.WTERMSIG(state) if os.WIFSIGNALED(state) else os.WEXITSTATUS(state)
        result.cpu = used.ru_utime + used.ru_stime
        result.peak = used.ru_maxrss << 10
        with suppress(FileNotFoundError):
            result.said = out.read_bytes()[-20000:].decode(errors="backslashreplace")
        if orphans:
            result.faults.append(f"{orphans} processes were left behind")

    def _child(
        self, words: list[str], place: Path, fault: tuple[Fault, int] | None, out: Path, *, whole: bool, memory: int
    ) -> None:
        """Never returns."""
        status = 99
        try:
            os.setsid()
            os.chdir(place)
            file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(file if "-o" not in words or "-" not in words else null, 1)
            os.dup2(file, 2)
            os.environ.update(TMPDIR=str(place / "tmp"), HOME=str(place / "home"), COLUMNS="100")
            resource.setrlimit(resource.RLIMIT_CPU, (60, 61))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 30, 4 << 30))
            if whole:
                os.environ["PYTHONPATH"] = str(ROOT)
                os.execv(sys.executable, [sys.executable, "-m", "kgcore", *words])
            if memory:
                has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (has + memory, has + memory))
            status = self._command(words, place, fault)
        except BaseException:  # noqa: BLE001  (it goes no further: the next line but one ends this process)
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)

    def _command(self, words: list[str], place: Path, fault: tuple[Fault, int] | None) -> int:
        """What the console script does, in the process that was forked."""
        sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding="utf-8", errors="backslashreplace")
        sys.stderr = io.TextIOWrapper(
            os.fdopen(2, "wb", closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True
        )
        sys.argv = ["kgcore", *words]
        if fault is not None:
            what, nth = fault
            self._injector.arm(what.kind, nth, what.many, what.error, what.signal)
        try:
            cli.entry()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if fault is not None:
            self._injector.disarm()
            if not nth:
                (place / "counts").write_text(
                    "".join(f"{name} {count}\n" for name, count in self._injector.counts().items())
                )
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        return status


def read_counts(path: Path) -> dict[str, int]:
    with suppress(FileNotFoundError):
        rows = (line.rsplit(" ", 1) for line in path.read_text().splitlines())
        return {name: int(count) for name, count in rows}
    return {}


def become_subreaper() -> None:
    """Processes whose parents are gone become our children, so that they are seen."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def waited(child: int, started: float, result: Result) -> tuple[int, resource.struct_rusage]:
    """Wait for the end of a child, but not for ever."""
    pause = 0.001
    while True:
        pid, state, used = os.wait4(child, os.WNOHANG)
        if pid:
            return state, used
        if time.monotonic() - started > _WALL:
            result.faults.append(f"not finished after {_WALL} s")
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            _, state, used = os.wait4(child, 0)
            return state, used
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)


def left_over() -> int:
    """How many descendants of a trial outlived it; they are ended."""
    found = 0
    for _ in range(50):  # those that are just ending are no orphans
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            time.sleep(0.02)
    for child in children():
        found += 1
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)
    return found


def children() -> list[int]:
    with suppress(OSError):
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    return []


def apply(trial: Trial) -> Callable[[], None]:
    """Damage the files. :returns: what undoes it."""
    undo: list[tuple[Path, int, bytes]] = []
    sizes: list[tuple[Path, int]] = []
    for path, size in trial.cuts:
        with path.open("r+b") as file:
            sizes.append((path, os.fstat(file.fileno()).st_size))
            undo += ((path, offset, data) for offset, data in stored(file.fileno(), size))
            file.truncate(size)
    for path, offset, data in trial.patches:
        with path.open("r+b") as file:
            file.seek(offset)
            old = file.read(len(data))
            undo.append((path, offset, old))
            file.seek(offset)
            file.write(data[: len(old)])

    def restore() -> None:
        for path, size in sizes:
            os.truncate(path, size)
        for path, offset, old in reversed(undo):
            with path.open("r+b") as file:
                file.seek(offset)
                file.write(old)

    return restore


def stored(descriptor: int, start: int) -> Iterator[tuple[int, bytes]]:
    """What there is from an offset on, without the holes. (A child's memory counts from what its parent had.)"""
    with suppress(OSError):  # nothing is behind it
        while True:
            start = os.lseek(descriptor, start, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            while start < end:
                data = os.pread(descriptor, min(end - start, 1 << 20), start)
                yield start, data
                start += len(data)


def judge(trial: Trial, result: Result, place: Path) -> None:
    """Add what is wrong."""
    faults = result.faults
    by_signal = trial.fault is not None and trial.fault.signal
    allowed = {0, 1, 2, 3} | ({-int(by_signal)} if by_signal else set())
    if result.status not in allowed:
        faults.append(f"exit status {result.status}")
    # -v 2 shows the libraries' own errors, with their places.
    said = result.said.replace("Traceback (", "") if "7" in trial.words else result.said
    if found := _BAD.search(said):
        line = next((line for line in said.splitlines() if _BAD.search(line)), found[0])
        faults.append(f"said: {line[-300:]}")
    if result.cpu > CPU:
        faults.append(f"took {result.cpu:.1f} s of CPU")
    if result.peak > MEMORY:
        faults.append(f"took {result.peak >> 20} MiB of memory")
    left = [path.name for path in (place / "out").iterdir() if not _RESULTS.fullmatch(path.name)]
    left += [f"tmp/{path.name}" for path in (place / "tmp").iterdir()]
    if left and result.status != -signal.SIGKILL:  # even if a signal ended it that it was sent
        faults.append(f"left behind: {', '.join(left[:5])}")
    if trial.fault is not None and trial.fault.kind in _CLEANING and trial.fault.error:
        faults[:] = [fault for fault in faults if not fault.startswith("left behind")]
    _judge_cores(trial, result, place / "out")


def _judge_cores(trial: Trial, result: Result, out: Path) -> None:
    limited = "--max-size" in trial.words
    for path in sorted(out.glob("core.*[0-9]")):
        result.cores += 1
        verdict = check_core(path)
        if (trial.comparable or trial.fault) and not verdict.ok and not (limited and verdict.cut_short):
            result.faults.append(f"{path.name} is not well-formed: {verdict.problems[0]}")
        if trial.comparable and trial.base is not None and "zero" not in trial.words and not limited:
            result.faults += different(trial.base, path, result)


def different(base: Base, path: Path, result: Result) -> list[str]:
    """Bytes that are others than in the core of the whole dump. What is missing is in no segment."""
    pid = int(path.name.split(".")[1])
    if pid not in base.clean:
        return []
    whole, less = Core(base.clean[pid]), Core(path)
    for load in less.loads:
        for address, data in less.segment(load):
            try:
                known = whole.read(address, len(data))
            except ValueError:  # not one piece there, or missing there
                continue
            result.compared += len(data)
            if known != data:
                at = next(at for at in range(len(data)) if known[at] != data[at])
                return [f"{path.name}: the byte at {address + at:#x} is wrong"]
    return []


def built(directory: Path) -> Path | None:
    """The injector, compiled; None where there is no compiler."""
    target = directory / "injector.so"
    source = Path(__file__).with_name("injector.c")
    words = ["gcc", "-shared", "-fPIC", "-O2", "-Wno-builtin-declaration-mismatch", "-ldl", "-o"]
    try:
        subprocess.run([*words, target, source], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return target
