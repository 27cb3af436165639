# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian kernels of several suites: image, modules and vmlinux with DWARF, unpacked into the cache."""

from __future__ import annotations

import json
import lzma
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from .common import BuildError, Unavailable, cache_dir, say
from .packages import Package, Suite, locked

FLAVOURS = {"cloud": "cloud-amd64", "full": "amd64", "rt": "rt-amd64", "686-pae": "686-pae", "686": "686"}
ARCHITECTURES = {"686-pae": "i386", "686": "i386"}
# The cloud kernels come with DWARF. That of the full ones is too big a download; and so is what they have of drivers.
# The 32-bit ones have no BTF, so there it must be.
DEBUG_FLAVOURS = frozenset({"cloud", "686-pae", "686"})
# zram and zsmalloc (a module up to 6.12): their types are of use. One pattern, because tar wants each to match.
DEBUG_MODULES = "./usr/lib/debug/lib/modules/*/z[rs][am]*.ko*"
WITHOUT = ("gpu/*", "net/*", "media/*", "staging/*", "sound/*")
# Suites whose kernel comes and goes: its absence must not fail a build.
MOVING_SUITES = frozenset({"sid", "trixie-backports", "experimental"})


@dataclass(frozen=True)
class Kernel:
    """A kernel in the cache, and the packages it came from (name to version)."""

    suite: str
    release: str
    packages: dict[str, str]
    flavour: str = "cloud"

    @property
    def directory(self) -> Path:
        """Where its files lie: vmlinuz, modules/, and (not of every flavour) vmlinux, debug-modules/."""
        return cache_dir() / "kernels" / self.release

    @property
    def version(self) -> str:
        """The Debian version of the image package."""
        return next(iter(self.packages.values()))

    @property
    def architecture(self) -> str:
        """Debian's name of its architecture, "" if it is the host's."""
        return ARCHITECTURES.get(self.flavour, "")

    @property
    def has_debug(self) -> bool:
        """Whether there is a vmlinux with DWARF."""
        return self.flavour in DEBUG_FLAVOURS

    @property
    def complete(self) -> bool:
        """Whether everything of it is in the cache."""
        wanted = ["vmlinuz", "modules", *(["vmlinux", "debug-modules"] if self.has_debug else [])]
        return all((self.directory / name).exists() for name in wanted)

    @cached_property
    def _files(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in (self.directory / "modules").rglob("*.ko*"):
            found[path.name.split(".ko")[0].replace("-", "_")] = path
        return found

    def module(self, name: str) -> bytes:
        """The (uncompressed) contents of a module."""
        path = self._files[name]
        if path.suffix == ".xz":
            return lzma.decompress(path.read_bytes())
        return path.read_bytes()

    def modules(self, wanted: Sequence[str]) -> dict[str, bytes]:
        """Modules by name with all they depend on, dependencies first; those built in or unknown are left out."""
        order: dict[str, bytes] = {}

        def visit(name: str) -> None:
            if name in order or name not in self._files:
                return
            data = self.module(name)
            # .modinfo holds NUL-terminated "depends=a,b"; no depmod is needed for this.
            match = re.search(rb"\0depends=([^\0]*)\0", data)
            for needed in match[1].decode().split(",") if match and match[1] else []:
                visit(needed.replace("-", "_"))
            order[name] = data

        for name in wanted:
            visit(name)
        return order


def kernel(suite: str, flavour: str = "cloud", *, update: bool = False) -> Kernel:
    """The kernel of a suite: the one recorded in the cache, or (first time, or update) the suite's newest."""
    name = suite if flavour == "cloud" else f"{suite}-{flavour}"
    record = cache_dir() / "kernels" / f"suite-{name}.json"
    with locked(f"kernel-{name}"):
        known = Kernel(**json.loads(record.read_text())) if record.exists() else None
        if known and not update and known.complete:
            return known
        try:
            fresh = _fetch(suite, flavour, known if known and not update else None)
        except BuildError as error:
            if suite not in MOVING_SUITES:
                raise
            if known and known.complete:
                say(f"{suite}: no newer kernel to be had, keeping {known.release}: {error}")
                return known
            raise Unavailable(f"the kernel of {suite} is not to be had: {error}") from error
        record.write_text(json.dumps(asdict(fresh), indent=1) + "\n")
        return fresh


def _fetch(name: str, flavour: str, known: Kernel | None) -> Kernel:
    """Bring the newest kernel into the cache; or, of a known one that is there in part, the rest."""
    suite = Suite.of(name, ARCHITECTURES.get(flavour, ""))
    if known and (packages := _cached(known)):
        _unpack(known, packages)
        return known
    meta = f"linux-image-{FLAVOURS[flavour]}"
    match = re.search(rf"linux-image-(\d\S*-{FLAVOURS[flavour]})(?![\w-])", suite.field(meta, "Depends"))
    if not match:
        raise BuildError(f"{name}: {meta} depends on no kernel image")
    release = match[1]
    image = f"linux-image-{release}"
    # Since 2025 or so the modules and the image come in packages of their own.
    split = re.findall(rf"linux-(?:modules|binary)-{re.escape(release)}", suite.field(image, "Depends"))
    packages = suite.download(image, *([f"{image}-dbg"] if flavour in DEBUG_FLAVOURS else []), *split)
    found = Kernel(name, release, {package.name: package.version for package in packages}, flavour)
    if not found.complete:
        _unpack(found, packages)
    return found


def _cached(known: Kernel) -> list[Package]:
    """The packages of a kernel, if all of them are in the cache."""
    packages: list[Package] = []
    for name, version in known.packages.items():
        for path in (cache_dir() / "debs").glob(f"{name}_{version.rpartition(':')[2]}_*.deb"):
            packages.append(Package(name, version, path))
    return packages if len(packages) == len(known.packages) else []


def _unpack(found: Kernel, packages: list[Package]) -> None:
    """Unpack what of a kernel is not in the cache yet; what is there may be in use."""
    say(f"{found.suite}: unpacking {found.release}")
    target = found.directory
    target.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    image, debug = temporary / "image", temporary / "debug"
    for package in packages:
        if not package.name.endswith("-dbg"):
            if not ((target / "vmlinuz").exists() and (target / "modules").exists()):
                package.extract(image, *(f"--exclude=*/{pattern}" for pattern in WITHOUT), ".")
            continue
        # One go: those packages are big, and take long to unpack.
        package.extract(debug, "./usr/lib/debug/*vmlinux*", DEBUG_MODULES)
        if not (target / "vmlinux").exists():
            _place(temporary, "debug/**/vmlinux*", target / "vmlinux")
        if not (target / "debug-modules").exists():
            modules = temporary / "debug-modules"
            modules.mkdir()
            for path in debug.rglob("z*.ko*"):
                path.rename(modules / path.name)
            modules.rename(target / "debug-modules")
    if image.exists():
        _place(temporary, "image/**/vmlinuz*", target / "vmlinuz")
        _place(temporary, f"image/**/lib/modules/{found.release}", target / "modules")
    shutil.rmtree(temporary, ignore_errors=True)


def _place(root: Path, pattern: str, target: Path) -> None:
    found = [path for path in root.glob(pattern) if not path.is_symlink()]
    if not found:
        raise BuildError(f"{target.parent.name}: the packages hold no {pattern}")
    if not target.exists():
        found[0].rename(target)
