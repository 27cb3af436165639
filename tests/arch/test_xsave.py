# SPDX-License-Identifier: LGPL-2.1-or-later
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgcore.arch.x86.xsave import layout_note, user_fpu, user_ssp
from kgcore.model.process import FpuState, XsaveLayout
from tests.compiler import compiled

COMPACTED = 1 << 63
INIT_FX = struct.pack("<H22xI", 0x37F, 0x1F80).ljust(416, b"\0")

# YMM, PKRU, CET_USER (supervisor: it is in the compacted area, but no user feature), AMX: 17 and 18, aligned.
LAYOUT = XsaveLayout(
    user_size=11008,
    user_features=0x60207,
    offsets={2: 576, 9: 2688, 11: 0, 17: 2752, 18: 2816},
    sizes={2: 256, 9: 8, 11: 16, 17: 64, 18: 8192},
    aligned=frozenset((17, 18)),
)


def fx(fill: int = 0x11) -> bytes:
    """An FXSAVE image: every byte tells its region."""
    return bytes([fill]) * 24 + b"\x22" * 8 + bytes([fill + 0x22]) * 128 + b"\x44" * 256 + b"\x99" * 96


def area(xfeatures: int, xcomp_bv: int = 0, components: bytes = b"") -> bytes:
    return fx() + struct.pack("<QQ", xfeatures, xcomp_bv) + b"\x77" * 48 + components


def component(number: int) -> bytes:
    return bytes([0xA0 + number % 16]) * LAYOUT.sizes[number]


def standard(xfeatures: int, components: dict[int, bytes]) -> bytes:
    data = bytearray(area(xfeatures).ljust(LAYOUT.user_size, b"\x55"))
    for number, content in components.items():
        offset = LAYOUT.offsets[number]
        data[offset : offset + len(content)] = content
    return bytes(data)


def compacted(xfeatures: int, present: tuple[int, ...]) -> bytes:
    packed, mask = b"", 3
    for number in present:
        if number in LAYOUT.aligned:
            packed += b"\x55" * (-(576 + len(packed)) % 64)
        packed += component(number)
        mask |= 1 << number
    return area(xfeatures, COMPACTED | mask, packed)


def expected(xfeatures: int, components: dict[int, bytes]) -> bytes:
    """NT_X86_XSTATE with FP and SSE in use."""
    data = bytearray(LAYOUT.user_size)
    data[:416] = fx()[:416]
    struct.pack_into("<QQ", data, 464, LAYOUT.user_features, 0)
    struct.pack_into("<Q", data, 512, xfeatures)
    for number, content in components.items():
        offset = LAYOUT.offsets[number]
        data[offset : offset + len(content)] = content
    return bytes(data)


ALL = {number: component(number) for number in (2, 9, 17, 18)}


def test_standard_format() -> None:
    notes = user_fpu(FpuState(standard(0x60207, ALL)), LAYOUT, raw=False)
    assert notes.xstate == expected(0x60207, ALL)
    assert notes.fxsave == fx()[:416] + bytes(96)
    assert notes.omitted == ()


def test_compacted_format_with_a_supervisor_feature_between() -> None:
    image = compacted(0x60A07, (2, 9, 11, 17, 18))
    notes = user_fpu(FpuState(image), LAYOUT, raw=False)
    assert notes.xstate == expected(0x60207, ALL)
    raw = user_fpu(FpuState(image), LAYOUT, raw=True)
    assert raw.xstate == expected(0x60207, ALL)  # 5.10 unpacks it too
    assert raw.fxsave == fx()  # but copies this as it is


def test_features_in_initial_state_are_zeros() -> None:
    notes = user_fpu(FpuState(compacted(0x7, (2, 9, 17, 18))), LAYOUT, raw=False)
    assert notes.xstate == expected(0x7, {2: component(2)})


def test_pkru_comes_from_the_thread() -> None:
    notes = user_fpu(FpuState(standard(0x207, ALL), pkru=0x55555554), LAYOUT, raw=False)
    pkru = struct.pack("<II", 0x55555554, 0)
    assert notes.xstate == expected(0x207, {2: component(2), 9: pkru})
    # in its initial state it stays zero, as in the kernel
    assert user_fpu(FpuState(standard(0x7, ALL), pkru=5), LAYOUT, raw=False).xstate == expected(0x7, {2: component(2)})


@pytest.mark.parametrize(
    ("xfeatures", "fp", "mxcsr", "sse"),
    [
        (0, False, False, False),
        (1, True, False, False),
        (2, False, True, True),
        (4, False, True, False),
        (3, True, True, True),
    ],
)
def test_legacy_components_in_initial_state(xfeatures: int, fp: bool, mxcsr: bool, sse: bool) -> None:
    notes = user_fpu(FpuState(standard(xfeatures, {})), LAYOUT, raw=False)
    assert notes.xstate is not None
    assert notes.fxsave is not None
    got = notes.xstate
    assert got[:24] == (fx() if fp else INIT_FX)[:24]
    assert got[24:32] == (fx() if mxcsr else INIT_FX)[24:32]
    assert got[32:160] == (fx() if fp else INIT_FX)[32:160]
    assert got[160:416] == (fx() if sse else INIT_FX)[160:416]
    # NT_PRFPREG looks at FP and SSE alone, so YMM in use does not keep MXCSR there
    assert notes.fxsave[24:32] == (fx() if xfeatures & 2 else INIT_FX)[24:32]


def test_the_kernels_own_initial_state_is_preferred() -> None:
    init = replace(LAYOUT, init_image=b"\x0f" * 1024)
    notes = user_fpu(FpuState(standard(0, {})), init, raw=False)
    assert notes.fxsave == b"\x0f" * 416 + bytes(96)


def test_before_5_14_the_saved_image_is_copied() -> None:
    image = standard(0x4, {2: component(2)})
    notes = user_fpu(FpuState(image), LAYOUT, raw=True)
    fxsave = INIT_FX[:24] + fx()[24:32] + bytes(128 + 256) + fx()[416:]
    assert notes.fxsave == fxsave
    assert notes.xstate is not None
    assert notes.xstate[:464] == fxsave[:464]
    assert struct.unpack_from("<6Q", notes.xstate, 464) == (LAYOUT.user_features, 0, 0, 0, 0, 0)
    assert notes.xstate[512:2688] == image[512:2688]  # header, YMM, and whatever is between
    assert notes.xstate[2688:2696] == bytes(8)  # PKRU, in its initial state
    assert notes.xstate[2696:2752] == image[2696:2752]
    assert notes.xstate[2752:] == bytes(11008 - 2752)


def test_without_xsave_the_image_is_the_note() -> None:
    notes = user_fpu(FpuState(fx()), None, raw=False)
    assert (notes.fxsave, notes.xstate) == (fx(), None)
    assert (
        user_fpu(FpuState(fx()), XsaveLayout(user_size=0, user_features=0, offsets={}, sizes={}), raw=True).xstate
        is None
    )


def test_what_is_cut_short_is_left_out_and_told() -> None:
    assert user_fpu(FpuState(b"x" * 511), LAYOUT, raw=False).fxsave is None
    notes = user_fpu(FpuState(compacted(0x60207, (2, 9, 17, 18))[:-1]), LAYOUT, raw=False)
    assert notes.omitted == (18,)
    assert notes.xstate == expected(0x60207, {n: c for n, c in ALL.items() if n != 18})
    liar = replace(LAYOUT, offsets={**LAYOUT.offsets, 2: 1 << 40, 9: 3})
    assert user_fpu(FpuState(standard(0x207, ALL)), liar, raw=False).omitted == (2, 9)
    headless = user_fpu(FpuState(fx()), LAYOUT, raw=False)
    assert headless.xstate is None
    assert headless.omitted


def test_shadow_stack_pointer() -> None:
    cet = struct.pack("<QQ", 3, 0x7FFFF7BFF000)
    image = area(0x803, COMPACTED | 0x807, component(2) + cet)
    assert user_ssp(FpuState(image), LAYOUT) == 0x7FFFF7BFF000
    assert user_ssp(FpuState(area(0x3, COMPACTED | 0x807, component(2) + cet)), LAYOUT) is None
    assert user_ssp(FpuState(image[:-1]), LAYOUT) is None
    assert user_ssp(FpuState(b""), LAYOUT) is None


def test_layout_note() -> None:
    rows = [(2, 256, 576, 0), (9, 8, 2688, 0), (17, 64, 2752, 0), (18, 8192, 2816, 0)]
    assert layout_note(LAYOUT) == b"".join(struct.pack("<4I", *row) for row in rows)


@settings(deadline=None)
@given(
    image=st.binary(max_size=1200),
    size=st.integers(0, 5000),
    features=st.integers(0, 2**64 - 1),
    numbers=st.dictionaries(st.integers(0, 63), st.tuples(st.integers(0, 2**32), st.integers(0, 2**32))),
    raw=st.booleans(),
    pkru=st.none() | st.integers(0, 2**40),
)
def test_no_dump_can_make_it_fail_or_grow(
    image: bytes, size: int, features: int, numbers: dict[int, tuple[int, int]], raw: bool, pkru: int | None
) -> None:
    layout = XsaveLayout(
        user_size=size,
        user_features=features,
        offsets={n: a for n, (a, _) in numbers.items()},
        sizes={n: b for n, (_, b) in numbers.items()},
    )
    fpu = FpuState(image, pkru=pkru)
    notes = user_fpu(fpu, layout, raw=raw)
    assert notes.fxsave is None or len(notes.fxsave) == 512
    assert notes.xstate is None or len(notes.xstate) == size
    user_ssp(fpu, layout)


HARDWARE = r"""
#include <cpuid.h>
#include <immintrin.h>
#include <stdio.h>
#include <string.h>

static unsigned char compact[1 << 16] __attribute__((aligned(64)));
static unsigned char plain[1 << 16] __attribute__((aligned(64)));

int main(void)
{
	unsigned a, b, c, d, lo, hi;
	if (!__get_cpuid_count(0xd, 1, &a, &b, &c, &d) || !(a & 2))
		return 77;
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	unsigned long long xcr0 = (unsigned long long)hi << 32 | lo;
	__cpuid_count(0xd, 0, a, b, c, d);
	printf("%u %llu\n", b, xcr0);
	for (int i = 2; i < 63; i++) {
		if (!(xcr0 >> i & 1))
			continue;
		__cpuid_count(0xd, i, a, b, c, d);
		printf("%d %u %u %d\n", i, b, a, c >> 1 & 1);
	}
	printf("end\n");
	fflush(stdout);
	if (xcr0 & 4)
		__asm__ volatile("vpcmpeqd %%ymm5, %%ymm5, %%ymm5" ::: "xmm5");
	__asm__ volatile("fldpi\n\t"
			 "xsavec64 %0\n\t"
			 "xsave64 %1\n\t"
			 "fstp %%st(0)" : "+m"(compact), "+m"(plain) : "a"(-1), "d"(-1) : "memory");
	fwrite(compact, sizeof compact, 1, stdout);
	fwrite(plain, sizeof plain, 1, stdout);
	return 0;
}
"""


def test_the_processor_itself_agrees(tmp_path: Path) -> None:
    """XSAVEC's compacted image comes out as what XSAVE stored of the same registers."""
    done = subprocess.run([compiled(tmp_path, HARDWARE, "-O1")], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this processor has no XSAVEC")
    text, data = done.stdout.split(b"end\n", 1)
    (size, features), *rows = ([int(word) for word in line.split()] for line in text.splitlines())
    layout = XsaveLayout(
        user_size=size,
        user_features=features,
        offsets={i: offset for i, offset, _, _ in rows},
        sizes={i: length for i, _, length, _ in rows},
        aligned=frozenset(i for i, _, _, aligned in rows if aligned),
    )
    compact, plain = data[: 1 << 16], data[1 << 16 :]
    assert struct.unpack_from("<Q", compact, 520)[0] & COMPACTED
    got = user_fpu(FpuState(compact), layout, raw=False)
    want = user_fpu(FpuState(plain), layout, raw=False)
    assert got.omitted == ()
    assert got.fxsave == want.fxsave == plain[:416] + bytes(96)
    in_use = struct.unpack_from("<Q", compact, 512)[0]
    assert in_use & 1
    assert got.xstate is not None
    for i, offset, length, _ in rows:
        stored = plain[offset : offset + length] if in_use >> i & 1 else bytes(length)
        assert got.xstate[offset : offset + length] == stored, f"feature {i}"
