# SPDX-License-Identifier: LGPL-2.1-or-later
import json

import pytest

from kgcore.text import first_lines, first_names, human_size, plain, printable


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


def test_the_first_names_of_a_list() -> None:
    assert first_names("abc", 3) == "a, b, c"
    assert first_names(iter("abcde"), 3) == "a, b, c and 2 more"
    assert first_names("abc", 3, number=False) == "a, b, c"
    assert first_names("abcd", 3, separator="; ", number=False) == "a; b; c; ..."
    assert first_names((), 3) == first_names((), 3, number=False) == ""


def test_the_name_of_what_is_not_shown_is_not_made() -> None:
    made: list[int] = []

    def name(item: int) -> str:
        made.append(item)
        return f"<{item}>"

    assert first_names(range(5), 2, name) == "<0>, <1> and 3 more"
    assert first_names(range(5), 2, name, number=False) == "<0>, <1>, ..."
    assert made == [0, 1, 0, 1]


def test_the_first_lines_of_a_list() -> None:
    made: list[int] = []

    def line(item: int) -> str:
        made.append(item)
        return str(item)

    assert list(first_lines(range(3), 3, line, "and {} more")) == ["0", "1", "2"]
    assert list(first_lines(range(9), 2, line, "and {} more")) == ["0", "1", "and 7 more"]
    assert made == [0, 1, 2, 0, 1]
