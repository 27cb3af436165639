# SPDX-License-Identifier: LGPL-2.1-or-later
"""Prove that types and symbols from a file are the kernel's in the dump.

Neither raw BTF nor a System.map has a build id. So the dump must agree with them: with VMCOREINFO, which states sizes,
offsets, numbers and addresses (kernel/vmcore_info.c); with the kernel's symbol table, which has the functions and the
per-CPU variables that BTF describes; and with the kernel's first task and memory descriptor.

Each function here returns the first contradiction as a sentence, "" without one. What the dump does not have
contradicts nothing.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from struct import Struct

from drgn import FaultError, Program, Type, TypeKind, container_of, offsetof, sizeof

from kgcore.sources.vmcore.symbols import vmcoreinfo
from kgcore.sources.vmcore.symbols.btf import Btf, BtfKind

__all__ = ("map_contradicts", "types_contradict")

_KEY = re.compile(r"(SIZE|OFFSET|LENGTH|NUMBER)\((\w+)(?:\.(\w+))?\)")
_VARIABLE = Struct("<III")  # struct btf_var_secinfo: type, offset, size
_PER_CPU = ".data..percpu"
_POINTERS = frozenset(("mem_section", "vmemmap"))  # VMCOREINFO has their values: VMCOREINFO_SYMBOL_ARRAY()
# Of 48000 functions, a kernel's own BTF has none that its symbols lack; that of the next update in a series, 90.
_STRANGERS = 2000
# Such a function is in BTF for each that gets arguments from the verifier: 9d199965990c "resolve_btfids: Support for
# KF_IMPLICIT_ARGS" (7.0)
_IMPLICIT = "_impl"


def map_contradicts(find: Callable[[str], list[int]], info: Mapping[str, str]) -> str:
    """Compare the addresses of a System.map with those of VMCOREINFO.

    :param find: returns the addresses of a symbol.
    """
    for key in info:
        name = key.removeprefix("SYMBOL(").removesuffix(")")
        told = vmcoreinfo.symbol(info, name) if key.startswith("SYMBOL(") and name not in _POINTERS else None
        if told is not None and (found := find(name)) and told not in found:
            return f"{name} is at {found[0]:#x} by it, at {told:#x} in the dump"
    return ""


def types_contradict(prog: Program, info: Mapping[str, str], btf: Btf, names: Mapping[str, list[int]]) -> str:
    """Compare BTF with the rest of the dump.

    :param prog: has the types, and finds symbols.
    :param names: addresses by name, of all symbols of the kernel.
    """
    for check in (_vmcoreinfo(prog, info, btf), _symbols(btf, names), _memory(prog, info)):
        for contradiction in check:
            return contradiction
    return ""


def _vmcoreinfo(prog: Program, info: Mapping[str, str], btf: Btf) -> Iterator[str]:
    for key in info:
        match = _KEY.fullmatch(key)
        told = vmcoreinfo.number(info, key)
        if match is None or told is None:
            continue
        what, name, member = match.groups()
        if what == "NUMBER":
            constant = btf.find_enumerator(name)
            if constant is not None and constant[1] != told:
                yield f"{name} is {constant[1]} in it, {told} in the dump"
            continue
        found = _type(prog, name)
        if found is None:
            continue
        with suppress(LookupError, TypeError):
            have = _measured(found, what, member)
            if have is not None and have != told:
                yield f"{key} is {have} in it, {told} in the dump"


def _type(prog: Program, name: str) -> Type | None:
    for tag in ("struct ", "union ", ""):
        with suppress(LookupError):
            return prog.type(tag + name)
    return None


def _measured(found: Type, what: str, member: str | None) -> int | None:
    """Return what VMCOREINFO states of a type; None: BTF does not say.

    :raises LookupError, TypeError: the type has no such member.
    """
    if what == "SIZE":
        return int(sizeof(found))
    if member is None:
        return None
    if what == "OFFSET":
        return int(offsetof(found, member))
    array = found.member(member).type
    return array.length if array.kind is TypeKind.ARRAY else None


def _symbols(btf: Btf, names: Mapping[str, list[int]]) -> Iterator[str]:
    """Look up functions and per-CPU variables (offsets from ``__per_cpu_start``) in the kernel's symbol table."""
    start = names.get("__per_cpu_start", [])
    functions, strangers, first = 0, 0, ""
    for number in range(btf.first, len(btf)):
        record = btf.record(number)
        if record.kind == BtfKind.FUNC:
            functions += 1
            name = btf.name(record.name_offset)
            if name not in names and name.removesuffix(_IMPLICIT) not in names:
                strangers += 1
                first = first or name
        elif record.kind == BtfKind.DATASEC and start and btf.name(record.name_offset) == _PER_CPU:
            for variable, offset, _ in btf.elements(record, _VARIABLE):
                name = btf.name(btf.record(variable).name_offset)
                if name in names and start[0] + offset not in names[name]:
                    yield f"the per-CPU variable {name} is elsewhere in it"
    # A kernel has more symbols than BTF describes functions: a shorter list is a part of a System.map.
    if len(names) > functions and strangers > functions // _STRANGERS:
        yield f"it describes {strangers} functions that the kernel in the dump does not have, such as {first}()"


def _memory(prog: Program, info: Mapping[str, str]) -> Iterator[str]:
    """Look at the first task, which is known without types, and at what it leads to."""
    wrong = "init_task is no task with the types in it"
    try:
        task = prog["init_task"]
        if not (
            task.comm.string_().startswith(b"swapper") and task.pid == 0 and task.real_parent == task.address_of_()
        ):
            yield wrong
    except (LookupError, AttributeError, FaultError):
        yield wrong
        return
    with suppress(FaultError, LookupError, AttributeError):
        if task.tasks.next.prev.value_() != task.tasks.address_:
            yield "the list of tasks is no list with the types in it"
    with suppress(FaultError, LookupError, AttributeError):
        first = container_of(task.tasks.next, "struct task_struct", "tasks")
        # The first process of user space; kernels before 4.19 (2c4704756cab) have the id elsewhere.
        if (first.pid, first.tgid, first.thread_pid.numbers[0].nr) != (1, 1, 1):
            yield "the task behind init_task is not the first process with the types in it"
    with suppress(FaultError, LookupError, AttributeError):
        root = vmcoreinfo.symbol(info, "swapper_pg_dir")
        if root is not None and prog["init_mm"].pgd.value_() != root:
            yield "init_mm has no page tables with the types in it"
    with suppress(FaultError, LookupError, AttributeError):
        names = vmcoreinfo.symbol(info, "init_uts_ns")
        if names is not None and task.nsproxy.uts_ns.value_() != names:
            yield "init_task leads to no name of the kernel with the types in it"
