# SPDX-License-Identifier: LGPL-2.1-or-later
"""Name files that are no vmcores, or in a format that kgcore does not read, and say what to do."""

import shlex
from pathlib import PurePath
from typing import NamedTuple

from kgcore.errors import TargetError

__all__ = ("HEAD_SIZE", "refusal")

HEAD_SIZE = 4096
"""Bytes that tell a format."""


class _Packer(NamedTuple):
    magic: bytes
    name: str
    suffix: str


class _Other(NamedTuple):
    magic: bytes
    name: str
    remedy: str = ""
    offset: int = 0


_PACKERS = (
    _Packer(b"\x1f\x8b", "gzip", ".gz"),
    _Packer(b"\xfd7zXZ\0", "xz", ".xz"),
    _Packer(b"\x28\xb5\x2f\xfd", "zstd", ".zst"),
    _Packer(b"BZh", "bzip2", ".bz2"),
    _Packer(b"\x04\x22\x4d\x18", "lz4", ".lz4"),
    _Packer(b"\x89LZO\0\r\n\x1a\n", "lzop", ".lzo"),
)

_VMWARE = "a VMware snapshot (.vmss, .vmsn)", "make a vmcore of it with VMware's vmss2core -N6"
_LIBVIRT = "a libvirt save image", "dump the guest again with virsh dump --memory-only"
_QEMU = "a QEMU migration stream", "dump the guest again with QEMU's dump-guest-memory"
_XEN = "a saved Xen domain", ""
_WINDOWS = "a Windows crash dump", ""
_HIBERNATED = "a Windows hibernation file", ""

_OTHERS = (
    _Other(b"LibvirtQemudSave", *_LIBVIRT),
    _Other(b"LibvirtQemudPart", "an incomplete libvirt save image", _LIBVIRT[1]),
    _Other(b"QEVM", *_QEMU),
    _Other(
        b"QFI\xfb",
        "a QEMU disk image (qcow2)",
        "kgcore cannot read a snapshot's memory in it: load it, then dump the guest",
    ),
    # vmss2core and Volatility's vmware layer: u32 0xbed2bed0, 0xbad1bad1, 0xbed2bed2, 0xbed3bed3
    *(_Other(magic, *_VMWARE) for magic in (b"\xd0\xbe\xd2\xbe", b"\xd1\xba" * 2, b"\xd2\xbe" * 2, b"\xd3\xbe" * 2)),
    _Other(
        b"\x7fVirtualBox SavedState",
        "a VirtualBox saved state",
        "dump the running guest with VBoxManage debugvm NAME dumpvmcore",
    ),
    _Other(b"\x14\x20\x28\x01", "a Hyper-V saved state (.vmrs)"),  # HyperVStorage's header signature 0x01282014
    _Other(b"sadump\0\0", "a sadump file (Fujitsu)", "convert it: makedumpfile -c -d 17 -x VMLINUX FILE vmcore"),
    _Other(b"Xen saved domain", *_XEN),
    _Other(b"LinuxGuestRecord", *_XEN),
    _Other(b"\xed\xeb\x0f\xf0", "a Xen core of the old kind"),  # XC_CORE_MAGIC 0xF00FEBED
    _Other(b"\xee\xeb\x0f\xf0", "a Xen core of the old kind"),  # XC_CORE_MAGIC_HVM 0xF00FEBEE
    _Other(b"AVML", "a compressed AVML image", "avml-convert makes a LiME image of it"),
    _Other(b"DISKDUMP", "a diskdump file (Linux 2.4 and early 2.6)"),
    _Other(b"\xed\x23\x8f\x61\x73\x01\x19\xa8", "an LKCD dump"),  # DUMP_MAGIC_NUMBER 0xa8190173618f23ed
    _Other(b"PAGEDU64", *_WINDOWS),
    _Other(b"PAGEDUMP", *_WINDOWS),
    *(_Other(magic, *_HIBERNATED) for magic in (b"HIBR", b"hibr", b"RSTR", b"WAKE", b"wake")),
    _Other(b"SQLite format 3\0", "an SQLite database"),
    # The last bytes of a swap area's first page: kernel/power/swap.c, mm/swapfile.c.
    _Other(b"S1SUSPEND", "a hibernated Linux system's swap area", "resume it, then crash or dump it", 4096 - 10),
    _Other(b"SWAPSPACE2", "a swap area", "", 4096 - 10),
)


def refusal(path: str, head: bytes) -> TargetError | None:
    """Return the error for a file that starts with these bytes; None: the format is unknown."""
    for packer in _PACKERS:
        if head.startswith(packer.magic):
            return TargetError(f"it is compressed with {packer.name}", hint=f"decompress it: {_command(path, packer)}")
    for other in _OTHERS:
        if head.startswith(other.magic, other.offset):
            remedy = other.remedy.replace("FILE", shlex.quote(path))
            return TargetError(f"it is {other.name}, which is not supported", hint=remedy or "make an ELF dump of it")
    return None


def _command(path: str, packer: _Packer) -> str:
    """Return a command to decompress a file of any name; ``gzip -d FILE`` would need the suffix."""
    plain = path.removesuffix(packer.suffix)
    unpacked = plain if plain != path and PurePath(plain).name else f"{path}.unpacked"
    return f"{packer.name} -dc {shlex.quote(path)} > {shlex.quote(unpacked)}"
