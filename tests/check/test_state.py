# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state in a note: one as it should be, and each way to be wrong."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from kgcore.check.state import check_state
from kgcore.model.state import ThreadState
from kgcore.model.statejson import to_json
from tests.model.test_statejson import FULL

TIDS = [118, 119]
MAPPED = [(0x1000, 0x3000)]


def good() -> dict[str, Any]:
    state = copy.deepcopy(to_json(FULL))
    names = [name for name in ThreadState.__slots__ if name not in ("tid", "unknown")]
    thread = state["threads"][1]
    thread["unknown"] = {name: "not in the dump" for name in names if name not in thread}
    return state


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    state = good()
    change(state)
    return state


def test_what_kgcore_writes_is_right() -> None:
    assert list(check_state(good(), TIDS, MAPPED)) == []
    everything_lost = {"unknown": dict.fromkeys(to_json(FULL), "lost")}
    assert list(check_state(everything_lost, TIDS, MAPPED)) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("cwd"),
        lambda state: state.update(umask=-1),
        lambda state: state.update(umask="18"),
        lambda state: state.update(subreaper=1),
        lambda state: state.update(brk="4096"),
        lambda state: state.update(pending={}),
        lambda state: state.update(unknown={"cwd": None}),
        lambda state: state["pending"][0].update(info="0"),
        lambda state: state["itimer_real"].pop("value"),
        lambda state: state["threads"][0].pop("nice"),
        lambda state: state["threads"][0].update(affinity="all"),
        lambda state: state["descriptors"][2]["eventfd"].pop("count"),
        lambda state: state["descriptors"][2].update(eventfd=7),
        lambda state: state["descriptors"][7]["pipe"].update(unknown={}),
        lambda state: state["descriptors"][5]["epoll"][0].update(target="3"),
        lambda state: state["posix_timers"][1].update(unknown={}),
    ],
)
def test_another_form_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(ValueError, match=r"^state"):
        list(check_state(changed(change), TIDS, MAPPED))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state["actions"].pop(), "63 entries, not 64"),
        (lambda state: state["limits"].pop(), "15 entries, not 16"),
        (lambda state: state["threads"].pop(), "not the threads of the note"),
        (lambda state: state["shared"][0].update(end="0x4000"), "0x1000-0x4000, which is not mapped"),
        (lambda state: state["shared"][0].update(end="0x0"), "which is not mapped"),
        (lambda state: state["descriptors"].reverse(), "are not in order"),
        (lambda state: state["descriptors"][3].update(shares=2), "4 shares with 2"),
        (lambda state: state["descriptors"][3].update(shares=9), "4 shares with 9"),
        (lambda state: state["descriptors"][5]["epoll"][0].update(target=1), "6 watches 1"),
        (lambda state: state["descriptors"][6]["pipe"].update(content="00"), "7 has 2 unread bytes"),
    ],
)
def test_contradictions_are_told(change: Callable[[dict[str, Any]], object], words: str) -> None:
    found = list(check_state(changed(change), TIDS, MAPPED))
    assert any(words in sentence for sentence in found), found
