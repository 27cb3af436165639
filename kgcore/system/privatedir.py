# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make a private directory for temporary files."""

import os
import shutil
import tempfile
from types import TracebackType
from typing import Self

from kgcore.errors import OutputError
from kgcore.system import stopping

__all__ = ("PrivateDirectory",)


class PrivateDirectory:
    """A new directory that only its owner can read (mkdtemp() makes it with mode 0700).

    The end of the block, or a signal that ends the command, removes it unless :attr:`kept` is set.

    :param parent: where to make it; None: in the directory for temporary files.
    :raises OutputError: it cannot be made.
    :ivar path: absolute.
    """

    def __init__(self, parent: str | None = None) -> None:
        self.kept = False
        try:
            with stopping.held():
                self.path = tempfile.mkdtemp(prefix="kgcore-", dir=parent and os.path.abspath(parent))
                self._forget = stopping.clean_up(self._remove)
        except OSError as error:
            where = parent or tempfile.gettempdir()
            raise OutputError(f"cannot make a directory in {where}: {error.strerror}") from error

    def _remove(self) -> None:
        if not self.kept:
            shutil.rmtree(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()
        self._forget()
