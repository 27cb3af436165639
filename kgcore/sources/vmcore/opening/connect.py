# SPDX-License-Identifier: LGPL-2.1-or-later
"""A drgn Program of a kernel. All of drgn's exceptions end here: it raises FileNotFoundError, PermissionError,
ValueError, LookupError and plain Exception."""

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

    :param name: of what is opened, for messages.
    :param connect: gives the Program its memory.
    :param platform: None: drgn finds out.
    :param text: VMCOREINFO; None: drgn finds it.
    :raises TargetError: it cannot be done.
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
    except Exception as error:  # drgn has no error of its own for this and raises Exception itself
        raise TargetError(f"drgn cannot open {name}: {error}") from error
    if ProgramFlags.IS_LINUX_KERNEL not in prog.flags:
        raise TargetError(f"{name} is not a dump of a Linux kernel")
    return prog


def without_user_pages(prog: Program, architecture: Architecture) -> Program:
    """Let no address of user space lead anywhere.

    QEMU's ELF dumps say of physical memory that it lies at virtual address 0: a null pointer would lead to the BIOS.
    """
    prog.add_memory_segment(0, architecture.user_pages, _no_kernel_memory, False)
    return prog


def _no_kernel_memory(address: int, count: int, offset: int, physical: bool) -> bytes:
    raise FaultError("no memory of the kernel", address)
