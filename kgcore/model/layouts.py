# SPDX-License-Identifier: LGPL-2.1-or-later
"""What kgcore relies on in a kernel, and what of that a kernel has."""

from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ("Layout", "LayoutName")

NameKind = Literal["type", "member", "symbol", "constant", "line"]
State = Literal["found", "absent", "unknown"]


@dataclass(frozen=True, slots=True)
class LayoutName:
    """A name that a kernel may have.

    :ivar kind: ``"type"``, ``"member"``, ``"symbol"``, ``"constant"`` (an enumerator) or ``"line"`` (of VMCOREINFO).
    :ivar name: ``struct folio``, ``struct folio.index``, ``swapper_spaces``.
    :ivar found: whether the kernel has it; None: unknown, as what was given of the kernel does not tell.
    :ivar wanted: False: it is its absence that tells.
    :ivar value: its size, its place or its value, in words; ``""``: none.
    """

    kind: NameKind
    name: str
    found: bool | None
    wanted: bool = True
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A thing that kgcore needs of a kernel, and how this kernel has it.

    :ivar what: the thing.
    :ivar use: what it is for: ``opening the dump``, ``cores``, ``kernel stacks``.
    :ivar state: ``"found"``, ``"absent"``, or ``"unknown"`` where what was given of the kernel does not tell.
    :ivar since: the release in which the way came that this kernel has it, and the commit; ``""``: none.
    :ivar how: how kgcore finds the thing, where the names do not say it; if unknown, why.
    :ivar value: what kgcore decided, in words; ``""``: nothing besides the names.
    :ivar lost: what does not work in this kernel; ``""``: nothing, or unknown.
    :ivar needed: without it, its use does not work at all.
    :ivar names: the names that decided; where none did, all that would have.
    """

    what: str
    use: str
    state: State
    since: str
    how: str
    value: str
    lost: str
    needed: bool
    names: tuple[LayoutName, ...]

    def to_json(self) -> dict[str, object]:
        """Return it for ``json.dumps``, as an element of ``layouts`` in ``kgcore info --layouts --json``."""
        return asdict(self)
