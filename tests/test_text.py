# SPDX-License-Identifier: LGPL-2.1-or-later
import json

import pytest

from kgcore.text import human_size, plain, printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"plain", "plain"),
        ("grün".encode(), "grün"),
        (b"\x1b[2Jx", "\\x1b[2Jx"),
        (b"a\nb\tc\0", "a\\nb\\tc\\x00"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("\udcff", "\\xff"),
        ("\ud800", "\\ud800"),
        ("right\u202eleft", "right\\u202eleft"),
        ("a\u2028b", "a\\u2028b"),
        (b"", ""),
    ],
)
def test_printable(name: bytes | str, shown: str) -> None:
    assert printable(name) == shown
    assert printable(shown) == shown


def test_plain_is_good_for_json() -> None:
    assert plain(b"a\xff\n") == "a\\xff\n"
    json.dumps(plain("\ud800\udcff")).encode("ascii")
    plain("\ud800\udcff").encode("utf-8")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (10 * 1024, "10.0 KiB"),
        (1 << 20, "1.00 MiB"),
        ((1 << 20) - 1, "1.00 MiB"),
        (123 << 20, "123 MiB"),
        (5 << 40, "5.00 TiB"),
        (1 << 62, "4096 PiB"),
    ],
)
def test_human_size(size: int, text: str) -> None:
    assert human_size(size) == text
