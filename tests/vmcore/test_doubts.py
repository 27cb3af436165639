# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that was being taken away or moved when the machine died: an empty page-table entry proves nothing then. Real
dumps of all kernels, with the entries emptied and the kernel's own marks set as it sets them."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("drgn")

from drgn import Object

from kgcore.check.core import check_core
from kgcore.check.verdict import Verdict
from kgcore.coredump.pipeline import Prepared, write
from kgcore.errors import BrokenDump
from kgcore.model.memory import Provenance, Run
from kgcore.model.process import VM_HUGETLB, VM_SHARED, Vma
from kgcore.sinks.files import FileSink
from tests.vmcore.conftest import MAIN, Victim, find, need
from tests.vmcore.doctored import Doctored
from tests.vmcore.hostile import PAGE

KERNELS = [f"{name}-small" for name in MAIN]
UNSTABLE = Provenance.UNSTABLE
# include/linux/sched/coredump.h
MMF_OOM_SKIP, MMF_UNSTABLE = 1 << 21, 1 << 22
POLL, FUTEX, READ, MMAP, MREMAP, MADVISE = 7, 202, 0, 9, 25, 28


@cache
def machine(name: str) -> Doctored:
    return Doctored(need(name))


@pytest.fixture(params=KERNELS)
def doctored(request: pytest.FixtureRequest) -> Iterator[Doctored]:
    found = machine(request.param)
    yield found
    found.heal()


def threads(doctored: Doctored) -> Victim:
    return doctored.machine.fixture.victims["threads"]


def runs(prepared: Prepared, vma: Vma) -> list[Run]:
    return list(prepared.memory.runs(vma, vma.start, vma.end))


def provenances(prepared: Prepared) -> dict[int, set[Provenance]]:
    """By start of the mapping."""
    return {vma.start: {run.provenance for run in runs(prepared, vma)} for vma in prepared.image.vmas}


def private(vma: Vma) -> bool:
    """What __oom_reap_task_mm() takes away (mm/oom_kill.c)."""
    return vma.anon and not vma.flags & (VM_SHARED | VM_HUGETLB)


def flagged(bits: int) -> Callable[[Doctored, Object], None]:
    return lambda doctored, mm: doctored.set_word(mm.flags, bits)


def left(doctored: Doctored, mm: Object) -> None:
    doctored.set(mm.mm_users.counter, 0)


MARKS = {"MMF_UNSTABLE": flagged(MMF_UNSTABLE), "MMF_OOM_SKIP": flagged(MMF_OOM_SKIP), "no user left": left}


@pytest.mark.parametrize("mark", MARKS)
def test_what_was_reaped_is_missing(doctored: Doctored, mark: str, tmp_path: Path) -> None:
    """Every private page that is not there, of every mapping that ever had one; those of files and of shared memory
    are in the page cache as before, and what the reaper had not come to yet is there."""
    victim = doctored.machine.fixture.victims["memory"]
    before = doctored.prepared(victim.pid)
    known = {vma.start: runs(before, vma) for vma in before.image.vmas}
    mm = doctored.task(victim.pid).mm
    chosen = [vma for vma in before.image.vmas if private(vma)][::2]
    assert len(chosen) > 5
    for vma in chosen:
        doctored.reap(mm, vma)
    MARKS[mark](doctored, mm)

    after = doctored.prepared(victim.pid)
    lost = 0
    for vma in after.image.vmas:
        found = runs(after, vma)
        if not private(vma):
            if mark != "no user left":
                assert found == known[vma.start]
            continue
        for run in found:
            if run.provenance is Provenance.ZERO:  # the page of zeros, a guard page
                assert not any(doctored.empty(mm, at) for at in range(run.address, run.end, PAGE)), (vma, run)
            assert run.provenance is not Provenance.PAGE_CACHE, (vma, run)
        if vma in chosen and vma.file is None:
            assert {run.provenance for run in found} == {UNSTABLE}
            lost += sum(run.length for run in known[vma.start] if run.provenance is Provenance.PRESENT)
    assert lost > 20 * PAGE

    path = tmp_path / "core"
    report = write(after, FileSink(path))
    assert report.exit_status == 3
    assert report.account.missing["unstable"] >= lost
    assert any("may have held data" in text for text in report.warnings)
    verdict = check_core(path)
    assert (verdict.ok, verdict.complete, verdict.problems) == (True, False, ())
    assert any(": unstable (" in text for text in verdict.lacks)


def test_an_intact_process_is_complete(doctored: Doctored) -> None:
    """Nobody holds a lock in these dumps, and nobody was killed."""
    for victim in doctored.machine.fixture.victims.values():
        found = provenances(doctored.prepared(victim.pid))
        assert UNSTABLE not in set().union(*found.values()), victim


class TestWriter:
    """Who holds mmap_lock for writing."""

    def doubted(self, doctored: Doctored, owner: Object, number: int, *args: int) -> list[Run]:
        """What is unstable while a thread is in a system call and holds the lock of the process ``threads``."""
        kernel = doctored.source()._machine.kernel
        top = owner.stack.value_() + kernel.thread_size - kernel.machine.pt_regs_padding
        regs = Object(doctored.prog, "struct pt_regs", address=top - 21 * 8)
        doctored.set(regs.orig_ax, number)
        for name, value in zip(("di", "si", "dx"), args, strict=False):
            doctored.set(regs.member_(name), value)
        pid = threads(doctored).pid
        mm = doctored.task(pid).mm
        doctored.set(mm.mmap_lock.owner.counter, owner.value_())
        prepared = doctored.prepared(pid)
        return [run for vma in prepared.image.vmas for run in runs(prepared, vma) if run.provenance is UNSTABLE]

    def test_system_calls_that_move_nothing(self, doctored: Doctored) -> None:
        owner = doctored.task(threads(doctored).tids[1])
        for number in (MMAP, MADVISE, (1 << 64) - 1):
            assert not self.doubted(doctored, owner, number)

    def test_system_calls_that_move_pages(self, doctored: Doctored) -> None:
        owner = doctored.task(threads(doctored).tids[1])
        found = self.doubted(doctored, owner, MREMAP)
        assert len(found) > 5
        assert {run.detail for run in found} == {f"t-read ({threads(doctored).tids[1]}) was changing the address space"}

    def test_collapse(self, doctored: Doctored) -> None:
        """madvise(MADV_COLLAPSE) says where."""
        victim = threads(doctored)
        owner = doctored.task(victim.tids[1])
        stack = next(vma for vma in doctored.prepared(victim.pid).image.vmas if vma.end - vma.start == 8 << 20)
        start = -(-stack.start // (1 << 21)) << 21
        found = self.doubted(doctored, owner, MADVISE, start, 1 << 21, 25)
        assert found
        assert min(run.address for run in found) >= start
        assert max(run.end for run in found) <= start + (1 << 21)

    def test_another_process(self, doctored: Doctored) -> None:
        """It may be making this address space just now: dup_mmap() holds the locks of both."""
        other = doctored.task(doctored.machine.fixture.victims["memory"].pid)
        assert self.doubted(doctored, other, MMAP)

    def test_nobody_that_can_be_found(self, doctored: Doctored) -> None:
        pid = threads(doctored).pid
        doctored.set(doctored.task(pid).mm.mmap_lock.owner.counter, 0x123450)
        prepared = doctored.prepared(pid)
        (details,) = {
            frozenset(run.detail for run in runs(prepared, vma) if run.provenance is UNSTABLE)
            for vma in prepared.image.vmas
            if vma.anon and vma.file is None and len(runs(prepared, vma)) > 1
        }
        assert details == {"an unknown thread was changing the address space"}


REAL_TIME = [name for name in ("k510-rt", "k61-rt", "k612-rt") if find(name, committed=False)]


@pytest.mark.parametrize("name", [*MAIN, *REAL_TIME])
def test_page_table_whose_lock_was_held(name: str) -> None:
    """Its empty entries may be about to be written anew (ptlock_ptr(), include/linux/mm.h). All other tables, and what
    lies in files, are as before."""
    doctored = Doctored(need(name, committed=False))
    victim = threads(doctored)
    before = doctored.prepared(victim.pid)
    stack = next(vma for vma in before.image.vmas if vma.end - vma.start == 8 << 20)
    mm = doctored.task(victim.pid).mm
    at = doctored.entry(mm, stack.end - PAGE)
    assert at is not None
    kind = "struct ptdesc" if doctored.machine.fixture.version >= (6, 6) else "struct page"
    page = Object(doctored.prog, kind, address=doctored.source()._machine.kernel.machine.frame_to_page(at // PAGE))
    if name in REAL_TIME:  # a lock of its own, which a task owns
        word = page.ptl[0].lock.owner
    else:
        word = page.ptl.rlock.raw_lock.val.counter
    assert word.value_() == 0
    doctored.set(word, int(mm.owner.value_()) if name in REAL_TIME else 1)

    after = doctored.prepared(victim.pid)
    first = max(stack.start, stack.end - PAGE & -(1 << 21))
    for vma in after.image.vmas:
        changed = [run for run in runs(after, vma) if run.provenance is UNSTABLE]
        assert all(first <= run.address and run.end <= first + (1 << 21) for run in changed)
        if vma == stack:
            assert [run.detail for run in changed] == ["the kernel was changing the page table"]
        elif not changed:
            assert runs(after, vma) == runs(before, vma)


class TestTree:
    """dup_mmap() copies the tree of mappings first, and then mapping after mapping into it (6.8)."""

    def test_mappings_of_another(self, doctored: Doctored) -> None:
        victim = threads(doctored)
        before = doctored.prepared(victim.pid).image.vmas
        other = doctored.task(doctored.machine.fixture.victims["memory"].pid).mm
        foreign = before[8:-1] if before[-1].name == "[vsyscall]" else before[8:]
        for vma in foreign:
            doctored.set(Object(doctored.prog, "struct vm_area_struct *", vma.struct).vm_mm, other.value_())
        image = doctored.prepared(victim.pid).image
        assert [vma.start for vma in image.vmas] == [vma.start for vma in before if vma not in foreign]
        assert (
            f"the mappings from {before[8].start:#x} on belong to a different process: the address space "
            "was being copied (fork)" in image.warnings
        )

    def test_mark_of_a_fork_that_failed(self, doctored: Doctored) -> None:
        victim = threads(doctored)
        if doctored.machine.fixture.version < (6, 1):
            return  # no maple tree
        before = doctored.prepared(victim.pid).image.vmas
        mm = doctored.task(victim.pid).mm
        # mm_mt's leaf holds the address of the VMA: look for it
        root = int(mm.mm_mt.ma_root.value_()) & ~0xFF
        leaves = [root]
        for at in range(0, 256, 8):
            word = int.from_bytes(doctored.prog.read(root + at, 8), "little")
            if word & 7 == 4 and word > 1 << 63:
                leaves.append(word & ~0xFF)
        mark = before[5]
        for leaf in leaves:
            raw = doctored.prog.read(leaf, 256)
            at = raw.find(mark.struct.to_bytes(8, "little"))
            if at >= 0:
                doctored.write(doctored.physical(leaf + at), (257 << 2 | 2).to_bytes(8, "little"))
        image = doctored.prepared(victim.pid).image
        assert [vma.start for vma in image.vmas] == [vma.start for vma in before[:5]]
        assert any("were never copied: a fork failed there" in text for text in image.warnings)

    def test_in_the_middle_of_execve(self, doctored: Doctored) -> None:
        mm = doctored.task(threads(doctored).pid).mm
        doctored.set(mm.end_code, 0)
        doctored.set(mm.start_stack, 0)
        assert any(
            "in execve(): the program is mapped in part or not at all" in text
            for text in doctored.prepared(threads(doctored).pid).image.warnings
        )


class TestDamage:
    """Cores out of a dump that is damaged are as they should be all the same, and say what they lack."""

    def check(self, doctored: Doctored, path: Path) -> Verdict:
        report = write(doctored.prepared(threads(doctored).pid), FileSink(path))
        assert report.exit_status == 3
        verdict = check_core(path)
        assert verdict.problems == ()
        assert verdict.complete is False
        return verdict

    def test_names_with_a_nul(self, doctored: Doctored, tmp_path: Path) -> None:
        image = doctored.prepared(threads(doctored).pid).image
        vma = next(vma for vma in image.vmas if vma.file is not None)
        dentry = Object(doctored.prog, "struct vm_area_struct *", vma.struct).vm_file.f_path.dentry
        doctored.write(doctored.physical(dentry.d_name.name.value_() + 3), b"\0")
        verdict = self.check(doctored, tmp_path / "core")
        assert "files" not in verdict.facts or verdict.facts["files"] == 0
        assert any("the name of its file was not found" in text for text in verdict.lacks)

    def test_program_headers_in_a_mapping_that_is_lost(self, doctored: Doctored, tmp_path: Path) -> None:
        image = doctored.prepared(threads(doctored).pid).image
        vma = image.vma_at(dict(image.auxv)[3])
        assert vma is not None
        doctored.set(Object(doctored.prog, "struct vm_area_struct *", vma.struct).vm_end, vma.start)
        verdict = self.check(doctored, tmp_path / "core")
        assert f"the program's headers (AT_PHDR {dict(image.auxv)[3]:#x}) are in no mapping" in verdict.lacks


@pytest.mark.parametrize("tgid", [-3986, 0, (1 << 22) + 1])
def test_a_process_whose_id_is_damaged(doctored: Doctored, tgid: int) -> None:
    """No core has the name of a process that cannot be."""
    pid = threads(doctored).pid
    doctored.set(doctored.task(pid).tgid, tgid & 0xFFFFFFFF)
    with pytest.raises(BrokenDump, match=f"belongs to process {tgid}: its task_struct is damaged"):
        doctored.prepared(pid)


def test_a_process_whose_id_is_anothers(doctored: Doctored) -> None:
    pid = threads(doctored).pid
    doctored.set(doctored.task(pid).tgid, pid + 1)
    assert "the leader of its threads has another id" in " ".join(doctored.prepared(pid).image.warnings)
