# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mappings and names of files on made-up kernels: d_path()'s rules (fs/d_path.c), and lists that lie."""

from typing import Any

import pytest

pytest.importorskip("drgn")

from drgn import Object

from kgcore.model.process import VM_READ, MappedFile, Vma
from kgcore.sources.vmcore.task.vmas import Paths, read_vmas
from tests.vmcore.layouts.world import World, physical

FILES = """
struct qstr { u32 hash; u32 len; const_uchar *name; };
struct hlist_bl_node { struct hlist_bl_node *next, **pprev; };
struct dentry_operations { void (*d_revalidate)(); void (*d_dname)(); };
struct inode { unsigned short i_mode; unsigned int i_flags; unsigned long i_ino; unsigned int i_nlink; s64 i_size; };
struct dentry {
    struct hlist_bl_node d_hash; struct dentry *d_parent; struct qstr d_name; struct inode *d_inode;
    struct dentry_operations *d_op;
};
struct vfsmount { struct dentry *mnt_root; };
struct mount { int hash; struct mount *mnt_parent; struct dentry *mnt_mountpoint; struct vfsmount mnt; };
struct path { struct vfsmount *mnt; struct dentry *dentry; };
struct address_space { struct inode *host; };
struct file { struct path f_path; struct inode *f_inode; struct address_space *f_mapping; };
struct fs_struct { int users; struct path root, pwd; };
struct vm_operations_struct { void (*open)(); char *(*name)(); };
struct vm_special_mapping { char *name; };
typedef struct { unsigned long flags; } mm_context_t;
struct task_struct { struct fs_struct *fs; };
""".replace("const_uchar", "unsigned char").replace("char *(*name)();", "void (*name)();")
LIST = """
struct vm_area_struct {
    unsigned long vm_start, vm_end; struct vm_area_struct *vm_next; unsigned long vm_flags; void *anon_vma;
    struct vm_operations_struct *vm_ops; unsigned long vm_pgoff; struct file *vm_file; void *vm_private_data;
};
struct mm_struct { struct vm_area_struct *mmap; int map_count; mm_context_t context; };
"""
TREE = """
struct maple_metadata { unsigned char end, gap; };
struct maple_range_64 {
    void *parent; unsigned long pivot[15];
    union { void *slot[16]; struct { void *pad[15]; struct maple_metadata meta; }; };
};
struct maple_arange_64 {
    void *parent; unsigned long pivot[9]; void *slot[10]; unsigned long gap[10]; struct maple_metadata meta;
};
struct maple_node { union { struct maple_range_64 mr64; struct maple_arange_64 ma64; }; };
struct maple_tree { int ma_lock; unsigned int ma_flags; void *ma_root; };
struct vm_area_struct {
    union { struct { unsigned long vm_start, vm_end; }; u64 rcu[2]; }; unsigned long vm_flags; void *anon_vma;
    struct vm_operations_struct *vm_ops; unsigned long vm_pgoff; struct file *vm_file; void *vm_private_data;
};
struct mm_struct { struct maple_tree mm_mt; int map_count; mm_context_t context; };
"""
# enum maple_type, include/linux/maple_tree.h; mt_mk_node(): the type in bits 3 to 6, bits 1 and 2 set for nodes
LEAF, RANGE, ARANGE = 1, 2, 3
MAX = (1 << 64) - 1


class Files(World):
    """``/`` with ``/usr/bin``, and a file system mounted on ``/usr``."""

    def __init__(self, text: str = LIST, release: str = "5.10.0") -> None:
        super().__init__(FILES + text, release)
        self.top = self.dentry(b"/", 0)
        self.mount = self.new_mount(self.top)
        self.usr = self.dentry(b"usr", self.top)
        self.other_top = self.dentry(b"/", 0)
        self.other = self.new_mount(self.other_top, self.mount, self.usr)
        self.bin = self.dentry(b"bin", self.other_top)
        self.fs = self.new("struct fs_struct")
        self.chroot(self.mount, self.top)
        self.task = self.pointer("struct task_struct", self.new("struct task_struct", fs=self.fs))

    def dentry(self, name: bytes, parent: int, operation: str = "", **inode: int) -> int:
        """:param parent: 0: it is a root. :param operation: its ``d_dname``."""
        members: dict[str, Any] = {
            "d_name__name": self.data(name),
            "d_name__len": len(name),
            "d_hash__pprev": 8,
            "d_inode": self.new("struct inode", **{"i_nlink": 1} | inode),
        }
        if operation:
            self.has(operation)
            members["d_op"] = self.new("struct dentry_operations", d_dname=self.symbols[operation])
        dentry = self.new("struct dentry", **members)
        self.set("struct dentry", dentry, {"d_parent": parent or dentry})
        return dentry

    def new_mount(self, root: int, parent: int = 0, mountpoint: int = 0) -> int:
        mount = self.new("struct mount", mnt_mountpoint=mountpoint, mnt__mnt_root=root)
        self.set("struct mount", mount, {"mnt_parent": parent or mount})
        return mount

    def vfsmount(self, mount: int) -> int:
        return mount + self.offset("struct mount", "mnt")

    def chroot(self, mount: int, dentry: int) -> None:
        self.set("struct fs_struct", self.fs, {"root.mnt": self.vfsmount(mount), "root.dentry": dentry})

    def file(self, dentry: int, mount: int = 0) -> int:
        inode = self.at("struct dentry", dentry).d_inode.value_()
        mapping = self.new("struct address_space", host=inode)
        known = {"f_path__mnt": self.vfsmount(mount or self.mount), "f_path__dentry": dentry}
        return self.new("struct file", f_inode=inode, f_mapping=mapping, **known)

    def name(self, dentry: int, mount: int = 0) -> bytes | None:
        return Paths(self.kernel, self.task).mapped_file(self.file(dentry, mount)).path

    # Mappings

    def vma(self, start: int, end: int, **members: Any) -> int:
        return self.new("struct vm_area_struct", vm_start=start, vm_end=end, vm_flags=VM_READ, **members)

    def chain(self, *vmas: int, count: int | None = None) -> Object:
        """``mm_struct`` of a kernel before 6.1."""
        for vma, following in zip(vmas, (*vmas[1:], 0), strict=False):
            self.set("struct vm_area_struct", vma, {"vm_next": following})
        mm = self.new("struct mm_struct", mmap=vmas[0] if vmas else 0, map_count=len(vmas) if count is None else count)
        return self.pointer("struct mm_struct", mm)

    def node(self, kind: int, slots: list[tuple[int, int]]) -> int:
        """A maple node of (slot, pivot), the last pivot implied by the parent; its ``maple_enode``."""
        address = self.allocate(256, 256)
        part = "ma64" if kind == ARANGE else "mr64"
        for number, (slot, pivot) in enumerate(slots):
            self.set("struct maple_node", address, {f"{part}.slot[{number}]": slot})
            if number < (9 if kind == ARANGE else 15) and number < len(slots) - 1:
                self.set("struct maple_node", address, {f"{part}.pivot[{number}]": pivot})
        if len(slots) < 16:
            self.set("struct maple_node", address, {f"{part}.meta.end": len(slots) - 1})
        return address | kind << 3 | 4 | 2

    def tree(self, root: int, count: int) -> Object:
        """``mm_struct`` of a kernel since 6.1."""
        mm = self.new("struct mm_struct", map_count=count)
        self.set("struct mm_struct", mm, {"mm_mt.ma_root": root})
        return self.pointer("struct mm_struct", mm)

    def read(self, mm: Object) -> tuple[list[tuple[int, int]], tuple[str, ...]]:
        vmas, warnings = read_vmas(self.kernel, self.task, mm)
        return [(vma.start, vma.end) for vma in vmas], warnings


@pytest.fixture
def files() -> Files:
    return Files()


class TestNames:
    def test_plain(self, files: Files) -> None:
        assert files.name(files.dentry(b"x", files.dentry(b"tmp", files.top))) == b"/tmp/x"

    def test_root_directory(self, files: Files) -> None:
        assert files.name(files.top) == b"/"

    def test_through_a_mount(self, files: Files) -> None:
        assert files.name(files.dentry(b"gdb", files.bin), files.other) == b"/usr/bin/gdb"
        assert files.name(files.other_top, files.other) == b"/usr"

    def test_deleted(self, files: Files) -> None:
        """``d_unlinked()``: not hashed, and no root."""
        dentry = files.dentry(b"gone", files.bin)
        files.set("struct dentry", dentry, {"d_hash.pprev": 0})
        assert files.name(dentry, files.other) == b"/usr/bin/gone (deleted)"
        files.set("struct dentry", files.top, {"d_hash.pprev": 0})
        assert files.name(files.top) == b"/"

    @pytest.mark.parametrize(
        ("operation", "dentry", "expected"),
        [
            ("simple_dname", b"memfd:x y", b"/memfd:x y (deleted)"),  # mm/memfd.c, MFD_NAME_PREFIX
            ("simple_dname", b"dev/zero", b"/dev/zero (deleted)"),  # mm/shmem.c, shmem_zero_setup()
            ("simple_dname", b"SYSV0000abcd", b"/SYSV0000abcd (deleted)"),  # ipc/shm.c, newseg()
            ("simple_dname", b"anon_hugepage", b"/anon_hugepage (deleted)"),  # fs/hugetlbfs/inode.c
            ("anon_inodefs_dname", b"[io_uring]", b"anon_inode:[io_uring]"),  # fs/anon_inodes.c
            ("sockfs_dname", b"TCP", b"socket:[4711]"),  # net/socket.c
            ("pipefs_dname", b"", b"pipe:[4711]"),  # fs/pipe.c
            ("dmabuffs_dname", b"buf", b"/dmabuf:buf"),  # drivers/dma-buf/dma-buf.c
            ("unheard_of_dname", b"x", None),
        ],
    )
    def test_files_without_a_directory(
        self, files: Files, operation: str, dentry: bytes, expected: bytes | None
    ) -> None:
        # What alloc_file_pseudo() makes is its own parent, but not its mount's root (fs/libfs.c, d_alloc_pseudo()).
        if operation == "unheard_of_dname":
            files.has("simple_dname")
        assert files.name(files.dentry(dentry, 0, operation, i_ino=4711)) == expected

    def test_pseudo_file_that_is_mounted(self, files: Files) -> None:
        """A bind-mounted namespace file has the name of where it is mounted."""
        point = files.dentry(b"net", files.top)
        namespace = files.dentry(b"x", 0, "ns_dname")
        assert files.name(namespace, files.new_mount(namespace, files.mount, point)) == b"/net"

    def test_pseudo_file_that_is_mounted_and_no_root(self, files: Files) -> None:
        """d_path() asks ``d_dname`` unless the dentry is both."""
        dentry = files.dentry(b"x", files.bin, "simple_dname")
        assert files.name(dentry, files.new_mount(dentry, files.mount, files.usr)) == b"/x (deleted)"

    def test_chroot(self, files: Files) -> None:
        jail = files.dentry(b"jail", files.top)
        inside = files.dentry(b"sh", files.dentry(b"bin", jail))
        files.chroot(files.mount, jail)
        assert files.name(inside) == b"/bin/sh"
        assert files.name(jail) == b"/"
        outside = files.dentry(b"passwd", files.dentry(b"etc", files.top))
        assert files.name(outside) == b"/etc/passwd", "not below the root: from the top"

    def test_root_is_a_mount(self, files: Files) -> None:
        """A container: its root is the root of a mounted file system."""
        files.chroot(files.other, files.other_top)
        assert files.name(files.dentry(b"sh", files.bin), files.other) == b"/bin/sh"

    def test_bind_mount(self, files: Files) -> None:
        """The mount's root is some directory of the file system."""
        source = files.dentry(b"data", files.bin)
        bound = files.new_mount(source, files.mount, files.dentry(b"mnt", files.top))
        inner = files.dentry(b"f", source)
        assert files.name(inner, bound) == b"/mnt/f"
        assert files.name(inner, files.other) == b"/usr/bin/data/f"

    def test_mount_on_a_mount(self, files: Files) -> None:
        third = files.dentry(b"/", 0)
        upper = files.new_mount(third, files.other, files.other_top)
        assert files.name(files.dentry(b"f", third), upper) == b"/usr/f"

    def test_escaped(self, files: Files) -> None:
        """__prepend_path() ends with 3 where it meets a root that is not the mount's: prepend_path() then forgets the
        names."""
        source = files.dentry(b"data", files.bin)
        bound = files.new_mount(source, files.mount, files.dentry(b"mnt", files.top))
        moved = files.dentry(b"f", files.bin)
        assert files.name(moved, bound) == b"/"
        files.set("struct dentry", moved, {"d_hash.pprev": 0})
        assert files.name(moved, bound) == b"/ (deleted)"

    def test_detached(self, files: Files) -> None:
        """A mount without a parent (lazily unmounted) is the top of the tree."""
        assert files.name(files.bin, files.new_mount(files.other_top)) == b"/bin"

    def test_many_in_one_directory(self, files: Files) -> None:
        """What is above them is walked once."""
        directory = files.top
        for number in range(100):
            directory = files.dentry(b"%d" % number, directory)
        below = [files.file(files.dentry(b"f%d" % number, directory)) for number in range(50)]
        paths = Paths(files.kernel, files.task)
        top = b"".join(b"/%d" % number for number in range(100))
        first = paths.mapped_file(below[0])
        before = files.reads
        found = [paths.mapped_file(file).path for file in below]
        assert (first.path, *found[1:]) == tuple(top + b"/f%d" % number for number in range(50))
        # file, inode, dentry, name, mount
        assert files.reads - before == 5 * 49

    def test_many_in_a_damaged_directory(self, files: Files) -> None:
        """Its circle is walked once, too."""
        directory = files.dentry(b"d", files.top)
        files.set("struct dentry", directory, {"d_parent": files.dentry(b"e", directory)})
        below = [files.file(files.dentry(b"f", directory)) for _ in range(50)]
        paths = Paths(files.kernel, files.task)
        assert {paths.mapped_file(file).path for file in below} == {None}
        assert files.reads < 50 * 8 + 3 * 2048

    @pytest.mark.parametrize("name", [b"a\0b", b"\0", b"", b"a/b"])
    def test_names_that_no_file_can_have(self, files: Files, name: bytes) -> None:
        """Neither the file nor what is below a directory of that name has a path: half a name would be another's."""
        assert files.name(files.dentry(name, files.top)) is None
        assert files.name(files.dentry(b"x", files.dentry(name, files.top))) is None

    def test_names_are_bytes(self, files: Files) -> None:
        assert files.name(files.dentry(b"\xff\n\x1b[m", files.top)) == b"/\xff\n\x1b[m"

    def test_endless(self, files: Files) -> None:
        one = files.dentry(b"a", files.top)
        two = files.dentry(b"b", one)
        files.set("struct dentry", one, {"d_parent": two})
        assert files.name(two) is None

    def test_endless_mounts(self, files: Files) -> None:
        again = files.new_mount(files.top, files.other, files.other_top)
        files.set("struct mount", files.other, {"mnt_parent": again, "mnt_mountpoint": files.top})
        files.chroot(files.mount, files.top)
        assert files.name(files.bin, files.other) is None

    @pytest.mark.parametrize("what", ["dentry", "name", "mount"])
    def test_lost(self, files: Files, what: str) -> None:
        dentry = files.dentry(b"x", files.bin)
        address = {"dentry": files.bin, "name": files.at("struct dentry", files.bin).d_name.name.value_()}.get(
            what, files.other
        )
        files.lost = {physical(address) >> 12}
        assert files.name(dentry, files.other) is None

    def test_without_root_directory(self, files: Files) -> None:
        """A task that is past exit_fs() has none."""
        files.set("struct task_struct", files.task.value_(), {"fs": 0})
        files.chroot(files.mount, files.usr)
        assert files.name(files.dentry(b"x", files.usr)) == b"/usr/x"

    def test_of_the_inode(self, files: Files) -> None:
        known: dict[str, Any] = {"i_mode": 0o100644, "i_nlink": 3, "i_size": 12345}
        dentry = files.dentry(b"f", files.top, **known, i_flags=0x2000)
        it = files.file(dentry)
        assert Paths(files.kernel, files.task).mapped_file(it) == MappedFile(b"/f", 3, 0o100644, 12345, dax=False)

    def test_dax(self, files: Files) -> None:
        """S_DAX is 1 << 13 (include/linux/fs.h); without CONFIG_FS_DAX it is 0."""
        files.has("dax_iomap_fault")
        for flags, dax in ((0x2000, True), (0xDFFF, False)):
            it = files.file(files.dentry(b"f", files.top, i_flags=flags))
            assert Paths(files.kernel, files.task).mapped_file(it).dax is dax


IN_UNION = "union { struct { unsigned long rb, last; } shared; struct anon_vma_name *anon_name; };"
BESIDE = "struct { unsigned long rb, last; } shared; struct anon_vma_name *anon_name;"
ANON_NAMES = "struct anon_vma_name { int kref; char name[0]; };"


class TestAnonNames:
    """PR_SET_VMA_ANON_NAME."""

    def world(self, member: str, types: str = ANON_NAMES) -> Files:
        return Files(types + LIST.replace("void *anon_vma;", f"void *anon_vma; {member}"), "6.1.0")

    def read(self, files: Files, mapping: int) -> tuple[bytes, tuple[str, ...]]:
        (vma,), warnings = read_vmas(files.kernel, files.task, files.chain(mapping))
        return vma.anon_name, warnings

    @pytest.mark.parametrize("member", [IN_UNION, BESIDE])
    def test_of_private_memory(self, member: str) -> None:
        files = self.world(member)
        name = files.data(b"\x01\0\0\0an arena\0behind it")
        assert self.read(files, files.vma(0x1000, 0x2000, anon_name=name)) == (b"an arena", ())
        assert self.read(files, files.vma(0x1000, 0x2000)) == (b"", ())

    def test_of_shared_memory(self) -> None:
        """d09e8ca6cb93 (6.2): before, the pointer of a mapping of a file is none."""
        for member, expected in ((BESIDE, b"pool"), (IN_UNION, b"")):
            files = self.world(member)
            file = files.file(files.dentry(b"dev/zero", 0, "simple_dname"))
            name = files.data(b"\x01\0\0\0pool\0")
            assert self.read(files, files.vma(0x1000, 0x2000, vm_file=file, anon_name=name)) == (expected, ())

    def test_a_name_without_end(self) -> None:
        files = self.world(BESIDE)
        mapping = files.vma(0x1000, 0x2000, anon_name=files.data(b"x" * 4096))
        assert self.read(files, mapping) == (b"x" * 80, ())

    def test_lost(self) -> None:
        """The mapping stays, and the loss of its name is told."""
        files = self.world(BESIDE)
        name = files.data(b"\x01\0\0\0pool\0")
        files.lost = {physical(name) >> 12}
        found, (warning,) = self.read(files, files.vma(0x1000, 0x2000, anon_name=name))
        assert found == b""
        assert warning.startswith("mapping 0x1000-0x2000: its name is not in the dump: ")

    def test_a_pointer_to_user_memory(self) -> None:
        """Android's, before 5.17: where it leads to is not the kernel's memory."""
        files = self.world("char *anon_name;", "")
        assert self.read(files, files.vma(0x1000, 0x2000, anon_name=0x7F0000001000)) == (b"", ())


class TestList:
    """Kernels before 6.1: ``mm->mmap`` and ``vm_next``."""

    def test_values(self, files: Files) -> None:
        file = files.file(files.dentry(b"lib", files.top, i_size=8192))
        known = {"vm_file": file, "vm_pgoff": 7, "anon_vma": 8}
        mm = files.chain(files.vma(0x1000, 0x3000, **known), files.vma(0x3000, 0x4000))
        assert read_vmas(files.kernel, files.task, mm) == (
            (
                Vma(0x1000, 0x3000, VM_READ, pgoff=7, file=MappedFile(b"/lib", 1, 0, 8192), anon=True),
                Vma(0x3000, 0x4000, VM_READ),
            ),
            (),
        )

    def test_beyond_the_addresses_of_a_32_bit_core(self, files: Files) -> None:
        """A program of 32 bits whose code went to 64-bit mode and called mmap() there."""
        mm = files.chain(
            files.vma(0x8048000, 0x8049000), files.vma(0xFFFFF000, 1 << 32), files.vma(1 << 32, (1 << 32) + 4096)
        )
        vmas, warnings = read_vmas(files.kernel, files.task, mm, 4)
        assert [vma.start for vma in vmas] == [0x8048000, 0xFFFFF000]
        assert warnings == ("mapping 0x100000000-0x100001000 is left out: a 32-bit core cannot hold its addresses",)
        assert len(read_vmas(files.kernel, files.task, mm, 8)[0]) == 3

    def test_none(self, files: Files) -> None:
        assert files.read(files.chain()) == ([], ())

    def test_out_of_order(self, files: Files) -> None:
        mm = files.chain(files.vma(0x3000, 0x4000), files.vma(0x1000, 0x2000), files.vma(0x5000, 0x6000))
        found, warnings = files.read(mm)
        assert found == [(0x3000, 0x4000)]
        assert "out of order at 0x1000" in warnings[0]

    def test_overlap(self, files: Files) -> None:
        found, warnings = files.read(files.chain(files.vma(0x3000, 0x5000), files.vma(0x4000, 0x6000)))
        assert found == [(0x3000, 0x5000)]
        assert warnings

    @pytest.mark.parametrize(
        ("start", "end"),
        [
            (0x5000, 0x5000), (0x6000, 0x5000), (0x5001, 0x6000), (0x5000, 0x6001), (0x5000, 1 << 47),
            (0x5000, 1 << 63), (0xFFFF800000000000, 0xFFFF800000001000), (0, 0),
        ],
    )  # fmt: skip
    def test_absurd_range(self, files: Files, start: int, end: int) -> None:
        """TASK_SIZE_MAX is (1 << 47) - PAGE_SIZE (arch/x86/include/asm/page_64_types.h)."""
        found, warnings = files.read(
            files.chain(files.vma(0x1000, 0x2000), files.vma(start, end), files.vma(0x7000, 0x8000))
        )
        assert found == [(0x1000, 0x2000), (0x7000, 0x8000)]
        assert f"an impossible mapping, {start:#x}-{end:#x}" in warnings[0]

    def test_last_possible_page(self, files: Files) -> None:
        end = (1 << 47) - 4096
        assert files.read(files.chain(files.vma(end - 4096, end))) == ([(end - 4096, end)], ())

    def test_circle(self, files: Files) -> None:
        one, two = files.vma(0x1000, 0x2000), files.vma(0x2000, 0x3000)
        mm = files.chain(one, two)
        files.set("struct vm_area_struct", two, {"vm_next": one})
        found, warnings = files.read(mm)
        assert found == [(0x1000, 0x2000), (0x2000, 0x3000)]
        assert warnings

    def test_circle_of_absurd_ones(self, files: Files) -> None:
        one = files.vma(0x2000, 0x1000)
        mm = files.chain(one)
        files.set("struct vm_area_struct", one, {"vm_next": one})
        found, warnings = files.read(mm)
        assert found == []
        assert "is circular" in warnings[-1]

    def test_too_many(self, files: Files) -> None:
        vmas = [files.vma(0x1000 * number, 0x1000 * (number + 1)) for number in range(1, 8)]
        found, warnings = files.read(files.chain(*vmas, count=3))
        assert len(found) < 7
        assert "more mappings than the process has (3)" in warnings[0]

    @pytest.mark.parametrize("count", [5, 0x7FFFFFFF])
    def test_too_few(self, files: Files, count: int) -> None:
        found, warnings = files.read(files.chain(files.vma(0x1000, 0x2000), files.vma(0x3000, 0x4000), count=count))
        assert len(found) == 2
        assert warnings == (f"{count - 2} of {count} mappings are missing",)

    def test_breaks_off(self, files: Files) -> None:
        one, two = files.vma(0x1000, 0x2000), files.vma(0x2000, 0x3000)
        mm = files.chain(one, two)
        files.lost = {physical(two) >> 12}
        found, warnings = files.read(mm)
        assert found == [(0x1000, 0x2000)]
        assert warnings

    def test_lost_file(self, files: Files) -> None:
        file = files.file(files.dentry(b"f", files.top))
        mm = files.chain(files.vma(0x1000, 0x2000, vm_file=file))
        files.lost = {physical(file) >> 12}
        vmas, warnings = read_vmas(files.kernel, files.task, mm)
        assert vmas[0].file is not None, "that there is one is certain"
        assert vmas[0].file.path is None
        assert "mapping 0x1000-0x2000: its file is not in the dump" in warnings[0]

    def test_lost_name(self, files: Files) -> None:
        file = files.file(files.dentry(b"f", files.bin), files.other)
        mm = files.chain(files.vma(0x1000, 0x2000, vm_file=file))
        files.lost = {physical(files.bin) >> 12}
        vmas, warnings = read_vmas(files.kernel, files.task, mm)
        assert vmas[0].file is not None
        assert vmas[0].file.path is None
        assert warnings == ("mapping 0x1000-0x2000: the name of its file was not found",)


class TestTree:
    """Kernels since 6.1: a maple tree."""

    @pytest.fixture
    def files(self) -> Files:
        return Files(TREE, "6.12.0")

    @staticmethod
    def leaf(files: Files, first: int, count: int, upto: int) -> int:
        """A leaf of pages first, first + 2 ..., each followed by a gap, up to address ``upto``."""
        slots: list[tuple[int, int]] = []
        for number in range(first, first + 2 * count, 2):
            slots.append((files.vma(number << 12, number + 1 << 12), (number + 1 << 12) - 1))
            slots.append((0, (number + 2 << 12) - 1))
        slots[-1] = (slots[-1][0], upto)
        return files.node(LEAF, slots)

    def test_one_leaf(self, files: Files) -> None:
        root = files.node(LEAF, [(0, 0xFFF), (files.vma(0x1000, 0x2000), 0x1FFF), (0, MAX)])
        assert files.read(files.tree(root, 1)) == ([(0x1000, 0x2000)], ())

    def test_empty(self, files: Files) -> None:
        assert files.read(files.tree(0, 0)) == ([], ())

    @pytest.mark.parametrize("kind", [RANGE, ARANGE])
    def test_levels(self, files: Files, kind: int) -> None:
        one, two = self.leaf(files, 1, 3, 0xFFFF), self.leaf(files, 16, 4, MAX)
        root = files.node(kind, [(one, 0xFFFF), (two, MAX)])
        expected = [(page << 12, page + 1 << 12) for page in (1, 3, 5, 16, 18, 20, 22)]
        assert files.read(files.tree(root, 7)) == (expected, ())

    def test_full_leaf(self, files: Files) -> None:
        """All 16 slots in use: there is no room for the meta data, ma_data_end()."""
        slots = [(files.vma(n << 12, n + 1 << 12), (n + 1 << 12) - 1) for n in range(15)] + [(0, MAX)]
        found, warnings = files.read(files.tree(files.node(LEAF, slots), 15))
        assert len(found) == 15
        assert not warnings

    def test_full_to_the_parents_end(self, files: Files) -> None:
        """The last pivot is the node's maximum: 15 slots are in use."""
        slots = [(files.vma(n << 12, n + 1 << 12), (n + 1 << 12) - 1) for n in range(15)]
        leaf = files.node(LEAF, [*slots, (0xDEAD000, MAX)])
        root = files.node(ARANGE, [(leaf, 0xEFFF), (self.leaf(files, 32, 1, MAX), MAX)])
        assert len(files.read(files.tree(root, 16))[0]) == 16

    def test_lost_leaf(self, files: Files) -> None:
        """The other leaves' mappings are there, and which range is lost is said."""
        one, two, three = (self.leaf(files, 16 * n + 1, 2, (16 * n + 16 << 12) - 1) for n in range(3))
        root = files.node(ARANGE, [(one, 0xFFFF), (two, 0x1FFFF), (three, MAX)])
        mm = files.tree(root, 6)
        files.lost = {physical(two & ~0xFF) >> 12}
        found, warnings = files.read(mm)
        assert [start >> 12 for start, _ in found] == [1, 3, 33, 35]
        assert warnings == ("the mappings between 0x10000 and 0x20000 are lost",)

    @pytest.mark.parametrize("damage", ["itself", "twice", "kind", "order", "end", "beyond"])
    def test_damaged(self, files: Files, damage: str) -> None:
        one, two = self.leaf(files, 1, 2, 0xFFFF), self.leaf(files, 17, 2, MAX)
        root = files.node(RANGE, [(one, 0xFFFF), (two, MAX)])
        node = one & ~0xFF
        change: dict[str, dict[str, Any]] = {
            "itself": {"mr64.slot[0]": root},
            "twice": {"mr64.slot[0]": two},
            "kind": {"mr64.slot[0]": one & ~0x78 | 9 << 3},
            "order": {"mr64.pivot[1]": 0x100},
            "end": {"mr64.meta.end": 200},
            "beyond": {"mr64.pivot[0]": 1 << 60},
        }
        files.set("struct maple_node", node if damage in ("order", "end", "beyond") else root & ~0xFF, change[damage])
        found, warnings = files.read(files.tree(root, 4))
        assert [start >> 12 for start, _ in found] == [17, 19], "the damaged part is the first"
        assert warnings == ("the mappings between 0x0 and 0x10000 are lost",)

    def test_leaf_in_two_places(self, files: Files) -> None:
        """One of a single slot fits anywhere, yet a node is in the tree once."""
        leaf = files.node(LEAF, [(files.vma(0x1000, 0x2000), MAX)])
        root = files.node(RANGE, [(leaf, 0xFFFF), (leaf, MAX)])
        found, warnings = files.read(files.tree(root, 1))
        assert found == [(0x1000, 0x2000)]
        assert warnings == ("the mappings between 0x10000 and 0x7ffffffff000 are lost",)

    def test_empty_range(self, files: Files) -> None:
        """No slot stands for nothing."""
        leaf = files.node(LEAF, [(files.vma(0x1000, 0x2000), 0x1FFF), (files.vma(0x3000, 0x4000), 0x1FFF), (0, MAX)])
        assert files.read(files.tree(leaf, 1)) == ([], ("the mappings between 0x0 and 0x7ffffffff000 are lost",))

    def test_gate(self, files: Files) -> None:
        """[vsyscall] is the last, wherever the VMA says it is: the ABI fixes it."""
        gate = files.vma(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000)
        files.symbols["gate_vma"] = gate
        mm = files.tree(files.node(LEAF, [(0, 0xFFF), (files.vma(0x1000, 0x2000), 0x1FFF), (0, MAX)]), 1)
        files.set("struct mm_struct", mm.value_(), {"context.flags": 2})
        files.word("vsyscall_mode", 0)
        vmas, warnings = read_vmas(files.kernel, files.task, mm)
        assert vmas[1:] == (Vma(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, VM_READ, name="[vsyscall]"),)
        assert not warnings
        files.set("struct vm_area_struct", gate, {"vm_start": 0, "vm_end": MAX})
        assert read_vmas(files.kernel, files.task, mm)[0] == vmas
        files.lost = {physical(gate) >> 12}
        vmas, warnings = read_vmas(files.kernel, files.task, mm)
        assert len(vmas) == 1
        assert "the vsyscall page is lost" in warnings[0]


class TestSpecial:
    """``vm_ops->name``, mm/mmap.c (mm/vma.c since 6.13): special_mapping_name() returns the mapping's own."""

    def vma(self, files: Files, operation: str, name: bytes = b"[vvar_vclock]\0") -> Vma:
        files.has("special_mapping_name", "other_name")
        operations = files.new("struct vm_operations_struct", name=files.symbols.get(operation, 0))
        special = files.new("struct vm_special_mapping", name=files.data(name))
        vma = files.vma(0x1000, 0x2000, vm_ops=operations, vm_private_data=special)
        return read_vmas(files.kernel, files.task, files.chain(vma))[0][0]

    def test_special_mapping(self, files: Files) -> None:
        assert self.vma(files, "special_mapping_name").name == "[vvar_vclock]"

    def test_no_name(self, files: Files) -> None:
        """legacy_special_mapping_vmops has no name, nor have files."""
        assert self.vma(files, "").name == ""

    def test_name_that_cannot_be_asked_for(self, files: Files) -> None:
        """Whatever it is, the kernel dumps such a mapping whole (always_dump_vma(), fs/coredump.c)."""
        assert self.vma(files, "other_name").name == "[unknown]"

    def test_long_name(self, files: Files) -> None:
        assert len(self.vma(files, "special_mapping_name", b"x" * 4096).name) <= 64
