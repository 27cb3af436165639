# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types of modules, on made-up kernels whose modules have made-up split BTF or none."""

import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("drgn")

from drgn import FaultError, Type, TypeKind, offsetof

from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.kernel import modulebtf
from kgcore.sources.vmcore.kernel.modulelayouts import LAYOUTS, Declarations
from kgcore.sources.vmcore.kernel.moduletypes import ModuleTypes
from kgcore.sources.vmcore.symbols.btf import Btf, BtfKind
from kgcore.sources.vmcore.symbols.btf_types import TypeFinder
from tests.sources.vmcore.symbols.test_btf import Writer, enum
from tests.vmcore.layouts.world import PAGE, World, physical

MODULES = """
struct list_head { struct list_head *next, *prev; };
struct elf64_sym { u32 st_name; u32 rest[5]; };
struct mod_kallsyms { struct elf64_sym *symtab; unsigned int num_symtab; char *strtab; char *typetab; };
struct module_layout { void *base; unsigned int size; };
struct module {
    int state; struct list_head list; char name[56];
    struct mod_kallsyms core_kallsyms; struct module_layout core_layout;
};
"""
SIX_FOUR = MODULES.replace("module_layout core_layout", "module_layout mem[7]")
BTF = """
struct btf {
    void *data; unsigned int data_size; struct btf *base_btf; unsigned int start_id; unsigned int start_str_off;
    char name[56];
};
struct xa_node {
    unsigned char shift; unsigned char offset; unsigned char count; unsigned char nr_values;
    struct xa_node *parent; struct xarray *array; struct list_head private_list; void *slots[64];
};
struct xarray { int xa_lock; unsigned int xa_flags; void *xa_head; };
struct idr { struct xarray idr_rt; unsigned int idr_base; unsigned int idr_next; };
struct same { int kernel; };
struct spinlock { long as_drgn_knows_it; };
enum colour { BLUE = 2, BLACK = 5 };
"""
# What the modules of 5.10 are made of, with sizes that are not the real ones.
PARTS = """
typedef unsigned long u64;
struct spinlock { int word; };
typedef struct spinlock spinlock_t;
typedef struct spinlock rwlock_t;
struct no_lock { };
typedef struct no_lock local_lock_t;
typedef s64 ktime_t;
struct counter { s64 counter; };
typedef struct counter atomic64_t;
typedef struct counter atomic_long_t;
struct rw_semaphore { long words[5]; };
struct hlist_node { struct hlist_node *next, **pprev; };
struct shrinker { long words[7]; };
struct work_struct { long words[4]; };
struct wait_queue_head { spinlock_t lock; struct list_head head; };
struct kref { int refcount; };
typedef unsigned char bool;
"""
WRITEBACK = ("backing_dev_store",)
TRACKING = ("read_block_state",)


class Modules(World):
    """A kernel with loaded modules.

    :ivar records: ``struct module`` by name.
    :ivar btf: ``struct btf`` by name.
    """

    def __init__(self, text: str = BTF, release: str = "6.1.0-50-amd64", modules: str = MODULES) -> None:
        super().__init__(modules + text, release)
        self.records: dict[str, int] = {}
        self.btf: dict[str, int] = {}
        self.kernel_btf = Writer()
        self.spinlock, self.colour = describe_kernel(self.kernel_btf)
        self.head = self.variable("modules", "struct list_head")
        self.link(self.head)
        self.symbols["__start_BTF"] = self.data(self.kernel_btf.data())
        self.symbols["__stop_BTF"] = self.symbols["__start_BTF"] + len(self.kernel_btf.data())
        if "struct btf" in self.types:
            self.node = self.new("struct xa_node")
            self.idr = self.variable("btf_idr", "struct idr", idr_rt__xa_head=self.node + 2)
            self.describe("vmlinux", self.kernel_btf.data())

    def load(self, name: str, *functions: str) -> None:
        """A module with those functions in its symbol table."""
        strings = b"\0" + b"".join(function.encode() + b"\0" for function in ("init_module", *functions))
        offsets = [0] + [at + 1 for at in range(len(strings) - 1) if not strings[at]]
        self.records[name] = self.new(
            "struct module",
            name=name.encode(),
            core_kallsyms__symtab=self.data(b"".join(struct.pack("<I20x", at) for at in offsets)),
            core_kallsyms__num_symtab=len(offsets),
            core_kallsyms__strtab=self.data(strings),
        )
        offset = self.offset("struct module", "list")
        self.link(self.head, *(record + offset for record in self.records.values()))

    def load_with_btf(self, name: str, data: bytes) -> None:
        self.load(name)
        self.describe(
            name,
            data,
            base_btf=self.btf["vmlinux"],
            start_id=self.kernel_btf.count + 1,
            start_str_off=len(self.kernel_btf.strings),
        )

    def describe(self, name: str, data: bytes, **members: int) -> None:
        """A ``struct btf``."""
        self.btf[name] = self.new(
            "struct btf", name=name.encode(), data=self.data(data), data_size=len(data), **members
        )
        self.set("struct xa_node", self.node, {f"slots[{len(self.btf)}]": self.btf[name]})

    def lose(self, address: int) -> None:
        self.lost.add(physical(address) // PAGE)

    @property
    def module_types(self) -> ModuleTypes:
        return ModuleTypes(self.target)


def describe_kernel(writer: Writer) -> tuple[int, int]:
    """What vmlinux's BTF has; the ids of two of its types."""
    integer = writer.add(BtfKind.INT, "int", 4, rest=struct.pack("<I", 1 << 24 | 32))
    rest = struct.pack("<III", writer.text("word"), integer, 0)
    spinlock = writer.add(BtfKind.TYPEDEF, "spinlock_t", writer.add(BtfKind.STRUCT, "spinlock", 4, vlen=1, rest=rest))
    rest = struct.pack("<III", writer.text("kernel"), integer, 0)
    writer.add(BtfKind.STRUCT, "same", 4, vlen=1, rest=rest)
    return spinlock, enum(writer, "colour", {"BLUE": 2, "BLACK": 5})


def zram_btf(base: Writer, spinlock: int) -> bytes:
    """``struct same { spinlock_t module, more; }``, ``struct zram { spinlock_t lock; struct same *same; ... }`` ..."""
    writer = Writer.splitting(base)
    rows = [(writer.text("module"), spinlock, 0), (writer.text("more"), spinlock, 32)]
    same = writer.add(BtfKind.STRUCT, "same", 8, vlen=2, rest=b"".join(struct.pack("<III", *row) for row in rows))
    pointer = writer.add(BtfKind.PTR, size=same)
    pool = writer.add(BtfKind.PTR, size=writer.add(BtfKind.FWD, "zs_pool"))
    rows = [(writer.text("lock"), spinlock, 0), (writer.text("same"), pointer, 64), (writer.text("pool"), pool, 128)]
    rest = b"".join(struct.pack("<III", *row) for row in rows)
    number = writer.add(BtfKind.STRUCT, "zram", 24, vlen=3, rest=rest)
    writer.add(BtfKind.TYPEDEF, "zram_t", number)
    enum(writer, "zram_pageflags", {"ZRAM_LOCK": 13, "ZRAM_SAME": 14, "BLUE": 77})
    return writer.data()


def with_zram(text: str = BTF) -> Modules:
    world = Modules(text)
    world.load("ext4")
    world.load_with_btf("zram", zram_btf(world.kernel_btf, world.spinlock))
    return world


class TestBtf:
    def test_types(self) -> None:
        types = with_zram().module_types
        zram = types.type("zram", "struct zram")
        assert [(member.name, member.offset) for member in zram.members or ()] == [
            ("lock", 0),
            ("same", 8),
            ("pool", 16),
        ]
        assert zram.size == 24
        assert zram.member("lock").type.type_name() == "spinlock_t"
        assert zram.member("lock").type.type.member("word").type.type_name() == "int"
        assert zram.member("same").type.type.size == 8
        assert not zram.member("pool").type.type.is_complete()
        assert types.type("zram", "zram_t").type.tag == "zram"
        assert types.type("zram", "enum zram_pageflags").kind == TypeKind.ENUM

    def test_own_definition_goes_before_the_kernels(self) -> None:
        types = with_zram().module_types
        assert types.type("zram", "struct same").size == 8
        assert types.type("ext4", "struct same").size == 4
        assert types.type("not_loaded", "struct same").size == 4
        assert types.enumerator("zram", "BLUE") == 77
        assert types.enumerator("not_loaded", "BLUE") == 2

    def test_what_module_and_kernel_share_is_the_kernels(self) -> None:
        """drgn knows that one, so it is the one that the rest of kgcore uses."""
        world = with_zram()
        assert world.module_types.type("zram", "struct spinlock").has_member("as_drgn_knows_it")
        assert world.module_types.enumerator("zram", "BLACK") == 5

    def test_enumerators(self) -> None:
        types = with_zram().module_types
        assert types.enumerator("zram", "ZRAM_SAME") == 14
        assert types.enumerator("zram", "ZRAM_COMP_PRIORITY_BIT1") is None
        assert types.enumerator("not_loaded", "ZRAM_SAME") is None

    def test_types_of_the_kernel_are_those_of_its_own_finder(self) -> None:
        world = with_zram()
        kernel = TypeFinder(world.prog, Btf(world.kernel_btf.data()))
        assert TypeFinder.of(world.prog) is kernel
        module = TypeFinder(world.prog, Btf(zram_btf(world.kernel_btf, world.spinlock), kernel.btf), kernel)
        assert TypeFinder.of(world.prog) is kernel
        assert module.type(world.spinlock) is kernel.type(world.spinlock)
        assert module.find("zram", BtfKind.STRUCT) is not None
        assert kernel.find("zram", BtfKind.STRUCT) is None
        found = [(value.type_.tag, value.value_()) for value in map(module.constant, ("ZRAM_LOCK", "BLACK")) if value]
        assert found == [("zram_pageflags", 13), ("colour", 5)]

    def test_kernels_types_are_made_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without vmlinux drgn has them from BTF already."""
        world = with_zram()
        TypeFinder(world.prog, Btf(world.kernel_btf.data()))
        parsed: list[bytes] = []

        def parse(data: bytes, base: Btf | None = None) -> Btf:
            parsed.append(data)
            return Btf(data, base)

        monkeypatch.setattr(modulebtf, "Btf", parse)
        types = world.module_types
        assert types.type("zram", "struct zram").member("lock").type.type_name() == "spinlock_t"
        assert types.type("zram", "struct same").size == 8
        assert parsed == [zram_btf(world.kernel_btf, world.spinlock)]

    def test_kernels_types_out_of_a_file(self) -> None:
        """Which may number them otherwise."""
        world = with_zram()
        other = Writer()
        other.add(BtfKind.TYPEDEF, "spinlock_t", 0)
        TypeFinder(world.prog, Btf(other.data()))
        zram = world.module_types.type("zram", "struct zram")
        assert zram.member("lock").type.type.member("word").type.type_name() == "int"

    def test_nothing_is_read_before_somebody_asks(self) -> None:
        world = with_zram()
        world.memory.clear()
        types = world.module_types
        with pytest.raises(LookupError):
            types.type("zram", "struct zram")

    def test_what_was_found_is_not_sought_again(self) -> None:
        world = with_zram()
        types = world.module_types
        zram = types.type("zram", "struct zram")
        world.memory.clear()
        assert types.type("zram", "struct zram") is zram
        assert types.type("zram", "struct spinlock") is types.type("zram", "struct spinlock")
        assert types.type("zram", "struct same").size == 8
        assert types.enumerator("zram", "ZRAM_LOCK") == 13


class TestNotToBeHad:
    def test_neither_module_nor_kernel_has_it(self) -> None:
        types = with_zram().module_types
        for name in ("struct zcomp", "union zram", "zram", "struct", "class zram", "union same"):
            with pytest.raises(LookupError, match=f"neither the kernel nor its module zram has {name}"):
                types.type("zram", name)

    def test_module_is_not_loaded(self) -> None:
        with pytest.raises(LookupError, match="module zsmalloc, which is not loaded, has struct zs_pool"):
            with_zram().module_types.type("zsmalloc", "struct zs_pool")

    def test_module_without_btf(self) -> None:
        types = with_zram().module_types
        for ask in (
            lambda: types.type("ext4", "struct ext4_inode_info"),
            lambda: types.enumerator("ext4", "ES_WRITTEN"),
        ):
            with pytest.raises(LookupError, match=r"no BTF of it.*linux-image-6.1.0-50-amd64-dbg.*ext4.ko.* with -s"):
                ask()

    @pytest.mark.parametrize("release", ["5.4.0-26-generic", "5.11.0", "4.18.0-553.el8.x86_64", "next", ""])
    def test_release_of_which_nothing_is_known(self, release: str) -> None:
        world = Modules(PARTS, release)
        world.load("zram", *WRITEBACK, *TRACKING)
        types = world.module_types
        with pytest.raises(LookupError, match="struct zram of the kernel's module zram is unknown"):
            types.type("zram", "struct zram")
        with pytest.raises(LookupError, match="ZRAM_SAME of the kernel's module zram is unknown"):
            types.enumerator("zram", "ZRAM_SAME")

    def test_kernel_without_modules(self) -> None:
        """Everything is built in."""
        world = World(
            BTF + "struct zram { int x; }; enum flags { ZRAM_SAME = 3 };".replace("list_head list", "int list")
        )
        assert ModuleTypes(world.target).type("zram", "struct zram").size == 4
        assert ModuleTypes(world.target).enumerator("zram", "ZRAM_SAME") == 3


def size_of_btf(world: Modules) -> None:
    world.set("struct btf", world.btf["zram"], {"data_size": (64 << 20) + 1})


def size_of_the_kernels(world: Modules) -> None:
    world.symbols["__stop_BTF"] += 1 << 32


def no_size_of_the_kernels(world: Modules) -> None:
    world.symbols["__stop_BTF"] = world.symbols["__start_BTF"]


def kernels_not_to_be_found(world: Modules) -> None:
    del world.symbols["__stop_BTF"]


def another_base(world: Modules) -> None:
    world.set("struct btf", world.btf["zram"], {"start_id": 7000})


def other_strings(world: Modules) -> None:
    world.set("struct btf", world.btf["zram"], {"start_str_off": 0})


def nowhere(world: Modules) -> None:
    world.set("struct btf", world.btf["zram"], {"data": 0})


def end_of_memory(world: Modules) -> None:
    world.set("struct btf", world.btf["zram"], {"data": 0xFFFFFFFFFFFFFFF0})


def no_header(world: Modules) -> None:
    world.set("struct btf", world.btf["zram"], {"data_size": 3})


def garbage(world: Modules) -> None:
    world.write(world.at("struct btf", world.btf["zram"], "data").value_() + 24, b"\xff" * 12)


def the_kernels_garbage(world: Modules) -> None:
    world.write(world.symbols["__start_BTF"], b"\xff" * 40)


def lost(world: Modules) -> None:
    world.lose(world.at("struct btf", world.btf["zram"], "data").value_())


def the_kernels_lost(world: Modules) -> None:
    world.lose(world.symbols["__start_BTF"])


def record_lost(world: Modules) -> None:
    world.lose(world.btf["zram"])


def list_lost(world: Modules) -> None:
    world.lose(world.idr)


def node_lost(world: Modules) -> None:
    world.lose(world.node)


def list_wild(world: Modules) -> None:
    world.set("struct xa_node", world.node, {"slots[2]": 0xDEAD000000000100})


def list_endless(world: Modules) -> None:
    world.set("struct xa_node", world.node, {"slots[2]": world.node + 2})


def modules_endless(world: Modules) -> None:
    """And the module is behind."""
    at = world.records["ext4"] + world.offset("struct module", "list")
    world.write(at, struct.pack("<Q", at))
    record_lost(world)


def name_without_end(world: Modules) -> None:
    world.set("struct btf", world.btf["zram"], {"name": b"\xff" * 56})


DAMAGE = {
    size_of_btf: "implausible size of its BTF or the kernel.s: 67108865 bytes",
    size_of_the_kernels: "implausible size of its BTF or the kernel.s: 4294967",
    no_size_of_the_kernels: "implausible size of its BTF or the kernel.s: 0 bytes",
    kernels_not_to_be_found: "was not found",
    another_base: "does not extend",
    other_strings: "does not extend",
    nowhere: "no memory",
    end_of_memory: "",
    no_header: "header",
    garbage: "unknown kind",
    the_kernels_garbage: "header",
    lost: "no memory",
    the_kernels_lost: "no memory",
    record_lost: "a part of the kernel's list of BTF is damaged or not in the dump",
    list_lost: "no memory",
    node_lost: "a part of the kernel's list of BTF is damaged or not in the dump",
    list_wild: "a part of the kernel's list of BTF is damaged or not in the dump",
    list_endless: "a part of the kernel's list of BTF is damaged or not in the dump",
    modules_endless: "is circular",
    name_without_end: "no BTF of it",
}


class TestDamage:
    @pytest.mark.parametrize(("damage", "reason"), DAMAGE.items(), ids=lambda value: getattr(value, "__name__", ""))
    def test_is_told(self, damage: Callable[[Modules], None], reason: str) -> None:
        world = with_zram()
        damage(world)
        types = world.module_types
        with pytest.raises(
            LookupError, match=f"struct zram of the kernel's module zram is unknown: .*{reason}.*with -s"
        ):
            types.type("zram", "struct zram")
        with pytest.raises(LookupError, match=f"ZRAM_SAME of the kernel's module zram is unknown: .*{reason}"):
            types.enumerator("zram", "ZRAM_SAME")
        assert types.type("zram", "struct list_head").size == 16, "what the kernel itself defines is still there"

    def test_what_is_beside_may_be_lost(self) -> None:
        """Other modules' records, vmlinux's, and the list of modules."""
        world = with_zram()
        world.describe("other", b"")
        world.describe("zsmalloc", b"")
        for name in ("vmlinux", "other"):
            world.lose(world.btf[name])
        world.lose(world.head)
        types = world.module_types
        assert types.type("zram", "struct zram").size == 24
        with pytest.raises(LookupError, match=r"zsmalloc is unknown: no memory there.*; its BTF does not"):
            types.type("zsmalloc", "struct zs_pool")

    @pytest.mark.parametrize(
        "text",
        [
            BTF.replace("unsigned int start_id;", ""),
            BTF.replace("unsigned int start_id;", "struct list_head start_id;"),
            BTF.replace("unsigned int start_str_off;", ""),
            BTF.replace("void *data;", "char data;"),
            BTF.replace("unsigned int data_size;", "char *data_size[3];"),
            BTF.replace("char name[56];", "int name;"),
            BTF.replace("char name[56];", ""),
            BTF.replace("void *xa_head;", "long heads[3];"),
        ],
    )
    def test_strange_kernels(self, text: str) -> None:
        """Types of the kernel's own that are not what they are elsewhere."""
        world = with_zram()
        strange = World(MODULES + text, "6.1.0")
        strange.memory = world.memory
        for name, address in world.symbols.items():
            strange.place(name, "struct idr" if name == "btf_idr" else "struct list_head", address)
        with pytest.raises(LookupError, match="struct zram of the kernel's module zram is unknown"):
            ModuleTypes(strange.target).type("zram", "struct zram")

    @pytest.mark.parametrize("seed", range(300))
    def test_any_damage(self, seed: int) -> None:
        """What comes out is a type, or an error of the kinds that callers expect."""
        world = with_zram()
        chance = random.Random(seed)
        which = chance.choice(["zram", "zram", "vmlinux"])
        size = world.at("struct btf", world.btf[which], "data_size").value_()
        place = world.at("struct btf", world.btf[which], "data").value_()
        if which == "vmlinux":
            place = world.symbols["__start_BTF"]
        for _ in range(chance.choice([1, 3, 20])):
            world.write(
                place + chance.randrange(size), bytes([chance.choice([0, 1, 0x7F, 0xFF, chance.randrange(256)])])
            )
        types = world.module_types
        for name in ("struct zram", "struct same", "zram_t", "enum zram_pageflags", "struct spinlock"):
            with suppress(LookupError, BrokenDump):
                look_through(types.type("zram", name), 0)
        with suppress(LookupError):
            types.enumerator("zram", "ZRAM_SAME")


def look_through(found: Type, depth: int) -> None:
    if depth < 5 and found.kind in (TypeKind.STRUCT, TypeKind.UNION):
        for member in found.members or ():
            look_through(member.type, depth + 1)
    elif depth < 5 and found.kind in (TypeKind.TYPEDEF, TypeKind.POINTER):
        look_through(found.type, depth + 1)


def bullseye(name: str, *functions: str) -> Modules:
    """A kernel of Debian 11."""
    world = Modules(PARTS, "5.10.0-32-amd64")
    world.load("ext4", "ext4_iget")
    world.load(name, *functions)
    return world


def believed(world: Modules, module: str) -> ModuleTypes:
    """The types of a kernel, once the declared ones of a module are believed."""
    types = world.module_types
    types.prove(module, lambda: None)
    return types


class TestGivenFile:
    """A file that drgn would not take, since it could not tell which build the module is of."""

    NOTE = struct.pack("<III4s20s", 4, 20, 3, b"GNU", bytes(range(20)))

    def file(self, path: Path, note: bytes) -> str:
        """An ELF file with that section, and nothing that drgn likes."""
        names = b"\0.note.gnu.build-id\0.shstrtab\0"
        at = 64 + len(note) + len(names)
        sections = [(0,) * 10, (1, 7, 2, 0, 64, len(note), 0, 0, 4, 0)]
        sections.append((20, 3, 0, 0, 64 + len(note), len(names), 0, 0, 1, 0))
        header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 1, 62, 1, 0, 0, at, 0, 64, 0, 0, 64, 3, 2)
        path.write_bytes(header + note + names + b"".join(struct.pack("<IIQQQQIIQQ", *row) for row in sections))
        return str(path)

    @pytest.mark.parametrize("modules", [MODULES, SIX_FOUR])
    @pytest.mark.parametrize("name", ["zram.ko", "zram.ko.debug"])
    def test_of_this_build(self, tmp_path: Path, name: str, modules: str) -> None:
        """It is tried; that it then serves is seen in tests/vmcore/test_module_types.py."""
        world = Modules(BTF, modules=modules)
        world.load("zram")
        place = "mem[3]" if modules == SIX_FOUR else "core_layout"
        memory = world.data(bytes(3 * PAGE) + bytes(PAGE - 10) + self.NOTE)
        world.set("struct module", world.records["zram"], {f"{place}.base": memory, f"{place}.size": 4 * PAGE + 26})
        world.lose(memory + PAGE)
        world.target.debug_files = ("/nowhere/ext4.ko", self.file(tmp_path / name, self.NOTE))
        with pytest.raises(LookupError, match=f"is unknown: {tmp_path / name} has no debug information"):
            world.module_types.type("zram", "struct zram")

    @pytest.mark.parametrize("note", [NOTE.replace(bytes([7]), bytes([8])), b""])
    def test_of_another_build(self, tmp_path: Path, note: bytes) -> None:
        world = Modules()
        world.load("zram")
        place = {"core_layout.base": world.data(b"x" + self.NOTE), "core_layout.size": 1 + len(self.NOTE)}
        world.set("struct module", world.records["zram"], place)
        file = self.file(tmp_path / "zram.ko", note)
        world.target.debug_files = (file,)
        with pytest.raises(LookupError, match=f"is unknown: {file} does not match the build id"):
            world.module_types.type("zram", "struct zram")

    def test_absurd_size(self, tmp_path: Path) -> None:
        world = Modules()
        world.load("zram")
        world.set("struct module", world.records["zram"], {"core_layout.size": 0xFFFFFFFF})
        world.target.debug_files = (self.file(tmp_path / "zram.ko", self.NOTE),)
        with pytest.raises(LookupError, match="implausible size of its memory: 4294967295 bytes"):
            world.module_types.type("zram", "struct zram")

    def test_file_that_is_none(self, tmp_path: Path) -> None:
        world = Modules()
        world.load("zram")
        (tmp_path / "zram.ko").write_bytes(b"\x7fELF")
        for file in ("zram.ko", "no/zram.ko"):
            world.target.debug_files = (str(tmp_path / file),)
            with pytest.raises(LookupError, match="does not match the build id of the module"):
                world.module_types.type("zram", "struct zram")

    def test_is_not_needed(self) -> None:
        """What the dump itself says is surely of that build."""
        world = with_zram()
        world.target.debug_files = ("/nowhere/zram.ko",)
        assert world.module_types.type("zram", "struct zram").size == 24


class TestKnownLayouts:
    """Kernels whose modules have no BTF. tests/vmcore/test_module_types.py compares the declarations with DWARF."""

    @pytest.mark.parametrize(
        ("functions", "entry", "disksize", "last"),
        [
            ((*WRITEBACK, *TRACKING), 24, 8 * 4 + 40 + 8 + 8 * 16, "debugfs_dir"),
            (WRITEBACK, 16, 8 * 4 + 40 + 8 + 8 * 16, "nr_pages"),
            (TRACKING, 24, 8 * 4 + 40 + 8 + 8 * 13, "debugfs_dir"),
            ((), 16, 8 * 4 + 40 + 8 + 8 * 13, "backing_dev"),
        ],
    )
    def test_options_of_zram(self, functions: tuple[str, ...], entry: int, disksize: int, last: str) -> None:
        types = believed(bullseye("zram", *functions), "zram")
        assert types.type("zram", "struct zram_table_entry").size == entry
        zram = types.type("zram", "struct zram")
        assert offsetof(zram, "disksize") == disksize
        assert zram.members is not None
        assert zram.members[-1].name == last
        assert types.enumerator("zram", "ZRAM_SAME") == 25
        assert types.enumerator("zram", "ZRAM_COMP_PRIORITY_BIT1") is None

    def test_sizes_of_locks_are_this_kernels(self) -> None:
        plain = believed(bullseye("zsmalloc"), "zsmalloc")
        world = Modules(PARTS.replace("int word;", "int word[6];"), "5.10.0")
        world.load("zsmalloc")
        debugging = believed(world, "zsmalloc")
        assert offsetof(plain.type("zsmalloc", "struct size_class"), "size") == 8 + 4 * 16
        assert offsetof(debugging.type("zsmalloc", "struct size_class"), "size") == 24 + 4 * 16

    def test_bit_fields(self) -> None:
        types = believed(bullseye("zsmalloc", "zs_page_migrate"), "zsmalloc")
        zspage = types.type("zsmalloc", "struct zspage")
        fields = {name: zspage.member(name) for name in ("fullness", "class", "isolated", "magic")}
        assert {name: (member.bit_offset, member.bit_field_size) for name, member in fields.items()} == {
            "fullness": (0, 2),
            "class": (2, 9),
            "isolated": (11, 3),
            "magic": (14, 8),
        }
        assert offsetof(zspage, "inuse") == 4
        assert zspage.has_member("lock")

    @pytest.mark.parametrize(
        ("module", "number"), [(module, number) for module, known in LAYOUTS.items() for number in range(len(known))]
    )
    def test_every_declaration(self, module: str, number: int) -> None:
        """Each can be made, with every option and with none; nothing of it is mistyped."""
        world, layouts = Modules(PARTS), LAYOUTS[module][number]
        for answer in (True, False):

            def has_function(_name: str, answer: bool = answer) -> bool:
                return answer

            declarations = Declarations(world.prog, layouts, has_function)
            for name, members in layouts.structs.items():
                made = declarations.type(name)
                assert made is not None
                expected = sum(1 if isinstance(member, str) else answer * len(member[1]) for member in members)
                if not any(isinstance(member, tuple) and not member[0].startswith("CONFIG") for member in members):
                    assert len(made.members or ()) == expected
                look_through(made, 0)
            for name, values in layouts.enums.items():
                made = declarations.type(name)
                assert made is not None
                assert {item.name: item.value for item in made.enumerators or ()} == values
            assert declarations.type("struct no_such") is None

    def test_nothing_is_believed_without_a_proof(self) -> None:
        types = bullseye("zram").module_types
        with pytest.raises(LookupError, match=r"struct zram of the kernel's module zram is unknown: .*BTF"):
            types.type("zram", "struct zram")
        with pytest.raises(LookupError, match=r"ZRAM_SAME of the kernel's module zram is unknown"):
            types.enumerator("zram", "ZRAM_SAME")

    @pytest.mark.parametrize("release", ["5.10.0-32-rt-amd64", "4.18.0", "6.1.0"])
    def test_the_variant_that_is_proven(self, release: str) -> None:
        """Whatever the release: by size, entries with a lock are those of kernels with real-time patches."""
        world = Modules(PARTS, release)
        world.load("zram")
        types, sizes = world.module_types, []

        def proof() -> None:
            sizes.append(types.type("zram", "struct zram_table_entry").size)
            if sizes[-1] == 16:
                raise BrokenDump("its entries are too small")

        types.prove("zram", proof)
        types.prove("zram", proof)
        assert sizes == [16, 24, 24], "the first is never tried again"
        assert types.type("zram", "struct zram_table_entry").has_member("lock")

    def test_no_variant_is_proven(self) -> None:
        world = bullseye("zram")
        types = world.module_types

        def proof() -> None:
            raise BrokenDump(f"not {types.type('zram', 'struct zram_table_entry').size} bytes")

        for _ in range(2):
            with pytest.raises(
                LookupError, match=r"zram's structures .* do not fit: not 16 bytes; or not 24 bytes; ins"
            ):
                types.prove("zram", proof)
            with pytest.raises(LookupError, match="struct zram of the kernel's module zram is unknown"):
                types.type("zram", "struct zram")

    def test_what_the_kernel_describes_needs_no_proof(self) -> None:
        def proof() -> None:
            raise AssertionError

        types = with_zram().module_types
        types.prove("zram", proof)
        assert types.type("zram", "struct zram").size == 24

    def test_type_that_the_kernel_lacks(self) -> None:
        world = Modules(PARTS.replace("rw_semaphore", "other_semaphore"), "5.10.0")
        world.load("zram")
        with pytest.raises(LookupError, match=r"struct zram of .* is unknown: .*rw_semaphore"):
            believed(world, "zram").type("zram", "struct zram")

    def test_type_that_can_be_no_member(self) -> None:
        world = Modules(PARTS.replace("struct rw_semaphore { long words[5]; };", ""), "5.10.0")
        world.types["struct rw_semaphore"] = world.prog.struct_type("rw_semaphore")
        world.load("zram")
        with pytest.raises(LookupError, match="struct rw_semaphore cannot be a member of a structure"):
            believed(world, "zram").type("zram", "struct zram")

    @pytest.mark.parametrize(
        ("members", "reason"),
        [
            ({"core_kallsyms.num_symtab": 0}, "implausible number of symbols: 0"),
            ({"core_kallsyms.num_symtab": 0xFFFFFFFF}, "implausible number of symbols: 4294967295"),
            ({"core_kallsyms.symtab": 0}, "no memory"),
            ({"core_kallsyms.symtab": (1 << 64) - 8}, ""),
            ({"core_kallsyms.strtab": 0}, "no memory"),
            ({"core_kallsyms.strtab": (1 << 64) - 8}, ""),
        ],
    )
    def test_damaged_symbols(self, members: dict[str, Any], reason: str) -> None:
        """Without them there is no telling the options."""
        world = bullseye("zram", *WRITEBACK, *TRACKING)
        world.set("struct module", world.records["zram"], members)
        types = believed(world, "zram")
        with pytest.raises(LookupError, match=f"struct zram of the kernel's module zram is unknown: .*{reason}"):
            types.type("zram", "struct zram")
        assert types.enumerator("zram", "ZRAM_WB") == 26

    def test_names_too_far_off(self) -> None:
        world = bullseye("zram", *TRACKING)
        table = world.at("struct module", world.records["zram"], "core_kallsyms.symtab").value_()
        world.write(table + 24, struct.pack("<I", 0xFFFFFFF0))
        with pytest.raises(LookupError, match="implausible size of its symbol names: 4294967280 bytes"):
            believed(world, "zram").type("zram", "struct zram_table_entry")

    def test_last_name_at_the_end_of_a_page(self) -> None:
        """What lies behind the module's memory need not be in the dump."""
        world = bullseye("zram")
        strings = world.data(b"\0init_module\0".ljust(PAGE - 17, b"\0") + b"read_block_state\0")
        with pytest.raises(FaultError):
            world.prog.read(strings, PAGE + 1)
        record = {"core_kallsyms.strtab": strings}
        world.set("struct module", world.records["zram"], record)
        table = world.at("struct module", world.records["zram"], "core_kallsyms.symtab").value_()
        world.write(table + 24, struct.pack("<I", PAGE - 17))
        assert believed(world, "zram").type("zram", "struct zram_table_entry").size == 24

    def test_built_in(self) -> None:
        """What the kernel itself describes counts."""
        world = Modules(PARTS + "struct zbud_header { int x; };", "5.10.0")
        assert world.module_types.type("zbud", "struct zbud_header").size == 4

    def test_name_that_means_something_else_in_the_kernel(self) -> None:
        world = Modules(PARTS + "enum buddy { OTHER = 1 };", "5.10.0")
        world.load("z3fold")
        found = believed(world, "z3fold").type("z3fold", "enum buddy").enumerators or ()
        assert [item.name for item in found] == ["HEADLESS", "FIRST", "MIDDLE", "LAST", "BUDDIES_MAX"]
