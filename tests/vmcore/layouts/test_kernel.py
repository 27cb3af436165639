# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each branch of kernel.py on the layouts of the releases on either side of it."""

import struct
from typing import ClassVar

import pytest

pytest.importorskip("drgn")

from drgn import FaultError

from kgcore.errors import BrokenDump
from kgcore.model.process import VM_EXEC, VM_READ
from kgcore.sources.vmcore.kernel.structs import Members
from tests.vmcore.layouts.world import PAGE, PAGE_OFFSET, World

THREAD = "struct thread_info { unsigned long flags; };"


def task(world: World, **members: object) -> Members:
    return world.kernel.task(world.pointer("struct task_struct", world.new("struct task_struct", **members)))


class TestTasks:
    @pytest.mark.parametrize("name", ["init_stack", "init_task"])
    def test_thread_size(self, name: str) -> None:
        """INIT_TASK_DATA(THREAD_SIZE), include/asm-generic/vmlinux.lds.h; renamed in 6.10."""
        world = World("")
        world.symbols |= {f"__start_{name}": 0xFFFFFFFF82000000, f"__end_{name}": 0xFFFFFFFF82008000}
        assert world.kernel.thread_size == 32768

    def test_thread_size_by_type(self) -> None:
        """``unsigned long stack[THREAD_SIZE / sizeof(long)]``, include/linux/sched.h."""
        world = World("union thread_union { unsigned long stack[4096]; };")
        assert world.kernel.thread_size == 32768

    def test_thread_size_unknown(self) -> None:
        world = World("")
        assert world.kernel.thread_size == 16384
        world = World("")
        world.symbols |= {"__start_init_task": 0xFFFFFFFF82000000, "__end_init_task": 0xFFFFFFFF92000000}
        assert world.kernel.thread_size == 16384

    def test_padding(self) -> None:
        """TOP_OF_KERNEL_STACK_PADDING, arch/x86/include/asm/thread_info.h: 2 * 8 with CONFIG_X86_FRED."""
        world = World("")
        assert world.machine.pt_regs_padding == 0
        world = World("")
        world.has("fred_entry_from_user")
        assert world.machine.pt_regs_padding == 16

    @pytest.mark.parametrize("member", ["long state", "unsigned int __state"])
    def test_state(self, member: str) -> None:
        world = World(f"struct task_struct {{ {member}; }};")
        it = task(world)
        for value, word in ((0x402, 0x402), (-1, 0xFFFFFFFF)):
            world.set("struct task_struct", it.address, {member.rsplit(maxsplit=1)[-1]: value})
            assert world.kernel.task_state(world.kernel.task(world.pointer("struct task_struct", it.address))) == word

    @pytest.mark.parametrize("member", ["struct core_state *core_state;", ""])
    def test_sharers(self, member: str) -> None:
        world = World(f"struct mm_struct {{ int map_count; {member} }};")
        assert world.kernel.dumps_sharers is bool(member)

    @pytest.mark.parametrize("enabled", [False, True])
    def test_fsgsbase(self, enabled: bool) -> None:
        """X86_FEATURE_FSGSBASE is ( 9*32+ 0), arch/x86/include/asm/cpufeatures.h."""
        world = World("struct cpuinfo_x86 { u8 x86; u32 x86_capability[20]; };")
        words = [0xFFFFFFFF] * 20
        words[9] = 0xFFFFFFFE | enabled
        world.variable("boot_cpu_data", "struct cpuinfo_x86", x86_capability=words)
        assert world.machine.fsgsbase is enabled

    def test_shadow_stack(self) -> None:
        old = World("struct thread_struct { long sp; }; struct task_struct { struct thread_struct thread; };")
        assert not old.machine.shadow_stack(task(old))
        new = World(
            "struct thread_struct { unsigned long features; }; struct task_struct { struct thread_struct thread; };"
        )
        assert new.machine.shadow_stack(task(new, thread__features=1))
        assert not new.machine.shadow_stack(task(new, thread__features=2)), "ARCH_SHSTK_WRSS alone"

    def test_io_bitmap_before_5_5(self) -> None:
        world = World(
            "struct thread_struct { unsigned long *io_bitmap_ptr; unsigned int io_bitmap_max; };"
            "struct task_struct { struct thread_struct thread; };"
        )
        assert world.machine.io_bitmap(task(world)) is None
        bits = bytes(range(256)) * 32
        assert world.machine.io_bitmap(task(world, thread__io_bitmap_ptr=world.data(bits))) == bits

    def test_io_bitmap(self) -> None:
        world = World(
            "struct io_bitmap { u64 sequence; int refcnt; unsigned int max; unsigned long bitmap[1024]; };"
            "struct thread_struct { struct io_bitmap *io_bitmap; };"
            "struct task_struct { struct thread_struct thread; };"
        )
        bits = bytes(range(256)) * 32
        used = world.new("struct io_bitmap", max=8192, bitmap=struct.unpack("<1024Q", bits))
        unused = world.new("struct io_bitmap", max=0, bitmap=struct.unpack("<1024Q", bits))
        assert world.machine.io_bitmap(task(world)) is None
        assert world.machine.io_bitmap(task(world, thread__io_bitmap=unused)) is None
        assert world.machine.io_bitmap(task(world, thread__io_bitmap=used)) == bits

    def test_cpus(self) -> None:
        world = World("struct cpumask { unsigned long bits[2]; };")
        world.variable("__cpu_possible_mask", "struct cpumask", bits=[0b1011, 1 << 63])
        world.has("__per_cpu_offset")
        assert world.kernel.cpus == (0, 1, 3, 127)

    def test_without_smp(self) -> None:
        """The mask may say nothing, or may not be there."""
        world = World("struct cpumask { unsigned long bits[2]; };")
        world.variable("__cpu_possible_mask", "struct cpumask", bits=[0, 0])
        assert (world.kernel.cpus, World("").kernel.cpus) == ((0,), (0,))


class TestFpu:
    """Where the image lies, arch/x86/include/asm/fpu/types.h and processor.h."""

    STATE = "union fpregs_state { u8 padding[4096]; };"
    FPSTATE = STATE + "struct fpstate { unsigned int size; unsigned int user_size; u64 xfd; union fpregs_state regs; };"
    IMAGE = bytes(range(256)) * 4

    def test_until_5_15(self) -> None:
        world = World(
            self.STATE + "struct fpu { unsigned int last_cpu; u64 x; union fpregs_state state; };"
            "struct thread_struct { struct fpu fpu; }; struct task_struct { struct thread_struct thread; };"
        )
        it = task(world, thread__fpu__state=self.IMAGE)
        world.word("fpu_kernel_xstate_size", 0xDEAD_0000_03C0)  # an unsigned int
        assert world.machine.fpu.image(it) == self.IMAGE[:0x3C0]
        world.lost = set(world.memory)
        with pytest.raises(FaultError):
            world.machine.fpu.image(it)

    def test_without_xsave(self) -> None:
        world = World(
            self.STATE + "struct fpu { union fpregs_state state; };"
            "struct thread_struct { struct fpu fpu; }; struct task_struct { struct thread_struct thread; };"
        )
        assert world.machine.fpu.image(task(world, thread__fpu__state=self.IMAGE)) == self.IMAGE[:512]

    def test_5_16_to_6_15(self) -> None:
        world = World(
            self.FPSTATE + "struct fpu { unsigned int last_cpu; struct fpstate *fpstate; };"
            "struct thread_struct { struct fpu fpu; }; struct task_struct { struct thread_struct thread; };"
        )
        state = world.new("struct fpstate", size=1000, regs=self.IMAGE)
        assert world.machine.fpu.image(task(world, thread__fpu__fpstate=state)) == self.IMAGE[:1000]

    def test_since_6_16(self) -> None:
        """``x86_task_fpu()``: (void *)(task) + sizeof(*(task))."""
        world = World(
            self.FPSTATE + "struct fpu { unsigned int last_cpu; struct fpstate *fpstate; };"
            "struct thread_struct { long sp; }; struct task_struct { struct thread_struct thread; u8 rest[120]; };"
            "struct both { struct task_struct task; struct fpu fpu; };"
        )
        state = world.new("struct fpstate", size=832, regs=self.IMAGE)
        both = world.new("struct both", fpu__fpstate=state)
        assert world.machine.fpu.image(world.kernel.task(world.pointer("struct task_struct", both))) == self.IMAGE[:832]

    @pytest.mark.parametrize("size", [0, 511, 1 << 17, 0xFFFFFFFF])
    def test_absurd_size(self, size: int) -> None:
        world = World(
            self.FPSTATE + "struct fpu { struct fpstate *fpstate; };"
            "struct thread_struct { struct fpu fpu; }; struct task_struct { struct thread_struct thread; };"
        )
        state = world.new("struct fpstate", size=size)
        with pytest.raises(BrokenDump, match=f"FPU state of {size} bytes"):
            world.machine.fpu.image(task(world, thread__fpu__fpstate=state))


class TestXsaveLayout:
    REGSET = "struct user_regset { void *get; unsigned int n; unsigned int size; unsigned int core_note_type; };"
    FEATURES = "enum xfeature { XFEATURE_FP, XFEATURE_SSE, XFEATURE_YMM, XFEATURE_BNDREGS, XFEATURE_MAX = 5 };"
    FPSTATE = "struct fpstate { unsigned int size; u64 xfd; u8 regs[8192]; };"

    def world(self, text: str = "", words: int = 120) -> World:
        world = World(self.REGSET + self.FEATURES + text)
        regsets = world.allocate(5 * world.prog.type("struct user_regset").size)
        world.symbols["x86_64_regsets"] = regsets
        size = world.prog.type("struct user_regset").size or 0
        for row, (kind, n) in enumerate(((1, 27), (2, 64), (0x202, words), (0x201, 1))):
            world.set("struct user_regset", regsets + row * size, {"core_note_type": kind, "n": n})
        self.array(world, "xstate_offsets", 0, 160, 576, 832, 0xFFFFFFFF)
        self.array(world, "xstate_sizes", 0, 0, 256, 64, 0xFFFFFFFF)
        world.word("xstate_fx_sw_bytes", 0xF)
        return world

    @staticmethod
    def array(world: World, name: str, *values: int) -> None:
        world.symbols[name] = world.data(struct.pack(f"<{len(values)}I", *values))

    def test_new(self) -> None:
        """With xstate_flags (6.1) bit 1 is CPUID.0xD ECX[1]: arch/x86/kernel/fpu/xstate.c, XSTATE_FLAG_ALIGNED64."""
        world = self.world(self.FPSTATE)
        self.array(world, "xstate_flags", 0, 0, 1, 2, 3)
        image = bytes(range(240)) * 4
        world.symbols["init_fpstate"] = world.new("struct fpstate", regs=image)
        layout = world.machine.xsave_layout()
        assert layout is not None
        assert (layout.user_size, layout.user_features) == (960, 0xF)
        assert (layout.offsets, layout.sizes) == ({2: 576, 3: 832}, {2: 256, 3: 64})
        assert layout.aligned == {3, 4}
        assert layout.init_image == image

    def test_old(self) -> None:
        """Before, ``xstate_comp_offsets`` tells: what does not follow its predecessor at once is aligned."""
        world = self.world()
        self.array(world, "xstate_sizes", 0, 0, 248, 64, 0xFFFFFFFF)
        self.array(world, "xstate_comp_offsets", 0, 160, 576, 832, 0)
        image = bytes(range(240)) * 4
        world.symbols["init_fpstate"] = world.data(image)  # a union fpregs_state itself
        layout = world.machine.xsave_layout()
        assert layout is not None
        assert layout.aligned == {3}
        assert layout.init_image == image

    MANY = FEATURES.replace("XFEATURE_MAX = 5", "XFEATURE_MAX = 20")
    OFFSETS: ClassVar = {2: 576, 9: 2688, 17: 2752, 18: 2816}
    SIZES: ClassVar = {2: 256, 9: 8, 10: 8, 11: 16, 17: 64, 18: 8192}

    def many(self, compacted: dict[int, int]) -> World:
        """A server whose kernel has supervisor features, 10 and 11: their offsets are -1 (RHEL 8, and 5.8 on)."""
        world = self.world(self.MANY, words=11008 // 8)
        for name, known in (("offsets", self.OFFSETS), ("sizes", self.SIZES)):
            self.array(world, f"xstate_{name}", *(known.get(number, 0xFFFFFFFF) for number in range(20)))
        if compacted:
            self.array(world, "xstate_comp_offsets", *(compacted.get(number, 0) for number in range(20)))
        return world

    @pytest.mark.parametrize("also", [{}, {10: 840, 11: 848}])
    def test_supervisor_features_between(self, also: dict[int, int]) -> None:
        """They have no place in the note, but one in the compacted format, whether the kernel says which or not."""
        layout = self.many({2: 576, 9: 832, 17: 896, 18: 960} | also).machine.xsave_layout()
        assert layout is not None
        assert (layout.offsets, layout.sizes, layout.aligned) == (self.OFFSETS, self.SIZES, frozenset({17}))

    def test_a_place_that_no_alignment_explains(self) -> None:
        """Nothing is read from there."""
        layout = self.many({2: 576, 9: 840, 17: 896, 18: 960}).machine.xsave_layout()
        assert layout is not None
        assert 9 not in layout.sizes

    def test_without_xsaves(self) -> None:
        """The standard format's offsets stand in both arrays then, and have gaps."""
        layout = self.many(self.OFFSETS).machine.xsave_layout()
        assert layout is not None
        assert (layout.offsets, layout.sizes, layout.aligned) == (self.OFFSETS, self.SIZES, frozenset())

    def test_no_xsave(self) -> None:
        assert World("").machine.xsave_layout() is None
        assert self.world(words=0).machine.xsave_layout() is None

    def test_absurd(self) -> None:
        with pytest.raises(BrokenDump):
            self.world(words=0xFFFFFFFF).machine.xsave_layout()

    def test_lost(self) -> None:
        """What the CPU has is not to be guessed."""
        world = self.world()
        world.lost = {(world.symbols["xstate_fx_sw_bytes"] - PAGE_OFFSET) >> 12}
        with pytest.raises(FaultError):
            world.machine.xsave_layout()


class TestPrograms:
    MM = (
        "struct linux_binfmt { void *module; };"
        "struct mm_struct { unsigned long task_size; struct linux_binfmt *binfmt; };"
    )
    IA32_END, END = 0xFFFFE000, (1 << 47) - 4096  # IA32_PAGE_OFFSET, TASK_SIZE_MAX

    def program(self, world: World, binfmt: str, end: int) -> bool:
        address = world.symbols.get(binfmt) or (world.new("struct linux_binfmt") if binfmt else 0)
        mm = world.new("struct mm_struct", binfmt=address, task_size=end)
        return world.machine.compat_program(world.pointer("struct mm_struct", mm))

    @pytest.mark.parametrize("end", [IA32_END, END, 0])
    def test_the_format_decides(self, end: int) -> None:
        world = World(self.MM)
        for name in ("elf_format", "compat_elf_format"):
            world.variable(name, "struct linux_binfmt")
        assert self.program(world, "compat_elf_format", end)
        assert not self.program(world, "elf_format", end)

    @pytest.mark.parametrize("known", [(), ("elf_format",)])
    @pytest.mark.parametrize("binfmt", ["", "another"])
    def test_else_the_address_space_does(self, known: tuple[str, ...], binfmt: str) -> None:
        """No such symbol, or another format (a.out had one)."""
        world = World(self.MM)
        for name in known:
            world.variable(name, "struct linux_binfmt")
        assert self.program(world, binfmt, self.IA32_END)
        assert not self.program(world, binfmt, self.END)
        assert not self.program(world, binfmt, 0)

    def test_code_segments(self) -> None:
        """__USER32_CS 0x23, __USER_CS 0x33; of the process's own table: arch/x86/include/asm/segment.h."""
        for world in (World(""), World("struct pv_info { char *name; };")):
            world.word("pv_info", 0xE033)
            assert [cs for cs in (0x33, 0x23, 0x0F, 0x1B, 0xE033, 0x10, 0) if world.machine.long_mode(cs)] == [0x33]

    @pytest.mark.parametrize(("other", "found"), [(0x33, [0x33]), (0xE033, [0x33, 0xE033])])
    def test_code_segment_of_xen(self, other: int, found: list[int]) -> None:
        """FLAT_USER_CS64, arch/x86/xen/enlighten_pv.c."""
        world = World("struct pv_info { u16 extra_user_64bit_cs; char *name; };")
        world.variable("pv_info", "struct pv_info", extra_user_64bit_cs=other)
        assert [cs for cs in (0x33, 0x23, 0xE023, 0xE033) if world.machine.long_mode(cs)] == found
        lost = World("struct pv_info { u16 extra_user_64bit_cs; char *name; };")
        lost.variable("pv_info", "struct pv_info", extra_user_64bit_cs=other)
        lost.lost = set(lost.memory)
        assert [cs for cs in (0x33, 0x23, 0xE033) if lost.machine.long_mode(cs)] == [0x33]


class TestAddressSpace:
    @pytest.mark.parametrize(
        ("text", "member"),
        [
            ("struct mm_struct { unsigned long flags; };", "flags"),
            (
                "typedef struct { unsigned long __mm_flags[1]; } mm_flags_t; struct mm_struct { mm_flags_t flags; };",
                "flags.__mm_flags[0]",
            ),
        ],
    )
    def test_dump_filter(self, text: str, member: str) -> None:
        """MMF_DUMP_FILTER_SHIFT 2, nine bits: include/linux/sched/coredump.h, include/linux/mm_types.h."""
        world = World(text)
        mm = world.new("struct mm_struct")
        world.set("struct mm_struct", mm, {member: 0xFFFF_F803 | 0x133 << 2})
        assert world.kernel.dump_filter(world.pointer("struct mm_struct", mm)) == 0x133

    NEW = "typedef struct { unsigned long flags; } mm_context_t; struct mm_struct { mm_context_t context; };"
    OLD = "typedef struct { unsigned short ia32_compat; } mm_context_t; struct mm_struct { mm_context_t context; };"
    VMA = "struct vm_area_struct { unsigned long vm_start, vm_end, vm_flags; };"

    @pytest.mark.parametrize(
        ("text", "members", "there"),
        [
            # MM_CONTEXT_HAS_VSYSCALL: bit 1 since 5.11
            (NEW, {"context.flags": 2}, True),
            (NEW, {"context.flags": 0xFFFD}, False),
            (OLD, {"context.ia32_compat": 0}, True),
            (OLD, {"context.ia32_compat": 1}, False),
        ],
    )
    @pytest.mark.parametrize(
        ("mode", "flags", "allowed"),
        [
            (0, VM_READ | VM_EXEC, True),  # EMULATE
            (1, VM_EXEC, True),  # XONLY, since 5.3
            (1, VM_READ | VM_EXEC, False),  # NONE before
            (2, VM_READ | VM_EXEC, False),  # NONE
        ],
    )
    def test_gate_vma(
        self, text: str, members: dict[str, int], there: bool, mode: int, flags: int, allowed: bool
    ) -> None:
        """``get_gate_vma()``, arch/x86/entry/vsyscall/vsyscall_64.c."""
        world = World(text + self.VMA)
        world.symbols["gate_vma"] = world.new("struct vm_area_struct", vm_flags=flags)
        world.word("vsyscall_mode", 0xABCD_0000_0000 << 8 | mode)  # an unsigned int
        mm = world.new("struct mm_struct")
        world.set("struct mm_struct", mm, members)
        gate = world.machine.gate_vma(world.pointer("struct mm_struct", mm))
        assert (gate is not None) is (there and allowed)
        assert gate is None or gate.value_() == world.symbols["gate_vma"]

    def test_no_vsyscall_compiled_in(self) -> None:
        world = World(self.NEW)
        assert world.machine.gate_vma(world.pointer("struct mm_struct", world.new("struct mm_struct"))) is None

    def test_auxv(self) -> None:
        upstream = World("struct mm_struct { unsigned long saved_auxv[4]; };")
        mm = upstream.new("struct mm_struct", saved_auxv=[3, 64, 0, 0])
        assert upstream.kernel.auxv(upstream.pointer("struct mm_struct", mm), 8) == (3, 64, 0, 0)
        rhel = World(
            "struct mm_struct_rh { unsigned long saved_auxv[6]; };"
            "struct mm_struct { unsigned long saved_auxv[4]; struct mm_struct_rh *mm_rh; };"
        )
        moved = rhel.new("struct mm_struct_rh", saved_auxv=[3, 64, 9, 1, 0, 0])
        mm = rhel.new("struct mm_struct", mm_rh=moved)
        assert rhel.kernel.auxv(rhel.pointer("struct mm_struct", mm), 8) == (3, 64, 9, 1, 0, 0)

    def test_auxv_of_a_32_bit_program(self) -> None:
        """``elf_addr_t`` words, one behind the other in an array of longs (fs/compat_binfmt_elf.c)."""
        world = World("struct mm_struct { unsigned long saved_auxv[3]; };")
        mm = world.new("struct mm_struct", saved_auxv=[0x8048034_00000003, 0x1000_00000006, 0])
        pairs = (3, 0x8048034, 6, 0x1000, 0, 0)
        assert world.kernel.auxv(world.pointer("struct mm_struct", mm), 4) == pairs

    def test_addresses(self) -> None:
        """KASLR: page_offset_base, vmemmap_base and phys_base say where things are; else Documentation/arch/x86/x86_64/
        mm.rst."""
        plain = World("struct page { u64 words[8]; };").machine
        assert plain.direct_map_to_phys(0xFFFF888012345678) == 0x12345678
        assert plain.page_to_phys(0xFFFFEA0000000000 + 64 * 5) == 0x5000
        la57 = World("", vmcoreinfo={"NUMBER(pgtable_l5_enabled)": "1"}).machine
        assert la57.vmemmap == 0xFFD4000000000000
        assert la57.user_end == (1 << 56) - 4096
        world = World("struct page { u64 words[5]; };")
        world.word("page_offset_base", 0xFFFF9C0000000000)
        world.word("vmemmap_base", 0xFFFFF40000000000)
        world.word("phys_base", 0x5000000)
        machine = world.machine
        assert machine.direct_map_to_phys(0xFFFF9C0000001000) == 0x1000
        assert machine.page_to_phys(0xFFFFF40000000000 + 40 * 0x123) == 0x123000
        assert machine.kernel_image_to_phys(0xFFFFFFFF81000000) == 0x6000000
        with pytest.raises(BrokenDump):
            machine.direct_map_to_phys(0xFFFF888012345678)

    def test_physical_base_may_be_negative(self) -> None:
        """KASLR moves the kernel's addresses and its place in RAM apart from each other."""
        world = World("", vmcoreinfo={"NUMBER(phys_base)": "-287309824"})
        assert world.machine.kernel_image_to_phys(0xFFFFFFFF9FE00000) == 0x1FE00000 - 287309824

    @pytest.mark.parametrize("one_array", [True, False])
    def test_pages_in_sections(self, one_array: bool) -> None:
        """Without vmemmap_base: either vmemmap is fixed, and all sections have the same, or each has an array."""
        info = {
            "NUMBER(SECTION_SIZE_BITS)": "27",
            "LENGTH(mem_section)": "4",
            "SIZE(mem_section)": "16",
            "OFFSET(mem_section.section_mem_map)": "0",
        }
        world = World("struct page { u64 words[7]; };", vmcoreinfo=info)
        roots, pages, size = world.allocate(4 * 8), 1 << 27 - 12, 56
        info["SYMBOL(mem_section)"] = f"{roots:x}"
        arrays = {0: 0xFFFF888010000000, 1: 0xFFFF888018000000, 256 + 9: 0xFFFF888011000000}
        if one_array:
            arrays = {number: 0xFFFFF40000000000 + number * pages * size for number in arrays}
        for root in (0, 1):
            page = world.allocate(PAGE)
            world.write(roots + root * 8, page.to_bytes(8, "little"))
            world.write(page + 16 * 16, (0xFFFFA00000000000 | 0b0001).to_bytes(8, "little"))  # present, without pages
            for number, array in arrays.items():
                if number // 256 == root:
                    coded = array - number * pages * size & (1 << 64) - 1 | 0b1011
                    world.write(page + number % 256 * 16, coded.to_bytes(8, "little"))
        machine = world.machine
        assert (machine.vmemmap != 0) is one_array
        for number, array in arrays.items():
            frame, page = number * pages + 0x123, array + 0x123 * size
            assert (machine.frame_to_page(frame), machine.page_to_phys(page)) == (page, frame << 12)
            assert machine.is_page(page)
        if not one_array:
            for nowhere in (arrays[1] + pages * size, arrays[0] + 8, 0xFFFFA00000000000 + 16 * pages * size):
                assert not machine.is_page(nowhere)
                with pytest.raises(FaultError):
                    machine.page_to_phys(nowhere)
            with pytest.raises(FaultError):
                machine.frame_to_page(16 * pages)

    @pytest.mark.parametrize("name", ["page_offset_base", "vmemmap_base"])
    def test_a_lost_base_is_not_guessed(self, name: str) -> None:
        world = World("")
        world.word(name, 0xFFFF9C0000000000)
        world.lost = set(world.memory)
        with pytest.raises(FaultError):
            _ = world.machine.page_offset if name == "page_offset_base" else world.machine.vmemmap

    @pytest.mark.parametrize(
        ("text", "mask"),
        [
            ("0x800000000000", 1 << 47),
            (str(1 << 51), 1 << 51),
            ("0", 0),
            (None, 0),
            ("?", 0),
            ("12345", 0),
            ("4096", 0),
        ],
    )
    def test_encryption_mask(self, text: str | None, mask: int) -> None:
        assert World("", vmcoreinfo={"NUMBER(sme_mask)": text} if text else {}).machine.encryption_mask == mask

    def test_encryption_mask_that_vmcoreinfo_does_not_tell(self) -> None:
        """It does since 5.1."""
        world = World("")
        world.word("sme_me_mask", 1 << 47)
        assert world.machine.encryption_mask == 1 << 47
        world = World("", vmcoreinfo={"NUMBER(sme_mask)": "0"})
        world.word("sme_me_mask", 1 << 47)
        assert world.machine.encryption_mask == 0

    def test_zero_pages(self) -> None:
        world = World("")
        world.symbols["empty_zero_page"] = 0xFFFFFFFF82345000
        world.word("huge_zero_pfn", 0x12200)
        assert world.kernel.zero_pages == ((0x2345000, 4096), (0x12200000, 1 << 21))
        world = World("")
        world.symbols["empty_zero_page"] = 0xFFFFFFFF82345000
        world.word("phys_base", 0)
        world.word("huge_zero_pfn", 0x12200)
        world.lost = set(world.memory)
        assert world.kernel.zero_pages == (), "where they are is lost"
        world = World("")
        world.word("huge_zero_pfn", (1 << 64) - 1)  # ~0UL: none was made yet (mm/huge_memory.c)
        assert world.kernel.zero_pages == ()
