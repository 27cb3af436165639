# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian kernels of several suites: image, modules and vmlinux with DWARF, unpacked into the cache."""

from __future__ import annotations

import json
import lzma
import re
import shutil
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from .common import BuildError, Unavailable, cache_dir, say
from .packages import Package, Suite, locked

META = "linux-image-cloud-amd64"
# A suite whose kernel comes and goes: its absence must not fail a build.
MOVING_SUITES = frozenset({"sid"})


@dataclass(frozen=True)
class Kernel:
    """A kernel in the cache, and the packages it came from (name to version)."""

    suite: str
    release: str
    packages: dict[str, str]

    @property
    def directory(self) -> Path:
        """Where its files lie: vmlinuz, vmlinux, modules/."""
        return cache_dir() / "kernels" / self.release

    @property
    def version(self) -> str:
        """The Debian version of the image package."""
        return next(iter(self.packages.values()))

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

    def modules(self, wanted: list[str]) -> dict[str, bytes]:
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


def kernel(suite: str, *, update: bool = False) -> Kernel:
    """The kernel of a suite: the one recorded in the cache, or (first time, or update) the suite's newest."""
    record = cache_dir() / "kernels" / f"suite-{suite}.json"
    with locked(f"kernel-{suite}"):
        known = Kernel(**json.loads(record.read_text())) if record.exists() else None
        if known and not (known.directory / "vmlinux").exists():
            known = None
        if known and not update:
            return known
        try:
            fresh = _fetch(suite)
        except BuildError as error:
            if suite not in MOVING_SUITES:
                raise
            if known:
                say(f"{suite}: no newer kernel to be had, keeping {known.release}: {error}")
                return known
            raise Unavailable(f"the kernel of {suite} is not to be had: {error}") from error
        record.write_text(json.dumps(asdict(fresh), indent=1) + "\n")
        return fresh


def _fetch(name: str) -> Kernel:
    suite = Suite(name)
    suite.update()
    match = re.search(r"linux-image-(\S+-cloud-amd64)\b", suite.field(META, "Depends"))
    if not match:
        raise BuildError(f"{name}: {META} depends on no kernel image")
    release = match[1]
    image = suite.download(f"linux-image-{release}")
    debug = suite.download(f"linux-image-{release}-dbg")
    packages = [image, debug]
    depends = suite.field(image.name, "Depends")
    # Since 2025 or so the modules and the image come in packages of their own.
    for split in re.findall(rf"linux-(?:modules|binary)-{re.escape(release)}", depends):
        packages.append(suite.download(split))
    found = Kernel(name, release, {package.name: package.version for package in packages})
    if not (found.directory / "vmlinux").exists():
        _unpack(found, packages)
    return found


def _unpack(found: Kernel, packages: list[Package]) -> None:
    say(f"{found.suite}: unpacking {found.release}")
    temporary = found.directory.with_name(f".{found.release}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    for package in packages:
        if package.name.endswith("-dbg"):
            package.extract(temporary / "debug", "./usr/lib/debug/*vmlinux*")
        else:
            package.extract(temporary / "image")
    _place(temporary, "image/**/vmlinuz*", "vmlinuz")
    _place(temporary, "debug/**/vmlinux*", "vmlinux")
    _place(temporary, f"image/**/lib/modules/{found.release}", "modules")
    shutil.rmtree(temporary / "image")
    shutil.rmtree(temporary / "debug")
    shutil.rmtree(found.directory, ignore_errors=True)
    temporary.rename(found.directory)


def _place(root: Path, pattern: str, name: str) -> None:
    found = [path for path in root.glob(pattern) if not path.is_symlink()]
    if not found:
        raise BuildError(f"{root.name}: the packages hold no {pattern}")
    found[0].rename(root / name)
