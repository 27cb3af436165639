# SPDX-License-Identifier: LGPL-2.1-or-later
"""Making one fixture: boot, dump, cores, variants, manifest; atomically, and only when its recipe changed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
import tomllib
from pathlib import Path
from typing import Any

from . import initramfs, moments, promises, qemu, toml
from .common import GUEST, HERE, VICTIMS, BuildError, cache_dir, digest, run
from .dumps import Dump, make_sparse, readable_header
from .kernels import MOVING_SUITES, Kernel
from .makedumpfile import Makedumpfile
from .progress import PROGRESS
from .recipes import CMDLINE, Derived, Recipe

OUTPUT_SIZE = 4 << 30
DISK_SIZE = 2 << 30
CORES_TIMEOUT = 600
# As /proc/swaps names them, and what they are called in the fixture; a guest need not have them all.
SWAPS = {"/dev/vdc": "swap-disk.img", "/disk/swap": "swap-file.img"}
SOURCES = [f"{name}.py" for name in "dumps fixture gdbstub initramfs makedumpfile moments promises qemu".split()]


def directory(recipe: Recipe) -> Path:
    """Where a fixture lies."""
    return cache_dir() / "fixtures" / recipe.name


def recipe_hash(recipe: Recipe, kernel: Kernel) -> str:
    """A hash of all that shapes a fixture: its recipe, the code that makes it, its victims, its kernel."""
    sources = [HERE / name for name in SOURCES] + [path for path in GUEST.iterdir() if path.is_file()]
    stems = sorted({initramfs.stem(name) for name in initramfs.programs(recipe)})
    sources += [path for name in stems for path in VICTIMS.glob(f"{name}.*")]
    sources += [*VICTIMS.glob("*.h"), VICTIMS / "python.py"]
    return digest(sources, repr(recipe), kernel.release, kernel.version)


def up_to_date(recipe: Recipe, kernel: Kernel) -> bool:
    """Whether the cache holds the fixture of just this recipe."""
    try:
        manifest = tomllib.loads((directory(recipe) / "manifest.toml").read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return False
    return bool(manifest.get("recipe_hash") == recipe_hash(recipe, kernel))


def make(recipe: Recipe, kernel: Kernel, maker: type[_Maker] | None = None) -> None:
    """Make a fixture and put it in its place; on failure the serial log stays beside it as NAME.failed.log.

    :param maker: who knows a step that is not as usual.
    """
    final = directory(recipe)
    final.parent.mkdir(parents=True, exist_ok=True)
    work = final.with_name(f".{recipe.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    target = work / "fixture"
    target.mkdir(parents=True)
    failed_log = final.with_name(f"{recipe.name}.failed.log")
    try:
        (maker or _Maker)(recipe, kernel, work, target).make()
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.copy2(target / "serial.log", failed_log)
        shutil.rmtree(work, ignore_errors=True)
        raise
    failed_log.unlink(missing_ok=True)
    old = final.with_name(f".{recipe.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    target.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)


class _Maker:
    """The steps of one fixture."""

    def __init__(self, recipe: Recipe, kernel: Kernel, work: Path, target: Path) -> None:
        self.recipe = recipe
        self.kernel = kernel
        # Now, not at the end: a source edited meanwhile must not count.
        self.hash = recipe_hash(recipe, kernel)
        self.work = work
        self.target = target
        self.dumps: list[Dump] = []
        self.swaps: list[dict[str, str]] = []
        self.crashed: list[int] = []
        self.broken: list[str] = []
        self.cmdline = f"{CMDLINE} {recipe.append}".strip()

    def make(self) -> None:
        """All steps in order."""
        self._say("building the guest")
        initrd = initramfs.build(self.recipe, self.kernel, self.work, self.target / "sysroot")
        self._disk("disk", DISK_SIZE)
        # Where a swap file lies must be known without a journal (_swap_images).
        features = ["-O", "^has_journal"] if self.recipe.swap_mib else []
        run(["mkfs.ext4", "-q", "-F", "-E", "nodiscard", *features, self.work / "disk"])
        self._disk("output", OUTPUT_SIZE)
        for name, size in self._third.items():
            self._disk(name, size)
        with qemu.Guest(self._arguments(initrd), self.target / "serial.log") as guest:
            if self.recipe.kexec:
                self._crash(guest)
            else:
                self._dump(guest)
        self._harvest()
        self._derive()
        if self.kernel.has_debug:
            for name in ("vmlinux", "debug-modules"):
                (self.target / name).symlink_to(Path("../../kernels", self.kernel.release, name))
        self._manifest()

    @property
    def _third(self) -> dict[str, int]:
        """The third disk, if the guest has one, and its size."""
        if self.recipe.kexec:
            return {"vmcore": OUTPUT_SIZE}
        return {"swap": self.recipe.swap_mib << 20} if self.recipe.swap_mib else {}

    def _say(self, text: str) -> None:
        PROGRESS.step(self.recipe.name, text)

    def _disk(self, name: str, size: int) -> None:
        with (self.work / name).open("wb") as handle:
            handle.truncate(size)

    def _arguments(self, initrd: Path) -> list[str]:
        arguments = ["-machine", "pc", "-cpu", self.recipe.cpu, "-smp", "2", "-m", str(self.recipe.ram)]
        arguments += ["-kernel", str(self.kernel.directory / "vmlinuz"), "-initrd", str(initrd)]
        arguments += ["-append", self.cmdline]
        for name in ("disk", "output", *self._third):
            arguments += ["-drive", f"file={self.work / name},format=raw,if=none,id={name},cache=unsafe"]
            arguments += ["-device", f"virtio-blk-pci,drive={name}"]
        if self.recipe.numa:
            for node in range(2):
                arguments += ["-object", f"memory-backend-ram,id=node{node},size={self.recipe.ram // 2}M"]
                arguments += ["-numa", f"node,memdev=node{node},cpus={node}"]
        if self.recipe.vmcoreinfo:
            arguments += ["-device", "vmcoreinfo"]
        return arguments

    def _dump(self, guest: qemu.Guest) -> None:
        guest.wait_for("READY", self.recipe.boot_timeout)
        self._say("dumping")
        for number, moment in enumerate(self.recipe.moments, 1):
            with moments.stopped(guest, moment):
                stem = "vmcore" if number == 1 else f"vmcore-{number}"
                if self.recipe.elf:
                    guest.dump(self.target / f"{stem}.elf", "elf")
                    self.dumps.append(Dump(f"{stem}.elf", "qemu-elf", 0))
                if self.recipe.qemu_kdump and number == 1:
                    guest.dump(self.target / "vmcore.qemu-flat", "kdump-zlib")
                    self.dumps.append(Dump("vmcore.qemu-flat", "qemu-kdump-flattened", 0, "zlib"))
                if number == 1:
                    self._swap_images()
        guest.send("go\n")
        self._say("taking the kernel's cores")
        guest.wait_for("DONE", CORES_TIMEOUT)
        guest.wait_end(60)

    def _swap_images(self) -> None:
        """Copies of the swap devices, of the same moment as the dump. (The guest had all of its pages written.)"""
        if not self.recipe.swap_mib:
            return
        for device, image in SWAPS.items():
            if device.startswith("/dev/"):
                shutil.copyfile(self.work / "swap", self.target / image)
            else:
                inside = device.removeprefix("/disk")
                run(["debugfs", "-R", f"dump {inside} {self.target / image}", self.work / "disk"])
            if (self.target / image).exists():
                make_sparse(self.target / image)
                self.swaps.append({"device": device, "image": image})

    def _crash(self, guest: qemu.Guest) -> None:
        guest.wait_for("READY", self.recipe.boot_timeout)
        self._say("crashing")
        before = int(time.time())
        guest.send("go\n")
        guest.wait_for("CAPTURE", 180)
        self.crashed = [before, int(time.time())]
        self._say("copying /proc/vmcore")
        size = int(guest.wait_for(r"VMCORE (\d+)", 600))
        guest.wait_for("DONE", 60)
        guest.wait_end(60)
        path = self.target / "vmcore.kexec"
        shutil.move(self.work / "vmcore", path)
        os.truncate(path, size)
        make_sparse(path)
        self.dumps.append(Dump("vmcore.kexec", "kexec-elf", 0, tool="/proc/vmcore"))

    def _harvest(self) -> None:
        """Unpack what the guest wrote to its output disk (a sparse tar on the raw device)."""
        run(["tar", "-x", "--no-same-owner", "-f", self.work / "output", "-C", self.target], timeout=600)
        shutil.rmtree(self.target / "truth/cores", ignore_errors=True)
        (self.target / "cores").rename(self.target / "truth/cores")
        for dump in self.dumps:
            if dump.format == "qemu-elf":
                make_sparse(self.target / dump.file)

    def _derive(self) -> None:
        self._say("deriving dumps")
        elf = self.target / ("vmcore.kexec" if self.recipe.kexec else "vmcore.elf")
        if self.recipe.derived:
            with readable_header(elf):
                self.dumps += [self._variant(elf, wanted) for wanted in self.recipe.derived]
        if self.recipe.qemu_kdump:
            Makedumpfile.of("host").unflatten(self.target / "vmcore.qemu-flat", self.target / "vmcore.qemu-kdump")
            self.dumps.append(Dump("vmcore.qemu-kdump", "qemu-kdump", 0, "zlib"))
        for dump in self.dumps:
            if dump.error:
                self._say(f"NO {dump.file}: {dump.error.splitlines()[-1].strip()}")

    def _variant(self, elf: Path, wanted: Derived) -> Dump:
        try:
            tool = Makedumpfile.of(wanted.tool)
        except BuildError as error:
            if wanted.tool not in MOVING_SUITES:
                raise
            return Dump(wanted.file, "makedumpfile", wanted.level, wanted.compressor, wanted.tool, str(error))
        return tool.derive(elf, wanted)

    def _victims(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for victim in self.recipe.victims:
            for name in victim.names:
                path = self.target / "truth/victims" / f"{name}.json"
                if not path.exists():
                    why = self._log(victim.names[0])
                    self._say(f"NO VICTIM {name}: {why}")
                    rows.append({"name": name, "program": victim.program, "skipped": why})
                    continue
                told = json.loads(path.read_text(errors="surrogateescape"))
                self.broken += promises.broken(self.target / "truth/proc", told)
                pid = told["pid"]
                proc = self.target / "truth/proc" / str(pid)
                tids = sorted(int(entry.name) for entry in (proc / "task").iterdir())
                row: dict[str, Any] = {"name": name, "program": victim.program, "pid": pid, "tgid": pid, "tids": tids}
                with contextlib.suppress(OSError, ValueError):
                    row["filter"] = int((proc / "coredump_filter").read_text(), 16)
                core = self.target / f"truth/cores/core.{pid}"
                if core.exists():
                    row["core"] = f"truth/cores/core.{pid}"
                elif self.recipe.kexec:
                    row["no_core"] = "the machine crashed"
                else:
                    row["no_core"] = victim.without_core.get(name, "the kernel wrote none")
                rows.append(row)
        return rows

    def _log(self, name: str) -> str:
        with contextlib.suppress(OSError):
            return (self.target / f"truth/victims/{name}.log").read_text(errors="replace").strip() or "no log"
        return "no log"

    def _manifest(self) -> None:
        victims = self._victims()
        self._check(victims)
        recipe = self.recipe
        values: dict[str, Any] = {
            "name": recipe.name,
            "recipe_hash": self.hash,
            "suite": recipe.suite,
            "release": self.kernel.release,
            "flavour": recipe.flavour,
            "vmlinux": self.kernel.has_debug,
            "qemu": qemu.version(),
            "cmdline": self.cmdline,
            "cpu": recipe.cpu,
            "cpus": 2,
            "ram_mib": recipe.ram,
            "vmcoreinfo": recipe.vmcoreinfo,
            "note": recipe.note,
            "packages": self.kernel.packages,
            "dumps": [{key: value for key, value in vars(dump).items() if value != ""} for dump in self.dumps],
            **({"crashed": self.crashed} if self.crashed else {}),
            **({"swaps": self.swaps} if self.swaps else {}),
            "victims": victims,
        }
        (self.target / "manifest.toml").write_text(toml.dumps(values))

    def _check(self, victims: list[dict[str, Any]]) -> None:
        """What is not as the tests need it makes the fixture worthless: say so now, not there."""
        expected = {name for v in self.recipe.victims for name in v.names if name not in v.without_core}
        missing = [row["name"] for row in victims if row["name"] in expected and "core" not in row and "pid" in row]
        if missing and not self.recipe.kexec:
            raise BuildError(f"{self.recipe.name}: the kernel wrote no core of {', '.join(missing)}")
        if self.broken:
            raise BuildError(f"{self.recipe.name}: not as promised: {'; '.join(self.broken)}")
        for core in (self.target / "truth/cores").iterdir():
            if not re.fullmatch(r"core\.\d+", core.name) or os.path.getsize(core) < 4096:
                raise BuildError(f"{self.recipe.name}: unexpected or empty core {core.name}")
