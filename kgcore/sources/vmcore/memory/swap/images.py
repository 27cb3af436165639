# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images of swap devices and swap files, from the user: slot n is page n of the image."""

import os
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from weakref import finalize

from drgn import FaultError

from kgcore.errors import TargetError
from kgcore.model.memory import Provenance
from kgcore.sources.vmcore.dumpfile.unsupported import refusal
from kgcore.sources.vmcore.memory.extents import Place, Reader
from kgcore.sources.vmcore.memory.swap.layers import Slots
from kgcore.sources.vmcore.memory.swap.spaces import Spaces, SwapSpace
from kgcore.system.regular import read_at

__all__ = ("SwapImages",)

# union swap_header, include/linux/swap.h
_MAGIC = b"SWAPSPACE2"
_MAGIC_AT = -len(_MAGIC)  # from the end of the first page
_VERSION_AT = 1024  # then last_page; u32 each

_NO_MAGIC = "its first page does not end with SWAPSPACE2"
_LOST = (
    "it must be an image of the swap device itself, or of the swap file, from the first byte on; of encrypted swap, "
    "of the decrypted device (swap with a new random key at each boot is lost)"
)
# Magic bytes, their offset (negative: from the end of the first page), what the file is, and what to do.
_OTHERS = (
    (b"LUKS\xba\xbe", 0, "it is encrypted (LUKS)", "open it with cryptsetup and give the decrypted device"),
    (b"EFI PART", 512, "it is a whole disk", "give an image of only the swap partition"),
    (b"S1SUSPEND", _MAGIC_AT, "a hibernated system has overwritten it", ""),
    (b"S2SUSPEND", _MAGIC_AT, "a hibernated system has overwritten it", ""),
)


class SwapImages:
    """:class:`kgcore.sources.vmcore.memory.swap.layers.Layer` of the user's swap images.

    :ivar remarks: a sentence for each image that is not used.
    """

    def __init__(self, spaces: Spaces, images: Mapping[str, str]) -> None:
        """Open the images.

        :param images: path of a swap device or file, as in /proc/swaps, to path of its image.
        :raises TargetError: the kernel does not swap to this path, or the image is not of this swap space.
        """
        self._images: dict[int, _Image | None] = {}
        self.remarks: tuple[str, ...] = ()
        self._page_size = spaces.page_size
        for device, path in images.items():
            space = _find(spaces, device)
            if space.number in self._images:
                raise TargetError(f"two images given for the swap space {space.name}")
            self._images[space.number], remark = _open(path, space, self._page_size)
            self.remarks += (remark,) if remark else ()

    def find(self, space: SwapSpace, first: int, count: int) -> Iterator[Slots]:
        """See :meth:`kgcore.sources.vmcore.memory.swap.layers.Layer.find`."""
        if space.number not in self._images:
            return
        image = self._images[space.number]
        if image is None:
            yield Slots(first, count, Provenance.SWAPPED, f"on {space.name}, whose image has an unreadable header")
            return
        inside = max(0, min(count, image.slots - first))
        if inside:
            yield Slots(first, inside, Provenance.SWAP_IMAGE, place=Place(image, first * self._page_size))
        if inside < count:
            detail = f"on {space.name}, beyond the end of its image"
            yield Slots(first + inside, count - inside, Provenance.SWAPPED, detail)


@dataclass(frozen=True, slots=True)
class _Image(Reader):
    """A swap image.

    :ivar slots: whole pages in it.
    """

    path: str
    descriptor: "_Descriptor"
    slots: int

    def fill(self, at: int, view: memoryview) -> None:
        """See :meth:`kgcore.sources.vmcore.memory.extents.Reader.fill`."""
        try:
            data = read_at(self.descriptor.number, len(view), at)
        except OSError as error:
            raise FaultError(f"{self.path}: {error.strerror}", at) from error
        if len(data) != len(view):
            raise FaultError(f"{self.path} shrank", at)
        view[:] = data


class _Descriptor:
    """An open file, closed when its last user is gone."""

    def __init__(self, number: int) -> None:
        self.number = number
        finalize(self, os.close, number)


def _find(spaces: Spaces, device: str) -> SwapSpace:
    found = spaces.all()
    for space in found:
        if device in (space.name, _escaped(space.name)):
            return space
    names = ", ".join(space.name for space in found)
    raise TargetError(
        f"this kernel does not swap to {device}",
        hint=f"it swaps to: {names}" if found else "the dump shows no swap space",
    )


def _escaped(name: str) -> str:
    r"""Return a path with special characters escaped (``\040``) as in /proc/swaps: swap_show(), mm/swapfile.c."""
    return "".join(f"\\{ord(char):03o}" if char in " \t\n\\" else char for char in name)


def _open(path: str, space: SwapSpace, page_size: int) -> tuple[_Image | None, str]:
    """Open an image and check that it is of a swap space.

    :returns: the image; or None, and why it is not used.
    """
    try:
        # Opening a FIFO does not block, and a terminal does not become kgcore's controlling terminal.
        descriptor = _Descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY))
        mode = os.fstat(descriptor.number).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise TargetError(f"{path} is not an image of {space.name}: it is neither a file nor a block device")
        size = os.lseek(descriptor.number, 0, os.SEEK_END)  # a block device's st_size is 0
    except OSError as error:
        raise TargetError(f"cannot read {path}: {error.strerror}") from error
    try:
        head = _head(descriptor.number, page_size)
    except OSError as error:  # its other pages may be of anything: an older image, an encrypted device
        return None, (
            f"{path} is not used: its first page, which says whether it is an image of {space.name}, cannot be read "
            f"({error.strerror})"
        )
    _check(path, head, space, page_size)
    return _Image(path, descriptor, size // page_size), ""


def _head(descriptor: int, page_size: int) -> bytes:
    """Return the first page; if a bad sector took part of it, zeros except the bytes that prove a swap header.

    :raises OSError: these bytes cannot be read.
    """
    try:
        return read_at(descriptor, page_size, 0)
    except OSError:
        magic_at = _MAGIC_AT % page_size
        numbers, magic = read_at(descriptor, 8, _VERSION_AT), read_at(descriptor, len(_MAGIC), magic_at)
        return (bytes(_VERSION_AT) + numbers).ljust(magic_at, b"\0") + magic


def _check(path: str, head: bytes, space: SwapSpace, page_size: int) -> None:
    """Check the first page of an image against a swap space.

    :raises TargetError: the image is not of that swap space.
    """
    none = f"{path} is not an image of {space.name}"
    if head[_MAGIC_AT % page_size :] != _MAGIC:
        for magic, at, what, remedy in _OTHERS:
            if head.startswith(magic, at % page_size):
                raise TargetError(f"{none}: {what}", hint=remedy)
        other = refusal(path, head)
        if other is not None:
            raise TargetError(f"{none}: {other.message}", hint=other.hint)
        raise TargetError(f"{none}: {_NO_MAGIC if head else 'it is empty'}", hint=_LOST)
    version, last_page = struct.unpack_from("<II", head, _VERSION_AT)
    # read_swap_header(), mm/swapfile.c. If a swap file has blocks smaller than pages, the kernel may use only part of
    # the file, and then slots are not the file's pages.
    if version != 1 or last_page + 1 != space.slots:
        raise TargetError(
            f"{none}: its header says {last_page + 1} pages, but the kernel uses {space.slots}",
            hint="was mkswap run again, or is it the image of a different swap space?",
        )
