# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine whose first process is Debian's systemd: what of it does not depend on kgcore.

It is booted by the tests (tests/vmcore/systemd_machine.py), with the kgcore of the working tree and a script. Here is
the tree of its root file system: Debian's systemd, Python and what kgcore needs for living processes; and the initial
ramdisk that mounts it. The kernel is newer than the rest, since SO_PEERPIDFD is of Linux 6.5.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path

from . import fixture, initramfs, kdump, toml
from .common import HERE, cache_dir, digest, say
from .kernels import Kernel
from .packages import Suite, locked
from .progress import PROGRESS
from .recipes import PYTHON_SUITE, Recipe

SYSTEMD = HERE / "systemd"
# (What packages depend on is brought along, but for what they pre-depend on.)
PRE_DEPENDS = tuple(
    "libacl1 libattr1 libaudit1 libblkid1 libbz2-1.0 libcap2 libcap-ng0 libcrypt1 libgcrypt20 libgmp10 liblz4-1 "
    "liblzma5 libmount1 libpam0g libpcre2-8-0 libselinux1 libsmartcols1 libtinfo6 libudev1 libuuid1 libzstd1 "
    "zlib1g".split()
)
PACKAGES = tuple(
    "systemd systemd-sysv systemd-coredump python3.11 python3-construct python3-pyelftools python3-zstandard "
    "base-passwd coreutils dash grep sed tar util-linux".split()
)
# What needs no program of theirs here, what they call otherwise, and what is virtual.
SKIPPED = frozenset({"debconf", "dpkg", "install-info", "perl", "python3"})
SKIPPED |= {"python3-cffi-backend-api-max", "python3-cffi-backend-api-min"}
WITHOUT = (*kdump.WITHOUT, "*/share/zoneinfo", "*/systemd/catalog", "*/share/bash-completion", "*/share/zsh")
# Nobody logs in; there is no udev, without which a serial line is no device that one might wait for.
MASKED = ("console-getty.service", "getty.target", "serial-getty@ttyS0.service", "systemd-logind.service")
WRITTEN = ("var/tmp", "var/log/journal", "var/lib/systemd/coredump")
MERGED = ("bin", "sbin", "lib", "lib64")

RECIPE = Recipe(
    "k612-systemd",
    "trixie",
    (),
    ram=512,
    elf=False,
    qemu_kdump=False,
    vmcoreinfo=False,
    note="boots when a test wants it; its first process is systemd",
)
RECIPES = {RECIPE.name: RECIPE}


def recipe_hash(wanted: Recipe, kernel: Kernel) -> str:
    """A hash of all that shapes the machine and its root file system. (Not of kgcore.)"""
    return digest(_sources(), fixture.recipe_hash(wanted, kernel))


def _sources() -> list[Path]:
    return [HERE / "systemd_guest.py", HERE / "packages.py", *SYSTEMD.iterdir()]


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
    initrd = initramfs.build(wanted, kernel, work, work / "sysroot")
    shutil.copyfile(SYSTEMD / "init", work / "root/init")
    initramfs.pack(work / "root", initrd)
    initrd.rename(target / "initrd")
    (target / "root").symlink_to(Path("../..", root().relative_to(cache_dir())))
    (target / "vmlinuz").symlink_to(Path("../../kernels", kernel.release, "vmlinuz"))
    values = {
        "name": wanted.name,
        "recipe_hash": recipe_hash(wanted, kernel),
        "suite": wanted.suite,
        "release": kernel.release,
        "flavour": wanted.flavour,
        "cpu": wanted.cpu,
        "ram_mib": wanted.ram,
        "note": wanted.note,
        "packages": kernel.packages,
    }
    (target / "manifest.toml").write_text(toml.dumps(values))
    shutil.rmtree(final, ignore_errors=True)
    target.rename(final)
    shutil.rmtree(work, ignore_errors=True)


def root() -> Path:
    """The root file system; in the cache, made if it is not there."""
    final = cache_dir() / "tools" / "systemd-root"
    stamp = final.with_name("systemd-root.stamp")
    wanted = digest(_sources())
    with locked("systemd-root"):
        if final.exists() and stamp.exists() and stamp.read_text() == wanted:
            return final
        say("building the root file system with systemd")
        temporary = final.with_name(".systemd-root.new")
        shutil.rmtree(temporary, ignore_errors=True)
        _fill(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        stamp.write_text(wanted)
    return final


def _fill(root: Path) -> None:
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in Suite.of(PYTHON_SUITE).with_libraries(*PACKAGES, *PRE_DEPENDS, skip=SKIPPED):
        package.extract(root, "--keep-directory-symlink", *(f"--exclude={pattern}" for pattern in WITHOUT), ".")
    for part in ("dev", "proc", "root", "run", "sys", "tmp", "usr/local/bin", "usr/local/sbin", "opt", *WRITTEN):
        (root / part).mkdir(parents=True, exist_ok=True)
    for part in ("tmp", "var/tmp"):
        (root / part).chmod(0o1777)
    _configure(root)
    # As the packages' maintainer scripts would have done.
    kdump.compile_all(root, root / "usr/lib/python3.11", root / "usr/lib/python3/dist-packages")
    for name in ("etc/.updated", "var/.updated"):
        (root / name).touch()


def _configure(root: Path) -> None:
    """What the maintainer scripts would have made, and the unit that runs a test's script."""
    for name in ("passwd", "group"):
        text = (root / f"usr/share/base-passwd/{name}.master").read_text()
        (root / "etc" / name).write_text(text.replace(":*:", ":x:"))
    with (root / "etc/group").open("a") as file:
        file.write("systemd-journal:x:999:\n")
    (root / "etc/machine-id").write_text("5b2c7a1e9d304f6c8e71a0b3c4d5e6f7\n")
    (root / "etc/hostname").write_text("guest\n")
    (root / "etc/fstab").touch()
    for name, target in (("sh", "dash"), ("python3", "python3.11")):
        link = root / "usr/bin" / name
        if not os.path.lexists(link):
            link.symlink_to(target)
    units = root / "etc/systemd/system"
    (units / "multi-user.target.wants").mkdir(parents=True, exist_ok=True)
    (units / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    shutil.copy2(SYSTEMD / "script.service", units)
    (units / "multi-user.target.wants/script.service").symlink_to("../script.service")
    shutil.copy2(SYSTEMD / "script", root / "usr/local/sbin/script")
    (root / "usr/local/sbin/script").chmod(0o755)
