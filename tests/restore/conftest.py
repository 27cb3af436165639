# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes whose parent has ended become children of the tests, which see their end."""

import ctypes
from collections.abc import Iterator

import pytest

PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(scope="package", autouse=True)
def _adopting() -> Iterator[None]:
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    assert prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0
