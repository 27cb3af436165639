# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plan how a process goes on: how each thing that it needs is had here, what is different, and what is refused."""

import os
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from kgcore.arch import ARCHES, RESUMING
from kgcore.arch.resuming import Vector
from kgcore.model.process import VM_EXEC, VM_MAYSHARE
from kgcore.model.state import NO_LIMIT
from kgcore.restore.corefile import FinishedCore
from kgcore.restore.descriptors import DescriptorsPlan, Instead, plan_descriptors
from kgcore.restore.here import Here, ids_taken
from kgcore.restore.interrupted import Interrupted, interrupted
from kgcore.restore.mapped import Area, MemoryPlan, plan_memory
from kgcore.restore.need import Need
from kgcore.restore.paths import Paths
from kgcore.restore.vdso import of_calls
from kgcore.restore.words import WORDS, Refusal
from kgcore.text import counted, printable

__all__ = ("Plan", "Wishes", "make_plan")

_AT_SYSINFO_EHDR = 33
_NOTHING: Mapping[int, Instead] = MappingProxyType({})
_MOST_SIGNAL = 64
_SIGKILL = 9
_LIMITS = 16  # RLIM_NLIMITS
_SOON = 1_000_000_000  # ns: two readings of one clock may be so far apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user wants.

    :ivar clock: ``keep``: the clocks go on from the moment of the core, in a time namespace; ``jump``: they are this
        machine's; None: keep where that is allowed.
    :ivar paths: where its files are here.
    :ivar instead: what descriptors are to be, by number.
    :ivar allow: words of refusals that do not count.
    :ivar stopped: leave it stopped.
    :ivar refused, different: what is known already to belong to the plan: of what was taken out of a dump.
    """

    clock: Literal["keep", "jump"] | None = None
    paths: Paths = field(default_factory=Paths)
    instead: Mapping[int, Instead] = field(default_factory=lambda: _NOTHING)
    allow: frozenset[str] = frozenset()
    stopped: bool = False
    refused: tuple[Refusal, ...] = ()
    different: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a process goes on.

    :ivar need: what it had.
    :ivar memory: its mappings, and ``descriptors``.
    :ivar calls: the system calls that start again.
    :ivar cwd: its working directory.
    :ivar vdso: ``moved``: the running kernel's comes to where it was; ``calls``: the core's stays, and its functions
        are system calls; ``memory``: the same was done before, or it had no vdso.
    :ivar vdso_at: where the running kernel's comes to.
    :ivar keep_clocks: in a time namespace of its own.
    :ivar stopped: leave it stopped.
    :ivar restored: what is as it was, in words.
    :ivar different: what is not, in sentences.
    :ivar refused: why it is not restarted; empty: it is.
    :ivar allowed: what would be a reason, if the user had not allowed it.
    """

    need: Need
    memory: MemoryPlan
    descriptors: DescriptorsPlan
    calls: tuple[Interrupted, ...]
    cwd: bytes
    vdso: Literal["moved", "calls", "memory"]
    vdso_at: int
    keep_clocks: bool
    stopped: bool
    restored: tuple[str, ...]
    different: tuple[str, ...]
    refused: tuple[Refusal, ...]
    allowed: tuple[Refusal, ...]


def make_plan(core: FinishedCore, need: Need, machine: Here, wishes: Wishes) -> Plan:
    """Make the plan. Nothing is started or changed.

    :raises OSError: the core cannot be read.
    """
    cwd = wishes.paths.of(need.state.cwd or b"/")
    memory = plan_memory(core, need, wishes.paths)
    descriptors = plan_descriptors(need.state, wishes.instead, wishes.paths)
    vdso, vdso_at, unfit = _vdso(core, need, machine, memory)
    calls = tuple(found for thread in need.threads if (found := interrupted(need, thread)) is not None)
    keep = wishes.clock == "keep" or (wishes.clock is None and machine.clocks and need.state.clocks is not None)
    refusals = [
        *wishes.refused,
        *memory.refused,
        *descriptors.refused,
        *(call.refused for call in calls if call.refused is not None),
        *_process(need, cwd),
        *_threads(need),
        *_ids(need, machine),
        *unfit,
        *_clocks(need, machine, wishes, keep, calls),
    ]
    different = [
        *wishes.different,
        *memory.different,
        *descriptors.different,
        *_differences(need, memory),
        *_limits(need, machine),
        *(f"thread {call.tid}: {call.call}() starts again; {call.remark}" for call in calls if call.remark),
    ]
    if vdso == "calls":
        different.append(f"its vdso is that of {printable(need.kernel)}: its functions are system calls now")
    if not keep:
        different.append("its clocks are this machine's: they jump")
    stopped = wishes.stopped or need.summary.state == "T"
    return Plan(
        need=need,
        memory=memory,
        descriptors=descriptors,
        calls=calls,
        cwd=cwd,
        vdso=vdso,
        vdso_at=vdso_at,
        keep_clocks=keep,
        stopped=stopped,
        restored=tuple(_restored(need, memory, descriptors, keep)),
        different=tuple(different),
        refused=tuple(one for one in refusals if not (one.allowable and one.word in wishes.allow)),
        allowed=tuple(one for one in refusals if one.allowable and one.word in wishes.allow),
    )


def _process(need: Need, cwd: bytes) -> Iterator[Refusal]:
    if need.dying:
        yield Refusal(word="dying", what="the process was dying of a signal", hint="--allow dying")
    if need.shadow:
        yield Refusal(word="shadow-stack", what="the process has a shadow stack")
    if need.summary.state in "ZX":
        yield Refusal(word="dying", what="the process had ended", hint="--allow dying")
    for warning in _warnings(need):
        yield Refusal(word="unknown", what=f"the core says: {warning}", hint="--allow unknown")
    state = need.state
    for name in ("actions", "pending", "cwd", "umask", "limits", "brk", "start_brk", "threads", "shared"):
        if getattr(state, name) is None:
            why = state.unknown.get(name, "the core does not say it")
            yield Refusal(word="state", what=f"it is not known what the process had as its {name}: {why}")
    if state.descriptors is None or "descriptors" in state.unknown:
        yield Refusal(word="descriptors", what=f"descriptors are not known: {state.unknown.get('descriptors', '')}")
    for name in ("itimer_real", "itimer_virtual", "itimer_prof", "posix_timers", "dumpable", "subreaper"):
        if getattr(state, name) is None:
            why = state.unknown.get(name, "the core does not say it")
            yield Refusal(word="unknown", what=f"{name} is not known: {why}", hint="--allow unknown")
    if state.actions is not None and len(state.actions) != _MOST_SIGNAL:
        yield Refusal(word="state", what="the core has not one action for each signal")
    if state.root not in (None, b"/"):
        yield Refusal(word="root", what=f"its root directory was {printable(state.root or b'')}")
    if state.cwd is not None and not os.path.isdir(cwd):
        yield Refusal(word="cwd", what=f"its working directory {printable(cwd)} is not here")
    if state.dumpable == 2:
        yield Refusal(word="setid", what="it was a set-uid program, or had become one")
    for timer in state.posix_timers or ():
        if timer.timer is None:
            yield Refusal(word="unknown", what=f"the time of timer {timer.id} is not known", hint="--allow unknown")
        if timer.clock < 0 and timer.clock not in (-6, -5, -7):
            yield Refusal(word="timers", what=f"timer {timer.id} measures the CPU time of a thread or another process")
    if _SIGKILL in {one.signal for one in state.pending or ()}:
        yield Refusal(word="dying", what="SIGKILL waits for it", hint="--allow dying")
    ours = os.getuid(), os.getgid()
    if (need.summary.uid, need.summary.gid) != ours:
        yield Refusal(
            word="ids",
            what=f"it ran as user {need.summary.uid} and group {need.summary.gid}; this is {ours[0]} and {ours[1]}",
            hint="run kgcore restart as that user",
        )


def _warnings(need: Need) -> Iterator[str]:
    """The note's, but for the one of a thread whose registers are stale: that has a word of its own."""
    stale = [f"thread {thread.state.tid}: " for thread in need.threads if thread.fpu == "stale"]
    for warning in need.warnings:
        start = next((start for start in stale if warning.startswith(start)), None)
        if start is None or sum(other.startswith(start) for other in need.warnings) > 1:
            yield warning


def _threads(need: Need) -> Iterator[Refusal]:
    how = RESUMING[need.view]
    for thread in need.threads:
        named = f"thread {thread.tid}"
        if (why := how.foreign(thread.registers)) != "":
            yield Refusal(word="registers", what=f"{named}: {why}")
        if thread.unknown:
            names = ", ".join(thread.unknown)
            yield Refusal(word="registers", what=f"{named}: not known: {names}", hint="--allow registers")
        if thread.fpu == "stale":
            what = f"{named}: it was running, and its floating-point and vector registers are old ones"
            yield Refusal(word="stale-fpu", what=what, hint="--allow stale-fpu")
        elif thread.fpu == "none" or thread.floating is None:
            yield Refusal(word="state", what=f"{named}: the core has not its floating-point registers")
        known = thread.state
        if known.seccomp:
            yield Refusal(word="seccomp", what=f"{named} is under seccomp")
        for name in ("alternate_stack", "pending", "rseq", "robust_list", "clear_child_tid"):
            if getattr(known, name) is None:
                why = known.unknown.get(name, "the core does not say it")
                yield Refusal(word="state", what=f"{named}: its {name} is not known: {why}")
        for name in ("nice", "policy", "affinity", "pdeath_signal", "personality", "no_new_privs", "securebits"):
            if getattr(known, name) is None:
                why = known.unknown.get(name, "the core does not say it")
                yield Refusal(word="unknown", what=f"{named}: its {name} is not known: {why}", hint="--allow unknown")
        if thread.vector is not None:
            layout = how.layout_of(need.layout, thread.vector)
            if layout is None:
                yield Refusal(word="state", what=f"{named}: it is not known where its vector registers lie in the core")
    yield from _cpu(need)


def _cpu(need: Need) -> Iterator[Refusal]:
    how = RESUMING[need.view]
    ours = how.here()
    for thread in need.threads:
        if thread.vector is None:
            continue
        if ours is None:
            yield Refusal(word="cpu", what="this CPU has no vector registers that can be set", hint="--allow cpu")
            return
        layout = how.layout_of(need.layout, thread.vector)
        missing = how.lacks(Vector(desc=thread.vector, layout=layout), ours)
        if missing:
            yield Refusal(word="cpu", what=f"this CPU lacks {missing}, which the program's had", hint="--allow cpu")
            return


def _ids(need: Need, machine: Here) -> Iterator[Refusal]:
    tids = [thread.tid for thread in need.threads]
    if not machine.ids:
        yield Refusal(
            word="pid",
            what="this program may not choose the ids of processes",
            hint="root may, and who has CAP_CHECKPOINT_RESTORE",
        )
    elif taken := ids_taken(tids):
        what = f"another process, thread, group or session has its id {taken[0]}"
        yield Refusal(word="pid", what=what, hint="end that one first")


def _vdso(
    core: FinishedCore, need: Need, machine: Here, memory: MemoryPlan
) -> tuple[Literal["moved", "calls", "memory"], int, list[Refusal]]:
    """Say how its vdso is had, where the running kernel's comes to, and why not."""
    address = need.words.get(_AT_SYSINFO_EHDR)
    vdso = next((one for one in memory.special if one.flags & VM_EXEC), None)
    # What a program uses that was restarted before is memory of its own.
    elsewhere = address is not None and (vdso is None or vdso.start != address)
    if address and elsewhere and need.mapping_at(address) not in [area.mapped for area in memory.areas]:
        return "memory", 0, [Refusal(word="vdso", what="the core does not say where its vdso was")]
    if vdso is None:
        return "memory", 0, []
    content = core.read(vdso.start, vdso.end - vdso.start)
    if content is None:
        return "calls", 0, [Refusal(word="vdso", what="the core lacks its vdso")]
    shape = tuple((one.start - vdso.start, one.end - one.start) for one in memory.special)
    if content == machine.vdso and shape == machine.special:
        return "moved", vdso.start, []
    if vdso.start != address:
        return "memory", 0, []
    refused = []
    ip = ARCHES[need.view].ip
    for thread in need.threads:
        if any(one.start <= thread.registers[ip] < one.end for one in memory.special):
            what = f"thread {thread.tid} was in the vdso of {printable(need.kernel)}, which is not this kernel's"
            refused.append(Refusal(word="vdso", what=what))
    try:
        of_calls(need.view, content)
    except ValueError as error:
        refused.append(Refusal(word="vdso", what=str(error)))
    return "calls", 0, refused


def _clocks(need: Need, machine: Here, wishes: Wishes, keep: bool, calls: tuple[Interrupted, ...]) -> Iterator[Refusal]:
    clocks = need.state.clocks
    if keep:
        if clocks is None:
            what = "the core does not say what its clocks showed"
            yield Refusal(word="unknown-clock", what=what, hint="--clock jump")
        elif not machine.clocks:
            yield Refusal(
                word="time-namespace",
                what="this program may not make a time namespace, in which the clocks go on",
                hint="root may, and who has CAP_SYS_ADMIN; or --clock jump",
            )
        return
    if clocks is not None and clocks.monotonic <= machine.monotonic + _SOON:
        return
    for call in calls:
        if call.deadline:
            when = "further in the future than it did" if clocks is not None else "at an unknown time"
            what = f"thread {call.tid} waits in {call.call}() for a time of the clock, which lies {when}"
            yield Refusal(word="clock", what=what, hint="--clock keep, or --allow clock")


def _limits(need: Need, machine: Here) -> Iterator[str]:
    for number, pair in enumerate(need.state.limits or ()):
        if machine.limits or len(pair) != 2 or number >= _LIMITS:
            continue
        hard = resource.getrlimit(number)[1]
        if hard != resource.RLIM_INFINITY and (pair[1] == NO_LIMIT or pair[1] > hard):
            yield f"resource limit {number} was {pair[1]}; it is {hard}, since this program may not raise it"


def _differences(need: Need, memory: MemoryPlan) -> Iterator[str]:
    yield "it is this program's child, in its process group and session"
    if any(area.kind == "object" and area.mapped.flags & VM_MAYSHARE for area in memory.areas):
        yield "shared memory that had no name is a memfd"
    if any(thread.state.name is None for thread in need.threads[1:]):
        yield "its threads have the name of the first"
    allowed = os.sched_getaffinity(0)
    for thread in need.threads:
        wanted = thread.state.affinity or 0
        cpus = {number for number in range(wanted.bit_length()) if wanted >> number & 1}
        if cpus and not cpus & allowed:
            yield f"thread {thread.tid} may run on all CPUs: those that it was bound to are not here"


def _restored(need: Need, memory: MemoryPlan, descriptors: DescriptorsPlan, keep: bool) -> Iterator[str]:
    kinds = {kind: sum(area.kind == kind for area in memory.areas) for kind in ("anonymous", "file", "object")}
    size = sum(area.mapped.end - area.mapped.start for area in memory.areas)
    yield f"memory: {counted(len(memory.areas), 'mapping')} of {size // 1024} KiB, {kinds['file']} of files"
    yield f"threads: {len(need.threads)}, with their ids, registers, signal masks and names"
    yield f"descriptors: {len(descriptors.planned)}"
    timers = len(need.state.posix_timers or ()) + sum(
        timer is not None and timer.value > 0
        for timer in (need.state.itimer_real, need.state.itimer_virtual, need.state.itimer_prof)
    )
    waiting = len(need.state.pending or ()) + sum(len(thread.state.pending or ()) for thread in need.threads)
    yield f"signals: 64 actions, {waiting} pending; timers: {timers}"
    if keep:
        yield "clocks: they go on from the moment of the core"


def check_words(words: frozenset[str]) -> str | None:
    """Return a word that ``--allow`` does not know; None: it knows all."""
    return next((word for word in sorted(words) if word not in WORDS), None)


def areas_of(plan: Plan, number: int) -> tuple[Area, ...]:
    """Return the areas of a file."""
    return tuple(area for area in plan.memory.areas if area.kind == "file" and area.number == number)
