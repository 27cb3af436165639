# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check that drgn is installed and recent enough. This module works without drgn.

All releases from :data:`OLDEST` on give the same cores (``./dev oldest``). Later releases add:

=======  =============================================================================
0.1.0    the symbol table of Linux 7.0 and later without a vmlinux, ``%gcore``, crash mode
0.2.0    ``--qemu``
=======  =============================================================================
"""

import re
import sys

from kgcore.errors import KgcoreError, is_for_memory, no_memory

__all__ = ("OLDEST", "ensure", "older_than", "version")

OLDEST = "0.0.31"
"""The first with modules; Debian 13 has it. pyproject.toml says the same."""


def ensure() -> None:
    """Check that drgn can be imported and is recent enough.

    :raises KgcoreError: it cannot, or it is not.
    """
    here = f"{sys.executable} -m pip install"
    try:
        import drgn
    except ModuleNotFoundError as error:
        if error.name not in ("drgn", "_drgn"):
            raise
        raise KgcoreError(
            "drgn is not installed for this Python",
            hint=f"{here} drgn, or your distribution's package (kgcore.pyz cannot contain it)",
        ) from error
    except ImportError as error:  # a library that it is linked with, or another Python's
        if is_for_memory(error):
            raise no_memory() from error
        raise KgcoreError(f"cannot load drgn: {error}", hint=f"{here} drgn") from error
    if not hasattr(drgn.Program, "debug_info_options"):
        raise KgcoreError(
            f"drgn {version()} is too old: kgcore needs drgn {OLDEST} or later",
            hint=f"{here} 'drgn>={OLDEST}', in a virtual environment if this Python is your distribution's",
        )


def version() -> str:
    """Return the version of the loaded drgn."""
    import drgn

    return str(getattr(drgn, "__version__", "of unknown version"))


def older_than(*wanted: int) -> bool:
    """Say whether the loaded drgn says that it is older. For hints only; kgcore probes features directly."""
    numbers = re.match(r"[0-9]+(?:\.[0-9]+)*", version())
    return numbers is not None and tuple(map(int, numbers[0].split("."))) < wanted
