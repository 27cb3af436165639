# SPDX-License-Identifier: LGPL-2.1-or-later
"""Account for memory byte by byte: where each comes from, or why it is missing."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Protocol

from kgcore.model.memory import Provenance, Run
from kgcore.text import first_names, human_size

__all__ = ("Account", "Accounted", "Gaps", "amounts", "without")

_ORDER = {provenance: number for number, provenance in enumerate(Provenance)}

_DETAILS = 3  # told of one range


@dataclass(frozen=True, slots=True)
class Account:
    """The bytes of a mapping, or of a whole process, by provenance. All parts add up to :attr:`total`.

    :ivar parts: bytes that the filter keeps, by provenance, without empty ones.
    :ivar filtered: bytes that the filter drops.
    """

    parts: Mapping[Provenance, int] = field(default_factory=dict)
    filtered: int = 0

    @classmethod
    def sum(cls, accounts: Iterable["Account"]) -> "Account":
        """Add up the accounts of several mappings."""
        parts: dict[Provenance, int] = {}
        filtered = 0
        for account in accounts:
            filtered += account.filtered
            for provenance, size in account.parts.items():
                parts[provenance] = parts.get(provenance, 0) + size
        return cls(parts, filtered)

    @property
    def present(self) -> int:
        """Bytes that the process's page tables map."""
        return self.parts.get(Provenance.PRESENT, 0)

    @property
    def recovered(self) -> dict[str, int]:
        """Bytes that were found elsewhere, by the value of their provenance."""
        return self._by_name([provenance for provenance in self.parts if provenance.recovered])

    @property
    def zero(self) -> int:
        """Bytes that are certainly zeros."""
        return self.parts.get(Provenance.ZERO, 0)

    @property
    def redacted(self) -> int:
        """Bytes that have zeros in their place, since the user wants it so."""
        return self.parts.get(Provenance.REDACTED, 0)

    @property
    def missing(self) -> dict[str, int]:
        """Missing bytes, by the value of their provenance."""
        return self._by_name([provenance for provenance in self.parts if provenance.missing])

    @property
    def data(self) -> int:
        """Bytes that were found: ``present`` and ``recovered``."""
        return sum(size for provenance, size in self.parts.items() if provenance.stored)

    @property
    def total(self) -> int:
        """Bytes of the mapping, or of all of them."""
        return sum(self.parts.values()) + self.filtered

    def _by_name(self, chosen: list[Provenance]) -> dict[str, int]:
        chosen.sort(key=_ORDER.__getitem__)
        return {provenance.value: self.parts[provenance] for provenance in chosen}

    def to_json(self) -> dict[str, object]:
        """Return the value for ``json.dumps``: sizes in bytes, as docs/report.md describes them."""
        return {
            "present": self.present,
            "recovered": self.recovered,
            "zero": self.zero,
            "redacted": self.redacted,
            "filtered": self.filtered,
            "missing": self.missing,
            "total": self.total,
        }

    def compact(self) -> dict[str, object]:
        """Return the value for the vendor note: without the total, and without zero and empty parts."""
        present, zero = self.present, self.zero
        content: dict[str, object] = {"present": present} if present else {}
        if recovered := self.recovered:
            content["recovered"] = recovered
        if zero:
            content["zero"] = zero
        if redacted := self.redacted:
            content["redacted"] = redacted
        if self.filtered:
            content["filtered"] = self.filtered
        if missing := self.missing:
            content["missing"] = missing
        return content

    def words(self) -> str:
        """Return it as a line for people."""
        sizes = [f"{human_size(self.present)} from page tables"]
        if self.recovered:
            sizes.append(f"{human_size(sum(self.recovered.values()))} recovered ({amounts(self.recovered)})")
        sizes += [f"{human_size(self.zero)} zeros", f"{human_size(self.filtered)} left out by the filter"]
        if self.redacted:
            sizes.append(f"{human_size(self.redacted)} redacted")
        missing = f"{human_size(sum(self.missing.values()))} missing"
        sizes.append(f"{missing} ({amounts(self.missing)})" if self.missing else missing)
        return ", ".join(sizes)


def amounts(sizes: Mapping[str, int]) -> str:
    """Return the parts of a sum, largest first: ``2.00 MiB zram, 1.00 MiB page-cache``."""
    if len(sizes) == 1:
        return next(iter(sizes))
    ranked = sorted(sizes.items(), key=lambda item: -item[1])
    return ", ".join(f"{human_size(size)} {name}" for name, size in ranked)


class _HasAccount(Protocol):
    @property
    def account(self) -> Account: ...


class Accounted:
    """A base class with the sums of an account."""

    __slots__ = ()

    @property
    def data(self: _HasAccount) -> int:
        """Bytes of memory that were found."""
        return self.account.data

    @property
    def recovered(self: _HasAccount) -> dict[str, int]:
        """Bytes that were found elsewhere than through the page tables, by source."""
        return self.account.recovered

    @property
    def zero(self: _HasAccount) -> int:
        """Bytes of memory that are certainly zeros."""
        return self.account.zero

    @property
    def filtered(self: _HasAccount) -> int:
        """Bytes of memory that the filter drops."""
        return self.account.filtered


class Gaps:
    """Collects the missing ranges of one mapping, in ascending order.

    Neighbours that are missing for the same reason become one range, even with different page sizes, and with the first
    of their details. One without any detail stays apart, as the others' details are not about it.

    :ivar runs: the ranges so far.
    """

    __slots__ = ("_details", "runs")

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self._details: list[str] = []  # of the last run

    def add(self, run: Run) -> None:
        last = self.runs[-1] if self.runs else None
        if (
            last is None
            or (last.end, last.provenance) != (run.address, run.provenance)
            or bool(last.detail) != bool(run.detail)
        ):
            self.runs.append(run)
            self._details = [run.detail]
            return
        if run.detail not in self._details and len(self._details) <= _DETAILS:
            self._details.append(run.detail)
        detail = first_names(self._details, _DETAILS, separator="; ", number=False)
        self.runs[-1] = last._replace(length=last.length + run.length, detail=detail)


def without(run: Run, known: Sequence[Run]) -> Iterator[Run]:
    """Return the parts of a run that are in none of the known ranges, which are ascending."""
    at = run.address
    for index in range(bisect_right(known, at, key=attrgetter("end")), len(known)):
        other = known[index]
        if other.address >= run.end:
            break
        if other.address > at:
            yield run._replace(address=at, length=other.address - at)
        at = other.end
    if at < run.end:
        yield run._replace(address=at, length=run.end - at)
