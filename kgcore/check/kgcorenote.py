# SPDX-License-Identifier: LGPL-2.1-or-later
"""The KGCORE note of a core: what it says is missing, and whether its account fits the headers."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from kgcore.check.findings import Findings
from kgcore.check.notes import parsed
from kgcore.check.segments import Load
from kgcore.check.spans import Spans, merged, overlaps
from kgcore.check.state import check_state
from kgcore.text import human_size, plain

__all__ = ("KgcoreNote", "check_kgcore")

_FORMAT = 1
_ADDRESSES = 1 << 64


class KgcoreNote(NamedTuple):
    """What the note says.

    :ivar threads: how many it names.
    :ivar mapped: the mappings that it names.
    :ivar missing: ranges that are missing; ascending, disjoint.
    :ivar shared_zeros: bytes of memory that have one range of zeros in the file.
    :ivar warned: it has warnings.
    :ivar limit: the limits that the core was written under, in words; "": none.
    """

    threads: int
    mapped: tuple[tuple[int, int], ...]
    missing: tuple[tuple[int, int], ...]
    shared_zeros: Any
    warned: bool
    limit: str = ""


class _Account(NamedTuple):
    """An account, of a mapping or of the process."""

    parts: dict[str, int]  # "zero", "missing.swapped"; all of them add up
    missing: dict[str, int]
    recovered: dict[str, int]

    @classmethod
    def read(cls, content: Any) -> "_Account":
        """:raises ValueError, TypeError, AttributeError: it is not an account."""
        parts: dict[str, int] = {}
        for key, value in content.items():
            sizes = {f"{key}.{name}": size for name, size in value.items()} if isinstance(value, dict) else {key: value}
            for name, size in sizes.items():
                if type(size) is not int or not 0 <= size <= _ADDRESSES:
                    raise ValueError(f"account has invalid {name}: {size!r}")
            parts |= sizes
        return cls(parts, dict(content.get("missing", {})), dict(content.get("recovered", {})))


class _Mapping(NamedTuple):
    """A row of ``vmas``, with its account."""

    start: int
    end: int
    kept: int
    account: _Account


class _Missing(NamedTuple):
    """A row of ``missing``."""

    start: int
    end: int
    why: str
    detail: str


class _Content(NamedTuple):
    """The parts of the note that are looked at, of the right types."""

    threads: int
    mapped: list[tuple[int, int]]
    missing: list[_Missing]
    omitted: bool
    warnings: list[str]
    mappings: list[_Mapping]
    account: _Account | None


def check_kgcore(desc: bytes | None, loads: Sequence[Load], findings: Findings) -> KgcoreNote | None:
    """Read the note, and compare it with the headers.

    :param desc: the note; None: no note.
    :return: None: no note, or it cannot be read.
    """
    if desc is None:
        return None
    try:
        whole = parsed(desc)
        if whole["format"] != _FORMAT:
            findings.problem(f"the KGCORE note has format {whole['format']!r}; this kgcore reads {_FORMAT}")
            return None
        content = _content(whole)
        contradictions = _of_state(whole, content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        findings.problem(f"the KGCORE note cannot be read: {type(error).__name__}: {error}")
        return None
    findings.facts["kgcore"] = whole
    missing = merged((row.start, row.end) for row in content.missing)
    for start, end, why, detail in content.missing:
        findings.lacks.append(
            f"{start:#x}-{end:#x}, {human_size(end - start)}: {why}{f' ({detail})' if detail else ''}"
        )
    in_file = merged((load.start, load.start + load.filesz) for load in loads)
    for start, end in missing if content.omitted else merged(_limited(content)):
        if overlaps(in_file, start, end):
            findings.problem(f"{start:#x}-{end:#x} is listed as missing, but a segment holds it")
    for sentence in contradictions:
        findings.problem(f"the KGCORE note: {sentence}")
    findings.lacks += content.warnings
    if content.account is not None:
        findings.facts["recovered"] = content.account.recovered
        if redacted := content.account.parts.get("redacted"):
            findings.facts["redacted"] = redacted
        _check_accounts(content, content.account, loads, findings)
        _check_missing(content.mappings, content.missing, findings)
    return KgcoreNote(
        threads=content.threads,
        mapped=tuple(content.mapped),
        missing=tuple(missing),
        shared_zeros=whole.get("shared_zeros", 0),
        warned=bool(content.warnings),
        limit=_limit(whole.get("limit")),
    )


def _limited(content: _Content) -> Iterator[tuple[int, int]]:
    """What a limit cost."""
    return ((row.start, row.end) for row in content.missing if row.why == "limit")


def _limit(content: Any) -> str:
    """The limits that a core was written under, in words; "": none, or they cannot be read."""
    if not isinstance(content, dict) or not isinstance(content.get("rule"), str):
        return ""
    words = [plain(content["rule"])]
    if type(content.get("size")) is int:
        words.append(f"at most {human_size(content['size'])} of cores")
    if type(content.get("seconds")) in (int, float):
        words.append(f"at most {content['seconds']:g} s")
    return ", ".join(words)


def _content(whole: Any) -> _Content:
    """:raises ValueError, KeyError, TypeError, AttributeError: it is not as it should be."""
    missing = [_Missing(*_span(start, end), str(why), str(detail)) for start, end, why, detail in whole["missing"]]
    omitted = whole["missing_policy"] == "omit"
    threads = len(whole["threads"])
    warnings = [str(text) for text in whole["warnings"]]
    mappings, account = _accounts(whole)
    mapped = [_span(start, end) for start, end, *_ in whole["vmas"]]
    return _Content(threads, mapped, missing, omitted, warnings, mappings, account)


def _of_state(whole: Any, content: _Content) -> list[str]:
    """What contradicts the rest in what the note says of the process's state; early versions say nothing of it.

    :raises ValueError, TypeError, KeyError: it cannot be read.
    """
    if "state" not in whole:
        return []
    return list(check_state(whole["state"], [thread["tid"] for thread in whole["threads"]], content.mapped))


def _accounts(whole: Any) -> tuple[list[_Mapping], _Account | None]:
    """The accounts in a note. The first versions had none.

    :raises ValueError, TypeError, KeyError, AttributeError: they cannot be read.
    """
    if "accounts" not in whole:
        return [], None
    mappings = [
        _Mapping(*_span(start, end), kept, _Account.read(account))
        for (start, end, _, _, kept), account in zip(whole["vmas"], whole["accounts"], strict=True)
    ]
    if not all(type(mapping.kept) is int for mapping in mappings):
        raise TypeError("the kept bytes of a mapping are not a number")
    return mappings, _Account.read(whole["account"])


def _span(start: str, end: str) -> tuple[int, int]:
    low, high = int(start, 16), int(end, 16)
    if not 0 <= low < high <= _ADDRESSES:
        raise ValueError(f"{plain(start)}-{plain(end)} is not an address range")
    return low, high


def _check_accounts(content: _Content, whole: _Account, loads: Sequence[Load], findings: Findings) -> None:
    """Check that the accounts of the note add up and match the program headers."""
    sums: Counter[str] = Counter()
    in_file = Spans(merged((load.start, load.start + load.filesz) for load in loads))
    in_core = Spans(merged((load.start, load.end) for load in loads))
    for start, end, kept, account in content.mappings:
        where = f"{start:#x}-{end:#x}"
        sums.update(account.parts)
        total, missing = sum(account.parts.values()), sum(account.missing.values())
        if total != end - start:
            findings.problem(f"the account of {where} adds up to {total} bytes, not to {end - start}")
        if total - account.parts.get("filtered", 0) != kept:
            findings.problem(f"the account of {where} does not match the {kept} bytes to keep")
        # What a limit cost has no place in the file, whatever stands for the rest that is missing.
        omitted = missing if content.omitted else account.missing.get("limit", 0)
        if (size := in_file.within(start, end)) != kept - omitted:
            findings.problem(f"{where} has {size} bytes in the file, but {kept - omitted} by its account")
        if (size := in_core.within(start, end)) != end - start - omitted:
            findings.problem(f"{where} has {size} bytes in segments, but {end - start - omitted} by its account")
    if +sums != +Counter(whole.parts):
        findings.problem("the account of the process is not the sum of the accounts of its mappings")


def _check_missing(mappings: Sequence[_Mapping], missing: Iterable[_Missing], findings: Findings) -> None:
    """Check that the missing ranges add up to the missing bytes of the accounts."""
    rows = sorted(mappings, key=lambda row: row.start)
    found: list[Counter[str]] = [Counter() for _ in rows]
    for start, end, why, _ in missing:
        index = bisect_right(rows, start, key=lambda row: row.start) - 1
        if index < 0 or not rows[index].start <= start < end <= rows[index].end:
            findings.problem(f"{start:#x}-{end:#x} is listed as missing, but is in no mapping")
        else:
            found[index][why] += end - start
    for row, sizes in zip(rows, found, strict=True):
        if sizes != +Counter(row.account.missing):
            findings.problem(f"the missing ranges of {row.start:#x}-{row.end:#x} do not match its account")
