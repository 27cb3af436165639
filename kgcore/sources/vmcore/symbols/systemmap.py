# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read System.map, the list of a kernel's symbols that its build writes (``nm`` of vmlinux, scripts/mksysmap).

It goes with raw BTF, for kernels whose own table lacks the symbols of variables (built without CONFIG_KALLSYMS_ALL:
Debian's for i386).
"""

import re
from itertools import islice, pairwise

from drgn import Symbol, SymbolBinding, SymbolIndex, SymbolKind

from kgcore.errors import TargetError
from kgcore.system.regular import reading

__all__ = ("is_system_map", "read_symbols")

_LINE = re.compile(rb"^([0-9a-f]{8,16}) ([A-Za-z]) (\S+)$", re.MULTILINE)
_MAX_SIZE = 64 << 20  # bytes; Debian's have 5 MB
_MAX_SYMBOLS = 1 << 19  # Debian's have 200 000
_FIRST_LINES, _MAX_LINE = 8, 1024
_ABSOLUTE = b"Aa"
_FUNCTIONS = b"TtWw"


def is_system_map(file: str) -> bool:
    """Tell whether a file looks like a System.map. False if it cannot be read."""
    try:
        with reading(file) as opened:
            lines = [opened.readline(_MAX_LINE) for _ in range(_FIRST_LINES)]
    except OSError:
        return False
    # nm lists undefined symbols first.
    return any(_LINE.match(line.rstrip()) for line in lines)


def read_symbols(file: str, start: int | None) -> SymbolIndex:
    """Return the symbols of a System.map, at their addresses in the dump.

    :param start: address of ``_stext`` in the dump (KASLR); None: the address that it was linked at.
    :raises TargetError: the file cannot be read, or is no System.map.
    """
    try:
        with reading(file) as opened:
            text = opened.read(_MAX_SIZE)
    except OSError as error:
        raise TargetError(f"cannot read symbol file {file}: {error.strerror}") from error
    found_lines = list(islice(_LINE.finditer(text), _MAX_SYMBOLS + 1))
    if len(found_lines) > _MAX_SYMBOLS:
        raise TargetError(f"{file} is not a System.map: it has more than {_MAX_SYMBOLS} symbols")
    rows = sorted((int(line[1], 16), line[2], line[3].decode(errors="backslashreplace")) for line in found_lines)
    linked = next((address for address, _, name in rows if name == "_stext"), None)
    if linked is None:
        raise TargetError(
            f"{file} is not a complete System.map: it has no _stext", hint="in Debian the -dbg package has it"
        )
    moved = 0 if start is None else start - linked
    found = []
    for (address, kind, name), (following, _, _) in pairwise([*rows, (0, b"", "")]):
        # Values below the text are offsets of per-CPU variables (x86_64), which do not move.
        at = address + moved if address >= linked and kind not in _ABSOLUTE else address
        what = SymbolKind.FUNC if kind in _FUNCTIONS else SymbolKind.OBJECT
        found.append(Symbol(name, at, max(0, following - address), SymbolBinding.GLOBAL, what))
    return SymbolIndex(found)
