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


# What a sentence begins with that says what something is, not what a call does.
_NO_VERB = set(
    "A All An And As At Bytes For He How If It Its No Of Or She So Something Such That The They This".split()
)
_NO_VERB |= set("Those To What Where Whether Which Who".split())
_METHODS = [
    (name, place)
    for name, value in PUBLIC.items()
    for place in (functions(value) if inspect.isclass(value) else ())
    if place.__name__ != "__init__"
]


def first_sentence(text: str) -> str:
    return text.split("\n\n", maxsplit=1)[0].replace("\n", " ")


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if not inspect.isclass(value)])
def test_a_function_says_what_it_does_and_takes_and_raises(name: str) -> None:
    text = inspect.getdoc(PUBLIC[name]) or ""
    assert first_sentence(text).split()[0] not in _NO_VERB
    assert first_sentence(text)[-1] in ".:"
    told = re.findall(r":param ([\w, ]+):", text)
    assert {one for words in told for one in words.split(", ")} >= set(inspect.signature(PUBLIC[name]).parameters)
    assert ":raises KgcoreError:" in text


@pytest.mark.parametrize(
    "name", ["CompressedSink", "Contents", "FileSink", "Limits", "Memory", "Sink", "Source", "TaskRef"]
)
def test_a_method_says_what_it_does(name: str) -> None:
    for owner, place in _METHODS:
        if owner == name and not isinstance(inspect.getattr_static(PUBLIC[name], place.__name__), property):
            assert first_sentence(inspect.getdoc(place) or "The").split()[0] not in _NO_VERB, place


def test_every_method_and_property_says_something() -> None:
    bare = [f"{name}.{place.__name__}" for name, place in _METHODS if not inspect.getdoc(place)]
    assert not bare


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if hasattr(value, "__match_args__")])
def test_a_value_says_what_its_members_are(name: str) -> None:
    text = inspect.getdoc(PUBLIC[name]) or ""
    told = {one for words in re.findall(r":ivar ([\w, ]+):", text) for one in words.split(", ")}
    told |= set(re.findall(r"``(\w+)``", text))
    members = [one.name for one in fields(PUBLIC[name])] if is_dataclass(PUBLIC[name]) else PUBLIC[name]._fields
    assert set(members) <= told
