# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decompress LZO1X blocks, with the zero runs that Linux added for zram ("lzo-rle", bitstream version 1).

The format: Documentation/staging/lzo.rst. A block is a series of instructions. Each copies bytes of earlier output (or,
since version 1, makes zeros), and says how many literal bytes follow, up to three; a longer row of literals is an
instruction of its own. The document is unclear on two points: a block that begins with 18 to 20 begins with 1 to 3
literals; and after the two bytes that name the version, a block goes on like one without them.
"""

__all__ = ("DamagedBlock", "decompress")

_HEADER = 17  # first byte of a block whose second byte is the version
_SHORTEST_WITH_HEADER = 5
_ROW = 4  # stands for the number of literals, after a longer row of them
_TOO_LONG = "the decompressed block is too long"


class DamagedBlock(ValueError):
    """The data are no LZO block, or a block of another size."""


def decompress(data: bytes | memoryview, size: int) -> bytes:
    """Unpack a block of either version to exactly ``size`` bytes.

    :raises DamagedBlock: the block does not unpack to ``size`` bytes; at most ``size`` bytes are unpacked before.
    """
    try:
        out, end = _unpack(bytes(data), size)
    except IndexError:
        raise DamagedBlock("the block ends before its end mark") from None
    if len(out) != size:
        raise DamagedBlock(f"the block has {len(out)} bytes when decompressed, not {size}")
    if end != len(data):
        raise DamagedBlock(f"{len(data) - end} bytes follow the block's end mark")
    return bytes(out)


def _unpack(data: bytes, size: int) -> tuple[bytearray, int]:
    """Unpack up to the end mark; return the output and the offset behind the mark.

    Each turn of the loop reads at least one byte.

    :raises IndexError: the end mark is missing.
    """
    at = 0
    runs = False
    if data[0] == _HEADER and len(data) >= _SHORTEST_WITH_HEADER:
        if data[1] > 1:
            raise DamagedBlock(f"the block is of version {data[1]}")
        runs = data[1] == 1
        at = 2
    out = bytearray()
    literals = before = 0  # literals after this instruction, and after the one before it; or _ROW
    if data[at] > _HEADER:
        literals = data[at] - _HEADER
        before = min(literals, _ROW)
        at += 1
    while True:
        if literals:
            end = at + literals
            if end > len(data):
                raise DamagedBlock("the block ends within literals")
            if literals > size - len(out):
                raise DamagedBlock(_TOO_LONG)
            out += data[at:end]
            at = end
        code = data[at]
        at += 1
        if code >= 64:
            distance = (data[at] << 3) + (code >> 2 & 7) + 1
            length = (code >> 5) + 1
            literals = code & 3
            at += 1
        elif code >= 16:
            if runs and code & 0xF8 == 0x18 and data[at] >= 0xFC and data[at + 1] == 0xFF:
                length = (data[at + 2] << 3) + (code & 7) + 4
                if length > size - len(out):
                    raise DamagedBlock(_TOO_LONG)
                out += bytes(length)
                literals = before = data[at] & 3
                at += 3
                continue
            if code >= 32:
                length, at = _length(data, at, code, 31)
                distance = (data[at] >> 2) + (data[at + 1] << 6) + 1
            else:
                length, at = _length(data, at, code, 7)
                distance = (data[at] >> 2) + (data[at + 1] << 6) + ((code & 8) << 11)
                if not distance:
                    if length != 3:
                        raise DamagedBlock("the block's end mark has a wrong length")
                    return out, at + 2
                distance += 0x4000
            literals = data[at] & 3
            at += 2
        elif before == 0:
            literals, at = _length(data, at, code, 15)
            literals += 1
            before = _ROW
            continue
        else:
            distance = (data[at] << 2) + (code >> 2) + (2049 if before == _ROW else 1)
            length = 3 if before == _ROW else 2
            literals = code & 3
            at += 1
        before = literals
        start = len(out) - distance
        if start < 0:
            raise DamagedBlock("the block copies bytes from before its start")
        if length > size - len(out):
            raise DamagedBlock(_TOO_LONG)
        if distance >= length:
            out += out[start : start + length]
        else:  # the copy overlaps its own output: it repeats the same bytes
            out += (out[start:] * (length // distance + 1))[:length]


def _length(data: bytes, at: int, code: int, mask: int) -> tuple[int, int]:
    """Return the length in an instruction's low bits (if 0, in the bytes behind it), and the offset after it."""
    length = code & mask
    if length:
        return length + 2, at
    begin = at
    while not data[at]:
        at += 1
    return mask + 255 * (at - begin) + data[at] + 2, at + 1
