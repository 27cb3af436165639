# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find files that come with kgcore, but are not part of the package: share/kgcore of an installation."""

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

from kgcore.errors import KgcoreError

__all__ = ("shared_file",)

_IN_SHARE = "share/kgcore"
_IN_SOURCE = "contrib"


def shared_file(name: str) -> bytes:
    """Return the content of a file.

    :param name: relative to contrib/ in the source, to share/kgcore/ where kgcore is installed.
    :raises KgcoreError: it is nowhere.
    """
    loader = globals().get("__loader__")
    archive = getattr(loader, "archive", None)
    if archive is not None and hasattr(loader, "get_data"):  # kgcore.pyz, a zipapp
        try:
            return bytes(loader.get_data(f"{archive}/{_IN_SHARE}/{name}"))  # type: ignore[union-attr]
        except OSError:
            pass
    for path in _places(name):
        try:
            return path.read_bytes()
        except OSError:
            continue
    raise KgcoreError(
        f"{name} is not installed with kgcore",
        hint="it belongs to <prefix>/share/kgcore; it is in contrib/ of the source, too",
    )


def _places(name: str) -> Iterator[Path]:
    """Where it may be: beside the package in the source; where pip has put it; where distributions do."""
    yield Path(__file__).resolve().parents[2] / _IN_SOURCE / name
    try:
        files = importlib.metadata.files("kgcore") or ()
    except importlib.metadata.PackageNotFoundError:
        files = ()
    for file in files:
        if file.as_posix().endswith(f"{_IN_SHARE}/{name}"):
            yield Path(file.locate())
    for prefix in dict.fromkeys((sys.prefix, sys.base_prefix, "/usr/local", "/usr")):
        yield Path(prefix, _IN_SHARE, name)
