# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest's initial ramdisk: busybox, our init, modules, compiled victims, and programs with their libraries."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.vmcore.patterns import stock

from .common import GUEST, HERE, VICTIMS, BuildError, run
from .kernels import Kernel
from .packages import Suite, locked
from .recipes import MODULES, PYTHON_SUITE, Recipe

# The binaries name no directory of this machine.
COMMON = ["-g", "-Wall", "-Wextra", f"-ffile-prefix-map={HERE}=."]
CFLAGS = [*COMMON, "-D_GNU_SOURCE", "-pthread"]
# These are linked dynamically, without optimisation: for backtraces through shared libraries.
DYNAMIC = frozenset({"dynamic"})
# 32-bit without libc, which the host need not have: started by the 64-bit program of the same name.
FREESTANDING = ["-m32", "-O1", "-ffreestanding", "-fno-pie", "-fno-stack-protector", "-fno-asynchronous-unwind-tables"]
FREESTANDING += ["-msse2", "-nostdlib", "-static"]
CRASH_CMDLINE = "console=ttyS0 nr_cpus=1 irqpoll reset_devices panic=-1 loglevel=4"


def programs(recipe: Recipe) -> list[str]:
    """The compiled victims of a recipe."""
    return sorted({victim.program for victim in recipe.victims if (VICTIMS / f"{victim.program}.c").exists()})


def compile_c(source: Path, target: Path, *, dynamic: bool = False) -> None:
    """Compile one C file for the guest."""
    kind = ["-O0"] if dynamic else ["-O1", "-static"]
    run(["gcc", *CFLAGS, *kind, "-o", target, source])


def libraries(program: Path) -> list[Path]:
    """The shared libraries and the dynamic loader that a program of the host needs."""
    listing = run(["ldd", program])
    return [Path(word) for word in re.findall(r"(/\S+) \(0x", listing)]


def install(path: Path, *roots: Path) -> None:
    """Copy a file of the host to the same place under other roots."""
    for root in roots:
        target = root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


def build(recipe: Recipe, kernel: Kernel, work: Path, sysroot: Path) -> Path:
    """Make the initial ramdisk in the work directory; what debuggers want of it also goes to the sysroot."""
    root = work / "root"
    _base(root, kernel, GUEST / "init", [*recipe.modules, *MODULES])
    for part in ("tmp", "truth", "recipe", "victims"):
        (root / part).mkdir(parents=True)
    compile_c(GUEST / "capture.c", root / "bin/capture")
    (sysroot / "victims").mkdir(parents=True)
    if any(victim.program == "python3.11" for victim in recipe.victims):
        _add_python(root, sysroot)
    for name in programs(recipe):
        _add_victim(name, root, sysroot)
    # GNU tar, because busybox has one that cannot write sparse members.
    tar = Path(shutil.which("tar") or "/bin/tar").resolve()
    shutil.copy2(tar, root / "bin/gnutar")
    for library in libraries(tar):
        install(library, root)
    if recipe.swap_mib:
        compile_c(GUEST / "swapon.c", root / "bin/swapon_with")
        compile_c(GUEST / "swapfirst.c", root / "bin/swapfirst")
        shutil.copy2(GUEST / "swap", root / "recipe/swap")
        (root / "recipe/stock").write_bytes(stock())
    (root / "recipe/setup").write_text(recipe.setup + "\n")
    (root / "recipe/victims").write_text(
        "".join(line + "\n" for v in recipe.victims for line in (*v.before, v.start_line()))
    )
    (root / "recipe/cores").write_text("".join(line + "\n" for v in recipe.victims for line in v.core_lines()))
    if recipe.kexec:
        _add_crash_kernel(root, kernel, work)
    return pack(root, work / "initrd")


def _base(root: Path, kernel: Kernel, init: Path, wanted: Sequence[str] = MODULES) -> None:
    """Busybox, the modules and the first process."""
    for part in ("bin", "proc", "sys", "dev", "modules"):
        (root / part).mkdir(parents=True)
    busybox = shutil.which("busybox")
    if not busybox:
        raise BuildError("busybox is not installed")
    shutil.copy2(busybox, root / "bin/busybox")
    for applet in run([busybox, "--list"]).split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    modules = kernel.modules(wanted)
    for name, data in modules.items():
        (root / "modules" / f"{name}.ko").write_bytes(data)
    (root / "modules/order").write_text("\n".join(modules) + "\n")
    shutil.copy2(init, root / "init")
    (root / "init").chmod(0o755)


def _add_victim(name: str, root: Path, sysroot: Path) -> None:
    target = root / "victims" / name
    compile_c(VICTIMS / f"{name}.c", target, dynamic=name in DYNAMIC)
    (root / "bin" / name).symlink_to(f"/victims/{name}")
    shutil.copy2(target, sysroot / "victims" / name)
    if name in DYNAMIC:
        for library in libraries(target):
            install(library, root, sysroot)
    freestanding = VICTIMS / f"{name}.bin.c"
    if freestanding.exists():
        binary = root / "victims" / f"{name}.bin"
        run(["gcc", *COMMON, *FREESTANDING, "-o", binary, freestanding])
        shutil.copy2(binary, sysroot / "victims" / binary.name)


def _add_python(root: Path, sysroot: Path) -> None:
    """Debian's Python as the packages have it, on the host's libc (both are of the same suite)."""
    with locked("python-packages"):
        suite = Suite(PYTHON_SUITE)
        suite.update()
        packages = suite.with_libraries("python3.11-minimal", skip=frozenset({"libc6"}))
    for package in packages:
        for target in (root, sysroot):
            package.extract(target, "--exclude=./usr/share/doc", ".")
    python = root / "usr/bin/python3.11"
    for library in libraries(Path("/bin/sh")):
        install(library, root, sysroot)
    libm = Path("/lib/x86_64-linux-gnu/libm.so.6")
    install(libm, root, sysroot)
    (root / "bin/python3.11").symlink_to(f"/{python.relative_to(root)}")
    shutil.copy2(VICTIMS / "python.py", root / "victims/python.py")
    shutil.copy2(VICTIMS / "python.py", sysroot / "victims/python.py")


def _add_crash_kernel(root: Path, kernel: Kernel, work: Path) -> None:
    """A crash kernel and its own small ramdisk, loaded (and then deleted) by the guest."""
    compile_c(GUEST / "kexec_load.c", root / "bin/kexec_load")
    capture = work / "capture"
    _base(capture, kernel, GUEST / "capture_init")
    (root / "kexec").mkdir()
    pack(capture, root / "kexec/initrd")
    shutil.copy2(kernel.directory / "vmlinuz", root / "kexec/vmlinuz")
    (root / "recipe/crash").write_text(CRASH_CMDLINE + "\n")


def pack(root: Path, target: Path) -> Path:
    """Pack a directory as an (uncompressed: it boots faster) initial ramdisk."""
    run(["sh", "-c", 'cd "$1" && find . | cpio -o -H newc -R 0:0 > "$2"', "sh", root, target])
    return target
