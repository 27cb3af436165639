# SPDX-License-Identifier: LGPL-2.1-or-later
"""Choose the kernel to read in a dump.

VMCOREINFO says where a kernel's data are. The dump's header has one, which may be wrong. Memory may hold several: of
the kernel that crashed, of its capture kernel, of kernels before a reboot, of guests. kgcore checks each (see
:mod:`kgcore.sources.vmcore.opening.kernelcheck`), uses the kernel that crashed, and tells the user about the others.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from drgn import FaultError, Program

from kgcore.errors import BrokenDump, TargetError
from kgcore.sources.vmcore.dumpfile import DumpFile, FrameState, LinearDump
from kgcore.sources.vmcore.opening.dumpmemory import DumpMemory
from kgcore.sources.vmcore.opening.kernelcheck import check, image_of, runs, shift
from kgcore.sources.vmcore.opening.spaces.base import Checked, KernelVerdict
from kgcore.sources.vmcore.symbols import vmcoreinfo
from kgcore.sources.vmcore.symbols.finders import kallsyms_lines, kallsyms_of

__all__ = (
    "Choice",
    "KernelSeen",
    "Opener",
    "choose",
    "has_symbols",
    "is_capture_kernel",
    "is_wrong",
    "own_vmcoreinfo",
    "search_again",
)

Opener = Callable[[bytes], Program]
"""Opens the dump with a VMCOREINFO. :raises TargetError: the dump cannot be opened."""

_MAX_TEXTS, _MAX_CHECKED = 1 << 16, 1 << 12  # a host's memory has those of all its guests
_NEVER = (1 << 64) - 1  # ELFCORE_ADDR_MAX, include/linux/crash_dump.h
_GIVE_IT = "give the right one with --vmcoreinfo FILE: from another dump of that boot, or the note that kdump saved"


@dataclass(frozen=True, slots=True)
class KernelSeen:
    """A kernel in a dump's memory.

    :ivar release: ``uname -r``.
    :ivar vmcoreinfo: physical address of its VMCOREINFO, for ``--vmcoreinfo``.
    :ivar crash_time: seconds since 1970; None if it did not crash, or the crash time is missing.
    :ivar capture: it was booted to save the dump; None: unknown.
    :ivar running: it ran on the CPUs when the dump was made; None: unknown.
    :ivar taken: kgcore reads the processes of this kernel.
    """

    release: str
    vmcoreinfo: int
    crash_time: int | None
    capture: bool | None = None
    running: bool | None = None
    taken: bool = False

    @property
    def words(self) -> str:
        """The kernel's role (capture kernel, crashed, running, another) and its release, for messages."""
        crashed = "the one that crashed" if self.crash_time is not None else ""
        what = "the capture kernel" if self.capture else crashed or ("the running one" if self.running else "another")
        return f"{what}, {self.release}"


class _Candidate(NamedTuple):
    seen: KernelSeen
    text: bytes
    reserved: range  # of physical memory, for its capture kernel
    image: int  # physical address of its names, which are in its image


class Choice(NamedTuple):
    """The VMCOREINFO to use.

    :ivar messages: remarks on the choice for the user, as sentences.
    :ivar kernels: the kernels in memory, if kgcore searched it.
    :ivar lost: why the memory that the VMCOREINFO points to is not in the dump, so that kgcore could not check it.
    """

    text: bytes
    messages: tuple[str, ...] = ()
    kernels: tuple[KernelSeen, ...] = ()
    lost: FrameState | None = None


def choose(path: str, dump: DumpFile, opener: Opener, given: bytes | int | None) -> Choice:
    """Find the VMCOREINFO of the kernel that the user wants to see.

    :param given: what the user gave: the text, or its physical address; None: nothing.
    :raises TargetError: none was found; the message says why.
    """
    memory = DumpMemory(dump)
    if given is not None:
        return _given(path, memory, given)
    own = own_vmcoreinfo(dump)
    checked = _check(memory, own) if own else None
    if own and checked and (checked.verdict is KernelVerdict.CONFIRMED or checked.untold):
        return Choice(own)
    found = _search(dump, memory, opener)
    if found:
        wrong = f"the VMCOREINFO in the dump's header {_against(checked)}: kgcore uses one in memory" if checked else ""
        return _best(found, (wrong,) if wrong else ())
    if own and checked and checked.verdict is KernelVerdict.UNKNOWN and not _of_xen(dump):
        return Choice(own, lost=checked.lost)
    raise _none(path, dump, memory, own, checked)


def search_again(dump: DumpFile, opener: Opener, own: bytes, why: str) -> Choice | None:
    """Search memory for a better VMCOREINFO than the wrong one in the dump's header; None: found no better one.

    :param own: the header's.
    :param why: what is wrong with it: the rest of a sentence about the header's VMCOREINFO.
    """
    found = _search(dump, DumpMemory(dump), opener)
    if not found:
        return None
    choice = _best(found, (f"the VMCOREINFO in the dump's header {why}: kgcore uses one in memory",))
    return None if _timeless(choice.text) == _timeless(own) else choice


def _timeless(text: bytes) -> bytes:
    """Return a VMCOREINFO without the time of the crash, which not all copies have."""
    return re.sub(rb"CRASHTIME=.*\n?", b"", text).rstrip(b"\n")


def has_symbols(opener: Opener, text: bytes) -> bool:
    """Tell whether a VMCOREINFO leads to the kernel's own symbol table."""
    try:
        _with_symbols(opener, text)
    except (TargetError, BrokenDump, FaultError, LookupError):
        return False
    return True


def is_wrong(dump: DumpFile, text: bytes) -> bool:
    """Tell whether a VMCOREINFO matches no kernel in the dump; False if this is unknown."""
    return _check(DumpMemory(dump), text).verdict is KernelVerdict.REFUTED


def is_capture_kernel(prog: Program) -> bool | None:
    """Tell whether a kernel is a capture kernel; None: unknown.

    See ``is_kdump_kernel()``, include/linux/crash_dump.h.
    """
    try:
        return int(prog.read_u64(prog.symbol("elfcorehdr_addr").address)) != _NEVER
    except (FaultError, LookupError):
        return None


def _given(path: str, memory: DumpMemory, given: bytes | int) -> Choice:
    text = given if isinstance(given, bytes) else vmcoreinfo.at(given, memory.peek)
    if text is None:
        raise TargetError(
            f"{path} has no VMCOREINFO at the physical address that --vmcoreinfo names",
            hint="without --vmcoreinfo, kgcore info lists its kernels; for a file of that name use ./FILE",
        )
    checked = _check(memory, text)
    if checked.verdict is KernelVerdict.REFUTED:
        raise TargetError(
            f"the VMCOREINFO given with --vmcoreinfo {_against(checked)}",
            hint="it belongs to a different boot; without --vmcoreinfo, kgcore uses the dump's own",
        )
    return Choice(text, lost=checked.lost)


def own_vmcoreinfo(dump: DumpFile) -> bytes | None:
    """Return the text of the VMCOREINFO in the dump's header or notes; None if it is missing or empty."""
    texts = (dump.vmcoreinfo or b"", *(note.desc for note in dump.notes if note.name == b"VMCOREINFO"))
    return next((found for text in texts if (found := text.split(b"\0")[0])), None)


def _check(memory: DumpMemory, text: bytes) -> Checked:
    info = vmcoreinfo.parse(text)
    if not info.get("OSRELEASE"):
        return Checked(KernelVerdict.REFUTED, "states no release")
    return check(memory, info)


def _against(checked: Checked) -> str:
    return f"does not match a kernel in the dump's memory (it {checked.why})"


def _search(dump: DumpFile, memory: DumpMemory, opener: Opener) -> list[_Candidate]:
    """Return all kernels whose VMCOREINFO is in memory, each once."""
    kernels: dict[tuple[object, ...], tuple[int, bytes]] = {}
    refuted: set[int] = set()  # hashes of texts, which may be long
    texts = vmcoreinfo.candidates(memory.pieces(), memory.peek)
    for address, text in islice(texts, _MAX_TEXTS):
        info = vmcoreinfo.parse(text)
        key = tuple(info.get(name) for name in ("OSRELEASE", "SYMBOL(swapper_pg_dir)", "NUMBER(phys_base)"))
        if key in kernels:
            # Prefer the copy with the time of the crash: the crash path writes it into the copy that is a note.
            if b"\nCRASHTIME=" in text and b"\nCRASHTIME=" not in kernels[key][1]:
                kernels[key] = address, text
        elif hash(text) not in refuted and len(refuted) < _MAX_CHECKED:
            if check(memory, info).verdict is KernelVerdict.CONFIRMED:
                kernels[key] = address, text
            else:
                refuted.add(hash(text))
    if len(kernels) == 1:
        return [_candidate(*found) for found in kernels.values()]
    return [_looked_into(dump, memory, opener, _candidate(*found)) for found in kernels.values()]


def _candidate(address: int, text: bytes) -> _Candidate:
    info = vmcoreinfo.parse(text)
    time = info.get("CRASHTIME", "")
    image = image_of(info)
    seen = KernelSeen(info["OSRELEASE"], address, int(time) if time.isdecimal() and len(time) < 20 else None)
    return _Candidate(seen, text, range(0), -1 if image is None else image)


def _looked_into(dump: DumpFile, memory: DumpMemory, opener: Opener, candidate: _Candidate) -> _Candidate:
    """Return a candidate with what its kernel's own data say of its role; None where they do not say."""
    running = runs(memory, vmcoreinfo.parse(candidate.text), dump.notes)
    capture, reserved = None, range(0)
    with suppress(TargetError, BrokenDump, FaultError, LookupError):
        prog = _with_symbols(opener, candidate.text)
        capture = is_capture_kernel(prog)
        at = prog.symbol("crashk_res").address  # struct resource: start, end
        reserved = range(prog.read_u64(at), prog.read_u64(at + 8) + 1)
    return candidate._replace(seen=replace(candidate.seen, capture=capture, running=running), reserved=reserved)


def _with_symbols(opener: Opener, text: bytes) -> Program:
    prog = opener(text)
    if lines := kallsyms_lines(prog, vmcoreinfo.parse(text)):
        prog = opener(text + lines)
    prog.register_symbol_finder("kgcore", kallsyms_of(prog, ""), enable_index=0)
    return prog


def _best(found: Sequence[_Candidate], told: tuple[str, ...]) -> Choice:
    """Choose a kernel: first one whose capture kernel is in memory, then a running one, then one that crashed."""

    def worth(candidate: _Candidate) -> tuple[bool, bool, bool, int, bool]:
        seen = candidate.seen
        others = (other for other in found if other is not candidate)
        caught = any(other.image in candidate.reserved and other.seen.capture for other in others)
        crash = seen.crash_time is not None
        return caught, bool(seen.running and not seen.capture), crash, seen.crash_time or 0, not seen.capture

    best = max(found, key=worth)
    kernels = tuple(replace(candidate.seen, taken=candidate is best) for candidate in found)
    if len(found) > 1:
        others = ", ".join(f"{each.words} (--vmcoreinfo {each.vmcoreinfo:#x})" for each in kernels if not each.taken)
        taken = next(each for each in kernels if each.taken)
        told += (f"the dump's memory has {len(found)} kernels: kgcore uses {taken.words}; not {others}",)
    return Choice(best.text, told, kernels)


def _of_xen(dump: DumpFile) -> bool:
    """Tell whether Xen's crash path wrote the dump: it has Xen's notes (xen/include/public/elfnote.h)."""
    return any(note.name in (b"Xen", b"VMCOREINFO_XEN") for note in dump.notes)


def _none(path: str, dump: DumpFile, memory: DumpMemory, own: bytes | None, checked: Checked | None) -> TargetError:
    """Return the error that says why no kernel was found."""
    if _of_xen(dump):
        return TargetError(
            f"{path} is a dump of a Xen host, where the addresses of kernels are not physical",
            hint="kgcore cannot read these: dump the guest itself, with kdump in it",
        )
    texts: Iterable[bytes] = (own,) if own else ()
    if isinstance(dump, LinearDump):
        # If the missing bytes are not whole pages, the memory behind them is not page-aligned.
        texts = (text for _, text in vmcoreinfo.candidates(memory.pieces(), memory.peek, anywhere=True))
    for text in islice(texts, 1):
        if low := shift(memory, vmcoreinfo.parse(text)):
            return TargetError(
                f"{path} lacks the holes between ranges of RAM: its kernel is {low:#x} bytes below its address",
                hint="take the dump again with the holes, or in a format that keeps addresses (LiME's lime or padded)",
            )
    if own and checked:
        return TargetError(
            f"the VMCOREINFO in the header of {path} {_against(checked)}, and memory has no other one",
            hint=_GIVE_IT,
        )
    return TargetError(
        f"{path} has no VMCOREINFO, neither in a note nor in memory",
        hint="use --vmcoreinfo; with QEMU, dump guests that have -device vmcoreinfo and the module qemu_fw_cfg",
    )
