# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs that a user has opened in drgn: read their kernels with kgcore, or give them kgcore's types."""

import os
from contextlib import suppress
from typing import Literal

from drgn import ModuleFileStatus, Program, ProgramFlags

from kgcore.errors import TargetError
from kgcore.sources.drgnversion import version
from kgcore.sources.location import DumpLocation
from kgcore.sources.vmcore.damage import guarded
from kgcore.sources.vmcore.dumpfile import DumpFile, open_dump
from kgcore.sources.vmcore.opening import whichkernel
from kgcore.sources.vmcore.opening.spaces import opening_of, read_by_drgn, space_of
from kgcore.sources.vmcore.opening.target import Target, messages_of, open_target, opened
from kgcore.sources.vmcore.opening.withsymbols import text_of
from kgcore.sources.vmcore.symbols import finders as symbols

__all__ = ("add_types", "from_program")

_KEY = "kgcore_target"


@guarded("the dump cannot be used")
def from_program(prog: Program) -> Target:
    """Make a target of a Program that the user opened in drgn, with the debug information that is loaded in it.

    The Program stays unchanged: if it has no types, or drgn cannot read its memory, the target uses another Program.

    :raises TargetError: it is not a Linux kernel, or its types are unknown.
    """
    _require_kernel(prog)
    path = _path_of(prog)
    opening = opening_of(prog)
    if not opening.drgn_reads:
        return _opened_anew(prog, path)
    dump: DumpFile | None = None
    unknown: tuple[str, ...] = ()
    if path:
        try:
            dump = open_dump(path)
        except TargetError as error:  # although drgn opened it
            unknown = (f"cannot tell what the dump holds: {error.message}; excluded memory may look like zeros",)
    if dump and path and (not opening.translates(prog, dump.frames) or whichkernel.is_wrong(dump, text_of(prog))):
        dump.close()
        return _opened_anew(prog, path)
    if _has_types(prog):
        target = Target(prog, dump, _types_of(prog), (*unknown, *messages_of(dump)))
        target.ours = False
        return target
    return _own(prog, path, dump, unknown)


def _own(prog: Program, path: str | None, dump: DumpFile | None, messages: tuple[str, ...] = ()) -> Target:
    """Open the Program's kernel with the kernel's own types and symbols.

    This takes half a second. The result is cached as long as the Program exists, if the dump could be opened again.

    :param path: the dump's path.
    :param dump: the dump, if kgcore can open it again; None: read through the Program.
    """
    known: Target | None = prog.cache.get(_KEY)
    if known is not None:
        if dump is not None:
            dump.close()
        return known
    text: bytes | None = prog["VMCOREINFO"].string_()
    if dump is not None:
        if text == whichkernel.own_vmcoreinfo(dump):  # then kgcore checks it
            text = None
        target = opened(DumpLocation(core=path, symbols_from="btf"), text, dump)
    else:
        target = opened(DumpLocation(symbols_from="btf"), text, through=prog)
    target.messages = (*messages, *target.messages)
    if dump is not None:  # else the cached target would keep the Program alive; and a running kernel changes
        target.keep()
        prog.cache[_KEY] = target
    return target


@guarded("the dump cannot be used")
def add_types(prog: Program) -> None:
    """Register finders for the kernel's own types and symbols with a user's Program, behind those that it has.

    :raises TargetError: it is not a Linux kernel, drgn cannot read its memory, or it has no types of its own.
    """
    _require_kernel(prog)
    if symbols.has_btf(prog):
        return
    space_of(prog)  # raises if drgn cannot read the kernel's memory
    path = _path_of(prog)
    dump = None
    if path is not None:
        with suppress(TargetError):
            dump = open_dump(path)
    own = symbols.OwnSymbols.of(_own(prog, path, dump).prog)
    assert own is not None
    own.give(prog, first=False)


def _require_kernel(prog: Program) -> None:
    if ProgramFlags.IS_LINUX_KERNEL not in prog.flags:
        raise TargetError("the program is not a Linux kernel", hint="open a vmcore or the running kernel in drgn")
    if not hasattr(prog, "core_dump_path"):
        raise TargetError(
            f"drgn {version()} does not say which file a program came from",
            hint="it needs drgn 0.0.33 or later; the command kgcore and kgcore.open_vmcore() work with this one",
        )


def _path_of(prog: Program) -> str | None:
    """Return the path of a Program's dump file; None if it has no dump file."""
    path: str | None = None if ProgramFlags.IS_LIVE in prog.flags else prog.core_dump_path
    return _still_there(path) if path else None


def _types_of(prog: Program) -> Literal["dwarf", "btf"]:
    """Tell where a Program's types come from; debug information takes precedence over what load_types() added."""
    with suppress(LookupError):
        if prog.main_module().debug_file_status == ModuleFileStatus.HAVE:
            return "dwarf"
    return "btf" if symbols.has_btf(prog) else "dwarf"


def _opened_anew(prog: Program, path: str | None) -> Target:
    """Open a Program's dump again with kgcore, with the Program's vmlinux.

    drgn opens dumps of 32-bit kernels, dumps of encrypted memory, and dumps with a wrong VMCOREINFO, but cannot read
    the kernel in them. See :mod:`kgcore.sources.vmcore.opening.spaces`.

    :raises TargetError: it is no dump, or cannot be opened.
    """
    if not path:
        raise TargetError(f"running kernels are read of {read_by_drgn()} only", hint="make a dump and open that")
    files: tuple[str, ...] = ()
    with suppress(LookupError):
        file = prog.main_module().debug_file_path
        files = (file,) if file else ()
    return open_target(DumpLocation(core=path, symbols=files))


def _still_there(path: str) -> str:
    """Return a path that opens the dump that drgn has open, even if the file was deleted since."""
    if not os.path.exists(path):
        for descriptor in os.listdir("/proc/self/fd"):
            link = f"/proc/self/fd/{descriptor}"
            with suppress(OSError):
                if os.readlink(link) == f"{os.path.abspath(path)} (deleted)":
                    return link
    return path


def _has_types(prog: Program) -> bool:
    """Tell whether a Program has the kernel's types; a module's debug information alone is not enough."""
    try:
        return bool(prog["init_task"].type_.has_member("mm") and prog.symbol("init_task"))
    except (LookupError, TypeError):
        return False
