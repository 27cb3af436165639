# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is done in a trial: bytes of a file are others, or a system call fails, or a signal comes; and the command."""

import errno
import os
import random
import shutil
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.campaign.btf import BtfDamage
from tests.campaign.material import CONTAINERS, OTHERS, PAGE, Base, Material, typical

ERRORS = {
    "open": (errno.ENOENT, errno.EACCES, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ENOSPC),
    "read": (errno.EIO, errno.ENOMEM),
    "pread": (errno.EIO, errno.ENOMEM, errno.ESTALE),
    "preadv": (errno.EIO, errno.ENOMEM, errno.EOPNOTSUPP, errno.ESTALE),
    "write": (errno.ENOSPC, errno.EIO, errno.EPIPE, errno.EDQUOT, errno.EFBIG),
    "pwrite": (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EINVAL),
    "pwritev": (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EINVAL),
    "lseek": (errno.ESPIPE, errno.EINVAL, errno.ENXIO),
    "ftruncate": (errno.EFBIG, errno.ENOSPC, errno.EIO),
    "fallocate": (errno.ENOSPC, errno.EOPNOTSUPP, errno.EIO),
    "fsync": (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EINVAL),
    "rename": (errno.EACCES, errno.ENOSPC, errno.EXDEV, errno.EROFS, errno.EEXIST, errno.EINVAL),
    "link": (errno.EEXIST, errno.EPERM, errno.ENOSPC, errno.EMLINK, errno.ENOENT),
    "unlink": (errno.EACCES, errno.EIO, errno.ENOENT),
    "mkdir": (errno.ENOSPC, errno.EACCES, errno.EROFS),
    "rmdir": (errno.ENOTEMPTY, errno.EIO),
    "mmap": (errno.ENOMEM,),
    "fork": (errno.EAGAIN, errno.ENOMEM),
    "pipe": (errno.EMFILE, errno.ENFILE),
    "dup": (errno.EMFILE,),
    "memfd": (errno.EMFILE, errno.ENOSYS, errno.ENOMEM),
    "poll": (errno.ENOMEM,),
    "wait": (errno.ECHILD,),
}
USUAL = (errno.EIO, errno.ENOMEM, errno.EACCES, errno.ENOSYS)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WORDS = (0, 1, 0xFF, 0xFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 31, 1 << 52, 1 << 60, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_HEADERS = 1 << 14  # bytes at the start of a container, where headers are


@dataclass
class Fault:
    """A system call that fails, or is interrupted.

    :ivar share: which of the calls of that kind, as a share of how many there are without a fault.
    :ivar many: how many fail from there on; 0: all.
    """

    kind: str = ""
    share: float = 0
    many: int = 1
    error: int = 0
    signal: int = 0


@dataclass
class Trial:
    """:ivar words: of the command, without ``kgcore``. OUT stands for a directory of the trial's own.
    :ivar patches: (file, offset, bytes), applied in order.
    :ivar cuts: (file, size).
    :ivar extras: made in a copy of the sysroot, if the command is about one: what to do with it.
    :ivar memory: bytes that it gets beyond what it has at the start; 0: as many as there are.
    :ivar comparable: what of memory is in a core must be as in the core of the undamaged dump.
    """

    words: list[str] = field(default_factory=list)
    patches: list[tuple[Path, int, bytes]] = field(default_factory=list)
    cuts: list[tuple[Path, int]] = field(default_factory=list)
    fault: Fault | None = None
    memory: int = 0
    comparable: bool = False
    base: Base | None = None
    sysroot: Path | None = None
    extras: list[Callable[[Path], None]] = field(default_factory=list)
    what: str = ""


def commands(base: Base, rng: random.Random) -> list[str]:
    """Any command on a dump."""
    pid = str(rng.choice(base.pids))
    choices: list[list[str]] = [
        ["info"],
        ["info", "--json"],
        ["ps"],
        ["ps", "--json"],
        ["-D", "OUT", pid],
        ["-D", "OUT", pid],
        ["-D", "OUT", pid],
        ["-D", "OUT", "--jobs", "2", "--all"],
        ["-D", "OUT", "-f", "127", "--missing", "zero", pid],
        ["-D", "OUT", "--compress", "gzip", pid],
        ["-D", "OUT", "--report", "OUT/report.json", pid],
        ["-D", "OUT", "--max-size", "1M", pid],
        ["-D", "OUT", "--max-size", "300K", "--limit", "largest-first", "-f", "127", pid],
        ["-D", "OUT", "--profile", "mini", pid],
        ["-D", "OUT", "--sysroot", "OUT/sysroot", pid],
        ["-o", "-", pid],
        ["--dry-run", pid],
        ["-v", "7", "-D", "OUT", pid],
        ["files", pid],
        ["files", "--json", pid],
        ["files", "--list", "OUT/list", pid],
        ["files", "--extract", "1", "-o", "OUT/extracted", pid],
        ["map", pid],
        ["map", "--json", pid],
        ["map", "--html", "OUT/map.html", pid],
        ["bt", "--all-threads", "--kernel-stack", pid],
        ["bt", "--json", pid],
    ]
    words = rng.choice(choices)
    return [*words[:1], *base.options, *words[1:]] if not words[0].startswith("-") else [*base.options, *words]


# Bytes of containers


def container(name: str) -> Callable[[Material, random.Random], Trial]:
    def make(material: Material, rng: random.Random) -> Trial:
        base = rng.choice(material.bases[name])
        trial = Trial(commands(base, rng), base=base)
        file = rng.choice(base.files)
        size = file.stat().st_size
        if rng.random() < 0.3:
            where = rng.choice((rng.randrange(size), rng.randrange(min(size, _HEADERS))))
            trial.cuts.append((file, where))
            trial.comparable = name in CONTAINERS
            return trial
        for _ in range(rng.choice((1, 1, 2, 8, 32))):
            limit = rng.choice((512, 4096, _HEADERS, size))
            trial.patches.append((file, *_patch(rng, file, min(limit, size))))
        return trial

    return make


def _patch(rng: random.Random, file: Path, limit: int) -> tuple[int, bytes]:
    at = rng.randrange(max(limit - 8, 1))
    kind = rng.randrange(5)
    if kind == 0:
        return at, bytes([rng.randrange(256)])
    if kind == 1:
        return at & ~7, struct.pack("<Q", rng.choice(_WORDS))
    if kind == 2:
        return at & ~3, struct.pack("<I", rng.choice(_WORDS) & 0xFFFFFFFF)
    if kind == 3:
        with file.open("rb") as opened:
            opened.seek(at & ~7)
            old = int.from_bytes(opened.read(8), rng.choice(("little", "big")))
        return at & ~7, (old + rng.choice((-1, 1, 4096, -4096, 1 << 32)) & (1 << 64) - 1).to_bytes(8, "little")
    size = rng.choice((16, 512, 4096))
    return at & -512, rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))


# Bytes of the kernel


INNOCENT = {"cred", "signal_struct", "sighand_struct", "pid", "nsproxy", "fdtable", "files_struct", "dentry"}
"""Structures that say nothing of where memory is."""


def structures(material: Material, rng: random.Random) -> Trial:
    base = rng.choice([base for base in material.bases["ELF"] if base.fields])
    trial = Trial(commands(base, rng), base=base, comparable=True)
    kind = rng.choice(sorted({field.type for field in base.fields}))
    mine = [field for field in base.fields if field.type == kind]
    with base.files[0].open("rb") as file:
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            field = rng.choice(mine)
            file.seek(field.offset)
            old = int.from_bytes(file.read(field.size), "little")
            value = typical(rng, old, field.size, base, field.offset)
            trial.patches.append((base.files[0], field.offset, value.to_bytes(field.size, "little")))
            trial.what += f" {kind}.{field.name}={value:#x}"
    trial.comparable = kind in INNOCENT
    return trial


def reads(name: str) -> Callable[[Material, random.Random], Trial]:
    """Anything that kgcore reads: page tables, trees, what compressed memory is found by."""

    def make(material: Material, rng: random.Random) -> Trial:
        base = rng.choice([base for base in material.bases[name] if base.reads])
        trial = Trial(commands(base, rng), base=base)
        with base.files[0].open("rb") as file:
            for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
                offset, size = rng.choice(base.reads)
                offset += rng.randrange(size) & ~7
                file.seek(offset)
                old = int.from_bytes(file.read(8), "little")
                value = typical(rng, old, 8, base, offset // PAGE)
                trial.patches.append((base.files[0], offset, value.to_bytes(8, "little")))
        return trial

    return make


_BTF: dict[Path, BtfDamage] = {}


def btf(material: Material, rng: random.Random) -> Trial:
    base = rng.choice([base for base in material.bases["ELF"] if "BTF" in base.regions])
    path = base.files[0]
    if path not in _BTF:
        _BTF[path] = BtfDamage(base.bytes_of("BTF"))
    trial = Trial(commands(base, rng), base=base)
    for offset, value in _BTF[path].words(rng).items():
        trial.patches.append((path, base.place("BTF", offset), struct.pack("<I", value)))
    return trial


def kallsyms(material: Material, rng: random.Random) -> Trial:
    base = rng.choice([base for base in material.bases["ELF"] if "kallsyms" in base.regions])
    trial = Trial(commands(base, rng), base=base)
    size = sum(size for _, size in base.regions["kallsyms"])
    for _ in range(rng.choice((1, 4, 64))):
        at = rng.choice((rng.randrange(size), size - 1 - rng.randrange(min(size, 2048)))) & ~3
        value = rng.choice((rng.randbytes(4), bytes(4), b"\xff" * 4))
        trial.patches.append((base.files[0], base.place("kallsyms", at), value))
    return trial


# What kgcore itself wrote


def cores(material: Material, rng: random.Random) -> Trial:
    path = rng.choice(material.cores)
    trial = Trial(["check", str(path), *rng.choice(([], ["--json"]))])
    size = path.stat().st_size
    if rng.random() < 0.3:
        trial.cuts.append((path, rng.choice((rng.randrange(size), rng.randrange(min(size, _HEADERS))))))
        return trial
    for _ in range(rng.choice((1, 1, 4, 32))):
        trial.patches.append((path, *_patch(rng, path, min(rng.choice((512, 4096, _HEADERS, size)), size))))
    return trial


def sysroots(material: Material, rng: random.Random) -> Trial:
    """A finished sysroot in which somebody has been busy; and another run into it."""
    root = rng.choice(material.sysroots)
    base = rng.choice(material.bases["kdump"])
    again = [*base.options, "-D", "OUT", "--sysroot", "ROOT", str(rng.choice(base.pids))]
    trial = Trial(rng.choice((["check", "ROOT"], ["check", "--json", "ROOT"], again)), sysroot=root, base=base)
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    for _ in range(rng.choice((1, 1, 2, 4))):
        trial.extras.append(_busy(rng, rng.choice([file for file in files if file.suffix == ".json"] + files)))
    return trial


def _busy(rng: random.Random, name: Path) -> Callable[[Path], None]:
    kind, seed = rng.randrange(6), rng.getrandbits(64)

    def act(root: Path) -> None:
        path, own = root / name, random.Random(seed)
        if not path.is_file() or path.is_symlink():
            return
        if kind in (0, 1):
            data = bytearray(path.read_bytes())
            for _ in range(own.choice((1, 8))):
                if data:
                    data[own.randrange(len(data))] = own.randrange(256)
            path.write_bytes(data)
            return
        if kind == 2:
            os.truncate(path, own.randrange(path.stat().st_size + 1))
            return
        path.unlink()
        if kind == 3:
            os.mkfifo(path)
        elif kind == 4:
            path.symlink_to(own.choice(("/dev/zero", "/etc/passwd", path.name, "..")))
        else:
            path.mkdir()
            shutil.copystat(root, path)

    return act


# The system


def failing(material: Material, rng: random.Random) -> Trial:
    base = rng.choice(material.bases[rng.choice([name for name in CONTAINERS if material.bases[name]])])
    trial = Trial(commands(base, rng), base=base, comparable=True)
    kind = rng.choice(("", *KINDS))
    error = rng.choice(ERRORS.get(kind, USUAL))
    trial.fault = Fault(kind, rng.random(), rng.choice((1, 1, 1, 3, 0)), error)
    trial.what = f" {kind or 'any call'} errno {errno.errorcode[error]} x{trial.fault.many}"
    return trial


KINDS = (
    "open read pread preadv write pwrite pwritev lseek ftruncate fallocate fsync rename link unlink mkdir rmdir stat "
    "mmap fork pipe dup chmod flock memfd getdents poll fadvise fcntl ioctl statx readlink copy mkfifo wait utime"
).split()


def signals(material: Material, rng: random.Random) -> Trial:
    base = rng.choice(material.bases[rng.choice([name for name in CONTAINERS if material.bases[name]])])
    trial = Trial(commands(base, rng), base=base, comparable=True)
    number = rng.choice(SIGNALS)
    trial.fault = Fault("", rng.random(), rng.choice((1, 1, 2)), 0, number)
    trial.what = f" {signal.Signals(number).name}"
    return trial


def little_memory(material: Material, rng: random.Random) -> Trial:
    base = rng.choice(material.bases[rng.choice([name for name in CONTAINERS if material.bases[name]])])
    trial = Trial(commands(base, rng), base=base, comparable=True)
    trial.memory = rng.randrange(1 << 16, 1 << rng.choice((22, 24, 26, 27)))
    trial.what = f" {trial.memory >> 10} KiB"
    return trial


CLASSES: dict[str, tuple[int, Callable[[Material, random.Random], Trial]]] = {
    **{f"container: {name}": (2, container(name)) for name in CONTAINERS},
    **{name: (2, container(name)) for name in OTHERS},
    "kernel structures, by type": (6, structures),
    "all that is read of the kernel": (4, reads("ELF")),
    "BTF": (3, btf),
    "kallsyms": (1, kallsyms),
    "zram": (2, reads("zram")),
    "zswap": (2, reads("zswap")),
    "finished cores": (2, cores),
    "sysroots": (1, sysroots),
    "system calls that fail": (5, failing),
    "signals": (3, signals),
    "little memory": (2, little_memory),
}
"""What is tried, by name: how often, and what makes a trial."""
