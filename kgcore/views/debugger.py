# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build the command lines of debuggers for a core and files that are not trusted."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kgcore.binaries.sysroot import SysrootFile
from kgcore.errors import KgcoreError
from kgcore.model.process import ProcessImage

__all__ = ("DEBUGGERS", "Session", "command_line", "find_debugger", "program_of")

_AT_PHDR, _AT_ENTRY = 3, 9


@dataclass(frozen=True, slots=True)
class Session:
    """The files for a debugger.

    :ivar program: the program's file in the sysroot; None: missing.
    """

    core: str
    sysroot: str
    program: str | None


def _gdb(session: Session) -> list[str]:
    # -iex comes after the user's .gdbinit, which may trust everything, and before the files are loaded. Off is what
    # files could have gdb run: scripts beside them or inside them. libthread_db, for thread-local variables, is code,
    # too: the one of this machine, not one of the sysroot's.
    before = (
        "set auto-load off",
        "set auto-load libthread-db on",
        "set libthread-db-search-path $sdir",
        f"set sysroot {session.sysroot}",
    )
    words = [word for command in before for word in ("-iex", command)]
    return [*words, f"--core={session.core}", *([] if session.program is None else [f"--se={session.program}"])]


def _lldb(session: Session) -> list[str]:
    before = (
        "settings set target.load-script-from-symbol-file false",
        f"platform select remote-linux --sysroot {_lldb_quoted(session.sysroot)}",
    )
    words = [word for command in before for word in ("-O", command)]
    return [*words, "--core", session.core, *([] if session.program is None else ["--file", session.program])]


def _lldb_quoted(path: str) -> str:
    return '"' + "".join("\\" + char if char in '"\\`$' else char for char in path) + '"'


DEBUGGERS: dict[str, Callable[[Session], list[str]]] = {"gdb": _gdb, "lldb": _lldb}
"""The arguments of each debugger, by its name, which is also that of its Debian package."""


def find_debugger(name: str) -> str:
    """Return the path of a debugger.

    :raises KgcoreError: it is not installed.
    """
    path = shutil.which(name)
    if path is None:
        raise KgcoreError(f"{name} is not installed", hint=f"apt install {name}")
    return path


def command_line(name: str, session: Session, more: Sequence[str]) -> list[str]:
    """Return the command that starts a debugger.

    :param more: the user's arguments.
    """
    return [name, *DEBUGGERS[name](session), *more]


def program_of(image: ProcessImage, files: Sequence[SysrootFile], sysroot: str) -> str | None:
    """Return the program's file among the written ones: the one that the auxiliary vector points to."""
    auxv = dict(image.auxv)
    for address in (auxv.get(_AT_ENTRY, 0), auxv.get(_AT_PHDR, 0)):
        for vma in image.vmas:
            if vma.start <= address < vma.end and vma.file is not None and vma.file.path is not None:
                path = vma.file.path.removesuffix(b" (deleted)")
                # Without its beginning it is no program.
                if any(file.path == path and not any(gap.start == 0 for gap in file.missing) for file in files):
                    return os.path.join(sysroot, os.fsdecode(path).lstrip("/"))
    return None
