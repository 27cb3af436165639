# SPDX-License-Identifier: LGPL-2.1-or-later
"""BTF of modules, which the kernel keeps in memory (Linux 5.11, CONFIG_DEBUG_INFO_BTF_MODULES)."""

from contextlib import suppress

from drgn import FaultError, Object, Type

from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.kernel.trees import XArrays
from kgcore.sources.vmcore.opening.target import Target
from kgcore.sources.vmcore.symbols.btf import Btf, BtfKind
from kgcore.sources.vmcore.symbols.btf_types import TypeFinder

__all__ = ("BtfTypes", "ModuleBtf")

_MAX_BTF = 64 << 20  # bytes; a distribution's kernel has 5 MB, a module some KB
_CACHE_KEY = "kgcore_module_types"
_KINDS = {"struct": (BtfKind.STRUCT,), "union": (BtfKind.UNION,), "enum": (BtfKind.ENUM, BtfKind.ENUM64)}


class ModuleBtf:
    """The BTF of a kernel's modules."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._prog = target.prog
        self._base: TypeFinder | None = None  # out of vmlinux's BTF, if types come from elsewhere

    def read(self, name: str) -> TypeFinder | None:
        """Return the finder of types in a module's BTF; None if the kernel has no BTF of the module.

        The kernel frees the section of the module's file: ``btf_data`` of ``struct module`` is invalid once the module
        runs (do_init_module(), kernel/module/main.c). It keeps a copy in a ``struct btf``, listed in ``btf_idr``
        (btf_parse_module(), kernel/bpf/btf.c): split BTF that extends vmlinux's.

        A module that was built apart from its kernel may have BTF that extends a distilled base instead
        (``.BTF.base``; in 6.12, not in 6.1). btf_relocate() (tools/lib/bpf/btf_relocate.c) then renumbers types and
        strings in the copy, so that it extends vmlinux's too.
        """
        record = self._btf_record(name)
        if record is None:
            return None
        base = self._kernels(record.start_id.value_(), record.start_str_off.value_())
        data = self._btf_data(record.data.value_(), record.data_size.value_())
        # drgn never frees a type, and a type keeps its finder alive: so all users of a Program share one finder.
        finders: dict[tuple[bytes, TypeFinder], TypeFinder] = self._prog.cache.setdefault(_CACHE_KEY, {})
        if (data, base) not in finders:
            finders[data, base] = TypeFinder(self._prog, Btf(data, base.btf), base)
        return finders[data, base]

    def _btf_record(self, name: str) -> Object | None:
        """Return a module's ``struct btf *``; None if the kernel has no BTF of the module.

        :raises BrokenDump: it was not found, and a part of the list is damaged or not in the dump.
        """
        if not self._target.has_member("struct btf", "start_id"):  # since 5.11, with which modules have BTF
            return None
        lost = False
        trees = XArrays.of(self._prog, "struct idr", "idr_rt")
        for entry in trees.entries(trees.head(self._prog["btf_idr"].idr_rt)):
            with suppress(FaultError):
                record = Object(self._prog, "struct btf *", entry or 0)
                if record.name.string_() == name.encode():
                    return record
                continue
            lost = True
        if lost:
            raise BrokenDump("a part of the kernel's list of BTF is damaged or not in the dump")
        return None

    def _kernels(self, types: int, strings: int) -> TypeFinder:
        """Return the finder of types in vmlinux's BTF: the one in use, unless it is missing or from a different file.

        :param types: number of types that the BTF must have, void included.
        :param strings: bytes of strings that it must have.
        """
        for known in (self._base, TypeFinder.of(self._prog)):
            if known and (len(known.btf), known.btf.string_length) == (types, strings):
                return known
        start, stop = self._target.symbol_address("__start_BTF"), self._target.symbol_address("__stop_BTF")
        if start is None or stop is None:
            raise LookupError("the kernel's own BTF, which its BTF extends, was not found")
        self._base = TypeFinder(self._prog, Btf(self._btf_data(start, stop - start)))
        if (len(self._base.btf), self._base.btf.string_length) != (types, strings):
            raise BrokenDump("its BTF does not extend the kernel's")
        return self._base

    def _btf_data(self, start: int, size: int) -> bytes:
        if not 0 < size <= _MAX_BTF:
            raise BrokenDump(f"implausible size of its BTF or the kernel's: {size} bytes")
        data: bytes = self._prog.read(start, size)
        return data


class BtfTypes:
    """The types that a module's BTF itself defines."""

    def __init__(self, types: TypeFinder) -> None:
        self._types = types

    def type(self, name: str) -> Type | None:
        word, _, tag = name.partition(" ")
        for kind in _KINDS.get(word, ()) if tag else (BtfKind.TYPEDEF,):
            number = self._types.btf.find(tag or word, kind)
            if number is not None and number >= self._types.btf.first:
                return self._types.type(number)
        return None

    def enumerator(self, name: str) -> int | None:
        found = self._types.btf.find_enumerator(name)
        return found[1] if found else None
