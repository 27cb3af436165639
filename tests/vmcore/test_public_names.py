# SPDX-License-Identifier: LGPL-2.1-or-later
"""kgcore.__all__: whatever its functions take, return and raise is in it too, and help() says what it is."""

import builtins
import enum
import inspect
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import pytest

pytest.importorskip("drgn")

import kgcore
from kgcore import errors
from tests.vmcore.tools import ROOT, TIMEOUT

PUBLIC = {name: getattr(kgcore, name) for name in kgcore.__all__ if name != "__version__"}


def functions(owner: Any) -> Iterator[Callable[..., Any]]:
    """Itself, or the public methods and properties of a class."""
    if not inspect.isclass(owner):
        yield owner
        return
    for name, member in inspect.getmembers_static(owner):
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(member, property):
            member = member.fget
        elif isinstance(member, classmethod | staticmethod):
            member = member.__func__
        if inspect.isfunction(member) and member.__module__.startswith("kgcore."):
            yield member


def named_in(hint: Any) -> Iterator[type]:
    """The classes of ours in an annotation."""
    if inspect.isclass(hint) and hint.__module__.startswith("kgcore."):
        yield hint
    for part in get_args(hint):
        yield from named_in(part)
        if isinstance(part, list):  # of Callable
            for one in part:
                yield from named_in(one)


def hinted(name: str) -> set[type]:
    owner = PUBLIC[name]
    found: set[type] = set()
    places = [*functions(owner), *([owner] if inspect.isclass(owner) and not issubclass(owner, enum.Enum) else [])]
    for place in places:
        for hint in get_type_hints(place, localns=PUBLIC | vars(typing)).values():
            found.update(named_in(hint))
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_what_a_public_name_speaks_of_is_public(name: str) -> None:
    hidden = {cls.__name__ for cls in hinted(name) if PUBLIC.get(cls.__name__) is not cls}
    assert not {cls for cls in hidden if not cls.startswith("_")}


def test_every_error_is_public() -> None:
    assert {name for name in errors.__all__ if inspect.isclass(getattr(errors, name))} <= set(PUBLIC)
    for name, value in PUBLIC.items():
        for place in functions(value):
            for raised in re.findall(r":raises ([\w, ]+):", place.__doc__ or ""):
                for one in raised.split(", "):
                    assert one in PUBLIC or issubclass(getattr(builtins, one), Exception), name


def test_each_name_has_a_home() -> None:
    assert {*kgcore._HOMES, "__version__"} == set(kgcore.__all__)
    for name, module in kgcore._HOMES.items():
        assert PUBLIC[name].__module__ == module
    assert dir(kgcore) == sorted(kgcore.__all__)


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, kgcore; print(sorted(name for name in sys.modules if name.startswith('kgcore')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.stdout == "['kgcore', 'kgcore._version']\n"


_POSITIONAL = 5  # that one can still read without their names


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if is_dataclass(value)])
def test_wide_values_take_keywords(name: str) -> None:
    given = [one for one in fields(PUBLIC[name]) if one.init and not one.kw_only]
    assert len(given) <= _POSITIONAL
