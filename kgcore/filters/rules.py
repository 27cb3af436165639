# SPDX-License-Identifier: LGPL-2.1-or-later
"""The user's own rules on which memory a core keeps: by name, file, size and address."""

import fnmatch
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kgcore.filters.base import Filter, Keep, Peek
from kgcore.model.memory import Provenance, Run
from kgcore.model.process import ProcessImage, Vma

__all__ = ("Action", "Rule", "RuledFilter", "cut_at_rules", "redactions")

Action = Literal["exclude", "only", "redact"]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_FORMS = "name:GLOB, file:GLOB, size:>1G or addr:START-END"
_ADDRESSES = 1 << 64
_ALWAYS_KNOWN = ("[stack]", "[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]")


@dataclass(frozen=True, slots=True)
class Rule:
    """What to do with some mappings: ``name:GLOB``, ``file:GLOB``, ``size:>1G`` or ``addr:START-END``.

    A name is what /proc/PID/maps shows: the path of a file, ``[heap]``, ``[stack]``, ``[anon:NAME]``; a pattern without
    a slash is compared with the last part of a path. An address rule is about the part of a mapping that lies in the
    range.

    :ivar action: ``exclude`` leaves the memory out, ``redact`` puts zeros in its place, ``only`` leaves out what no
        rule names.
    :ivar text: as typed.
    :raises ValueError: ``text`` is not a rule.
    """

    action: Action
    text: str

    def __post_init__(self) -> None:
        if self.action not in ("exclude", "only", "redact"):
            raise ValueError(f"{self.action!r} is not an action: expected exclude, only or redact")
        kind, _, value = self.text.partition(":")
        if kind == "size":
            _size(value)
        elif kind == "addr":
            _range(value)
        elif kind not in ("name", "file") or not value:
            raise ValueError(f"{self.text!r} is not a rule: expected {_FORMS}")

    @property
    def range(self) -> tuple[int, int] | None:
        """The addresses that it names: the first, and the first behind them; None: it is no address rule."""
        kind, _, value = self.text.partition(":")
        return _range(value) if kind == "addr" else None

    @property
    def may_name_memory(self) -> bool:
        """Whether it may be about what a process calls its own memory: ``[heap]``, ``[anon:NAME]``, and not about all
        memory without a name."""
        kind, _, value = self.text.partition(":")
        if kind != "name" or value in _ALWAYS_KNOWN or _matches(b"", value):
            return False
        return value[0] in "[*?" and value[-1] in "]*?"

    def fits(self, vma: Vma, name: bytes) -> bool:
        """Whether it is about a mapping.

        :param vma: the mapping, or a part of one, cut by :func:`cut_at_rules`.
        :param name: what /proc/PID/maps shows.
        """
        kind, _, value = self.text.partition(":")
        if kind == "size":
            compare, size = _size(value)
            return compare(vma.end - vma.start, size)
        if kind == "addr":
            start, end = _range(value)
            return vma.start < end and start < vma.end
        if kind == "file":
            return vma.file is not None and _matches(vma.file.name or b"", value)
        if vma.file is not None and _matches(vma.file.name or b"", value):
            return True
        return _matches(name, value)


def _matches(name: bytes, pattern: str) -> bool:
    text = name.decode("utf-8", "surrogateescape")
    if "/" not in pattern and not text.startswith("["):  # what a process calls its memory may have slashes
        text = text.rpartition("/")[2]
    # [heap] is a name, not a choice of four letters: brackets only stand for themselves.
    return fnmatch.fnmatchcase(text, pattern.replace("[", "[[]"))


def _size(value: str) -> tuple[Callable[[int, int], bool], int]:
    match = re.fullmatch(r"(>=|<=|>|<)([0-9]{1,18})([KMGT]?)", value)
    if match is None:
        raise ValueError(f"'size:{value}' is not a rule: expected size:>1G, or with <, >=, <=")
    return _COMPARISONS[match[1]], int(match[2]) * _UNITS[match[3]]


def _range(value: str) -> tuple[int, int]:
    match = re.fullmatch(r"(?:0x)?([0-9a-fA-F]{1,16})-(?:0x)?([0-9a-fA-F]{1,17})", value)
    start, end = (int(match[1], 16), int(match[2], 16)) if match else (0, 0)
    if not start < end <= _ADDRESSES:
        raise ValueError(f"'addr:{value}' is not a rule: expected addr:START-END, in hexadecimal, START being smaller")
    return start, end


def cut_at_rules(image: ProcessImage, rules: Sequence[Rule]) -> ProcessImage:
    """Split mappings where address rules begin and end, at whole pages.

    :return: the process, each of whose mappings is one thing to all rules.
    """
    page = image.page_size
    borders = sorted({border for rule in rules for border in _pages(rule.range, page)})
    if not borders:
        return image
    return replace(image, vmas=tuple(part for vma in image.vmas for part in _cut(vma, borders, page)))


def _pages(addresses: tuple[int, int] | None, page: int) -> tuple[int, ...]:
    return () if addresses is None else (addresses[0] & -page, (addresses[1] + page - 1) & -page)


def _cut(vma: Vma, borders: Sequence[int], page: int) -> Iterator[Vma]:
    at = vma.start
    for border in (*(border for border in borders if vma.start < border < vma.end), vma.end):
        yield vma.part(at, border, page)
        at = border


@dataclass(frozen=True, slots=True)
class RuledFilter:
    """A filter after the user's rules: the first one that fits a mapping decides, and if none does, the filter.

    :ivar filter: decides what the rules leave to it.
    :ivar rules: in the user's order.
    :ivar image: the process, cut by :func:`cut_at_rules`.
    """

    filter: Filter
    rules: tuple[Rule, ...]
    image: ProcessImage

    def describe(self) -> Mapping[str, int | bool | str]:
        """See :meth:`kgcore.filters.base.Filter.describe`."""
        rules = " ".join(f"{rule.action}={rule.text}" for rule in self.rules)
        return {**self.filter.describe(), "rules": rules}

    def __call__(self, vma: Vma, peek: Peek) -> Keep:
        rule = self.rule_of(vma)
        if rule is None:
            left_out = any(rule.action == "only" for rule in self.rules)
            return Keep(0, "not-only") if left_out else self.filter(vma, peek)
        return Keep(0, "excluded-by-rule") if rule.action == "exclude" else self.filter(vma, peek)

    def rule_of(self, vma: Vma) -> Rule | None:
        """Return the first rule that fits a mapping."""
        name = self.image.name_of(vma)
        return next((rule for rule in self.rules if rule.fits(vma, name)), None)


def redactions(ruled: RuledFilter) -> list[Run]:
    """Return the ranges that shall be zeros, ascending."""
    found = []
    for vma in sorted(ruled.image.vmas, key=lambda vma: vma.start):
        rule = ruled.rule_of(vma)
        if rule is not None and rule.action == "redact":
            found.append(Run(vma.start, vma.end - vma.start, Provenance.REDACTED, rule.text))
    return found
