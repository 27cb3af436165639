# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a mapping may be, where its source cannot tell."""

import stat
from typing import NamedTuple

__all__ = ("VmaKind",)


class VmaKind(NamedTuple):
    """What a mapping may be: what the kernel's filter goes by.

    :ivar flags: VM_* that it has then, besides those that are known.
    :ivar anon: it has an ``anon_vma``, that is, private pages were made.
    :ivar nlink: ``i_nlink`` of its file.
    :ivar dax: the inode of its file has S_DAX.
    :ivar mode: ``i_mode`` of its file.
    :ivar mapped: a file is mapped, whether its name is known or not.
    :ivar name: what ``vm_ops->name`` says; "": it is no special mapping.
    """

    flags: int = 0
    anon: bool = False
    nlink: int = 1
    dax: bool = False
    mode: int = stat.S_IFREG
    name: str = ""
    mapped: bool = False
