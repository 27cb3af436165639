# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest's initial ramdisk: busybox, our init, modules, compiled victims, and programs with their libraries."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.vmcore.patterns import stock

from .common import GUEST, HERE, VICTIMS, BuildError, run
from .kernels import ARCHITECTURES, Kernel
from .packages import Package, Suite
from .recipes import CMDLINE, MODULES, PYTHON_SUITE, Recipe

# The binaries name no directory of this machine.
COMMON = ["-g", "-Wall", "-Wextra", f"-ffile-prefix-map={HERE}=."]
CFLAGS = [*COMMON, "-D_GNU_SOURCE", "-pthread"]
# These are linked dynamically, without optimisation: for backtraces through shared libraries.
DYNAMIC = frozenset({"dynamic"})
# A program called NAME-ABI is NAME.c compiled for that: the compiler's flags, the loader and the libraries.
ABIS = {
    "ia32": ("-m32", "/lib/ld-linux.so.2", "/lib32/libc.so.6"),
    "i686": ("-m32 -march=i686", "/lib/ld-linux.so.2", "/lib32/libc.so.6"),  # without SSE
    "x32": ("-mx32", "/libx32/ld-linux-x32.so.2", "/libx32/libc.so.6"),
}
# 32-bit without libc, which the host need not have: started by the 64-bit program of the same name.
FREESTANDING = ["-m32", "-O1", "-ffreestanding", "-fno-pie", "-fno-stack-protector", "-fno-asynchronous-unwind-tables"]
FREESTANDING += ["-msse2", "-nostdlib", "-static"]
# What a guest of another architecture has instead of the host's busybox, and of its tar with all that needs.
FOREIGN_BUSYBOX = "busybox-static"
FOREIGN_TAR = ("tar", "libacl1", "libselinux1", "libpcre2-8-0", "libc6", "libgcc-s1")
FOREIGN_FLAGS = {"": (), "i386": ("-m32", "-march=i686")}
CRASH_CMDLINE = f"{CMDLINE} nr_cpus=1 irqpoll reset_devices"


def stem(program: str) -> str:
    """The name of a program's source, without the suffix."""
    return program.partition("-")[0]


def programs(recipe: Recipe) -> list[str]:
    """The compiled victims of a recipe."""
    return sorted({victim.program for victim in recipe.victims if (VICTIMS / f"{stem(victim.program)}.c").exists()})


def compile_c(source: Path, target: Path, *flags: str, dynamic: bool = False) -> None:
    """Compile one C file for the guest."""
    kind = ["-O0"] if dynamic else ["-O1", "-static"]
    run(["gcc", *CFLAGS, *flags, *kind, "-o", target, source])


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
    own = FOREIGN_FLAGS[kernel.architecture]
    compile_c(GUEST / "capture.c", root / "bin/capture", *own)
    _add_tar(root, kernel)
    (sysroot / "victims").mkdir(parents=True)
    if _has_python(recipe):
        _add_python(root, sysroot)
    for name in programs(recipe):
        _add_victim(name, root, sysroot)
    if recipe.swap_mib:
        compile_c(GUEST / "swapon.c", root / "bin/swapon_with", *own)
        compile_c(GUEST / "swapfirst.c", root / "bin/swapfirst", *own)
        shutil.copy2(GUEST / "swap", root / "recipe/swap")
        (root / "recipe/stock").write_bytes(stock())
    symbols = dict.fromkeys(name for moment in recipe.moments for name in moment.functions)
    (root / "recipe/symbols").write_text(" ".join(symbols))
    (root / "recipe/setup").write_text(recipe.setup + "\n")
    starts = (line + "\n" for victim in recipe.victims for line in (*victim.before, victim.start_line()))
    (root / "recipe/victims").write_text("".join(starts))
    # Those that spin first: they take the time of the others.
    dying = sorted(recipe.victims, key=lambda victim: not victim.names[0].startswith("spin"))
    (root / "recipe/cores").write_text("".join(line + "\n" for victim in dying for line in victim.core_lines()))
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
    if kernel.architecture:
        (package,) = Suite.of(PYTHON_SUITE, kernel.architecture).download(FOREIGN_BUSYBOX)
        package.extract(root, "./bin/busybox")
    else:
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


def _add_tar(root: Path, kernel: Kernel) -> None:
    """GNU tar, because busybox has one that cannot write sparse members."""
    if not kernel.architecture:
        tar = Path(shutil.which("tar") or "/bin/tar").resolve()
        shutil.copy2(tar, root / "bin/gnutar")
        for library in libraries(tar):
            install(library, root)
        return
    for package in Suite.of(PYTHON_SUITE, kernel.architecture).download(*FOREIGN_TAR):
        package.extract(root / "foreign", "--exclude=./usr/share", ".")
    # By a loader of its own: another's libraries, if a victim brings them, are elsewhere.
    places = "/foreign/lib/i386-linux-gnu:/foreign/usr/lib/i386-linux-gnu"
    loader = "/foreign/lib/i386-linux-gnu/ld-linux.so.2"
    (root / "bin/gnutar").write_text(f'#!/bin/sh\nexec {loader} --library-path {places} /foreign/bin/tar "$@"\n')
    (root / "bin/gnutar").chmod(0o755)


def _add_victim(name: str, root: Path, sysroot: Path) -> None:
    target = root / "victims" / name
    dynamic = stem(name) in DYNAMIC
    flags, needed = [], []
    if abi := name.partition("-")[2]:
        # The host's kernel need not run such programs, so ldd cannot be asked.
        flag, *paths = ABIS[abi]
        flags, needed = flag.split(), [Path(path) for path in paths]
    compile_c(VICTIMS / f"{stem(name)}.c", target, *flags, dynamic=dynamic)
    (root / "bin" / name).symlink_to(f"/victims/{name}")
    shutil.copy2(target, sysroot / "victims" / name)
    if dynamic:
        for library in needed or libraries(target):
            install(library, root, sysroot)
    freestanding = VICTIMS / f"{name}.bin.c"
    if freestanding.exists():
        binary = root / "victims" / f"{name}.bin"
        run(["gcc", *COMMON, *FREESTANDING, "-o", binary, freestanding])
        shutil.copy2(binary, sysroot / "victims" / binary.name)


def fetch_packages(recipe: Recipe) -> None:
    """Bring into the cache what packages the guest is going to be made of, besides its kernel."""
    if architecture := ARCHITECTURES.get(recipe.flavour):
        Suite.of(PYTHON_SUITE, architecture).download(FOREIGN_BUSYBOX, *FOREIGN_TAR)
    if _has_python(recipe):
        _pythons()


def _has_python(recipe: Recipe) -> bool:
    return any(victim.program == "python3.11" for victim in recipe.victims)


def _pythons() -> list[Package]:
    return Suite.of(PYTHON_SUITE).with_libraries("python3.11-minimal", skip=frozenset({"libc6"}))


def _add_python(root: Path, sysroot: Path) -> None:
    """Debian's Python as the packages have it, on the host's libc (both are of the same suite)."""
    for package in _pythons():
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
