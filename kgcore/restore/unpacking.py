# SPDX-License-Identifier: LGPL-2.1-or-later
"""Unpack a compressed core into a file without a name: restarting reads it in its own order."""

import os
import tempfile

from kgcore.errors import TargetError
from kgcore.sources.corefile.inputs import Stream, opened

__all__ = ("unpacked",)

_ELF = b"\x7fELF"
_PIECE = 1 << 20


def unpacked(path: str, descriptor: int) -> int:
    """Return a descriptor of the core itself: the same if it is not compressed, else another, and that one is closed.

    :param path: for messages.
    :raises TargetError: it is damaged, no core is in it, or there is no room for it.
    """
    with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file, opened(file) as core:
        if not isinstance(core, Stream):
            return descriptor
        head = core.read(0, _PIECE)
        if not head.startswith(_ELF):
            if core.trouble:
                raise TargetError(f"{path}: {core.trouble}")
            raise TargetError(f"{path} is no core: it does not begin like an ELF file")
        core.go_on()
        try:
            with tempfile.TemporaryFile(buffering=0) as whole:
                _write(core, head, whole.fileno())
                found = os.dup(whole.fileno())
        except OSError as error:
            where = tempfile.gettempdir()
            hint = f"it is unpacked in {where}; $TMPDIR says where else"
            raise TargetError(f"cannot unpack {path}: {error.strerror or error}", hint=hint) from error
    if core.trouble:
        os.close(found)
        raise TargetError(f"{path}: {core.trouble}")
    os.close(descriptor)
    return found


def _write(core: Stream, head: bytes, descriptor: int) -> None:
    """Write it; long zeros are holes."""
    at, data = 0, head
    while data:
        if data.count(0) != len(data):
            done = 0
            while done < len(data):
                done += os.pwrite(descriptor, data[done:], at + done)
        at += len(data)
        data = core.read(at, _PIECE)
    os.ftruncate(descriptor, at)
