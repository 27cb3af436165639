# SPDX-License-Identifier: LGPL-2.1-or-later
"""The control groups of processes; their names identify containers and services."""

from collections.abc import Iterator
from functools import cache

from drgn import FaultError, offsetof

from kgcore.arch import SMALLEST_PAGE
from kgcore.sources.vmcore.kernel.kernel import Kernel
from kgcore.sources.vmcore.kernelreads import kernel_bytes

__all__ = ("Cgroups",)

_MAX_DEPTH = 256
_MAX_HIERARCHIES = 64
_NAME_MAX = 256
_ROOT = b"/"


class Cgroups:
    """Reads ``struct css_set``: many processes share one."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._links_at = kernel.structs("struct css_set", "dfl_cgrp", "cgrp_links.next")
        self._link = kernel.structs("struct cgrp_cset_link", "cgrp", "cgrp_link.next")
        self._cgroups = kernel.structs("struct cgroup", "kn")
        # rcu-protected, and renamed, by 633488947ef6 "kernfs: Use RCU to access kernfs_node::parent." (6.15)
        self._nodes = kernel.structs("struct kernfs_node", "name", "parent", "__parent")
        # The caches belong to this object and are freed with it
        self.path = cache(self._path)
        self._cgroup_path = cache(self._read_path)

    def _path(self, css_set: int) -> bytes | None:
        """Return the path in the unified hierarchy; None: not found.

        If that is the root, return the first path in another hierarchy that is not the root: systems with cgroup v1 do
        not use the unified one.

        :param css_set: address of a ``struct css_set``
        """
        try:
            path = self._cgroup_path(self._links_at.read(css_set)["dfl_cgrp"])
            if path != _ROOT:
                return path
            return next((other for other in self._others(css_set) if other != _ROOT), path)
        except FaultError:
            return None

    def _others(self, css_set: int) -> Iterator[bytes]:
        """Yield the paths in all hierarchies.

        :raises FaultError: they are not in the dump.
        """
        prog = self._kernel.prog
        head = css_set + int(offsetof(prog.type("struct css_set"), "cgrp_links"))
        at = int(offsetof(prog.type("struct cgrp_cset_link"), "cgrp_link"))
        node = self._links_at.read(css_set)["cgrp_links.next"]
        for _ in range(_MAX_HIERARCHIES):
            if node == head:
                return
            link = self._link.read(node - at)
            yield self._cgroup_path(link["cgrp"])
            node = link["cgrp_link.next"]

    def _read_path(self, cgroup: int) -> bytes:
        """Return the path of a cgroup, as ``kernfs_path()`` does.

        :raises FaultError: the path is not in the dump, or circular.
        """
        names: list[bytes] = []
        node = self._cgroups.read(cgroup)["kn"]
        for _ in range(_MAX_DEPTH):
            found = self._nodes.read(node)
            parent = found["__parent" if "__parent" in found else "parent"]
            if not parent:
                return _ROOT + b"/".join(reversed(names))
            names.append(self._name(found["name"]))
            node = parent
        raise FaultError("the directories of the control groups are circular", node)

    def _name(self, address: int) -> bytes:
        """Return the name at a ``char *``, which may end where the dumped memory ends."""
        size = min(_NAME_MAX, SMALLEST_PAGE - address % SMALLEST_PAGE)
        data = kernel_bytes(self._kernel.prog, address, size)
        if b"\0" not in data and size < _NAME_MAX:
            data += kernel_bytes(self._kernel.prog, address + size, _NAME_MAX - size)
        return data.split(b"\0")[0]
