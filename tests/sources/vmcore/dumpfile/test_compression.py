# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decompression by the kernel's names: what an independent compressor made comes back, and damage never does harm."""

import base64
import contextlib
import hashlib
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.dumpfile import lzo_rle
from kgcore.sources.vmcore.dumpfile.compression import CannotDecompress, NoDecompressor, decompressor

PAGE = 4096


def noise(size: int) -> bytes:
    return b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(size // 32 + 1))[:size]


CONTENTS = {
    "zeros": bytes(PAGE),
    "text": b"".join(b"%d: a line of text, %x\n" % (line, line**3) for line in range(40)),
    "pointers": b"".join(struct.pack("<Q", 0x7F3A00000000 + 16 * low) for low in noise(200)).ljust(PAGE, b"\0"),
    "sparse": b"".join(noise(1 + gap % 7).ljust(gap + 4, b"\0") for gap in noise(64)).ljust(PAGE, b"\0")[:PAGE],
    "far": (noise(100) + bytes(20000) + noise(101) + b"\0" + b"xyz" * 50 + bytes(20000) + noise(99)).ljust(
        65536, b"\0"
    ),
    "noise": noise(PAGE),
}

# Made of CONTENTS by lib/lzo/lzo1x_compress.c of Linux 6.12.107 (lzorle1x_1_compress() and lzo1x_1_compress()),
# compiled for user space; that of 5.10.223, 6.1.176 and 7.2.13 makes the same.
FROM_THE_KERNEL = {
    ("zeros", "lzo-rle"): """
EQECAAAAAAAf/P//GPz//AACAAAAAAAAAAAAAAAAAAAAAAAAAAARAAA=
    """,
    ("text", "lzo-rle"): """
EQEACDA6IGEgbGluZSBvZiB0ZXh0LCAwCjE6IGEgLFMAMQoyMFMAOAozMFAAATFiCjQwVAABNDAKNTBUAAE3ZAo2MFQAAWQ4CjcwVAACMTU3Cjgw
WAACMjAwCjkxWAABZDkKMTFwAwIzZTgKMTF8AwI1MzMKMTGIAwI2YzAKMTGUAwI4OTUKMTGcAwJhYjgKMTGkAwJkMmYKMTGsAwMxMDAwCjEyuAMC
MzMxCjExwAMDMTZjOAoxMcgDAzFhY2IKMjHMAwMxZjQwCjIx0AMDMjQyZAoyMdQDAzI5OTgKMjHYAwMyZjg3CjIx3AMDMzYwMAoyMeADAzNkMDkK
MjHkAwM0NGE4CjIx5AMDNGNlMwoyMeQDAzU1YzAKMjHkAwM1ZjQ1CjMx5AMDNjk3OAozMeQDAzc0NWYKMzHlAzh9MTMx5AMDOGM2MQozMeQDAzk5
ODgKMzHkAwNhNzdiCjMx5AMDYjY0MAozMeQDA2M1ZGQKMzHkAwRkNjU4CjM5KpgLCHRleHQsIGU3YjcKEQAA
    """,
    ("pointers", "lzo-rle"): """
EQEO8AUAADp/AADADgAAOn8AALDeAGAGvgHwD74AgAy9APDeAoADvgGQDb4AIAW+AIAHvQDA3QTQ3QCQ3AD9ApDdBCDdCrD8CN0BkN0L0N4C4AS+
ChAJvgBAC70AcN4KkALcAd0FoN0HcN0CsN0YcN0UkN0csN4HYAi9ByDdCjDcE/0fQN0JwN0IEN0H0NwR/QgA3Aj8Ff0HoN0O8NwI/RBw3hrQCr0P
QN0AoN0LIN0B8N4Y0AG9BJDdBgDdJeDcAvww/SZw3Rlw3RKw3RCw3QdA3CX9HeDcA/0nYNwO/QJg3Qzg3RMA3AD9GpDdBxDdJ7D8Dt0k0N4DMAC9
GBDdAMDdA3DdAYDdEmDdF1DdHPDdDwDdBaDcBCe8At054NwA/Vow3Qaw3SlQ3DD8NP0OAN0iUN0WIN0I4NwQ/FT9GgD8A90TUN0XEN0B4N0T8N0B
MNwl/D38Kf00IN0tAN0TYN0c0NwpJ7wF3RlA3Q+w3Q7g3AT8Svxi/WXw3Qng3BH8QP0OcPwH3AD8Q/xJ/S9g3QfA3BAnXBDdJvDdKIDcAPwU/Vcg
3BX9EhDdJBDdHzDdAdDdbSDdIcDdCwD8Md0BUN1KEPwE3QbA3D39RPDdBqDdBvD8Md0OINwZ/C39NbD8Id0nsN0FoN0LAN0VEN0xUN0eUNwL/SzA
3B79BKDcCfwq/DD8Hf0O4N0NsNwX/En9UnDdMfDcGvwh/S7w3BT8Gf2WcN0TYNwl/YkQ3CD8Qf1p0NwL/FUf/P//Hfz/NAACAAAAAAAAAAAAAAAA
AAAAAAAAAAARAAA=
    """,
    ("sparse", "lzo-rle"): """
EQECX+zrZv8a/P8LiQzIHvz/HJwdHvz/HCBJuANkDRv8/x9pIP8b/P8YjhnIbxj9/w1fH/z/BiAb7AAd/P8TrDEc/v8JX+we/P8OZBoY/P8NfA0g
TGQOIEw8CnQbGP//DV/s6x78/w5xHf8goMAiIFwIBR78/wsgp5AGH/z/BoggGPz/GyAx/BiIJiBvaA8gdFACH/z/AyBK3AKoDSAGrCiwBRn8/xog
HVAXAAFf7Otm/wAAAAAAAAAAAAAAAAAAEQAA
    """,
    ("far", "lzo-rle"): """
EQEAU1/s62b/yG842VJ4bG1pbHnC28I53U6RtGcp1zon+1fpa4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0vUc146Jl4W7uA/WXGLm10D
AZwH2LbFH5DaOmZu7BOrNU4HQIUAH/z//x/8//8f/P//H/z//x/8//8f/P//H/z//x/8//8f/P//GPz/wBBbEDoCYgB4eXogcggAH/z//x/8//8f
/P//H/z//x/8//8f/P//H/z//x/8//8f/P//Gfz/wBBacDwf/P//H/z//x/8//8f/P//GPz/OwADAAAAAAAAAAAAAAAAAAAAAAAAAAAAH/z//x/8
//8f/P//H/z//x/8//8f/P//H/z//xv8//oAAgAAAAAAAAAAAAAAAAAAAAAAAAAAEQAA
    """,
    ("sparse", "lzo"): """
A1/s62b/ACA8AACJDMggPIgBIGxwAZwdIGxEAiA8MAIgSbgDZA0gPCgDIIFwAWkg/yCBmAIgBIQCjhnIbyAErAAgJpEAXyAaHAEgG+wAIBrYASBF
6ACsMSAvrgFf7CAvRAEgCTwBZBogCbQAICGkAHwNIExkDiBMPAp0GyAhjAQgCQcBX+zrIAmwACAvpABxHf8goMAiIFwIBSAvSAYwPAEgp5AGMGQD
IAhEAIggIAi0ACCSoAAgMfwYiCYgb2gPIHRQAiACuAggStwCqA0gBqwosAUgAgADIJGIACAdUBcAAV/s62b/AAAAAAAAAAAAAAAAAAARAAA=
    """,
    ("far", "lzo"): """
AFdf7Otm/8hvONlSeGxtaWx5wtvCOd1OkbRnKdc6J/tX6WuGsnP/NPzhnWuATv9aP1dHraTqoi8dScAeUt23h1tL1HNeOiZeFu7gP1lxi5tdAwGc
B9i2xR+Q2jpmbuwTqzVOB0CFAAAAAAAgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
AAAAAAAAAAAAAAAAAAAAAAAASAwAEFsQOgJiAHh5eiByCAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAYFw8E2w4EFpwPJwMIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAOQQAAADAAAA
AAAAAAAAAAAAAAAAAAAAAAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAL
AAAAAQAAAAAAAAAAAAAAAAAAAAAAAAARAAA=
    """,
}


def independent(algorithm: str) -> Callable[[bytes], bytes]:
    """A compressor that is not part of the library that unpacks, where there is one."""
    if algorithm in ("zlib", "zlib-deflate"):
        return zlib.compress
    if algorithm == "deflate":
        return lambda data: raw_deflate(data, -11)
    if algorithm == "lz4hc":
        block = pytest.importorskip("lz4.block")
        return lambda data: bytes(block.compress(data, mode="high_compression", store_size=False))
    if algorithm in ("lzo", "lzo-rle"):
        lzallright = pytest.importorskip("lzallright")
        return lambda data: bytes(lzallright.LZOCompressor().compress(data))
    cramjam = pytest.importorskip("cramjam")
    if algorithm == "lz4":
        pytest.importorskip("lz4.block")
        return lambda data: bytes(cramjam.lz4.compress_block(data, store_size=False))
    if algorithm == "snappy":
        return lambda data: bytes(cramjam.snappy.compress_raw(data))
    zstd_module()
    return lambda data: bytes(cramjam.zstd.compress(data))


def raw_deflate(data: bytes, window_bits: int) -> bytes:
    stream = zlib.compressobj(wbits=window_bits)
    return stream.compress(data) + stream.flush()


def zstd_module() -> Any:
    return pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


ALGORITHMS = ["deflate", "lz4", "lz4hc", "lzo", "lzo-rle", "snappy", "zlib", "zlib-deflate", "zstd"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
class TestEveryAlgorithm:
    @pytest.mark.parametrize("content", CONTENTS)
    def test_unpacks_what_another_compressed(self, algorithm: str, content: str) -> None:
        data = CONTENTS[content]
        packed = independent(algorithm)(data)
        unpack = decompressor(algorithm)
        assert unpack(packed, len(data)) == data
        unpacked = unpack(memoryview(bytearray(packed)), len(data))
        assert unpacked == data
        assert type(unpacked) is bytes

    def test_another_size(self, algorithm: str) -> None:
        packed = independent(algorithm)(CONTENTS["text"])
        for size in (0, 1, len(CONTENTS["text"]) - 1, len(CONTENTS["text"]) + 1, 1 << 16):
            with pytest.raises(CannotDecompress, match=f"^{algorithm} data "):
                decompressor(algorithm)(packed, size)

    def test_cut_off(self, algorithm: str) -> None:
        packed = independent(algorithm)(CONTENTS["text"])
        for size in range(len(packed)):
            with pytest.raises(CannotDecompress):
                decompressor(algorithm)(packed[:size], len(CONTENTS["text"]))

    def test_bombs(self, algorithm: str) -> None:
        packed = independent(algorithm)(bytes(1 << 24))
        with pytest.raises(CannotDecompress):
            decompressor(algorithm)(packed, PAGE)

    @settings(deadline=None)
    @given(data=st.binary(max_size=200))
    def test_anything(self, algorithm: str, data: bytes) -> None:
        independent(algorithm)
        unpacks_or_says_not(algorithm, data, 100)

    @settings(deadline=None)
    @given(bits=st.lists(st.integers(0, 1 << 20), min_size=1, max_size=8), size=st.sampled_from([PAGE, 10, 100_000]))
    def test_flipped_bits(self, algorithm: str, bits: list[int], size: int) -> None:
        packed = bytearray(independent(algorithm)(CONTENTS["sparse"]))
        for bit in bits:
            packed[bit // 8 % len(packed)] ^= 1 << bit % 8
        unpacks_or_says_not(algorithm, bytes(packed), size)


def unpacks_or_says_not(algorithm: str, data: bytes, size: int) -> None:
    with contextlib.suppress(CannotDecompress):
        assert len(decompressor(algorithm)(data, size)) == size


def test_damage_is_damage_of_the_dump() -> None:
    assert issubclass(CannotDecompress, BrokenDump)


def no_library(name: str) -> NoReturn:
    raise ImportError(name)


@pytest.mark.parametrize("name", ["lzo", "snappy", "zstd"])
class TestCLibraries:
    """Those that come with drgn, where the extra is not installed: pages of kdump files are unpacked all the same."""

    @pytest.fixture(autouse=True)
    def bare(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("drgn")
        self.packers = {name: independent(name) for name in ("lzo", "snappy", "zstd")}
        for module in ("cramjam", "zstandard", "lzallright"):
            monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setattr("kgcore.sources.vmcore.dumpfile.lzo_rle.decompress", None)

    def test_unpack(self, name: str) -> None:
        for data in CONTENTS.values():
            assert decompressor(name)(self.packers[name](data), len(data)) == data

    def test_damage(self, name: str) -> None:
        packed = self.packers[name](CONTENTS["text"])
        for damaged in (b"", packed[:-3], b"\xff" * 100, packed[:9] + b"\xff" * 20 + packed[29:]):
            with pytest.raises(CannotDecompress):
                decompressor(name)(damaged, len(CONTENTS["text"]))

    def test_more_than_there_is_room_for(self, name: str) -> None:
        with pytest.raises(CannotDecompress):
            decompressor(name)(self.packers[name](CONTENTS["text"]), 100)


class TestNames:
    @pytest.mark.parametrize("name", ["", "842", "lzma", "zlib+lzo", "none", "deflate\n"])
    def test_unknown(self, name: str) -> None:
        with pytest.raises(NoDecompressor) as caught:
            decompressor(name)
        assert str(caught.value) == f"the compression {name!r} is not supported"

    @pytest.mark.parametrize("name", ["deflate-generic", "deflate-scomp", "deflate-iaa"])
    def test_of_drivers(self, name: str) -> None:
        assert decompressor(name)(raw_deflate(b"abc" * 9, -11), 27) == b"abc" * 9

    @pytest.mark.parametrize(
        ("name", "package"), [("lz4", "lz4"), ("lz4hc", "lz4"), ("snappy", "cramjam"), ("zstd", "zstandard")]
    )
    def test_library_is_not_installed(self, monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
        for module in ("lz4", "lz4.block", "cramjam", "zstandard"):
            monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setattr("kgcore.sources.vmcore.dumpfile.compression.borrowed", no_library)
        said = f"decompressing {name} needs the Python package {package}: pip install 'kgcore[formats]'"
        with pytest.raises(NoDecompressor) as caught:
            decompressor(name)
        assert str(caught.value) == said

    @pytest.mark.parametrize("name", ["deflate", "lzo", "lzo-rle", "zlib"])
    def test_needs_no_library(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        packed = independent(name)(CONTENTS["text"])
        for module in ("lz4", "lz4.block", "cramjam", "zstandard", "lzallright", "deflate"):
            monkeypatch.setitem(sys.modules, module, None)
        assert decompressor(name)(packed, len(CONTENTS["text"])) == CONTENTS["text"]


class TestDeflate:
    @pytest.mark.parametrize("window_bits", [*range(-15, -8), *range(9, 16)])
    def test_every_window_that_zram_may_be_told(self, window_bits: int) -> None:
        for data in CONTENTS.values():
            assert decompressor("deflate")(raw_deflate(data, window_bits), len(data)) == data

    @pytest.mark.parametrize("level", [0, 1, 9])
    def test_stored_blocks_are_not_taken_for_a_header(self, level: int) -> None:
        for size in range(400):
            stream = zlib.compressobj(level, wbits=-11)
            packed = stream.compress(noise(size)) + stream.flush()
            assert decompressor("deflate")(packed, size) == noise(size)


class TestDictionaries:
    WORDS = CONTENTS["text"] + noise(500)
    DATA = WORDS[900:] + WORDS[:900]

    @pytest.mark.parametrize("mode", ["default", "high_compression"])
    def test_lz4(self, mode: str) -> None:
        block = pytest.importorskip("lz4.block")
        name = "lz4" if mode == "default" else "lz4hc"
        packed = block.compress(self.DATA, mode=mode, store_size=False, dict=self.WORDS)
        assert len(packed) < 100
        assert decompressor(name, self.WORDS)(packed, len(self.DATA)) == self.DATA
        for other in (None, b"", self.WORDS[100:]):
            with pytest.raises(CannotDecompress):
                assert decompressor(name, other)(packed, len(self.DATA)) == self.DATA

    def test_zstd_raw(self) -> None:
        zstd = zstd_module()
        packed = zstd.compress(self.DATA, zstd_dict=zstd.ZstdDict(self.WORDS, is_raw=True))
        assert len(packed) < 100
        assert decompressor("zstd", self.WORDS)(packed, len(self.DATA)) == self.DATA
        with pytest.raises(CannotDecompress):
            decompressor("zstd")(packed, len(self.DATA))

    def test_zstd_trained(self) -> None:
        zstd = zstd_module()
        samples = [b"%d: sample %d of a row of samples, %x" % (n % 7, n, n**3) for n in range(500)]
        trained = zstd.train_dict(samples, 1 << 11)
        packed = zstd.compress(b"".join(samples[:9]), zstd_dict=trained)
        size = len(b"".join(samples[:9]))
        assert decompressor("zstd", trained.dict_content)(packed, size) == b"".join(samples[:9])
        for wrong in (None, trained.dict_content[8:]):
            with pytest.raises(CannotDecompress):
                decompressor("zstd", wrong)(packed, size)
        damaged = trained.dict_content[:8] + b"\xff" * 100
        with pytest.raises(CannotDecompress, match="dict"):
            decompressor("zstd", damaged)(packed, size)

    @pytest.mark.parametrize("dictionary", [b"", b"7 bytes", b"8 bytes!", WORDS])
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_what_was_packed_without_one(self, algorithm: str, dictionary: bytes) -> None:
        packed = independent(algorithm)(CONTENTS["text"])
        assert decompressor(algorithm, dictionary)(packed, len(CONTENTS["text"])) == CONTENTS["text"]


class TestZstd:
    MAGIC = b"\x28\xb5\x2f\xfd"

    @pytest.mark.parametrize(
        "frame",
        [
            MAGIC + b"\x00" + bytes([(31 - 10) << 3]) + b"\x03\0\0" + b"a" * 100,  # a window of 2 GiB
            MAGIC + b"\xe0" + struct.pack("<Q", 1 << 40) + b"\x03\0\0" + b"a" * 100,  # 1 TiB of content
        ],
    )
    def test_absurd_sizes(self, frame: bytes) -> None:
        zstd_module()
        with pytest.raises(CannotDecompress):
            decompressor("zstd")(frame, PAGE)

    def test_frames_without_size_and_with_checksum(self) -> None:
        zstd = zstd_module()
        stream = zstd.ZstdCompressor(options={zstd.CompressionParameter.checksum_flag: True})
        packed = stream.compress(CONTENTS["text"][:100], stream.FLUSH_BLOCK) + stream.compress(CONTENTS["text"][100:])
        packed += stream.flush()
        assert decompressor("zstd")(packed, len(CONTENTS["text"])) == CONTENTS["text"]
        with pytest.raises(CannotDecompress):
            decompressor("zstd")(packed[:-1] + b"?", len(CONTENTS["text"]))


# LZO


@pytest.mark.parametrize(("content", "algorithm"), FROM_THE_KERNEL)
def test_what_the_kernel_compressed(content: str, algorithm: str) -> None:
    packed = base64.b64decode(FROM_THE_KERNEL[content, algorithm])
    data = CONTENTS[content]
    assert decompressor(algorithm)(packed, len(data)) == data
    assert lzo_rle.decompress(packed, len(data)) == data
    for size in range(len(packed)):
        with pytest.raises(lzo_rle.DamagedBlock):
            lzo_rle.decompress(packed[:size], len(data))


END = b"\x11\0\0"
RUNS = b"\x11\x01"
BEGIN = RUNS + b"\x12k"  # the first instruction can only be literals


def run(size: int, literals: int = 0) -> bytes:
    """The instruction for zeros: 0001 1LLL, all ones but the two bits for literals, and the rest of the length."""
    assert 4 <= size <= 2051
    return bytes([0x18 | (size - 4) & 7, 0xFC | literals, 0xFF, (size - 4) >> 3])


def row(data: bytes) -> bytes:
    """The instruction for four literals or more; it stands behind one that brings none."""
    if len(data) <= 18:
        return bytes([len(data) - 3]) + data
    zeros, rest = divmod(len(data) - 19, 255)
    return b"\0" + bytes(zeros) + bytes([rest + 1]) + data


def copy(size: int, distance: int, literals: int = 0) -> bytes:
    """The instruction for bytes from up to 16 KiB, or up to 48 KiB, before; a length as the document writes it."""
    near = distance <= 0x4000
    mask, rest = (31, distance - 1) if near else (7, distance - 0x4000)
    code = 0x20 if near else 0x10 | rest >> 14 << 3
    operand = struct.pack("<H", (rest & 0x3FFF) << 2 | literals)
    if size - 2 <= mask:
        return bytes([code | size - 2]) + operand
    zeros, more = divmod(size - 2 - mask - 1, 255)
    return bytes([code]) + bytes(zeros) + bytes([more + 1]) + operand


def unpacked(instructions: bytes, expected: bytes) -> None:
    assert lzo_rle.decompress(instructions + END, len(expected)) == expected


class TestLzo:
    """Instructions that the document describes, assembled by hand."""

    def test_nothing(self) -> None:
        unpacked(b"", b"")

    @pytest.mark.parametrize("header", [b"", b"\x11\0", RUNS])
    @pytest.mark.parametrize("count", [*range(1, 20), 238])
    def test_first_literals(self, header: bytes, count: int) -> None:
        data = noise(count)
        unpacked(header + bytes([17 + count]) + data, data)

    @pytest.mark.parametrize("count", [4, 5, 18, 19, 20, 273, 274, 275, 528, 529, 4000])
    def test_rows_of_literals(self, count: int) -> None:
        unpacked(row(noise(count)), noise(count))
        unpacked(RUNS + row(noise(count)), noise(count))

    def test_two_bytes_within_1k_behind_literals(self) -> None:
        data = noise(1024)
        for distance, follow in ((1024, b""), (1022, b"z"), (1, b"zyx"), (2, b"zy")):
            start = row(data[:-3]) + copy(3, 1020, 3) + b"abc"
            before = data[:-3] + data[1:4] + b"abc"
            code = bytes([(distance - 1 & 3) << 2 | len(follow), distance - 1 >> 2])
            begin = len(before) - distance
            unpacked(start + code + follow, before + (before[begin:] * 2)[:2] + follow)

    def test_three_bytes_beyond_2k_behind_a_row(self) -> None:
        data = noise(3072)
        for distance, follow in ((2049, b""), (3072, b"z"), (2500, b"zyx")):
            code = bytes([(distance - 2049 & 3) << 2 | len(follow), distance - 2049 >> 2])
            unpacked(row(data) + code + follow, data + data[3072 - distance :][:3] + follow)
        with pytest.raises(lzo_rle.DamagedBlock, match="before its start"):
            lzo_rle.decompress(row(data[:-1]) + bytes([3 << 2, 255]) + END, 3074)

    @pytest.mark.parametrize("size", range(3, 9))
    @pytest.mark.parametrize("distance", [1, 2, 7, 8, 9, 2047, 2048])
    def test_short_copies(self, size: int, distance: int) -> None:
        data = noise(2048)
        low = (distance - 1 & 7) << 2 | 1
        code = 0x40 | (size - 3) << 5 | low if size < 5 else 0x80 | (size - 5) << 5 | low
        copied = (data[2048 - distance :] * 9)[:size]
        unpacked(row(data) + bytes([code, distance - 1 >> 3]) + b"!", data + copied + b"!")

    @pytest.mark.parametrize("size", [3, 9, 10, 33, 34, 264, 265, 288, 289, 290, 5000])
    @pytest.mark.parametrize("distance", [1, 3, 64, 16383, 16384, 16385, 32767, 32768, 49150, 49151])
    def test_long_copies(self, size: int, distance: int) -> None:
        data = noise(50_000)
        copied = (data[len(data) - distance :] * (size // distance + 1))[:size]
        unpacked(row(data) + copy(size, distance, 2) + b"ab", data + copied + b"ab")

    @pytest.mark.parametrize("literals", range(4))
    @pytest.mark.parametrize("size", [4, 5, 11, 12, 13, 2050, 2051])
    def test_zeros(self, size: int, literals: int) -> None:
        before, follow = b"k" + bytes(size), b"abc"[:literals]
        unpacked(BEGIN + run(size, literals) + follow, before + follow)
        # What stands next is a row of literals, or a copy of two bytes: that depends on the count.
        unpacked(
            BEGIN + run(size, literals) + follow + (b"\0\0" if literals else row(b"more")),
            before + follow + (follow[-1:] * 2 if literals else b"more"),
        )

    def test_version_0_has_no_runs_of_zeros(self) -> None:
        data = noise(49151)
        like_a_run = copy(3, 49151)
        assert like_a_run == b"\x19\xfc\xff"
        unpacked(row(data) + like_a_run, data + data[:3])
        unpacked(b"\x11\0" + row(data) + like_a_run, data + data[:3])
        unpacked(RUNS + row(data) + like_a_run + b"\x01", data + bytes(13))
        unpacked(RUNS + row(data) + copy(3, 49150, 3) + b"abc", data + data[1:4] + b"abc")

    def test_what_looks_like_zeros_is_zeros(self) -> None:
        """Which is why a compressor must not write such copies, says the document."""
        data = noise(49151)
        like_a_run = copy(261, 49151)
        assert like_a_run == b"\x18\xfc\xfc\xff"
        unpacked(row(data) + like_a_run, data + data[:261])
        unpacked(RUNS + row(data) + b"\x18\xfc\xff\xff", data + bytes(2044))

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "end mark"),
            (END[:2], "end mark"),
            (b"\x15abc", "end"),
            (b"\x14abc\xff", "end mark"),
            (b"\x12k\x13\0\0", "wrong length"),
            (b"\x12k" + copy(PAGE - 1, 1) + END + b"\0", "1 bytes follow"),
            (b"\x11\x02" + END, "version 2"),
            (b"\x14abc" + b"\x40\xff" + END, "before its start"),
            (b"\x14abc\0" + bytes(1 << 12), "end mark"),
            (b"\0" + bytes(100) + b"\xff", "within literals"),
            (b"\x14abc\x20" + bytes(1 << 12) + b"\1\0\0" + END, "too long"),
            (b"\x15four\0\0" + END, "before its start"),
            (BEGIN + run(2051) + run(2051) + END, "too long"),
            (BEGIN + run(2051) + run(2040) + row(b"fives") + END, "too long"),
            (BEGIN + run(2051) + run(2040) + copy(5, 1) + END, "too long"),
            (row(bytes(1 << 20)) + END, "too long"),
            (BEGIN + run(100) + END, "101 bytes when decompressed, not 4096"),
        ],
    )
    def test_damage(self, data: bytes, message: str) -> None:
        with pytest.raises(lzo_rle.DamagedBlock, match=message):
            lzo_rle.decompress(data, PAGE)

    @settings(deadline=None)
    @given(data=st.binary(max_size=100), header=st.sampled_from([b"", b"\x11\0", RUNS]), size=st.integers(0, 5000))
    def test_anything(self, data: bytes, header: bytes, size: int) -> None:
        with contextlib.suppress(lzo_rle.DamagedBlock):
            assert len(lzo_rle.decompress(header + data + END, size)) == size

    @settings(deadline=None)
    @given(
        name=st.sampled_from(sorted(FROM_THE_KERNEL)),
        changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4),
        size=st.sampled_from([0, 100, PAGE, 65536]),
    )
    def test_changed_bytes(self, name: tuple[str, str], changes: list[tuple[int, int]], size: int) -> None:
        packed = bytearray(base64.b64decode(FROM_THE_KERNEL[name]))
        for at, byte in changes:
            packed[at % len(packed)] = byte
        with contextlib.suppress(lzo_rle.DamagedBlock):
            assert len(lzo_rle.decompress(bytes(packed), size)) == size

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.binary(max_size=700), st.integers(0, 5000)), max_size=6))
    @example([(b"", 4), (b"abc", 3), (b"", 2051), (b"abcd", 2056), (b"", 0)])
    def test_zeros_and_literals(self, parts: list[tuple[bytes, int]]) -> None:
        data = b"k" + b"".join(literals + bytes(zeros) for literals, zeros in parts)
        assert lzo_rle.decompress(encoded(data), len(data)) == data


def encoded(data: bytes) -> bytes:
    """A compressor that knows zeros and literals only, for data that begin with a literal."""
    out = bytearray(RUNS)
    for number, token in enumerate(re.findall(rb"\0{4,2051}|(?:(?!\0{4}).)+", data, re.DOTALL)):
        if token.startswith(bytes(4)):
            out += run(len(token))
        elif number == 0 and len(token) <= 238:
            out += bytes([17 + len(token)]) + token
        elif len(token) >= 4:
            out += row(token)
        else:
            out[-3] |= len(token)
            out += token
    return bytes(out + END)


def test_no_memory_to_unpack_with() -> None:
    """An error, where the C library's own allocation would fail unseen."""
    script = """
import resource, zlib
from kgcore.sources.vmcore.dumpfile.compression import decompressor
unpack, packed = decompressor("zlib"), zlib.compress(bytes(4096))
unpack(packed, 4096)
has = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (has, has))
kept, size = [], 1 << 20
while size > 64:
    try:
        kept.append(bytearray(size))
    except MemoryError:
        size //= 2
try:
    unpack(packed, 4096)
except MemoryError:
    print("too little")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "too little\n"), done
