# SPDX-License-Identifier: LGPL-2.1-or-later
import pytest

from kgcore.cli.request import Selection
from kgcore.cli.selection import described, select
from kgcore.model.summary import ProcessSummary


def row(pid: int, comm: bytes, args: bytes | None, uid: int = 0, memory: bool = True) -> ProcessSummary:
    return ProcessSummary(
        pid=pid,
        ppid=1,
        uid=uid,
        threads=1,
        rss=0,
        state="S",
        comm=comm,
        args=args,
        kernel_thread=False,
        task=0,
        memory=memory,
    )


ROWS = (
    ProcessSummary(
        pid=2,
        ppid=0,
        uid=0,
        threads=1,
        rss=0,
        state="S",
        comm=b"kthreadd",
        args=None,
        kernel_thread=True,
        task=0,
        memory=False,
    ),
    row(10, b"nginx", b"nginx: master process /usr/sbin/nginx\0"),
    row(11, b"nginx", b"/usr/sbin/nginx\0-g\0", 33),
    row(12, b"python3.11", b"/opt/app/bin/python3\0/srv/nginx\0", 33),
    row(13, b"a-long-name-cut", b"/usr/bin/a-long-name-cut-off\0", 1000),
    row(14, b"gone", None, 33, memory=False),
    row(15, b"lost", None, 33),
    row(16, b"\x1b[31m\xff", b"\0", 1000),
    row(17, b"[x]", b"", 1000),
    row(18, b"postgres", b"postgres: 15/main: walwriter", 1000),
    row(19, b"sshd-session", b"sshd: me@pts/0", 1000),
)


@pytest.mark.parametrize(
    ("selection", "pids"),
    [
        (Selection(), []),
        (Selection(all=True), [10, 11, 12, 13, 15, 16, 17, 18, 19]),
        (Selection(match=("nginx",)), [10, 11]),
        (Selection(match=("ngin",)), []),
        (Selection(match=("NGINX",)), []),
        (Selection(match=("*ng*", "lost")), [10, 11, 13, 15]),
        (Selection(match=("python3",)), [12]),
        (Selection(match=("a-long-name-cut-off",)), [13]),
        (Selection(match=("/usr/*",)), []),
        (Selection(match=("kthreadd",)), []),
        (Selection(match=("gone",)), []),
        (Selection(match=(r"\x1b*xff",)), [16]),
        (Selection(match=("[[]x]",)), [17]),
        (Selection(match=("postgres: *walwriter",)), [18]),
        (Selection(match=("sshd",)), [19]),
        (Selection(match=("0",)), []),
        (Selection(match=("*",)), [10, 11, 12, 13, 15, 16, 17, 18, 19]),
        (Selection(uid=(33,)), [11, 12, 15]),
        (Selection(uid=(33, 1000)), [11, 12, 13, 15, 16, 17, 18, 19]),
        (Selection(match=("nginx", "python*"), uid=(33,)), [11, 12]),
        (Selection(match=("nginx",), uid=(1000,)), []),
    ],
)
def test_what_is_chosen(selection: Selection, pids: list[int]) -> None:
    refs = list(select(ROWS, selection))
    assert [ref.pid for ref in refs] == pids
    assert [ref.text for ref in refs] == [str(pid) for pid in pids]


def test_a_selection_in_words() -> None:
    assert described(Selection(all=True)) == "--all"
    assert described(Selection(match=("a*", "b"), uid=(0, 7))) == "--match a* --match b --uid 0 --uid 7"
