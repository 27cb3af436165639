# SPDX-License-Identifier: LGPL-2.1-or-later
"""How far a run of the maker is: how many fixtures of how many, for how long, and what is being done just now."""

from __future__ import annotations

import sys
import threading
import time


class Progress:
    """What is being made, by name; used by several threads. Lines go to standard error."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._total = 0
        self._done = 0
        self._running: dict[str, tuple[str, float]] = {}

    def expect(self, total: int) -> None:
        """So many things will be finished."""
        self._total = total

    def say(self, text: str) -> None:
        """A line, with the time since the start and how many are finished."""
        with self._lock:
            self._write(text)

    def step(self, name: str, text: str) -> None:
        """What is done with it from now on."""
        now = time.monotonic()
        with self._lock:
            self._running[name] = text, self._running[name][1] if name in self._running else now
            self._write(f"{name}: {text}")

    def finish(self, name: str, text: str, *, counts: bool = True) -> None:
        """It is finished, one way or the other. What is still being done is said too.

        :param counts: whether it is one of those that were expected.
        """
        with self._lock:
            _, since = self._running.pop(name, ("", 0.0))
            self._done += counts
            took = f" ({time.monotonic() - since:.0f} s)" if since else ""
            self._write(f"{name}: {text}{took}")
            if self._running:
                now = ", ".join(f"{other} ({step})" for other, (step, _) in self._running.items())
                self._write(f"{self._done} of {self._total} finished; now: {now}")

    def _write(self, text: str) -> None:
        passed = time.monotonic() - self._start
        count = f"{self._done:{len(str(self._total))}}/{self._total}" if self._total else ""
        # One write: other processes may share the terminal.
        sys.stderr.write(f"[{passed:6.1f}s {count}] {text}\n" if count else f"[{passed:6.1f}s] {text}\n")
        sys.stderr.flush()


PROGRESS = Progress()
