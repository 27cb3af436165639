# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mappings of a process and the names of the files behind them."""

from collections.abc import Iterator
from contextlib import suppress

from drgn import FaultError, Object

from kgcore.model import MappedFile, Vma
from kgcore.sources.vmcore.kernel import Kernel
from kgcore.sources.vmcore.trees import maple_slots

__all__ = ("Paths", "read_vmas", "vma_structs")

_PAGE_SIZE = 4096
_VSYSCALL = 0xFFFFFFFFFF600000
_PATH_MAX_DEPTH = 2048  # components; PATH_MAX would be 4096 bytes
_NAME_MAX = 4096
_S_DAX = 1 << 13  # include/linux/fs.h; 5.8 and later, 4.9 to 5.7 alike


def read_vmas(kernel: Kernel, task: Object, mm: Object, word_size: int = 8) -> tuple[tuple[Vma, ...], tuple[str, ...]]:
    """All mappings in address order, the gate VMA last, and sentences about what went wrong.

    :param task: ``struct task_struct *``, to whose root directory the paths are relative
    :param mm: ``struct mm_struct *``
    :param word_size: bytes of an address in the core. A 32-bit program whose code goes to 64-bit mode can map memory
        above 4 GiB, for which the core has no addresses. (The kernel cuts them off.)
    """
    vmas: list[Vma] = []
    warnings: list[str] = []
    paths = Paths(kernel, task)
    limit = int(mm.map_count.value_()) & 0x7FFFFFFF
    for found in vma_structs(kernel, mm):
        if isinstance(found, str):
            warnings.append(found)
            continue
        try:
            vma = _read_vma(kernel, paths, found, warnings)
        except FaultError as error:
            warnings.append(f"a mapping is not in the dump: {error}")
            continue
        if vma is None:
            continue
        if vmas and vma.start < vmas[-1].end:
            warnings.append(f"mappings are out of order at {vma.start:#x}; those behind are lost")
            break
        if vma.end > 1 << 8 * word_size:
            warnings.append(f"mapping {vma.start:#x}-{vma.end:#x} is left out: a 32-bit core has no such addresses")
            continue
        vmas.append(vma)
        if len(vmas) > limit + 1:
            warnings.append(f"more mappings than the process has ({limit}); those behind are lost")
            break
    if len(vmas) < limit and not warnings:
        warnings.append(f"{limit - len(vmas)} of {limit} mappings are not to be found")
    try:
        vmas += _gate(kernel, mm)
    except FaultError as error:
        warnings.append(f"the vsyscall page is lost: {error}")
    return tuple(vmas), tuple(warnings)


def vma_structs(kernel: Kernel, mm: Object) -> Iterator[Object | str]:
    """Each ``struct vm_area_struct *`` in address order; where some are lost, a sentence about that.

    :param mm: ``struct mm_struct *``
    """
    try:
        if kernel.target.has_member("struct mm_struct", "mm_mt"):
            # 763ecb035029 "mm: remove the vma linked list" (6.1)
            for first, last, entry in maple_slots(mm.mm_mt):
                if entry is None:
                    yield f"the mappings between {first:#x} and {min(last + 1, kernel.user_end):#x} are lost"
                else:
                    yield Object(kernel.prog, "struct vm_area_struct *", entry)
            return
        seen: set[int] = set()
        vma = mm.mmap.read_()
        while vma:
            if vma.value_() in seen:
                yield "the list of mappings runs in a circle; mappings may be missing"
                return
            seen.add(vma.value_())
            yield vma
            vma = vma.vm_next.read_()
    except FaultError as error:
        yield f"the list of mappings breaks off: {error}"


def _gate(kernel: Kernel, mm: Object) -> Iterator[Vma]:
    gate = kernel.gate_vma(mm)
    if gate is not None:
        # Where it is does not change: it is part of the ABI (arch/x86/include/uapi/asm/vsyscall.h).
        yield Vma(_VSYSCALL, _VSYSCALL + _PAGE_SIZE, int(gate.vm_flags.value_()), name="[vsyscall]")


def _read_vma(kernel: Kernel, paths: "Paths", found: Object, warnings: list[str]) -> Vma | None:
    vma = found[0].read_()  # one read instead of one per member
    start, end = vma.vm_start.value_(), vma.vm_end.value_()
    if not start < end <= kernel.user_end or (start | end) % _PAGE_SIZE:
        warnings.append(f"a mapping that cannot be, {start:#x}-{end:#x}, is left out")
        return None
    file = None
    name = ""
    try:
        if vma.vm_file:
            file = paths.mapped_file(vma.vm_file)
        name = _name(kernel, vma)
    except FaultError as error:
        warnings.append(f"mapping {start:#x}-{end:#x}: its file is not in the dump: {error}")
        if file is None and vma.vm_file:
            file = MappedFile(None, nlink=1, mode=0, size=1 << 62)
    else:
        if file is not None and file.path is None:
            warnings.append(f"mapping {start:#x}-{end:#x}: the name of its file is not to be found")
    return Vma(
        start=start,
        end=end,
        flags=int(vma.vm_flags.value_()),
        pgoff=int(vma.vm_pgoff.value_()),
        file=file,
        anon=bool(vma.anon_vma),
        name=name,
    )


def _name(kernel: Kernel, vma: Object) -> str:
    """What ``vm_ops->name`` returns; "" without it or if that is NULL.

    On x86 only special mappings have it (mm/mmap.c): ``struct vm_special_mapping`` holds the name.
    """
    if not vma.vm_ops:
        return ""
    operation = vma.vm_ops.name.value_()
    if not operation:
        return ""
    if operation == kernel.target.symbol_address("special_mapping_name"):
        special = Object(kernel.prog, "struct vm_special_mapping *", vma.vm_private_data.value_())
        return bytes(kernel.prog.read_c_string(special.name.value_(), max_size=64)).decode(errors="replace")
    return "[unknown]"  # a name we cannot ask for: the kernel dumps such a mapping whole


class Paths:
    """Names of files as ``d_path()`` gives them to a process (fs/d_path.c), relative to its root directory."""

    def __init__(self, kernel: Kernel, task: Object | None) -> None:
        """
        :param task: ``struct task_struct *``; None: names start at the top of the mount tree.
        """
        self._kernel = kernel
        self._root: tuple[int, int] | None = None
        if task is not None:
            with suppress(FaultError):
                root = task.fs.root
                self._root = (root.mnt.value_(), root.dentry.value_())
        self._files: dict[int, MappedFile] = {}

    def mapped_file(self, file: Object) -> MappedFile:
        """The file of a mapping.

        :param file: ``struct file *``
        :raises FaultError: its inode is not in the dump.
        """
        known = self._files.get(file.value_())
        if known is None:
            known = self._files[file.value_()] = self._read_file(file)
        return known

    def _read_file(self, file: Object) -> MappedFile:
        inode = file.f_inode
        dax = False
        if self._kernel.target.symbol_address("dax_iomap_fault") is not None:  # CONFIG_FS_DAX
            dax = bool(file.f_mapping.host.i_flags.value_() & _S_DAX)
        try:
            path = self.path(file)
        except (FaultError, ValueError):
            path = None
        return MappedFile(
            path=path,
            nlink=int(inode.i_nlink.value_()),
            mode=int(inode.i_mode.value_()),
            size=int(inode.i_size.value_()),
            dax=dax,
        )

    def path(self, file: Object) -> bytes:
        """``file_path()``: the name of an open file.

        :raises ValueError: it has none, or the directory tree in the dump is damaged.
        """
        path = file.f_path
        dentry = path.dentry
        operation = dentry.d_op.d_dname.value_() if dentry.d_op else 0
        if operation and not (_is_root(dentry) and path.mnt.mnt_root.value_() == dentry.value_()):
            return self._pseudo_name(operation, dentry)
        deleted = b" (deleted)" if not dentry.d_hash.pprev and not _is_root(dentry) else b""
        return self._absolute(path.mnt.value_(), dentry) + deleted

    def _pseudo_name(self, operation: int, dentry: Object) -> bytes:
        """Files outside any directory name themselves: ``d_op->d_dname``."""
        name = _dentry_name(dentry)
        number = dentry.d_inode.i_ino.value_()
        symbol = self._kernel.target.symbol_address
        formats = {
            symbol("simple_dname"): b"/%b (deleted)" % name,  # memfd, SysV, shared anonymous, hugetlb
            symbol("anon_inodefs_dname"): b"anon_inode:%b" % name,
            symbol("sockfs_dname"): b"socket:[%d]" % number,
            symbol("pipefs_dname"): b"pipe:[%d]" % number,
            symbol("dmabuffs_dname"): b"/dmabuf:%b" % name,
        }
        formats.pop(None, None)
        if operation not in formats:
            raise ValueError("a pseudo file of unknown kind")
        return formats[operation]

    def _absolute(self, mnt: int, dentry: Object) -> bytes:
        names: list[bytes] = []
        for name in self._upwards(mnt, dentry):
            if name is None:
                names.clear()
            else:
                names.append(name)
        return b"".join(b"/" + name for name in reversed(names)) or b"/"

    def _upwards(self, mnt: int, dentry: Object) -> Iterator[bytes | None]:
        """``prepend_path()``: components from the file up to the process's root; None at the end: forget them."""
        mount = self._mount(mnt)
        for _ in range(_PATH_MAX_DEPTH):
            at = (mount.mnt.address_of_().value_(), dentry.value_())
            if at == self._root:
                return
            if at[1] == mount.mnt.mnt_root.value_():
                parent = mount.mnt_parent
                if parent.value_() == mount.value_():
                    return  # the top of the mount tree
                dentry, mount = mount.mnt_mountpoint, parent
                continue
            if _is_root(dentry):
                yield None  # moved out of its mount ("escaped")
                return
            yield _dentry_name(dentry)
            dentry = dentry.d_parent
        raise ValueError("a directory tree without end")

    def _mount(self, mnt: int) -> Object:
        offset = next(m.offset for m in self._kernel.prog.type("struct mount").members or () if m.name == "mnt")
        return Object(self._kernel.prog, "struct mount *", mnt - offset)


def _is_root(dentry: Object) -> bool:
    return bool(dentry.d_parent.value_() == dentry.value_())


def _dentry_name(dentry: Object) -> bytes:
    name = dentry.d_name
    length = min(int(name.len.value_()), _NAME_MAX)
    return bytes(dentry.prog_.read(name.name.value_(), length))
