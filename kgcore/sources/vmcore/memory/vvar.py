# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the pages of ``[vvar]``, the data that the vdso reads the time from.

Up to 7.2 this mapping is VM_IO, which no core has. In 7.3 its pages are ordinary ones (VM_MIXEDMAP), and the kernel's
own cores have them. Since df7fcbefa710 "vdso: Add generic time data storage" (6.15) all architectures keep them in
lib/vdso/datastore.c.
"""

from drgn import FaultError, Object

from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.kernel.kernel import Kernel

__all__ = ("is_vvar", "vvar_page")

# enum vdso_pages, include/vdso/datapage.h: the same since 6.15
_TIME, _TIMENS, _RNG = range(3)
_POINTERS = {_TIME: "vdso_k_time_data", _RNG: "vdso_k_rng_data"}


def is_vvar(kernel: Kernel, special: Object) -> bool:
    """Tell whether a special mapping is ``[vvar]`` of lib/vdso/datastore.c.

    :param special: ``struct vm_special_mapping *``
    """
    return int(special.value_()) == kernel.target.symbol_address("vdso_vvar_mapping")


def vvar_page(kernel: Kernel, task: Object | None, number: int) -> int | None:
    """Return the physical address of the page that ``vvar_fault()`` gives a task; None: it gives none (SIGBUS).

    :param task: ``struct task_struct *``, whose time namespace decides; None: unknown.
    :param number: of the page in the mapping.
    :raises FaultError: what says so is not in the dump.
    :raises LookupError: what says so is unknown.
    :raises BrokenDump: what says so contradicts itself.
    """
    if number not in (_TIME, _TIMENS):
        return _page(kernel, number)
    own = _timens_page(kernel, task)
    if own is None:
        return _page(kernel, number)
    # In a time namespace, the namespace's offsets come first, and the time itself stands in the second page.
    return own if number == _TIME else _page(kernel, _TIME)


def _page(kernel: Kernel, number: int) -> int | None:
    """Return the physical address of one of the kernel's own pages.

    Since 7.3 ``vdso_data_pages`` has them all, and pointers lead to some of them; before, there are only the pointers,
    and no page between them.
    """
    pointed = _pointed(kernel, number)
    pages = kernel.read_word("vdso_data_pages")
    if pages is None:
        if pointed is None and number != _TIMENS:
            raise LookupError("no symbol leads to it")
        return pointed
    if not kernel.machine.is_page(pages):
        raise BrokenDump(f"vdso_data_pages is {pages:#x}, which is no struct page", address=pages)
    found = kernel.machine.page_to_phys(pages) + (number << kernel.page_shift)
    if pointed is not None and pointed != found:
        raise BrokenDump(f"{_POINTERS[number]} and vdso_data_pages lead to different pages", address=pages)
    return found


def _pointed(kernel: Kernel, number: int) -> int | None:
    """Return the physical address of the page that the kernel's own pointer leads to; None: it has no such pointer."""
    address = kernel.read_word(_POINTERS[number]) if number in _POINTERS else None
    if not address:
        return None
    if address & kernel.page_size - 1:
        raise BrokenDump(f"{_POINTERS[number]} is {address:#x}, which is not the start of a page", address=address)
    start, end = map(kernel.target.symbol_address, ("_text", "_end"))
    if start is not None and end is not None and start <= address < end:
        return kernel.machine.kernel_image_to_phys(address)
    return kernel.machine.direct_map_to_phys(address)  # since the pages are allocated


def _timens_page(kernel: Kernel, task: Object | None) -> int | None:
    """Return the physical address of ``time_namespace::vvar_page``; None: the task is in the first time namespace.

    See find_timens_vvar_page(), kernel/time/namespace_vdso.c.
    """
    if not kernel.target.has_member("struct time_namespace", "vvar_page"):
        return None  # without CONFIG_TIME_NS
    if task is None or not task.nsproxy:
        raise LookupError("the time namespace is unknown")
    page = task.nsproxy.time_ns.vvar_page.value_()
    if not page:
        return None
    if not kernel.machine.is_page(page):
        raise FaultError("no struct page", page)
    return kernel.machine.page_to_phys(page)
