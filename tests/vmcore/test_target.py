# SPDX-License-Identifier: LGPL-2.1-or-later
"""Opening real vmcores: of every kernel and format, with and without vmlinux, and wrong input."""

import gc
import mmap
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from drgn import FaultError, Program, Type, TypeKind, sizeof
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.fs import d_path
from drgn.helpers.linux.mm import cmdline, for_each_vma
from drgn.helpers.linux.percpu import per_cpu
from drgn.helpers.linux.pid import find_task, for_each_task, for_each_task_in_group
from drgn.helpers.linux.sched import cpu_curr
from drgn.helpers.linux.xarray import xa_load

from kgcore.errors import TargetError
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.dumpfile import FrameState
from kgcore.sources.vmcore.opening.foreign import from_program
from kgcore.sources.vmcore.opening.target import Target, open_target
from kgcore.sources.vmcore.symbols import finders as symbols
from kgcore.sources.vmcore.symbols.variables import VARIABLES
from tests.vmcore.tools import kgcore

FixtureDir = Callable[[str], Path]

KERNELS = ("k510", "k61", "k612", "k72")
FORMATS = (
    "vmcore.elf",
    "vmcore.qemu-kdump",
    "vmcore.qemu-flat",
    "vmcore.d1-zlib",
    "vmcore.d17-zlib",
    "vmcore.d17-lzo",
    "vmcore.d17-zstd",
    "vmcore.d17-flat",
    "vmcore.d23-zlib",
    "vmcore.d31-zstd",
    "vmcore.d31-elf",
)
# Structures that processes are made of; what they refer to is compared too.
ROOTS = (
    "struct task_struct",
    "struct mm_struct",
    "struct vm_area_struct",
    "struct file",
    "struct inode",
    "struct dentry",
    "struct page",
    "struct pt_regs",
    "struct rq",
    "struct swap_info_struct",
    "union fpregs_state",
    "struct xregs_state",
    "struct pid_namespace",
    "struct user_namespace",
    "struct address_space",
    "struct hstate",
    "struct user_regset",
    "struct linux_binfmt",
)


def vmcore(directory: Path, name: str = "vmcore.elf") -> str:
    path = directory / name
    if not path.exists():
        pytest.skip(f"fixture {directory.name} has no {name}")
    return str(path)


def btf(directory: Path, name: str = "vmcore.elf") -> Target:
    return open_target(DumpLocation(core=vmcore(directory, name), symbols_from="btf"))


def dwarf(directory: Path) -> Target:
    return open_target(DumpLocation(core=vmcore(directory), symbols=(str(directory / "vmlinux"),)))


class TestBtfMode:
    @pytest.mark.parametrize(
        ("fixture", "name"),
        [
            *((kernel, "vmcore.elf") for kernel in KERNELS),
            ("k61-la57", "vmcore.elf"),
            ("k61-kexec", "vmcore.kexec"),
            ("k61-kexec", "vmcore.d17-lzo"),
            ("k72-kexec", "vmcore.kexec"),
        ],
    )
    def test_helpers_work(self, fixture_dir: FixtureDir, fixture: str, name: str) -> None:
        with btf(fixture_dir(fixture), name) as target:
            prog = target.prog
            assert target.symbols_from == "btf"
            assert prog["init_uts_ns"].name.release.string_().decode() == target.release
            init = find_task(prog, 1)
            assert init.pid.value_() == 1
            assert {1, init.tgid.value_()} <= {task.pid.value_() for task in for_each_task(prog)}
            assert [task.pid.value_() for task in for_each_task_in_group(init, include_self=True)] == [1]
            vmas = list(for_each_vma(init.mm))
            assert vmas[0].vm_start.value_() < vmas[0].vm_end.value_() <= vmas[1].vm_start.value_()
            assert d_path(init.mm.exe_file.f_path).startswith(b"/")
            assert cmdline(init)
            for cpu in for_each_online_cpu(prog):
                assert per_cpu(prog["runqueues"], cpu).curr == cpu_curr(prog, cpu)
            assert xa_load(init.mm.exe_file.f_mapping.i_pages.address_of_(), 0)

    @pytest.mark.parametrize("name", FORMATS)
    def test_every_format_shows_the_same_tasks(self, fixture_dir: FixtureDir, name: str) -> None:
        directory = fixture_dir("k61")
        with btf(directory) as elf, btf(directory, name) as target:
            assert [(task.pid.value_(), task.value_()) for task in for_each_task(target.prog)] == [
                (task.pid.value_(), task.value_()) for task in for_each_task(elf.prog)
            ]
            assert target.vmcoreinfo == elf.vmcoreinfo
            assert [note.name for note in target.notes] == [note.name for note in elf.notes]
            assert not target.messages

    def test_probes(self, fixture_dir: FixtureDir) -> None:
        with btf(fixture_dir("k61")) as target:
            assert target.has_type("struct folio")
            assert not target.has_type("struct no_such")
            assert target.has_member("struct mm_struct", "mm_mt")
            assert not target.has_member("struct mm_struct", "no_such")
            assert not target.has_member("struct no_such", "x")
            assert not target.has_member("unsigned int", "x")
            assert target.constant("PIDTYPE_TGID") == 1
            assert target.constant("phys_base") is not None  # VMCOREINFO's NUMBER()
            assert target.constant("NO_SUCH") is None
            assert target.symbol_address("init_task") == target.prog["init_task"].address_
            assert target.symbol_address("no_such") is None


class TestBtfAgainstDwarf:
    @pytest.mark.parametrize("kernel", KERNELS)
    def test_layouts(self, fixture_dir: FixtureDir, kernel: str) -> None:
        directory = fixture_dir(kernel)
        with btf(directory) as one, dwarf(directory) as two:
            differences: list[str] = []
            seen: set[str] = set()
            for root in ROOTS:
                compare(one.prog.type(root), two.prog.type(root), root, seen, differences)
            assert not differences
            assert len(seen) > 1000

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_variables(self, fixture_dir: FixtureDir, kernel: str) -> None:
        directory = fixture_dir(kernel)
        with btf(directory) as one, dwarf(directory) as two:
            checked = 0
            for name in VARIABLES:
                try:
                    expected = two.prog.variable(name)
                except LookupError:
                    continue
                found = one.prog.variable(name)
                assert found.address_ == expected.address_, name
                assert same_type(found.type_, expected.type_), (name, found.type_, expected.type_)
                checked += 1
            assert checked > 70

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_constants(self, fixture_dir: FixtureDir, kernel: str) -> None:
        directory = fixture_dir(kernel)
        with btf(directory) as one, dwarf(directory) as two:
            for name in ("PIDTYPE_PID", "PG_head", "SWP_USED", "MM_SWAPENTS", "__NR_PAGEFLAGS", "XFEATURE_PKRU"):
                assert one.constant(name) == two.constant(name) is not None

    def test_raw_btf_file(self, fixture_dir: FixtureDir, tmp_path: Path) -> None:
        directory = fixture_dir("k61")
        with btf(directory) as target:
            start, stop = (target.prog.symbol(name).address for name in ("__start_BTF", "__stop_BTF"))
            (tmp_path / "types.btf").write_bytes(target.prog.read(start, stop - start))
        options = DumpLocation(core=vmcore(directory), symbols=(str(tmp_path / "types.btf"),))
        with open_target(options) as target:
            assert target.symbols_from == "btf"
            assert find_task(target.prog, 1).pid == 1


def compare(one: Type, two: Type, path: str, seen: set[str], differences: list[str]) -> None:
    """Compare all that a type consists of or refers to: names, sizes, offsets, widths of bit fields."""
    one, two = bare(one), bare(two)
    if one.kind == TypeKind.POINTER and two.kind == TypeKind.POINTER:
        return compare(one.type, two.type, path + "*", seen, differences)
    if one.kind != two.kind:
        differences.append(f"{path}: {one.kind} and {two.kind}")
        return None
    if one.kind in (TypeKind.INT, TypeKind.BOOL, TypeKind.ENUM, TypeKind.FLOAT):
        if one.is_complete() and two.is_complete() and sizeof(one) != sizeof(two):
            differences.append(f"{path}: {sizeof(one)} and {sizeof(two)} bytes")
        # pahole of Debian 11's kernels lost the sign of characters
        if one.kind == TypeKind.INT and sizeof(one) > 1 and one.is_signed != two.is_signed:
            differences.append(f"{path}: signed {one.is_signed} and {two.is_signed}")
        return None
    if one.kind not in (TypeKind.STRUCT, TypeKind.UNION) or not one.is_complete() or not two.is_complete():
        return None
    key = f"{one.kind} {one.tag}" if one.tag else path
    if key in seen:
        return None
    seen.add(key)
    my_members, their_members = one.members or (), two.members or ()
    if one.size != two.size or [m.name for m in my_members] != [m.name for m in their_members]:
        differences.append(f"{path}: {one.size} and {two.size} bytes, or other members")
        return None
    for index, (mine, theirs) in enumerate(zip(my_members, their_members, strict=True)):
        name = f"{key if one.tag else path}.{mine.name or index}"
        if (mine.bit_offset, mine.bit_field_size) != (theirs.bit_offset, theirs.bit_field_size):
            differences.append(f"{name}: bit {mine.bit_offset} and {theirs.bit_offset}, or another width")
        if elements(mine.type) != elements(theirs.type):
            differences.append(f"{name}: {elements(mine.type)} and {elements(theirs.type)} elements")
        compare(mine.type, theirs.type, name, seen, differences)
    return None


def bare(kind: Type) -> Type:
    """Without typedefs and dimensions of arrays."""
    while kind.kind in (TypeKind.TYPEDEF, TypeKind.ARRAY):
        kind = kind.type
    return kind


def elements(kind: Type) -> int:
    """Elements of an array of any dimensions; 0 of ``x[]``, 1 of what is no array. BTF has one dimension only."""
    count = 1
    while kind.kind in (TypeKind.TYPEDEF, TypeKind.ARRAY):
        if kind.kind == TypeKind.ARRAY:
            count *= kind.length or 0
        kind = kind.type
    return count


def same_type(one: Type, two: Type) -> bool:
    """Whether a type of the table is that of DWARF, but for qualifiers, lengths of arrays and typedefs."""
    one, two = one.unaliased(), two.unaliased()
    if two.kind == TypeKind.ENUM and not two.tag:
        return bool(one.kind == TypeKind.INT and sizeof(one) == sizeof(two))
    if one.kind != two.kind:
        return False
    if one.kind in (TypeKind.POINTER, TypeKind.ARRAY):
        return same_type(one.type, two.type)
    return bool(one.unqualified().type_name() == two.unqualified().type_name())


class TestPresence:
    @pytest.mark.parametrize("name", FORMATS)
    def test_stored_frames_can_be_read_and_others_not(self, fixture_dir: FixtureDir, name: str) -> None:
        with btf(fixture_dir("k61"), name) as target:
            counts = dict.fromkeys(FrameState, 0)
            for start, end, state in target.frames.runs(0, 1 << 20):
                counts[state] += end - start
                for frame in {start, (start + end) // 2, end - 1}:
                    if state is FrameState.STORED:
                        assert len(target.phys(frame << 12, 4096)) == 4096
                    elif not name.endswith("elf"):  # of ELF, drgn gives zeros for what was left out
                        with pytest.raises(FaultError):
                            target.phys(frame << 12, 4096)
            assert counts[FrameState.STORED] > 1000
            assert bool(counts[FrameState.EXCLUDED]) == any(level in name for level in ("d17", "d23", "d31"))
            assert not counts[FrameState.CUT_OFF]

    @pytest.mark.parametrize("name", ["vmcore.elf", "vmcore.d17-zlib"])
    def test_cut_off(self, fixture_dir: FixtureDir, tmp_path: Path, name: str) -> None:
        path = tmp_path / "vmcore"
        shutil.copyfile(vmcore(fixture_dir("k61"), name), path)
        os.truncate(path, path.stat().st_size - 10_000)
        with btf(tmp_path, "vmcore") as target:
            assert "cut off" in target.messages[0]
            cut = [run for run in target.frames.runs(0, 1 << 20) if run.state is FrameState.CUT_OFF]
            assert cut
            for run in cut:
                with pytest.raises(FaultError):
                    target.phys(run.end - 1 << 12, 4096)

    @pytest.mark.parametrize("name", ["vmcore.elf", "vmcore.d17-zlib", "vmcore.d17-flat"])
    def test_cut_off_so_far_that_it_is_of_no_use(self, fixture_dir: FixtureDir, tmp_path: Path, name: str) -> None:
        path = tmp_path / "vmcore"
        shutil.copyfile(vmcore(fixture_dir("k61"), name), path)
        os.truncate(path, path.stat().st_size // 50)  # before the kernel, which lies beyond 16 MiB
        with pytest.raises(TargetError, match="the dump is cut off"):
            btf(tmp_path, "vmcore")


class TestVmcoreinfoMissing:
    @pytest.mark.parametrize("kernel", KERNELS)
    def test_elf(self, fixture_dir: FixtureDir, tmp_path: Path, kernel: str) -> None:
        directory = fixture_dir(kernel)
        path = without_vmcoreinfo(Path(vmcore(directory)), tmp_path)
        with btf(directory) as whole, btf(path, "vmcore") as target:
            assert target.vmcoreinfo == whole.vmcoreinfo
            assert find_task(target.prog, 1).value_() == find_task(whole.prog, 1).value_()

    @pytest.mark.parametrize("name", ["vmcore.elf", "vmcore.qemu-kdump", "vmcore.qemu-flat"])
    def test_dump_of_a_guest_without_the_device(self, fixture_dir: FixtureDir, name: str) -> None:
        with btf(fixture_dir("k61-novmcoreinfo"), name) as target:
            assert find_task(target.prog, 1).pid == 1

    def test_kdump(self, fixture_dir: FixtureDir, tmp_path: Path) -> None:
        path = without_vmcoreinfo(Path(vmcore(fixture_dir("k61"), "vmcore.qemu-kdump")), tmp_path)
        with btf(path, "vmcore") as target:
            assert find_task(target.prog, 1).pid == 1

    def test_stale_copy_is_not_taken(self, fixture_dir: FixtureDir, tmp_path: Path) -> None:
        """Synthetic: the text of an earlier kernel, with its addresses, in low memory, where it is found first."""
        directory = fixture_dir("k61")
        path = without_vmcoreinfo(Path(vmcore(directory)), tmp_path)
        with btf(directory) as whole:
            info = dict(whole.vmcoreinfo)
        for name in ("swapper_pg_dir", "init_top_pgt", "init_uts_ns"):
            info[f"SYMBOL({name})"] = f"{int(info[f'SYMBOL({name})'], 16) - 0x600000:x}"
        text = "".join(f"{key}={value}\n" for key, value in info.items()).encode()
        with (path / "vmcore").open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
            (table,) = struct.unpack_from("<Q", data, 32)
            offset, _, address, size = struct.unpack_from("<QQQQ", data, table + 56 + 8)  # the first PT_LOAD
            assert address == 0
            page = next(at for at in range(offset, offset + size, 4096) if not any(data[at : at + 4096]))
            data[page : page + len(text)] = text
        with btf(path, "vmcore") as target:
            assert find_task(target.prog, 1).pid == 1

    def test_given_as_file(self, fixture_dir: FixtureDir, tmp_path: Path) -> None:
        directory = fixture_dir("k61")
        with btf(directory) as whole:
            text = whole.prog["VMCOREINFO"].string_()
        (tmp_path / "info").write_bytes(text)
        path = without_vmcoreinfo(Path(vmcore(directory)), tmp_path)
        options = DumpLocation(core=str(path / "vmcore"), vmcoreinfo=str(tmp_path / "info"), symbols_from="btf")
        with open_target(options) as target:
            assert find_task(target.prog, 1).pid == 1

    def test_none_anywhere(self, fixture_dir: FixtureDir, tmp_path: Path) -> None:
        path = without_vmcoreinfo(Path(vmcore(fixture_dir("k61"))), tmp_path)
        with (path / "vmcore").open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
            for at in iter(lambda: data.find(b"OSRELEASE="), -1):
                data[at : at + 9] = b"NORELEASE"
        with pytest.raises(TargetError, match=r"no VMCOREINFO.*--vmcoreinfo"):
            btf(path, "vmcore")


def without_vmcoreinfo(path: Path, directory: Path) -> Path:
    """A copy of a dump as if the guest had had no vmcoreinfo device. Synthetic: note and header field are erased."""
    copy = directory / "vmcore"
    shutil.copyfile(path, copy)
    with copy.open("r+b") as file:
        head = file.read(1 << 20)
        file.seek(head.index(b"VMCOREINFO\0"))
        file.write(b"XMCOREINFX")
        if head.startswith(b"KDUMP"):
            file.seek(4096 + 32)  # offset_vmcoreinfo, size_vmcoreinfo
            file.write(bytes(16))
    return directory


class TestFromProgram:
    def test_without_debug_info(self, fixture_dir: FixtureDir) -> None:
        prog = Program()
        prog.set_core_dump(vmcore(fixture_dir("k61")))
        with from_program(prog) as target:
            assert target.symbols_from == "btf"
            assert target.notes
            assert find_task(target.prog, 1).pid == 1
        with from_program(prog) as again:
            assert again.symbols_from == "btf"

    def test_without_debug_info_of_a_kernel_that_hides_its_symbols(self, fixture_dir: FixtureDir) -> None:
        prog = Program()
        prog.set_core_dump(vmcore(fixture_dir("k510")))
        with from_program(prog) as target:
            assert find_task(target.prog, 1).pid == 1

    def test_with_debug_info(self, fixture_dir: FixtureDir) -> None:
        directory = fixture_dir("k61")
        prog = Program()
        prog.set_core_dump(vmcore(directory))
        prog.load_debug_info([str(directory / "vmlinux")], main=True)
        with from_program(prog) as target:
            assert target.symbols_from == "dwarf"

    @pytest.mark.parametrize("name", ["vmcore.d31-elf", "vmcore.d17-zlib"])
    @pytest.mark.parametrize("dwarf", [False, True])
    def test_dump_deleted_meanwhile(self, fixture_dir: FixtureDir, tmp_path: Path, name: str, *, dwarf: bool) -> None:
        """drgn has it open still; so what it holds is known."""
        directory = fixture_dir("k61")
        path = tmp_path / "vmcore"
        shutil.copyfile(vmcore(directory, name), path)
        prog = Program()
        prog.set_core_dump(path)
        if dwarf:
            prog.load_debug_info([str(directory / "vmlinux")], main=True)
        path.unlink()
        with from_program(prog) as target:
            assert find_task(target.prog, 1).pid == 1
            assert not target.messages
            assert any(state is FrameState.EXCLUDED for _, _, state in target.frames.runs(0, 1 << 20))

    def test_dump_renamed_meanwhile(self, fixture_dir: FixtureDir, tmp_path: Path) -> None:
        """Nobody knows where it is; that matters, and is said."""
        path = tmp_path / "vmcore"
        shutil.copyfile(vmcore(fixture_dir("k61"), "vmcore.d17-zlib"), path)
        prog = Program()
        prog.set_core_dump(path)
        path.rename(tmp_path / "other")
        with from_program(prog) as target:
            assert find_task(target.prog, 1).pid == 1
            assert target.dump is None
            assert "excluded memory may look like zeros" in target.messages[0]

    def test_drgn_log_is_not_hidden_from_those_who_want_it(self, fixture_dir: FixtureDir) -> None:
        """kgcore -v 2 routes it to standard error: drgn says that it has no debugging symbols."""
        done = kgcore("-v", "2", "ps", "-c", vmcore(fixture_dir("k61"), "vmcore.d17-flat"), cwd=fixture_dir("k61"))
        assert done.status == 0
        assert any(line.startswith("drgn: ") for line in done.remarks)

    def test_no_kernel(self) -> None:
        with pytest.raises(TargetError, match="not a Linux kernel"):
            from_program(Program())


class TestWrongInput:
    def test_wrong_vmlinux(self, fixture_dir: FixtureDir) -> None:
        options = DumpLocation(core=vmcore(fixture_dir("k61")), symbols=(str(fixture_dir("k612") / "vmlinux"),))
        with pytest.raises(TargetError, match=r"build id .*linux-image-6\.1\.0-.*-dbg"):
            open_target(options)

    def test_missing_symbol_file(self, fixture_dir: FixtureDir) -> None:
        with pytest.raises(TargetError, match="cannot read symbol file /no/such"):
            open_target(DumpLocation(core=vmcore(fixture_dir("k61")), symbols=("/no/such",)))

    def test_dwarf_wanted_and_not_found(self, fixture_dir: FixtureDir) -> None:
        with pytest.raises(TargetError, match=r"found no debug information.*linux-image"):
            open_target(DumpLocation(core=vmcore(fixture_dir("k61")), symbols_from="dwarf"))

    def test_damaged_btf_file(self, fixture_dir: FixtureDir, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"\x9f\xeb\x01" + bytes(10))
        with pytest.raises(TargetError, match="BTF"):
            open_target(DumpLocation(core=vmcore(fixture_dir("k61")), symbols=(str(tmp_path / "x"),)))

    def test_no_vmcoreinfo_in_file(self, fixture_dir: FixtureDir, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"hello")
        with pytest.raises(TargetError, match="is not VMCOREINFO"):
            open_target(DumpLocation(core=vmcore(fixture_dir("k61")), vmcoreinfo=str(tmp_path / "x")))

    def test_kernel_without_btf(self, fixture_dir: FixtureDir, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_symbol(*_: object) -> bytes:
            raise LookupError("__start_BTF")

        monkeypatch.setattr(symbols, "_read_btf", no_symbol)
        with pytest.raises(TargetError, match=r"no type information.*linux-image-6\.1\.0-.*-dbg.*-s"):
            btf(fixture_dir("k61"))

    def test_core_of_a_process(self, fixture_dir: FixtureDir) -> None:
        core = next((fixture_dir("k61") / "truth" / "cores").iterdir())
        with pytest.raises(TargetError, match="core of a process"):
            open_target(DumpLocation(core=str(core)))

    def test_another_architecture(self, fixture_dir: FixtureDir) -> None:
        with pytest.raises(TargetError, match="aarch64"):
            open_target(DumpLocation(core=vmcore(fixture_dir("k61")), architecture="aarch64"))

    def test_no_qemu(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match="qmp"):
            open_target(DumpLocation(qemu=str(tmp_path / "qmp")))

    def test_nothing_named(self) -> None:
        with pytest.raises(TargetError, match="nothing to open"):
            open_target(DumpLocation())

    def test_drgn_keeps_silent(self, fixture_dir: FixtureDir, capfd: pytest.CaptureFixture[str]) -> None:
        btf(fixture_dir("k61"), "vmcore.qemu-flat").close()
        assert capfd.readouterr() == ("", "")


def test_describe_does_not_depend_on_the_place(fixture_dir: FixtureDir) -> None:
    directory = fixture_dir("k61")
    with btf(directory, "vmcore.qemu-flat") as target:
        words = target.describe()
    assert words["format"] == "kdump (flattened)"
    assert words["compression"] == "zlib"
    assert words["kernel"].startswith("6.1.")
    assert not any(str(directory) in word for word in words.values())


@pytest.fixture(autouse=True)
def _finders_do_not_outlive_tests() -> Iterator[None]:
    """drgn keeps a dump open as long as its Program lives, and cycles of references wait for the collector."""
    yield
    gc.collect()


def test_null_pointer_is_a_fault(fixture_dir: Callable[[str], Path]) -> None:
    """QEMU's ELF dumps map physical memory at virtual address 0, and drgn would read the BIOS there."""
    with open_target(DumpLocation(core=str(fixture_dir("k61") / "vmcore.elf"))) as target:
        with pytest.raises(FaultError):
            target.prog.read(0x3F8, 8)
        assert len(target.phys(0x3F8, 8)) == 8
