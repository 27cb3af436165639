# SPDX-License-Identifier: LGPL-2.1-or-later
"""Choose how a core is compressed: the first of some ways that this machine has."""

import shutil
from collections.abc import Sequence
from typing import Any

from kgcore.errors import KgcoreError
from kgcore.sinks.base import Sink
from kgcore.sinks.compressed import SUFFIXES, CompressedSink, Compression, require
from kgcore.sinks.program import Program, ProgramSink

__all__ = ("Compressor", "chosen", "compressing", "suffix_of")

Compressor = Compression | Program | None
"""A way to compress: a library's, a program's; None: not at all."""


def chosen(wanted: Any) -> Compressor:
    """Return the first way to compress that this machine has.

    :param wanted: ``"zstd"``, ``"gzip"``, None, a program as ``(name, [arguments], suffix)``, or a list of these.
    :raises ValueError: it is something else.
    :raises KgcoreError: this machine has none of them.
    """
    ways = wanted if isinstance(wanted, list) else [wanted]
    if not ways:
        raise ValueError("compress is an empty list: put None into it for a core that is not compressed")
    found = [_way(way) for way in ways]
    for way in found:
        if way is None:
            return None
        if isinstance(way, Program):
            if shutil.which(way.name):
                return way
            continue
        try:
            require(way)
        except KgcoreError:
            continue
        return way
    names = ", ".join(way.name if isinstance(way, Program) else str(way) for way in found)
    raise KgcoreError(f"this machine has no {names}", hint="install one, or put None at the end of the list")


def _way(way: Any) -> Compressor:
    if way is None or isinstance(way, Program):
        return way
    if isinstance(way, str) and way in SUFFIXES:
        return "zstd" if way == "zstd" else "gzip"
    if isinstance(way, Sequence) and not isinstance(way, str | bytes) and len(way) == 3:
        name, arguments, suffix = way
        if isinstance(name, str) and name and isinstance(suffix, str) and not isinstance(arguments, str | bytes):
            words = tuple(arguments)
            if all(isinstance(word, str) for word in words) and "/" not in suffix:
                return Program(name, words, suffix)
    raise ValueError(
        f"compress is {way!r}: expected {', '.join(repr(name) for name in SUFFIXES)}, None, "
        "(program, [arguments], suffix), or a list of these"
    )


def suffix_of(way: Compressor) -> str:
    """Return what the names of files that it makes end with."""
    if way is None:
        return ""
    return way.suffix if isinstance(way, Program) else SUFFIXES[way]


def compressing(sink: Sink, way: Compressor) -> Sink:
    """Return a sink that compresses what another one gets."""
    if way is None:
        return sink
    return ProgramSink(sink, way) if isinstance(way, Program) else CompressedSink(sink, way)
