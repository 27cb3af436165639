# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state of a process in a vmcore, beside the book that it kept of itself: in guests of this test's own, which QEMU
dumps. The kernels are those of the fixtures."""

import json
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("drgn")

from kgcore.library import open_vmcore
from kgcore.sources.base import HasState
from tests.statebook import CHECKS, Book, built
from tests.vmcore.conftest import MAIN, some
from tests.vmcore.dumped_guest import dumped

SCRIPT = """
cd /tmp
mkfifo in
/stateful /tmp/book < in > out &
exec 9> in
until grep -q ready out; do sleep 0.2; done
echo @@BOOK@@; cat book; echo @@END@@
"""


@pytest.fixture(scope="module", params=some((*MAIN, "k-backports"), ("k510", "k72")))
def book(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Book]:
    work = tmp_path_factory.mktemp("guest")
    text = dumped(work, request.param, SCRIPT, [built(work, "-static")])
    said = json.loads(text.partition("@@BOOK@@")[2].partition("@@END@@")[0])
    with open_vmcore(work / "vmcore", symbols_from="btf") as source:
        process = source.process(said["pid"])
        assert isinstance(process, HasState)
        yield Book(said, process.state())


@pytest.mark.parametrize("check", CHECKS)
def test_it_is_as_the_book_says(check: Callable[[Book], None], book: Book) -> None:
    check(book)
