# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verdict on a core, as a value and in words."""

from dataclasses import dataclass
from typing import Any

from kgcore.text import counted, first_lines, human_size, plain, printable

__all__ = ("Verdict",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The verdict on a core.

    :ivar path: of the file, as given.
    :ivar ok: it is well-formed and not cut off.
    :ivar complete: it lacks nothing, and nothing in it is doubtful; None: unknown, since it has no KGCORE note and
        shows no gap.
    :ivar problems: why it is not ok, as sentences.
    :ivar lacks: why it is not complete, as sentences.
    :ivar facts: contents: ``size``, ``class``, ``machine``, ``threads`` (ids), ``segments``, ``data`` (bytes),
        ``notes``, ``files``, ``kgcore`` (the KGCORE note), ``recovered`` (bytes by source, if the note has an account
        of them), ``limit`` (the limits that it was written under, in words), ``shared_zeros`` (bytes of memory that
        share one range of zeros in the file), ``redacted`` (bytes). Unreadable facts are absent.
    :ivar cut_short: its only problem is that the file ends before the end of its memory.
    """

    path: str
    ok: bool
    complete: bool | None
    problems: tuple[str, ...]
    lacks: tuple[str, ...]
    facts: dict[str, Any]
    cut_short: bool = False

    def to_json(self) -> dict[str, object]:
        """Return all of it for ``json.dumps``."""
        return {
            "version": 1,
            "path": plain(self.path),
            "ok": self.ok,
            "complete": self.complete,
            "cut_short": self.cut_short,
            "problems": list(self.problems),
            "lacks": list(self.lacks),
            "facts": self.facts,
        }

    def lines(self, limit: int = 40) -> list[str]:
        """Return lines for people, safe for a terminal.

        :param limit: how many problems, and how many lacks, to list at most.
        """
        state = {True: "complete", False: "INCOMPLETE", None: "completeness unknown"}[self.complete]
        health = "ok" if self.ok else "CUT SHORT" if self.cut_short else "DAMAGED"
        lines = [f"{printable(self.path)}: {health}, {state}"]
        facts = self.facts
        if "threads" in facts:
            lines.append(
                f"{facts['machine']}, {counted(len(facts['threads']), 'thread')}, "
                f"{counted(facts['segments'], 'segment')}, {human_size(facts['data'])} of memory, "
                f"{counted(facts.get('files', 0), 'mapped file')}"
            )
        if facts.get("recovered"):
            found = ", ".join(f"{human_size(size)} {printable(where)}" for where, size in facts["recovered"].items())
            lines.append(f"recovered: {found}")
        if facts.get("redacted"):
            lines.append(f"redacted: {human_size(facts['redacted'])} of memory are zeros in its place")
        if facts.get("limit") and not self.complete:
            lines.append(f"limit: {printable(facts['limit'])}")
        for title, texts in (("problem", self.problems), ("lacks", self.lacks)):
            lines += (f"{title}: {line}" for line in first_lines(texts, limit, printable, "... and {} more"))
        return lines
