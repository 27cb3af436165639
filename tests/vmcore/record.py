# SPDX-License-Identifier: LGPL-2.1-or-later
"""Note which tests ran on which fixtures, for docs/kernels.md (tools/kernels.py).

Only where KGCORE_RECORD names a directory; each process of pytest writes a file of its own there.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

__all__ = ("RECORD", "Record")


class Record:
    """What a session of tests has shown.

    :ivar fixtures: those that the current test has asked for: name to suite and release.
    :ivar own_types: whether the current test has used a dump with the types and symbols in it, and nothing else.
    """

    def __init__(self) -> None:
        self.fixtures: dict[str, tuple[str, str]] = {}
        self.own_types = False
        self._found: Counter[tuple[str, str, str, str, str, bool, bool]] = Counter()

    def begin(self) -> None:
        """Begin with a test."""
        self.fixtures = {}
        self.own_types = False

    def uses(self, manifest: dict[str, Any]) -> None:
        """Note a fixture."""
        self.fixtures[manifest["name"]] = str(manifest["suite"]), str(manifest["release"])

    def opens(self, target: Any) -> None:
        """Note an opened dump."""
        self.own_types = target.types == "the kernel's own BTF and kallsyms"

    def end(self, file: str, function: str, *, passed: bool) -> None:
        """Note how a test ended."""
        for name, (suite, release) in self.fixtures.items():
            self._found[name, suite, release, file, function, self.own_types, passed] += 1

    def write(self) -> None:
        """Write it all down."""
        keys = ("fixture", "suite", "release", "test", "function", "own_types", "passed")
        rows = [dict(zip(keys, key, strict=True)) | {"count": count} for key, count in sorted(self._found.items())]
        folder = os.environ.get("KGCORE_RECORD")
        if folder and rows:
            Path(folder, f"{os.getpid()}.json").write_text(json.dumps(rows, indent=1))


RECORD = Record()
