# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mappings of a process and the names of the files behind them."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from drgn import FaultError, Object, offsetof

from kgcore.model.lost import Lost
from kgcore.model.process import DELETED, MappedFile, Vma
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernel.structs import Members
from kgcore.sources.vmcore.kernel.trees import XA_ZERO, maple_slots
from kgcore.sources.vmcore.kernelreads import in_words, kernel_bytes, kernel_string

__all__ = ("Paths", "read_vmas", "vma_members")

_PATH_MAX_DEPTH = 2048  # components; PATH_MAX would be 4096 bytes
_NAME_MAX = 4096
_ANON_NAME_MAX = 80  # bytes, ANON_VMA_NAME_MAX_LEN
_S_DAX = 1 << 13  # include/linux/fs.h; 5.8 and later, 4.9 to 5.7 alike
_VMA = (
    "vm_start", "vm_end", "vm_next", "vm_mm", "vm_flags", "vm_pgoff", "vm_file", "vm_ops", "anon_vma",
    "vm_private_data", "anon_name",
)  # fmt: skip
_FILE = "f_path.mnt", "f_path.dentry", "f_inode", "f_mapping"
_INODE = "i_mode", "i_nlink", "i_size", "i_flags", "i_ino"
_DENTRY = "d_hash.pprev", "d_parent", "d_name.len", "d_name.name", "d_inode", "d_op"
_MOUNT = "mnt_parent", "mnt_mountpoint", "mnt.mnt_root"


def read_vmas(kernel: Kernel, task: Object, mm: Object, word_size: int = 8) -> tuple[tuple[Vma, ...], tuple[str, ...]]:
    """Return all mappings in address order, the gate VMA last, and sentences about what went wrong.

    :param task: ``struct task_struct *``, to whose root directory the paths are relative
    :param mm: ``struct mm_struct *``
    :param word_size: bytes of an address in the core. A 32-bit program whose code goes to 64-bit mode can map memory
        above 4 GiB, for which the core has no addresses. (The kernel cuts them off.)
    """
    vmas: list[Vma] = []
    warnings: list[str] = []
    paths = Paths(kernel, task)
    names = _Names(kernel)
    limit = int(mm.map_count.value_()) & 0x7FFFFFFF
    for found in vma_members(kernel, mm):
        if isinstance(found, Lost):
            warnings.append(found.reason)
            continue
        try:
            vma = _read_vma(kernel, paths, names, found, warnings)
        except FaultError as error:
            warnings.append(f"a mapping is not in the dump: {in_words(error)}")
            continue
        if vma is None:
            continue
        if vmas and vma.start < vmas[-1].end:
            warnings.append(f"mappings are out of order at {vma.start:#x}; the following ones are lost")
            break
        if vma.end > 1 << 8 * word_size:
            warnings.append(f"mapping {vma.start:#x}-{vma.end:#x} is left out: a 32-bit core cannot hold its addresses")
            continue
        vmas.append(vma)
        if len(vmas) > limit + 1:
            warnings.append(f"more mappings than the process has ({limit}); the following ones are lost")
            break
    if len(vmas) < limit and not warnings:
        warnings.append(f"{limit - len(vmas)} of {limit} mappings are missing")
    try:
        gate = kernel.machine.gate(mm)
    except FaultError as error:
        warnings.append(f"the vsyscall page is lost: {in_words(error)}")
    else:
        vmas += () if gate is None else (gate,)
    return tuple(vmas), tuple(warnings)


def vma_members(kernel: Kernel, mm: Object) -> Iterator[Members | Lost]:
    """Yield each ``struct vm_area_struct`` in address order; where some are lost, yield why.

    :param mm: ``struct mm_struct *``
    """
    structs = kernel.structs("struct vm_area_struct", *_VMA)
    own = mm.value_()
    foreign: Members | None = None  # dup_mmap() copies the parent's whole tree, then replaces the VMAs (6.8)
    try:
        if kernel.target.has_member("struct mm_struct", "mm_mt"):
            # 763ecb035029 "mm: remove the vma linked list" (6.1)
            for first, last, entry in maple_slots(mm.mm_mt):
                if entry is None:
                    end = min(last + 1, kernel.machine.user_end)
                    yield Lost(f"the mappings between {first:#x} and {end:#x} are lost")
                elif entry == XA_ZERO:
                    # d24062914837 "fork: use __mt_dup() to duplicate maple tree in dup_mmap()" (6.8), until 6.18
                    yield Lost(f"the mappings from {first:#x} on were never copied: a fork failed there")
                    break
                else:
                    vma = structs.read(entry)
                    if vma.get("vm_mm", own) == own:
                        yield vma
                    else:
                        foreign = foreign or vma
        else:
            seen: set[int] = set()
            address = mm.mmap.value_()
            while address:
                if address in seen:
                    yield Lost("the list of mappings is circular; mappings may be missing")
                    break
                seen.add(address)
                vma = structs.read(address)
                if vma.get("vm_mm", own) == own:
                    yield vma
                else:
                    foreign = foreign or vma
                address = vma["vm_next"]
    except FaultError as error:
        yield Lost(f"the list of mappings ends early: {in_words(error)}")
    if foreign is not None:
        where = f"from {foreign['vm_start']:#x} on" if "vm_start" in foreign else "in part"
        yield Lost(f"the mappings {where} belong to a different process: the address space was being copied (fork)")


def _read_vma(kernel: Kernel, paths: "Paths", names: "_Names", found: Members, warnings: list[str]) -> Vma | None:
    start, end = found["vm_start"], found["vm_end"]
    if not start < end <= kernel.machine.user_end or (start | end) % kernel.page_size:
        warnings.append(f"an impossible mapping, {start:#x}-{end:#x}, is left out")
        return None
    file = None
    name = ""
    try:
        if found["vm_file"]:
            file = paths.mapped_file(found["vm_file"])
        name = names.of(found)
    except FaultError as error:
        warnings.append(f"mapping {start:#x}-{end:#x}: its file is not in the dump: {in_words(error)}")
        if file is None and found["vm_file"]:
            file = MappedFile(None, nlink=1, mode=0, size=1 << 62)
    else:
        if file is not None and file.path is None:
            warnings.append(f"mapping {start:#x}-{end:#x}: the name of its file was not found")
    anon_name = b""
    try:
        if given := kernel.anon_name(found):
            anon_name = kernel_string(kernel.prog, given, _ANON_NAME_MAX)
    except FaultError as error:
        warnings.append(f"mapping {start:#x}-{end:#x}: its name is not in the dump: {in_words(error)}")
    return Vma(
        start=start,
        end=end,
        flags=found["vm_flags"],
        pgoff=found["vm_pgoff"],
        file=file,
        anon=bool(found["anon_vma"]),
        name=name,
        anon_name=anon_name,
        struct=found.address,
    )


class _Names:
    """The names that ``vm_ops->name`` returns.

    On x86 only special mappings have it (mm/mmap.c): ``struct vm_special_mapping`` holds the name.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._special = kernel.target.symbol_address("special_mapping_name")
        operations = kernel.structs("struct vm_operations_struct", "name")
        # The cache belongs to this object and is freed with it
        self._operation: Callable[[int], int] = cache(lambda address: operations.read(address)["name"])

    def of(self, vma: Members) -> str:
        """Return the name of a mapping; "" if it has no name.

        :raises FaultError: the name is not in the dump.
        """
        operation = self._operation(vma["vm_ops"]) if vma["vm_ops"] else 0
        if not operation:
            return ""
        if operation == self._special:
            special = Object(self._kernel.prog, "struct vm_special_mapping *", vma["vm_private_data"])
            name = kernel_string(self._kernel.prog, special.name.value_(), 64)
            return name.decode(errors="replace")
        return "[unknown]"  # a function returns the name; the kernel dumps this mapping whole


class _Above(NamedTuple):
    """The directory above a file.

    :ivar path: of the directory, without a slash at its end; None: not found.
    :ivar escaped: the file was moved out of its mount, and has no path at all.
    """

    path: bytes | None
    escaped: bool = False


class Paths:
    """Names of files as ``d_path()`` gives them to a process (fs/d_path.c), relative to its root directory."""

    def __init__(self, kernel: Kernel, task: Object | None) -> None:
        """Set up the names for a process.

        :param task: ``struct task_struct *``; None: names start at the top of the mount tree.
        """
        self._kernel = kernel
        self._root: tuple[int, int] | None = None
        if task is not None:
            with suppress(FaultError):
                root = task.fs.root
                self._root = (root.mnt.value_(), root.dentry.value_())
        self._structs = kernel.structs("struct file", *_FILE)
        self._inodes = kernel.structs("struct inode", *_INODE)
        self._dentries = kernel.structs("struct dentry", *_DENTRY)
        self._mounts = kernel.structs("struct mount", *_MOUNT)
        self._mnt = int(offsetof(kernel.prog.type("struct mount"), "mnt"))
        self._files: dict[int, MappedFile] = {}
        # Thousands of files may be in one directory, and thousands of directories in another.
        self._above: dict[tuple[int, int], _Above] = {}
        self._directories: dict[int, tuple[int, bytes]] = {}

    def mapped_file(self, file: int) -> MappedFile:
        """Return the file of a mapping.

        :param file: address of a ``struct file``
        :raises FaultError: its inode is not in the dump.
        """
        known = self._files.get(file)
        if known is None:
            known = self._files[file] = self._read_file(self._structs.read(file))
        return known

    def _read_file(self, file: Members) -> MappedFile:
        inode = self._inodes.read(file["f_inode"])
        dax = False
        if self._kernel.target.symbol_address("dax_iomap_fault") is not None:  # CONFIG_FS_DAX
            mapping = self._kernel.structs("struct address_space", "host").read(file["f_mapping"])
            host = inode if mapping["host"] == inode.address else self._inodes.read(mapping["host"])
            dax = bool(host["i_flags"] & _S_DAX)
        try:
            path = self._path(file)
        except (FaultError, ValueError):
            path = None
        return MappedFile(path=path, nlink=inode["i_nlink"], mode=inode["i_mode"], size=inode["i_size"], dax=dax)

    def path(self, file: int) -> bytes:
        """Return the name of an open file (``file_path()``).

        :param file: address of a ``struct file``
        :raises FaultError, ValueError: it has no name, or the directory tree in the dump is damaged.
        """
        return self._path(self._structs.read(file))

    def directory(self, mnt: int, dentry: int) -> bytes:
        """Return the path of a directory.

        :param mnt: address of its ``struct vfsmount``, and of its ``struct dentry``.
        :raises FaultError, ValueError: the directory tree in the dump is damaged.
        """
        found = self._dentries.read(dentry)
        gone = not found["d_hash.pprev"] and not _is_root(found)
        return self._absolute(mnt, found) + (DELETED if gone else b"")

    def _path(self, file: Members) -> bytes:
        mnt, dentry = file["f_path.mnt"], self._dentries.read(file["f_path.dentry"])
        operations = self._kernel.structs("struct dentry_operations", "d_dname")
        operation = operations.read(dentry["d_op"])["d_dname"] if dentry["d_op"] else 0
        if operation and not (_is_root(dentry) and self._mount(mnt)["mnt.mnt_root"] == dentry.address):
            return self._pseudo_name(operation, dentry)
        deleted = DELETED if not dentry["d_hash.pprev"] and not _is_root(dentry) else b""
        return self._absolute(mnt, dentry) + deleted

    def _pseudo_name(self, operation: int, dentry: Members) -> bytes:
        """Return the name of a file outside any directory: ``d_op->d_dname`` makes it."""
        symbol = self._kernel.target.symbol_address
        number = self._inodes.read(dentry["d_inode"])["i_ino"]
        if operation == symbol("ns_dname"):
            return b"%b:[%d]" % (self._namespace(dentry["d_inode"]), number)
        name = self._name(dentry)
        if b"\0" in name:
            raise ValueError("an impossible file name")
        formats = {
            symbol("simple_dname"): b"/%b%b" % (name, DELETED),  # memfd, SysV, shared anonymous, hugetlb
            symbol("anon_inodefs_dname"): b"anon_inode:%b" % name,
            symbol("sockfs_dname"): b"socket:[%d]" % number,
            symbol("pipefs_dname"): b"pipe:[%d]" % number,
            symbol("dmabuffs_dname"): b"/dmabuf:%b" % name,
            symbol("pidfs_dname"): b"anon_inode:[pidfd]",
        }
        formats.pop(None, None)
        if operation not in formats:
            raise ValueError("a pseudo file of unknown kind")
        return formats[operation]

    def _namespace(self, inode: int) -> bytes:
        """Return the kind of namespace of a file in /proc/PID/ns."""
        structs = self._kernel.structs
        common = structs("struct ns_common", "ops").read(structs("struct inode", "i_private").read(inode)["i_private"])
        name = structs("struct proc_ns_operations", "name").read(common["ops"])["name"]
        return kernel_string(self._kernel.prog, name, 64)

    def _absolute(self, mnt: int, dentry: Members) -> bytes:
        """Return the absolute path of a file, as ``prepend_path()`` does."""
        if (mnt, dentry.address) == self._root:
            return b"/"
        if dentry.address == self._mount(mnt)["mnt.mnt_root"]:
            name, above = b"", self._find_above(mnt, dentry.address)
        elif _is_root(dentry):
            return b"/"
        else:
            name, above = b"/" + _component(self._name(dentry)), self._find_above(mnt, dentry["d_parent"])
        if above.path is None:
            raise ValueError("the directories above it are lost or circular")
        return b"/" if above.escaped else above.path + name or b"/"

    def _find_above(self, mnt: int, directory: int) -> _Above:
        at = mnt, directory
        known = self._above.get(at)
        if known is None:
            try:
                known = self._look_above(mnt, directory)
            except (FaultError, ValueError):
                known = _Above(None)
            self._above[at] = known
        return known

    def _look_above(self, mnt: int, directory: int) -> _Above:
        """Follow a directory up to the process's root."""
        names: list[bytes] = []
        for _ in range(_PATH_MAX_DEPTH):
            if (mnt, directory) == self._root:
                break
            mount = self._mount(mnt)
            if directory == mount["mnt.mnt_root"]:
                if mount["mnt_parent"] == mount.address:
                    break  # the top of the mount tree
                mnt, directory = mount["mnt_parent"] + self._mnt, mount["mnt_mountpoint"]
                continue
            parent, name = self._read_directory(directory)
            if parent == directory:
                return _Above(b"", escaped=True)
            names.append(_component(name))
            directory = parent
        else:
            return _Above(None)
        return _Above(b"".join(b"/" + name for name in reversed(names)))

    def _read_directory(self, directory: int) -> tuple[int, bytes]:
        """Return the parent of a directory, and its name."""
        known = self._directories.get(directory)
        if known is None:
            dentry = self._dentries.read(directory)
            known = self._directories[directory] = dentry["d_parent"], self._name(dentry)
        return known

    def _mount(self, mnt: int) -> Members:
        """Return the ``struct mount`` around a ``struct vfsmount``."""
        return self._mounts.read(mnt - self._mnt)

    def _name(self, dentry: Members) -> bytes:
        return kernel_bytes(self._kernel.prog, dentry["d_name.name"], min(dentry["d_name.len"], _NAME_MAX))


def _component(name: bytes) -> bytes:
    """Return a component of a path.

    :raises ValueError: no file can have that name, so the dump is damaged there.
    """
    if not name or b"/" in name or b"\0" in name:
        raise ValueError("an impossible file name")
    return name


def _is_root(dentry: Members) -> bool:
    return bool(dentry["d_parent"] == dentry.address)
