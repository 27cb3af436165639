# SPDX-License-Identifier: LGPL-2.1-or-later
"""Numbers that only the kernel's instructions show, in the words of real kernels' code and of others."""

import pytest

pytest.importorskip("drgn")

from kgcore.model.process import CoreDialect
from kgcore.sources.vmcore.kernel.machine import x86code
from kgcore.sources.vmcore.kernel.structs import Members
from tests.vmcore.layouts.world import World, physical

TYPES = """
struct list_head { struct list_head *next, *prev; };
struct thread_info { unsigned long flags; };
struct task_struct { struct thread_info thread_info; unsigned int flags; struct list_head tasks; };
"""
OLD, NEW = "f0 80 61 01 bf", "f0 80 62 02 f7"  # lock andb $~(1 << 14 % 8), 14 / 8 (REGISTER); 19


def task(world: World, flags: int) -> Members:
    address = world.new("struct task_struct", thread_info__flags=flags)
    return world.kernel.task(world.pointer("struct task_struct", address))


class TestInstructions:
    """As gcc 10 to 15 has written them in Debian's kernels; 3e where the kernel found a single CPU."""

    @pytest.mark.parametrize(
        ("code", "bit"),
        [
            (OLD, 14),
            (NEW, 19),
            ("3e 80 61 01 bf", 14),
            ("f0 41 80 64 24 02 f7", 19),  # r12
            ("f0 41 80 65 02 f7", 19),  # r13
            ("80 61 01 bf", 14),  # SMP=n
            ("80 61 01 bf 90 f0 80 61 02 f7", 19),  # an atomic one counts for more
            ("f0 80 61 01 bf 90 f0 80 61 01 bf", 14),
            ("f0 80 61 01 bf 90 f0 80 61 02 f7", None),  # two
            ("f0 80 61 01 be", None),  # two bits
            ("f0 80 61 01 ff", None),
            ("f0 80 61 09 bf", None),  # another member
            ("f0 80 49 01 40", None),  # sets it
            ("", None),
        ],
    )
    def test_cleared_bit(self, code: str, bit: int | None) -> None:
        assert x86code.cleared_bit(bytes.fromhex(code), 0) == bit

    def test_cleared_bit_of_a_later_member(self) -> None:
        assert x86code.cleared_bit(bytes.fromhex("f0 80 61 19 bf"), 0x18) == 14

    @pytest.mark.parametrize(
        ("code", "bit"),
        [
            ("f0 48 0f ba 33 18", 24),
            ("f0 0f ba 33 18", 24),
            ("f0 80 61 03 fd f0 48 0f ba 33 18", 24),
            ("f0 48 0f ba 33 18 f0 48 0f ba 33 19", None),
            ("f0 48 0f ba 2b 18", None),  # bts
            ("", None),
        ],
    )
    def test_tested_bit(self, code: str, bit: int | None) -> None:
        assert x86code.tested_bit(bytes.fromhex(code)) == bit

    @pytest.mark.parametrize(
        ("code", "size", "words"),
        [
            ("48 c7 40 30 04 00 00 00", 8, {4}),
            ("49 c7 44 24 30 04 00 00 00", 8, {4}),
            ("48 c7 40 30 00 00 00 00 48 c7 43 30 11 00 00 00", 8, {0, 17}),
            ("48 c7 40 38 04 00 00 00", 8, set()),
            ("c7 40 1c 04 00 00 00", 4, {4}),
        ],
    )
    def test_stored_words(self, code: str, size: int, words: set[int]) -> None:
        offset = 0x30 if size == 8 else 0x1C
        assert x86code.stored_words(bytes.fromhex(code), offset, size) == words

    def test_function(self) -> None:
        world = World("")
        world.code("f", OLD)
        assert x86code.function(world.target, "f") == bytes.fromhex(OLD)
        assert x86code.function(world.target, "g") == b""
        world.lost = {physical(world.symbols["f"]) >> 12}
        assert x86code.function(world.target, "f") == b""


class TestThreadFlags:
    """TIF_NEED_FPU_LOAD and TIF_FORCED_TF, arch/x86/include/asm/thread_info.h."""

    @pytest.mark.parametrize("release", ["4.18.0-553.el8", "5.14.0-503.el9", "6.12.0", "7.2.0"])
    @pytest.mark.parametrize(("code", "bit"), [(OLD, 14), (NEW, 19)])
    def test_bits(self, release: str, code: str, bit: int) -> None:
        """Whatever the release says."""
        world = World(TYPES, release)
        world.code("switch_fpu_return", code)
        world.code("user_disable_single_step", "f0 48 0f ba 33 17")
        world.kernel_threads(1 << bit, 1 << bit | 1 << 3, 1 << bit)
        for number in range(32):
            assert world.machine.need_fpu_load(task(world, 1 << number)) is (number == bit)
            assert world.machine.forced_tf(task(world, 1 << number)) is (number == 23)

    @pytest.mark.parametrize("flags", [(1 << 19,), (1 << 14, 1 << 19), (0,), ()])
    def test_contradiction(self, flags: tuple[int, ...]) -> None:
        """Kernel threads would have it: the registers count as live, which no dump has."""
        world = World(TYPES)
        world.code("switch_fpu_return", OLD)
        if flags:
            world.kernel_threads(*flags)
        for number in range(32):
            assert not world.machine.need_fpu_load(task(world, 1 << number))

    @pytest.mark.parametrize(
        ("flags", "bit"), [((1 << 14, 1 << 14), 14), ((1 << 19,), 19), ((1 << 14 | 1 << 28,), None), ((0,), None)]
    )
    def test_code_that_is_not_in_the_dump(self, flags: tuple[int, ...], bit: int | None) -> None:
        """Kernel threads say it if they have one flag only; TIF_SYSCALL_TRACEPOINT, for one, all tasks may have."""
        world = World(TYPES)
        world.has("switch_fpu_return")
        world.kernel_threads(*flags)
        for number in range(32):
            assert world.machine.need_fpu_load(task(world, 1 << number)) is (number == bit)

    def test_unknown_code(self) -> None:
        """Before 5.2 registers are always live (arch/x86/include/asm/fpu/internal.h)."""
        world = World(TYPES)
        world.kernel_threads(1 << 14)
        assert not world.machine.need_fpu_load(task(world, (1 << 64) - 1))
        assert world.machine.forced_tf(task(world, 1 << 24))


class TestDialect:
    NOW = "struct coredump_params { long x; }; struct core_vma_metadata { unsigned long start, pgoff; };"
    SNAPSHOT = "struct coredump_params { long x; }; struct core_vma_metadata { unsigned long start; };"
    BEFORE = "struct coredump_params { long x; };"

    @pytest.mark.parametrize(
        ("functions", "dialect"),
        [
            ((), CoreDialect(0, raw_fpregs=True, xsave_layout=False)),
            (("copy_xstate_to_uabi_buf",), CoreDialect(0, raw_fpregs=False, xsave_layout=False)),
            (("copy_xstate_to_uabi_buf", "elf_coredump_extra_notes_write"), CoreDialect(0)),
        ],
    )
    def test_functions(self, functions: tuple[str, ...], dialect: CoreDialect) -> None:
        world = World("")
        world.has(*functions)
        assert world.kernel.dialect() == dialect

    @pytest.mark.parametrize("release", ["5.10.0", "6.12.0"])
    @pytest.mark.parametrize(("value", "align"), [("00", 0), ("04", 4), ("11", 0)])
    def test_note_align(self, release: str, value: str, align: int) -> None:
        """fill_elf_note_phdr(): ``movq $VALUE, 48(%rax)``."""
        world = World("", release)
        world.code("elf_core_dump", f"48 c7 40 30 {value} 00 00 00")
        assert world.kernel.dialect().note_align == align

    @pytest.mark.parametrize(("types", "align"), [("struct cachestat { u64 nr_cache; };", 4), ("", 0)])
    def test_note_align_without_the_code(self, types: str, align: int) -> None:
        """Both are of 6.5."""
        world = World(types)
        world.has("elf_core_dump")
        assert world.kernel.dialect().note_align == align

    @pytest.mark.parametrize(
        ("types", "codes", "rule"),
        [
            (NOW, {}, (True, True)),
            (SNAPSHOT, {"do_coredump": "81 7d 00 7f 45 4c 46"}, (True, True)),
            (SNAPSHOT, {"dump_vma_snapshot": "90", "do_coredump": "90"}, (True, False)),
            (SNAPSHOT, {}, (True, True)),  # not certain
            (BEFORE, {}, (False, True)),  # before 5.10
            ("", {}, (True, True)),  # not certain
        ],
    )
    def test_elf_headers(self, types: str, codes: dict[str, str], rule: tuple[bool, bool]) -> None:
        world = World(types, "5.14.0-503.el9")
        for name, code in codes.items():
            world.code(name, code)
        dialect = world.kernel.dialect()
        assert (dialect.header_by_mode, dialect.header_by_magic) == rule
