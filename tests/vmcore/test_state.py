# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state of processes in real dumps, beside what /proc said of them, and they of themselves, before the dump."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("drgn")

from kgcore.model import siginfo
from kgcore.model.state import NO_LIMIT, PendingSignal, ProcessState
from tests.vmcore.conftest import MAIN, Extractor, Fixture, Victim, main_dump, need

WHOLE = (*MAIN, "k61-686pae")
SMALL = ("k510-small", "k61-small", "k612-small", "k72-small")
FILES = ("k510-files", "k61-files", "k612-files", "k72-files", "k61-686pae-files")
_UNLIMITED = "unlimited"


def state_of(fixture: Fixture, name: str, extract: Extractor) -> ProcessState:
    symbols = (str(fixture.vmlinux),) if "686" in fixture.name else ()
    source = extract.source(fixture.dump(main_dump(fixture)), symbols=symbols)
    state: ProcessState = source.process(fixture.victims[name].pid).state()
    return state


def status_of(path: Path) -> dict[str, str]:
    lines = path.read_text(errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def bits(signals: Iterator[int]) -> int:
    return sum(1 << number - 1 for number in set(signals))


def pending(signals: tuple[PendingSignal, ...]) -> int:
    return bits(one.signal for one in signals)


def living(fixture: Fixture) -> Iterator[Victim]:
    """Those that are in the dump as they were a moment before."""
    for victim in fixture.victims.values():
        if victim.core is not None and (victim.proc / "status").exists():
            yield victim


@pytest.mark.parametrize("name", [*SMALL, *WHOLE])
def test_signals_limits_and_flags_are_as_proc_has_them(name: str, extract: Extractor) -> None:
    """Of the small dumps some is unknown, since its page frames are not there; of the whole ones nothing is."""
    fixture = need(name)
    victims = list(living(fixture))
    assert victims
    known = 0
    for victim in victims:
        state = state_of(fixture, victim.name, extract)
        said = status_of(victim.proc / "status")
        if name in WHOLE:
            assert state.unknown == {}, victim.name
        if state.actions is not None:
            assert len(state.actions) == 64
            numbered = list(enumerate(state.actions, 1))
            assert bits(number for number, one in numbered if one.handler == 1) == int(said["SigIgn"], 16)
            assert bits(number for number, one in numbered if one.handler > 1) == int(said["SigCgt"], 16)
            known += 1
        if state.pending is not None:
            assert pending(state.pending) == int(said["ShdPnd"], 16), victim.name
        if state.umask is not None and "Umask" in said:  # not of a leader that has exited
            assert state.umask == int(said["Umask"], 8)
        assert state.threads is not None
        tids = {int(path.name) for path in (victim.proc / "task").iterdir()} if (victim.proc / "task").exists() else ()
        for thread in state.threads:
            if thread.tid in tids:
                compare_thread(thread, victim.proc / "task" / str(thread.tid))
                known += 1
        if (victim.proc / "limits").exists() and state.limits is not None:
            assert list(state.limits) == limits(victim.proc / "limits")
    assert known > len(victims) or name in SMALL


def compare_thread(thread: Any, place: Path) -> None:
    said = status_of(place / "status")
    assert pending(thread.pending) == int(said["SigPnd"], 16)
    assert thread.no_new_privs == (said["NoNewPrivs"] != "0")
    assert thread.seccomp == int(said["Seccomp"])
    assert thread.affinity == int(said["Cpus_allowed"].replace(",", ""), 16)
    words = (place / "stat").read_text(errors="replace").rpartition(") ")[2].split()
    assert (thread.nice, thread.priority, thread.policy) == (int(words[16]), int(words[37]), int(words[38]))
    assert thread.unknown == {}


def limits(path: Path) -> list[tuple[int, ...]]:
    found = []
    for line in path.read_text().splitlines()[1:]:
        words = re.split(" {2,}", line)[1:3]
        found.append(tuple(NO_LIMIT if word == _UNLIMITED else int(word) for word in words))
    return found


@pytest.mark.parametrize("name", WHOLE)
def test_descriptors_and_directories_are_as_links_have_them(name: str, extract: Extractor) -> None:
    fixture = need(name)
    compared = 0
    for victim in living(fixture):
        if not (victim.proc / "links").exists():
            continue
        lines = (victim.proc / "links").read_text(errors="surrogateescape").splitlines()
        links = dict(line.split("\t", 1) for line in lines if "\t" in line)
        state = state_of(fixture, victim.name, extract)
        for link, found in (("cwd", state.cwd), ("root", state.root)):
            if link in links:
                assert found == links[link].encode(errors="surrogateescape")
        assert state.descriptors is not None
        there = {int(key[3:]): path for key, path in links.items() if key.startswith("fd/")}
        if not there:  # of a leader that has exited
            continue
        # A line of that list ends where a name has a line break.
        paths = {row.fd: row.path.decode(errors="surrogateescape").partition("\n")[0] for row in state.descriptors}
        assert paths == there, victim.name
        compared += len(there)
    assert compared > 30


@pytest.mark.parametrize("name", WHOLE)
def test_shared_mappings_are_as_maps_has_them(name: str, extract: Extractor) -> None:
    fixture = need(name)
    compared = 0
    for victim in living(fixture):
        found = []
        for line in (victim.proc / "maps").read_text(errors="replace").splitlines():
            place, flags, _, device, inode, *names = line.split()
            # Since 6.8 maps has the name that the overlay gives a file; the state has the file that is mapped.
            if flags[3] == "s" and not "".join(names).startswith("/overlay"):
                start, end = (int(word, 16) for word in place.split("-"))
                found.append((start, end, tuple(int(word, 16) for word in device.split(":")), int(inode)))
        state = state_of(fixture, victim.name, extract)
        assert state.shared is not None
        starts = {row[0] for row in found}
        rows = [(row.start, row.end, row.device, row.inode) for row in state.shared if row.start in starts]
        assert rows == found, victim.name
        compared += len(found)
    assert compared > 10


@pytest.mark.parametrize("name", MAIN)
def test_pending_signals_have_what_was_sent_with_them(name: str, extract: Extractor) -> None:
    fixture = need(name)
    victim = fixture.victims["threads"]
    state = state_of(fixture, victim.name, extract)
    assert state.pending is not None
    assert state.threads is not None
    infos = [siginfo.parse(one.info, 8) for one in state.pending]
    assert [(info.signal, info.code, info.get("pid")) for info in infos] == [(12, 0, victim.pid)]  # kill(getpid(), ...)
    said = {row["tid"]: row for row in victim.said["threads"]}
    for thread in state.threads:
        sent = [siginfo.parse(one.info, 8) for one in thread.pending or ()]
        assert bits(info.signal for info in sent) == said[thread.tid]["sigpending"]
        assert all((info.code, info.get("pid")) == (-6, victim.pid) for info in sent)  # tgkill()
        assert thread.nice == said[thread.tid]["nice"]


@pytest.mark.parametrize("name", FILES)
def test_descriptors_are_as_fdinfo_has_them(name: str, extract: Extractor) -> None:
    """The victim read it of itself: what is in eventfds, timerfds and signalfds, and the flags of each descriptor."""
    fixture = need(name)
    victim = fixture.victims["openfiles"]
    state = state_of(fixture, victim.name, extract)
    assert state.descriptors is not None
    said = {row["fd"]: row for row in victim.said["fds"]}
    rows = {row.fd: row for row in state.descriptors}
    assert rows.keys() == said.keys()
    seen = set()
    for fd, row in rows.items():
        info = {key: value.strip() for key, _, value in (x.partition(":") for x in said[fd]["fdinfo"].splitlines())}
        assert row.flags | row.close_on_exec * 0o2000000 == int(info["flags"], 8)
        assert row.offset == int(info["pos"])
        assert row.unknown == {}
        if "eventfd-count" in info:
            assert row.eventfd is not None
            assert (row.eventfd.count, row.eventfd.semaphore) == (int(info["eventfd-count"], 16), True)
            seen.add("eventfd")
        if "sigmask" in info:
            assert row.signalfd is not None
            assert row.signalfd.mask == int(info["sigmask"], 16)
            seen.add("signalfd")
        if "clockid" in info:
            assert row.timerfd is not None
            assert (row.timerfd.clock, row.timerfd.ticks) == (int(info["clockid"]), int(info["ticks"]))
            assert (row.timerfd.timer.value, row.timerfd.timer.interval) == (0, 0)
            seen.add("timerfd")
        if row.path == b"anon_inode:[eventpoll]":
            assert row.epoll == ()
            seen.add("epoll")
        if row.type == "fifo":
            assert row.pipe is not None
            assert (row.pipe.size, row.pipe.unread) == (65536, 0)
            seen.add("pipe")
        if row.path.startswith(b"/memfd:"):
            assert row.seals == 1  # F_SEAL_SEAL: made without MFD_ALLOW_SEALING
            seen.add("memfd")
    assert seen == {"eventfd", "signalfd", "timerfd", "epoll", "pipe", "memfd"}
    assert {rows[fd].shares for fd in (3, 70, 72, 76)} == {3}
    assert rows[4].shares == 4
