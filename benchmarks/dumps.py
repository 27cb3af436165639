# SPDX-License-Identifier: LGPL-2.1-or-later
"""The benchmark's own dumps: guests with large processes, kept in the cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.vmcore_fixtures.make import initramfs, kernels, qemu
from tests.vmcore_fixtures.make.common import VICTIMS, BuildError, cache_dir, digest, run, say
from tests.vmcore_fixtures.make.dumps import make_sparse, readable_header
from tests.vmcore_fixtures.make.makedumpfile import Makedumpfile
from tests.vmcore_fixtures.make.packages import install_host_tools, locked
from tests.vmcore_fixtures.make.recipes import CMDLINE, Derived, Recipe

from . import synthetic

PROGRAMS = Path(__file__).resolve().parent / "guests"
SUITE = "bookworm"
# Debian 12's makedumpfile has no zstd.
MAKEDUMPFILE_SUITE = "trixie"
READY_TIMEOUT = 900
PAGE = 4096
# What the large process has of ordinary bytes.
ORDINARY_SIZE = 1 << 30
ORDINARY_FROM = ("/usr/bin", "/usr/lib")
ORDINARY_LEAST = 16384

# As in the fixtures: khugepaged must not move memory while it is being dumped.
SETUP = """
echo madvise > /sys/kernel/mm/transparent_hugepage/enabled
echo 0 > /sys/kernel/mm/transparent_hugepage/khugepaged/defrag
echo 2000000 > /proc/sys/vm/max_map_count
echo 200000 > /proc/sys/kernel/threads-max
echo 200000 > /proc/sys/kernel/pid_max
run() {
    { "$@" || die "$*"; } &
    while [ ! -e "/tmp/$2.done" ]; do sleep 0.2; done
}
"""


@dataclass(frozen=True)
class GuestRecipe:
    """A guest of the benchmark.

    :ivar ram: MiB.
    :ivar lines: the guest's script: "run PROGRAM NAME ...".
    :ivar names: the processes that tell their ids.
    :ivar compressors: further dumps, by makedumpfile.
    :ivar device: whether the guest has a disk of ordinary bytes.
    """

    name: str
    ram: int
    lines: tuple[str, ...]
    names: tuple[str, ...]
    compressors: tuple[str, ...] = ()
    device: bool = False

    @property
    def programs(self) -> list[str]:
        """The programs that its script runs."""
        return sorted({line.split()[1] for line in self.lines})


VMAS = (35_000, 70_000, 140_000)
THREADS = (2_500, 5_000, 10_000)
RESERVED_GIB = (32, 64)

LARGE = GuestRecipe(
    "large", 3072, ("run memory memory /dev/vdb",), ("small", "ordinary", "large"), ("zlib", "lzo", "zstd"), device=True
)
MANY = GuestRecipe(
    "many",
    1536,
    (
        *(f"run vmas vmas{count} {count} /disk/files/vmas" for count in VMAS),
        *(f"run threads threads{count} {count}" for count in THREADS),
    ),
    (*(f"vmas{count}" for count in VMAS), *(f"threads{count}" for count in THREADS)),
)
RESERVED = GuestRecipe(
    "reserved",
    192,
    tuple(f"run reserve reserve{gib} {gib}" for gib in RESERVED_GIB),
    tuple(f"reserve{gib}" for gib in RESERVED_GIB),
)
GUESTS = (LARGE, MANY, RESERVED)


@dataclass(frozen=True)
class Dumps:
    """The dumps of one guest.

    :ivar files: by format: elf, zlib, ...
    :ivar pids: by the names of the processes.
    """

    vmlinux: Path
    files: dict[str, Path]
    pids: dict[str, int]


def directory(root: Path | None) -> Path:
    """Where the benchmark keeps everything."""
    return root or cache_dir() / "benchmarks"


def get(recipe: GuestRecipe, root: Path | None) -> Dumps:
    """The dumps of a guest; made unless they are there."""
    place = directory(root) / recipe.name
    place.parent.mkdir(parents=True, exist_ok=True)
    with locked(f"benchmark-{recipe.name}"):
        install_host_tools()
        kernel = kernels.kernel(SUITE)
        sources = [PROGRAMS / "bench.h", *(PROGRAMS / f"{name}.c" for name in recipe.programs), VICTIMS / "victim.h"]
        if recipe is RESERVED:
            sources.append(Path(synthetic.__file__))
        recipe_hash = digest(sources, repr(recipe), SETUP, kernel.release, kernel.version)
        manifest = place / "manifest.json"
        told = json.loads(manifest.read_text()) if manifest.exists() else {}
        if told.get("recipe_hash") != recipe_hash:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            files, pids = _make(recipe, kernel, place)
            told = {"recipe_hash": recipe_hash, "release": kernel.release, "files": files, "pids": pids}
            manifest.write_text(json.dumps(told, indent=1) + "\n")
    paths = {form: place / file for form, file in told["files"].items()}
    return Dumps(kernel.directory / "vmlinux", paths, told["pids"])


def _make(recipe: GuestRecipe, kernel: kernels.Kernel, place: Path) -> tuple[dict[str, str], dict[str, int]]:
    say(f"{recipe.name}: building the guest")
    elf = place / "vmcore.elf"
    with _work(place) as work:
        initrd = _initrd(recipe, kernel, work)
        drives = [_disk(work / "disk")]
        if recipe.device:
            drives.append(_ordinary_bytes(work / "ordinary"))
        arguments = ["-machine", "pc", "-cpu", "max,-la57,-cx16", "-smp", "2", "-m", str(recipe.ram)]
        arguments += ["-kernel", str(kernel.directory / "vmlinuz"), "-initrd", str(initrd)]
        arguments += ["-append", CMDLINE, "-device", "vmcoreinfo"]
        for path in drives:
            arguments += ["-drive", f"file={path},format=raw,if=none,id={path.name},cache=unsafe"]
            arguments += ["-device", f"virtio-blk-pci,drive={path.name}"]
        with qemu.Guest(arguments, place / "serial.log") as guest:
            pids = {name: int(guest.wait_for(rf"PID {name} (\d+)", READY_TIMEOUT)) for name in recipe.names}
            guest.wait_for("READY", READY_TIMEOUT)
            say(f"{recipe.name}: dumping")
            guest.qmp("stop")
            guest.dump(elf, "elf")
    make_sparse(elf)
    files = {"elf": elf.name}
    if recipe.compressors:
        with readable_header(elf):
            for compressor in recipe.compressors:
                say(f"{recipe.name}: makedumpfile, {compressor}")
                wanted = Derived(f"vmcore.{compressor}", 17, compressor)
                dump = Makedumpfile.of(MAKEDUMPFILE_SUITE).derive(elf, wanted)
                if dump.error:
                    raise BuildError(dump.error)
                files[compressor] = dump.file
    if recipe is RESERVED:
        say(f"{recipe.name}: writing the page tables")
        sizes = {pids[f"reserve{gib}"]: gib << 30 for gib in RESERVED_GIB}
        synthetic.write(elf, kernel.directory / "vmlinux", place / "vmcore.synthetic", sizes)
        files["synthetic"] = "vmcore.synthetic"
    return files, pids


@contextmanager
def _work(place: Path) -> Iterator[Path]:
    work = place / "work"
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work)


def _initrd(recipe: GuestRecipe, kernel: kernels.Kernel, work: Path) -> Path:
    """The fixtures' initial ramdisk, and behind it (the kernel unpacks them one over the other) our programs."""
    setup = "\n".join([SETUP, *recipe.lines])
    (work / "sysroot").mkdir()
    base = initramfs.build(Recipe(recipe.name, SUITE, (), setup=setup), kernel, work, work / "sysroot")
    programs = work / "programs"
    (programs / "bin").mkdir(parents=True)
    for name in recipe.programs:
        initramfs.compile_c(PROGRAMS / f"{name}.c", programs / "bin" / name, f"-I{VICTIMS}")
    more = initramfs.pack(programs, work / "more")
    with base.open("ab") as target:
        target.write(bytes(-target.tell() % PAGE) + more.read_bytes())
    return base


def _disk(path: Path) -> Path:
    with path.open("wb") as handle:
        handle.truncate(1 << 30)
    run(["mkfs.ext4", "-q", "-F", "-E", "nodiscard", path])
    return path


def _ordinary_bytes(path: Path) -> Path:
    """Pages of the host's program files, those that are all zeros left out; over again if there are not enough."""
    files = sorted(
        file
        for root in ORDINARY_FROM
        for file in Path(root).rglob("*")
        if (".so" in file.name or root == "/usr/bin") and file.is_file() and not file.is_symlink()
        if file.stat().st_size >= ORDINARY_LEAST
    )
    zeros = bytes(PAGE)
    with path.open("wb") as target:
        while target.tell() < ORDINARY_SIZE:
            for file in files:
                data = file.read_bytes()
                whole = range(0, len(data) - len(data) % PAGE, PAGE)
                target.write(b"".join(page for at in whole if (page := data[at : at + PAGE]) != zeros))
                if target.tell() >= ORDINARY_SIZE:
                    break
        target.truncate(ORDINARY_SIZE)
    return path
