# SPDX-License-Identifier: LGPL-2.1-or-later
"""The words by which the KGCORE note says what mappings are, besides their flags."""

import re
import stat
from typing import NamedTuple

from kgcore.model.process import Vma
from kgcore.model.statejson import bytes_of, text_of

__all__ = ("UNKNOWN", "Told", "told", "word_of")

UNKNOWN = "?"
"""The word for a mapping of which nobody knows what it is."""
_ANY_EXEC = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


class Told(NamedTuple):
    """What a word of the KGCORE note says of a mapping, besides its flags.

    :ivar pgoff: if it has a file whose name is not known, the offset in that, in pages; else None.
    :ivar anon_name: what its process called it.
    """

    anon: bool = False
    unlinked: bool = False
    dax: bool = False
    executable: bool = False
    pgoff: int | None = None
    name: str = ""
    anon_name: bytes = b""


def word_of(vma: Vma) -> str:
    """Return the word that says what a mapping is: a special one's name, else letters, and its name behind a colon.

    ``a``: private pages were made; ``u``: its file has no name left; ``d``: DAX; ``x``: its file is executable; ``@``
    and a hexadecimal number: it has a file whose name is not known, and so many pages of that are before it.
    """
    if vma.kinds:
        return UNKNOWN
    if vma.name:
        return vma.name if vma.name.startswith("[") else UNKNOWN
    file = vma.file
    letters = "a" if vma.anon else ""
    if file is not None:
        having = (file.nlink == 0, "u"), (file.dax, "d"), (file.mode & _ANY_EXEC, "x")
        letters += "".join(letter for has, letter in having if has)
        if file.path is None or b"\0" in file.path:  # NT_FILE lacks it
            letters += f"@{vma.pgoff:x}"
    return f"{letters}:{text_of(vma.anon_name)}" if vma.anon_name else letters


def told(word: str) -> Told | None:
    """Return what a word of :func:`word_of` says; None: nothing.

    :raises ValueError: it is no word of that kind.
    """
    if word == UNKNOWN:
        return None
    if word.startswith("["):
        return Told(name=word)
    match = re.fullmatch("([audx]*)(?:@([0-9a-f]{1,16}))?(?::(.*))?", word, re.DOTALL)
    if match is None:
        raise ValueError(f"{word!r} is no kind of a mapping")
    letters, pgoff, name = match.groups()
    return Told(
        anon="a" in letters,
        unlinked="u" in letters,
        dax="d" in letters,
        executable="x" in letters,
        pgoff=None if pgoff is None else int(pgoff, 16),
        anon_name=bytes_of(name or ""),
    )
