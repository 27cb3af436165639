# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every step needs: the cache directory, running a command with a time limit, and the error that ends a build."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from .progress import PROGRESS

HERE = Path(__file__).resolve().parent
GUEST = HERE / "guest"
VICTIMS = HERE / "victims"


class BuildError(Exception):
    """A fixture could not be made; the message says which step failed and how."""


class Unavailable(BuildError):
    """Something outside (a package of a moving suite) is not to be had; not the fault of a recipe."""


def cache_dir() -> Path:
    """The cache directory ($KGCORE_CACHE, else ~/.cache/kgcore); refuses one inside the checkout."""
    root = Path(os.environ.get("KGCORE_CACHE") or Path.home() / ".cache" / "kgcore").resolve()
    checkout = HERE.parents[2]
    if root == checkout or checkout in root.parents:
        raise BuildError(f"the cache {root} lies inside the checkout {checkout}: set KGCORE_CACHE to another place")
    root.mkdir(parents=True, exist_ok=True)
    return root


def say(text: str) -> None:
    """A line on standard error, with how far everything is."""
    PROGRESS.say(text)


def run(
    command: Sequence[str | Path],
    *,
    timeout: float = 300,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> str:
    """Run a command to its end and return its standard output; BuildError with its last lines otherwise."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, capture_output=True, timeout=timeout, cwd=cwd, env=env, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{' '.join(words)}: not finished after {timeout:.0f} s") from error
    except OSError as error:
        raise BuildError(f"{words[0]}: {error}") from error
    if done.returncode:
        tail = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines()[-15:]
        raise BuildError(f"{' '.join(words)}: exit status {done.returncode}\n  " + "\n  ".join(tail))
    return done.stdout.decode(errors="replace")


def digest(paths: Iterable[Path], *words: str) -> str:
    """A hash over the names and contents of files, and over further words."""
    state = hashlib.sha256()
    for path in sorted(paths):
        state.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    for word in words:
        state.update(b"\0" + word.encode())
    return state.hexdigest()[:32]
