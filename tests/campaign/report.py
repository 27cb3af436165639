# SPDX-License-Identifier: LGPL-2.1-or-later
"""The figures of a campaign."""

import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kgcore import __version__

_BEGIN, _END = "<!-- campaign: begin -->", "<!-- campaign: end -->"


@dataclass
class _Row:
    tried: int = 0
    failed: int = 0
    cpu: float = 0
    peak: int = 0
    cores: int = 0
    compared: int = 0


@dataclass
class Tally:
    """What came of the trials so far."""

    seed: int
    notes: Sequence[str] = ()
    rows: dict[str, _Row] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    whole: int = 0
    seconds: float = 0

    @property
    def tried(self) -> int:
        return sum(row.tried for row in self.rows.values())

    @property
    def failed(self) -> int:
        return sum(row.failed for row in self.rows.values())

    def add(self, result: dict[str, Any]) -> None:
        row = self.rows.setdefault(result["kind"], _Row())
        row.tried += 1
        row.failed += bool(result["faults"])
        row.cpu = max(row.cpu, result["cpu"])
        row.peak = max(row.peak, result["peak"])
        row.cores += result["cores"]
        row.compared += result["compared"]
        self.statuses[result["status"]] += 1
        self.whole += result["whole"]

    def table(self) -> list[str]:
        """As Markdown."""
        lines = [
            "| what was damaged | tried | failed | most CPU | most memory | cores written | of them compared |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        total = _Row()
        for name, row in sorted(self.rows.items()):
            lines.append(_line(name, row))
            total = _Row(
                total.tried + row.tried,
                total.failed + row.failed,
                max(total.cpu, row.cpu),
                max(total.peak, row.peak),
                total.cores + row.cores,
                total.compared + row.compared,
            )
        lines.append(_line("**all**", total))
        ends = ", ".join(f"{_word(status)}: {count}" for status, count in sorted(self.statuses.items()))
        sentences = [
            f"Version {__version__}, seed {self.seed}. How they ended: {ends}.",
            f"{self.whole} of them started the interpreter anew; the others ran in a forked process.",
            *(f"Not tried: {note}." for note in self.notes),
        ]
        return [*lines, "", *(line for sentence in sentences for line in textwrap.wrap(sentence, 100))]

    def write(self, path: Path) -> None:
        """Into a document, between its marks."""
        text = path.read_text() if path.exists() else f"{_BEGIN}\n{_END}\n"
        body = "\n".join((_BEGIN, "", *self.table(), "", _END))
        path.write_text(re.sub(f"{_BEGIN}.*{_END}", lambda _: body, text, flags=re.DOTALL))


def _line(name: str, row: _Row) -> str:
    compared = f"{row.compared >> 20} MiB" if row.compared else ""
    return (
        f"| {name} | {row.tried} | {row.failed} | {row.cpu:.1f} s | {row.peak >> 20} MiB | {row.cores} | {compared} |"
    )


def _word(status: int) -> str:
    return f"status {status}" if status >= 0 else f"signal {-status}"
