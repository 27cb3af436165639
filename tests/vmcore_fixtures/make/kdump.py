# SPDX-License-Identifier: LGPL-2.1-or-later
"""Machines that crash with the hook of contrib/kdump installed: what of them does not depend on kgcore.

The crash itself happens in the test (tests/vmcore/test_kdump.py), with the kgcore and the hook of the working tree.
Here is the guest that crashes, and the tree of the root file system of its capture kernel: Debian's Python,
makedumpfile and kdump-tools, and the libraries that kgcore needs.
"""

from __future__ import annotations

import shutil
import sys
import tomllib
import zipfile
from pathlib import Path

from . import fixture, initramfs, toml
from .common import HERE, BuildError, cache_dir, digest, run, say
from .kernels import Kernel
from .packages import Suite, locked
from .progress import PROGRESS
from .recipes import CRASHED, HUGE_PAGES, PYTHON_SUITE, Recipe

CAPTURE = HERE / "capture"
# (What packages depend on is brought along, but for what they pre-depend on.)
PRE_DEPENDS = ("libacl1", "libattr1", "libgmp10", "libselinux1")
# With all that they need; and what has many dependencies of which none is needed here.
PACKAGES = ("python3.11", "libstdc++6", "makedumpfile", "dash", "coreutils", "sed", *PRE_DEPENDS)
SINGLE_PACKAGES = ("kdump-tools", "sysvinit-utils")
WITHOUT = ("*/share/doc", "*/share/locale", "*/share/man", "*/share/i18n", "*/share/perl*", "*/perl*", "*/gconv")
WHEELS = ("drgn", "pyelftools", "construct", "rich", "pygments", "markdown-it-py", "mdurl", "zstandard")
SITE = "usr/local/lib/python3.11/dist-packages"


def recipe(name: str, suite: str) -> Recipe:
    """The guest that crashes."""
    return Recipe(
        name,
        suite,
        CRASHED,
        ram=704,
        append="isolcpus=1 crashkernel=256M",
        setup=HUGE_PAGES,
        elf=False,
        qemu_kdump=False,
        vmcoreinfo=False,
        kexec=True,
        note="crashes when a test wants it; its capture kernel takes cores with kgcore",
    )


RECIPES = {found.name: found for found in (recipe("k61-kdump", "bookworm"), recipe("k72-kdump", "sid"))}


def recipe_hash(wanted: Recipe, kernel: Kernel) -> str:
    """A hash of all that shapes the guest and the root file system. (Not of kgcore.)"""
    sources = [HERE / "kdump.py", HERE / "packages.py", *CAPTURE.iterdir()]
    return digest(sources, fixture.recipe_hash(wanted, kernel))


def up_to_date(wanted: Recipe, kernel: Kernel) -> bool:
    """Whether the cache holds just this."""
    try:
        manifest = tomllib.loads((fixture.directory(wanted) / "manifest.toml").read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return False
    return bool(manifest.get("recipe_hash") == recipe_hash(wanted, kernel))


def make(wanted: Recipe, kernel: Kernel) -> None:
    """Make it and put it in its place."""
    final = fixture.directory(wanted)
    final.parent.mkdir(parents=True, exist_ok=True)
    work = final.with_name(f".{wanted.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    target = work / "fixture"
    target.mkdir(parents=True)
    PROGRESS.step(wanted.name, "building the guest")
    initrd = initramfs.build(wanted, kernel, work, target / "sysroot")
    # Its capture kernel gets an init of our own.
    shutil.copy2(CAPTURE / "init", work / "capture/init")
    initramfs.pack(work / "capture", work / "root/kexec/initrd")
    initramfs.pack(work / "root", initrd)
    initrd.rename(target / "initrd")
    (target / "root").symlink_to(Path("../..", root().relative_to(cache_dir())))
    (target / "vmlinuz").symlink_to(Path("../../kernels", kernel.release, "vmlinuz"))
    values = {
        "name": wanted.name,
        "recipe_hash": recipe_hash(wanted, kernel),
        "suite": wanted.suite,
        "release": kernel.release,
        "cpu": wanted.cpu,
        "ram_mib": wanted.ram,
        "append": wanted.append,
        "note": wanted.note,
        "packages": kernel.packages,
    }
    (target / "manifest.toml").write_text(toml.dumps(values))
    shutil.rmtree(final, ignore_errors=True)
    target.rename(final)
    shutil.rmtree(work, ignore_errors=True)


def root() -> Path:
    """The root file system, which all have in common; in the cache, made if it is not there."""
    final = cache_dir() / "tools" / "kdump-root"
    stamp = final.with_name("kdump-root.stamp")
    wanted = digest([HERE / "kdump.py", HERE / "packages.py", CAPTURE / "debian"])
    with locked("kdump-root"):
        if final.exists() and stamp.exists() and stamp.read_text() == wanted:
            return final
        say("building the root file system of the capture kernels")
        temporary = final.with_name(".kdump-root.new")
        shutil.rmtree(temporary, ignore_errors=True)
        _fill(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        stamp.write_text(wanted)
    return final


def _fill(root: Path) -> None:
    suite = Suite.of(PYTHON_SUITE)
    for package in (*suite.with_libraries(*PACKAGES, skip=frozenset({"perl"})), *suite.download(*SINGLE_PACKAGES)):
        package.extract(root, *(f"--exclude={pattern}" for pattern in WITHOUT), ".")
    for part in ("dev", "proc", "run", "tmp", "var/crash", "etc/default", "usr/local/bin", "usr/local/sbin"):
        (root / part).mkdir(parents=True, exist_ok=True)
    shutil.copy2(root / "usr/share/kdump-tools/kdump-tools.conf", root / "etc/default/kdump-tools")
    shutil.copy2(CAPTURE / "debian", root / "debian")
    # What the packages' programs want of others (grep, logger, dmesg, mount, ...).
    busybox = shutil.which("busybox")
    if not busybox:
        raise BuildError("busybox is not installed")
    shutil.copy2(busybox, root / "bin/busybox")
    there = {path.name for folder in ("bin", "sbin", "usr/bin", "usr/sbin") for path in (root / folder).iterdir()}
    for applet in run([busybox, "--list"]).split():
        if applet not in there:
            (root / "bin" / applet).symlink_to("busybox")
    _install_wheels(root)
    # As the packages' maintainer scripts and pip would have done.
    compile_all(root, root / "usr/lib/python3.11", root / SITE)


def _install_wheels(root: Path) -> None:
    """For Debian's Python, which need not be the one that runs this."""
    wheels = root.with_name("wheels")
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    run([*command, "--only-binary", ":all:", "--python-version", "3.11", "-d", wheels, *WHEELS], timeout=600)
    for wheel in wheels.iterdir():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root / SITE)
    shutil.rmtree(wheels)


def compile_all(root: Path, *folders: Path) -> None:
    """Compile Python files with the Python of a root file system, on this machine."""
    libraries = root / "usr/lib/x86_64-linux-gnu"
    loader = [root / "lib64/ld-linux-x86-64.so.2", "--library-path", f"{root / 'lib/x86_64-linux-gnu'}:{libraries}"]
    words = [*loader, root / "usr/bin/python3.11", "-m", "compileall", "-q", "-s", root, "-p", "/", *folders]
    run([str(word) for word in words], env={"PYTHONHOME": str(root / "usr")})
