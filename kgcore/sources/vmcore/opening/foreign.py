# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs that somebody else has opened in drgn: their dumps for us, and our types for them."""

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
    """A Program that somebody else opened, with the debug information they loaded, if they did.

    It stays as it is: where it has no types, or drgn cannot read its memory, the target has a Program of its own.

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
        except TargetError as error:  # though drgn could open it
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
    """The same kernel with the types and symbols that it has itself. It takes half a second, and is kept for the next
    time, as long as there is that Program.

    :param path: of the dump.
    :param dump: it, if it can be opened anew; else what that Program can read is read.
    """
    known: Target | None = prog.cache.get(_KEY)
    if known is not None:
        if dump is not None:
            dump.close()
        return known
    text: bytes | None = prog["VMCOREINFO"].string_()
    if dump is not None:
        if text == whichkernel.own_vmcoreinfo(dump):  # then whether that is right is looked into
            text = None
        target = opened(DumpLocation(core=path, symbols_from="btf"), text, dump)
    else:
        target = opened(DumpLocation(symbols_from="btf"), text, through=prog)
    target.messages = (*messages, *target.messages)
    if dump is not None:  # else it would refer to that Program, and keep it for ever; and what runs changes
        target.keep()
        prog.cache[_KEY] = target
    return target


@guarded("the dump cannot be used")
def add_types(prog: Program) -> None:
    """Register finders for the kernel's own types and symbols with somebody's Program, behind all that it has.

    :raises TargetError: it is not a Linux kernel, drgn cannot read its memory, or it has no types of its own.
    """
    _require_kernel(prog)
    if symbols.has_btf(prog):
        return
    space_of(prog)  # or drgn does not read it
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
    """Of the dump file."""
    path: str | None = None if ProgramFlags.IS_LIVE in prog.flags else prog.core_dump_path
    return _still_there(path) if path else None


def _types_of(prog: Program) -> Literal["dwarf", "btf"]:
    """Where a Program has its types from, if it has any; debug information goes before what load_types() added."""
    with suppress(LookupError):
        if prog.main_module().debug_file_status == ModuleFileStatus.HAVE:
            return "dwarf"
    return "btf" if symbols.has_btf(prog) else "dwarf"


def _opened_anew(prog: Program, path: str | None) -> Target:
    """drgn opens dumps of 32-bit kernels, encrypted ones, those with a wrong VMCOREINFO, and reads no kernel there. See
    :mod:`kgcore.sources.vmcore.opening.spaces`."""
    if not path:
        raise TargetError(f"running kernels are read of {read_by_drgn()} only", hint="make a dump and open that")
    files: tuple[str, ...] = ()
    with suppress(LookupError):
        file = prog.main_module().debug_file_path
        files = (file,) if file else ()
    return open_target(DumpLocation(core=_still_there(path), symbols=files))


def _still_there(path: str) -> str:
    """A name of the dump that drgn has opened, even if it was deleted since."""
    if not os.path.exists(path):
        for descriptor in os.listdir("/proc/self/fd"):
            link = f"/proc/self/fd/{descriptor}"
            with suppress(OSError):
                if os.readlink(link) == f"{os.path.abspath(path)} (deleted)":
                    return link
    return path


def _has_types(prog: Program) -> bool:
    """Whether it has the kernel's types: a module's debug information alone is not enough."""
    try:
        return bool(prog["init_task"].type_.has_member("mm") and prog.symbol("init_task"))
    except (LookupError, TypeError):
        return False
