# SPDX-License-Identifier: LGPL-2.1-or-later
"""Connect a drgn Program to a kernel's memory.

Turns drgn's exceptions into TargetError: drgn raises FileNotFoundError, PermissionError, ValueError, LookupError and
plain Exception.
"""

from collections.abc import Callable

from drgn import FaultError, Platform, Program, ProgramFlags

from kgcore.arch import Architecture
from kgcore.errors import TargetError
from kgcore.sources.plugins import without_plugins
from kgcore.sources.vmcore.symbols import vmcoreinfo

__all__ = ("open_program", "without_user_pages")


def open_program(
    name: str, connect: Callable[[Program], None], platform: Platform | None, text: bytes | None
) -> Program:
    """Make a Program of a Linux kernel.

    :param name: name of the dump or machine, for messages.
    :param connect: gives the Program its memory.
    :param platform: None: drgn finds it.
    :param text: VMCOREINFO; None: drgn finds it.
    :raises TargetError: drgn cannot open it, or it is not a Linux kernel.
    """
    try:
        prog = Program(platform, vmcoreinfo=text and vmcoreinfo.ascii_only(text))
        with without_plugins():
            connect(prog)
    except TargetError:
        raise
    except FileNotFoundError as error:
        raise TargetError(f"{name} does not exist") from error
    except PermissionError as error:
        raise TargetError(f"cannot read {name}: {error.strerror}", hint="try it as root") from error
    except MemoryError:
        raise
    except Exception as error:  # drgn raises plain Exception here
        raise TargetError(f"drgn cannot open {name}: {error}") from error
    if ProgramFlags.IS_LINUX_KERNEL not in prog.flags:
        raise TargetError(f"{name} is not a dump of a Linux kernel")
    return prog


def without_user_pages(prog: Program, architecture: Architecture) -> Program:
    """Make every user-space address of a Program fault, and return the Program.

    QEMU's ELF dumps state virtual address 0 for physical memory: a null pointer would lead to the BIOS.
    """
    prog.add_memory_segment(0, architecture.user_pages, _no_kernel_memory, False)
    return prog


def _no_kernel_memory(address: int, count: int, offset: int, physical: bool) -> bytes:
    raise FaultError("no memory of the kernel", address)
