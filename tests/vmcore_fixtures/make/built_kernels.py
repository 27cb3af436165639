# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels that the fixtures build themselves, out of Debian's linux-source packages; built_configs.py says which.

What is in the cache stays: a kernel takes minutes to build. Those that take long are built only on demand.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from . import kernels
from .built_configs import CONFIGURATIONS, Configuration
from .common import BuildError, Unavailable, cache_dir, digest, run, say
from .kernels import Kernel
from .packages import Package, Suite, install_packages, locked
from .recipes import Recipe

PREFIX = "built-"
"""The flavour of a recipe with such a kernel begins with this."""
BUILD_TIMEOUT = 3 * 3600  # beside guests, whose emulated CPUs go first
# What a build needs on the host: a program or file that shows it to be there, and the package.
TOOLS = {
    "bc": "bc",
    "bison": "bison",
    "ccache": "ccache",
    "flex": "flex",
    "make": "make",
    "pahole": "dwarves",
    "perl": "perl",
    "/usr/include/libelf.h": "libelf-dev",
    "/usr/include/openssl/ssl.h": "libssl-dev",
    "kmod": "kmod",
}
CLANG_TOOLS = ("clang", "lld", "llvm")
# Of the sources, what no such kernel is made of. Kconfig and make read their own files there all the same.
UNUSED = (
    *(f"drivers/{name}" for name in "gpu net media staging sound infiniband scsi usb iio".split()),
    "sound",
    "fs/xfs",
    "fs/btrfs",
    *(f"arch/{name}" for name in "arm arm64 powerpc mips sparc m68k s390 sh alpha parisc riscv ia64 loongarch".split()),
)
LEFT_OUT = ("Documentation/*/*", "tools/testing/*", "tools/perf/*", "arch/*/boot/dts/*", "arch/*/configs/*")
# Nothing of the machine at hand in a kernel, and the same each time.
NEUTRAL = {
    "KBUILD_BUILD_TIMESTAMP": "2020-01-01",
    "KBUILD_BUILD_USER": "kgcore",
    "KBUILD_BUILD_HOST": "fixtures",
    "LC_ALL": "C",
}


class NotBuilt(Unavailable):
    """A kernel that takes long to build, and that nobody has asked for."""


@dataclass(frozen=True)
class BuiltKernel(Kernel):
    """A kernel in the cache that was built here. Packages: the source, and "configuration": a digest of what it is."""

    @property
    def version(self) -> str:
        """The Debian version of the source, and which configuration."""
        return " ".join(self.packages.values())

    @property
    def has_debug(self) -> bool:
        """There always is a vmlinux with DWARF."""
        return True


_on_demand: set[str] | None = set()
_building = threading.Lock()


def build_on_demand(flavours: Iterable[str] | None) -> None:
    """Say which kernels to build although that takes long.

    :param flavours: of recipes; None for all of them.
    """
    global _on_demand  # noqa: PLW0603  of one run of the command
    _on_demand = None if flavours is None else set(flavours)


def of(recipe: Recipe, *, update: bool = False) -> Kernel:
    """The kernel of a recipe, of whichever kind; see :func:`kernel` and :func:`kernels.kernel`."""
    if recipe.flavour.startswith(PREFIX):
        return kernel(recipe.flavour, update=update)
    return kernels.kernel(recipe.suite, recipe.flavour, update=update)


def fingerprint(wanted: Configuration) -> str:
    """What a configuration is, as a short hash."""
    values = sorted(f"{name}={value}" for name, (value, _) in wanted.wanted().items())
    return digest((), *values, wanted.clang)[:12]


def kernel(flavour: str, *, update: bool = False) -> BuiltKernel:
    """The kernel of a flavour: the one in the cache, or built now.

    :raises NotBuilt: it is not in the cache, and takes too long for whoever did not ask for it.
    """
    wanted = CONFIGURATIONS[flavour.removeprefix(PREFIX)]
    record = cache_dir() / "kernels" / f"{flavour}.json"
    with locked(f"kernel-{flavour}"):
        known = BuiltKernel(**json.loads(record.read_text())) if record.exists() else None
        if known and not known.complete:
            known = None
        current = known and known.packages["configuration"] == fingerprint(wanted)
        asked = _on_demand is None or flavour in _on_demand
        if known and ((current and not update) or not (asked or wanted.quick)):
            if not current:
                say(f"{flavour}: keeping {known.release}, which is not as built_configs.py has it now")
            return known
        if not (asked or wanted.quick):
            raise NotBuilt(
                f"the kernel {wanted.name} takes long to build: python3 -m tests.vmcore_fixtures.make --build-kernels"
            )
        source, folder = _source(wanted.suite)
        # One at a time, also of other runs: each takes all CPUs.
        with _building, locked("kernel-build"):
            fresh = _build(wanted, source, folder, flavour)
        record.write_text(json.dumps(asdict(fresh), indent=1) + "\n")
        return fresh


def _source(suite: str) -> tuple[Package, Path]:
    """The newest linux-source package of a suite, and where it is unpacked."""
    here = Suite.of(suite)
    match = re.search(r"linux-source-[\d.]+", here.field("linux-source", "Depends"))
    if not match:
        raise BuildError(f"{suite}: linux-source depends on no source")
    (package,) = here.download(match[0])
    folder = cache_dir() / "sources" / f"{package.name}_{package.version}"
    with locked(f"source-{suite}"):
        if not folder.exists():
            say(f"{suite}: unpacking {package.name} {package.version}")
            _unpack(package, folder)
    return package, folder


def _unpack(package: Package, folder: Path) -> None:
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    package.extract(temporary / "package", "./usr/src/*.tar.xz")
    (archive,) = (temporary / "package").rglob("*.tar.xz")
    left_out = [f"--exclude=*/{name}/*.[chS]" for name in UNUSED] + [
        f"--exclude={package.name}/{one}" for one in LEFT_OUT
    ]
    run(["tar", "-x", "-C", temporary, "-f", archive, "--wildcards", *left_out], timeout=900)
    next(path for path in temporary.iterdir() if path.name != "package").rename(folder)
    shutil.rmtree(temporary)


def _build(wanted: Configuration, source: Package, folder: Path, flavour: str) -> BuiltKernel:
    """Build it in a directory of its own, and put what guests and tests want of it in its place."""
    install_packages(_missing(wanted))
    work = cache_dir() / "sources" / f".build-{wanted.name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    say(f"{flavour}: building it from {source.name} {source.version}")
    make = _Make(wanted, folder, work)
    make.configure()
    make("bzImage", *(["modules"] if make.has_modules else []))
    release = (work / "include/config/kernel.release").read_text().strip()
    packages = {source.name: source.version, "configuration": fingerprint(wanted)}
    found = BuiltKernel(wanted.suite, release, packages, flavour)
    target = found.directory
    temporary = target.with_name(f".{target.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    for name in ("modules", "debug-modules"):
        (temporary / name).mkdir(parents=True)
    if make.has_modules:
        make("modules_install", f"INSTALL_MOD_PATH={work / 'installed'}", "INSTALL_MOD_STRIP=1", "DEPMOD=true")
        shutil.copytree(
            work / "installed/lib/modules" / release, temporary / "modules", symlinks=True, dirs_exist_ok=True
        )
        for path in work.glob("[dm]*/**/z[rs][am]*.ko"):
            shutil.copy2(path, temporary / "debug-modules")
    for name, place in {"vmlinuz": "arch/x86/boot/bzImage", "vmlinux": "vmlinux", "config": ".config"}.items():
        shutil.copy2(work / place, temporary / name)
    shutil.copy2(work / "System.map", temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    shutil.rmtree(work)
    say(f"{flavour}: {release} is built")
    return found


def _missing(wanted: Configuration) -> list[str]:
    """Packages of build tools that the host lacks."""
    tools = dict(TOOLS)
    for tool in CLANG_TOOLS if wanted.clang else ():
        tools[f"/usr/share/doc/{tool}-{wanted.clang}"] = f"{tool}-{wanted.clang}"
    found = {what: Path(what).exists() or shutil.which(what, path=_path()) for what in tools}
    return [package for what, package in tools.items() if not found[what]]


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class _Make:
    """``make`` for one kernel.

    :param folder: the sources.
    :param work: where everything is written.
    """

    def __init__(self, wanted: Configuration, folder: Path, work: Path) -> None:
        self._wanted, self._folder, self._work = wanted, folder, work
        suffix = f"-{wanted.clang}" if wanted.clang else ""
        compiler = f"clang{suffix}" if wanted.clang else "gcc"
        # (LLVM= with a suffix is understood from 5.18 on.)
        self._command = [
            "nice",
            "-n",
            "10",
            "make",
            "-C",
            str(folder),
            f"O={work}",
            f"-j{len(os.sched_getaffinity(0))}",
        ]
        self._command += [f"CC=ccache {compiler}", f"HOSTCC=ccache {compiler}"]
        if wanted.clang:
            self._command.append(f"LLVM={suffix}")
        self._environment = os.environ | NEUTRAL | {
            "PATH": _path(),
            "CCACHE_DIR": str(cache_dir() / "ccache"),
            "CCACHE_MAXSIZE": "3G",
            "CCACHE_BASEDIR": str(cache_dir()),
            "CCACHE_NOHASHDIR": "1",
        }  # fmt: skip
        self.has_modules = False

    def __call__(self, *targets: str) -> None:
        run([*self._command, *targets], timeout=BUILD_TIMEOUT, env=dict(self._environment))

    def configure(self) -> None:
        """Write .config, and see that it is what was wanted.

        :raises BuildError: an option is not to be had as wanted.
        """
        wanted = self._wanted.wanted()
        fragment = self._work / "wanted.config"
        lines = [f"CONFIG_{name}={value}\n" for name, (value, _) in wanted.items()]
        fragment.write_text("".join(lines) + f'CONFIG_LOCALVERSION="-{self._wanted.name}"\n')
        self._environment["KCONFIG_ALLCONFIG"] = str(fragment)
        self("allnoconfig")
        found = _options((self._work / ".config").read_text())
        lacking = [
            f"{name} is {found.get(name, 'n')}, not {value}"
            for name, (value, may_lack) in wanted.items()
            if found.get(name, "n") != value and not may_lack
        ]
        if lacking:
            raise BuildError(f"the kernel {self._wanted.name} is not to be had as wanted: {', '.join(lacking)}")
        self.has_modules = found.get("MODULES") == "y"


def _options(config: str) -> Mapping[str, str]:
    """What a .config sets."""
    return dict(re.findall(r"^CONFIG_(\w+)=(.*)$", config, re.MULTILINE))
