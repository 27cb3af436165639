# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types that a module defines: ``struct zram``, which vmlinux does not describe.

kgcore reads nothing before a caller asks for a type of the module. It then takes the module's types from the first of
these:

- its debug file, if the user gave one and drgn loaded it;
- its BTF, which the kernel keeps in memory (Linux 5.11, CONFIG_DEBUG_INFO_BTF_MODULES);
- if there is a vmlinux with DWARF: a debug file that the user gave but drgn did not load, or one in a directory where
  drgn searches or that the user named;
- the layouts that kgcore declares (:mod:`kgcore.sources.vmcore.kernel.modulelayouts`): those of the first variant
  that the dump proves to be the module's (:meth:`ModuleTypes.prove`).

A name may mean one type in a module, and another in vmlinux or in a second module (``enum buddy`` does). So a module's
own definition comes first, then vmlinux's, which has built-in types and types that module and kernel share. But in
DWARF drgn searches by name alone, across all loaded files: a name with several definitions gives any one of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from struct import Struct
from typing import Protocol

from drgn import FaultError, ModuleFileStatus, Object, Program, Type
from drgn.helpers.linux.list import list_for_each_entry

from kgcore.arch import SMALLEST_PAGE
from kgcore.errors import BrokenDump
from kgcore.sources.vmcore.kernel.modulebtf import BtfTypes, ModuleBtf
from kgcore.sources.vmcore.kernel.modulelayouts import LAYOUTS, Declarations
from kgcore.sources.vmcore.kernelreads import in_words, kernel_string
from kgcore.sources.vmcore.opening.target import Target
from kgcore.sources.vmcore.symbols.btf_types import TypeFinder
from kgcore.sources.vmcore.symbols.debugfiles import private_copy
from kgcore.sources.vmcore.symbols.debuginfo import debug_package
from kgcore.system.regular import reading

__all__ = ("ModuleTypes",)

_MAX_MODULES = 1 << 13  # loaded at a time; distributions ship about half as many
_MAX_SYMBOLS = 1 << 18  # of a module; the largest have some ten thousands
_MAX_NAMES = 1 << 24  # bytes of all their names
_MAX_NAME = 512  # KSYM_NAME_LEN
_MAX_MEMORY = 1 << 26  # bytes of a module's code, or of its data; the largest have some megabytes

_SYMBOL = Struct("<I20x")  # Elf64_Sym: st_name, and the rest


# What damage raises. drgn raises the last four: a member is missing or of a different type, a size is invalid for a
# type, an address is too high.
_DAMAGE = (BrokenDump, FaultError, LookupError, AttributeError, TypeError, ValueError, OverflowError)


class _Types(Protocol):
    """A place to look up types. Both methods may raise the errors in ``_DAMAGE``."""

    def type(self, name: str) -> Type | None: ...

    def enumerator(self, name: str) -> int | None: ...


@dataclass(frozen=True, slots=True)
class _Module:
    """What is known about a module.

    :ivar places: where to look up its types, in this order.
    :ivar described: a type that is in no place does not exist.
    :ivar loaded: it is loaded as a module; if not, it is built in or does not exist.
    :ivar trouble: why the places lack its own types.
    :ivar declared: the variants of its types that kgcore declares, likeliest first; one only, which is then the first
        of the places, once it is proven.
    """

    places: tuple[_Types, ...]
    described: bool
    loaded: bool
    trouble: str = ""
    declared: tuple[Declarations, ...] = ()


class ModuleTypes:
    """The types of a kernel's modules, loaded or built in. Cheap to make: it searches on first use, and only once."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._prog = target.prog
        self._modules: dict[str, _Module] = {}
        self._types: dict[tuple[str, str], Type] = {}
        self._btf = ModuleBtf(target)

    def type(self, module: str, name: str) -> Type:
        """Return a type that a module's code uses.

        A structure that the module only points to (``struct zs_pool`` in zram) is incomplete there: ask for it in the
        module that defines it.

        :param module: its name as the kernel spells it, with underscores.
        :param name: ``struct TAG``, ``union TAG``, ``enum TAG`` or the name of a typedef.
        :raises LookupError: it is unknown; the text says why, and what to try.
        """
        found = self.find(module, name)
        if found is None:
            raise LookupError(self._excuse(module, self._module(module), name, ""))
        return found

    def find(self, module: str, name: str) -> Type | None:
        """Return a type as :meth:`type` does; None: neither the module nor the kernel has it.

        :raises LookupError: nothing describes the module's types, or what does is damaged.
        """
        key = module, name
        if key not in self._types:
            known = self._module(module)
            try:
                found = next((found for place in known.places if (found := place.type(name)) is not None), None)
            except _DAMAGE as error:
                raise LookupError(self._excuse(module, known, name, str(error))) from error
            if found is None:
                if not known.described:
                    raise LookupError(self._excuse(module, known, name, ""))
                return None
            self._types[key] = found
        return self._types[key]

    def enumerator(self, module: str, name: str) -> int | None:
        """Return the value of a constant of any enum that a module's code uses; None: this kernel has no such name.

        :raises LookupError: nothing describes the module's types, so it is unknown whether the constant exists.
        """
        known = self._module(module)
        try:
            found = next((found for place in known.places if (found := place.enumerator(name)) is not None), None)
        except _DAMAGE as error:
            raise LookupError(self._excuse(module, known, name, str(error))) from error
        if found is None and not known.described:
            raise LookupError(self._excuse(module, known, name, ""))
        return found

    def prove(self, module: str, proof: Callable[[], None]) -> None:
        """Make sure that the types of a module are those of the kernel in the dump.

        What the kernel or a debug file of the same build describes needs no proof. Of the variants that kgcore
        declares, the first for which ``proof`` returns is the module's from then on. No release number decides: it says
        nothing about what distributions patched.

        :param module: as in :meth:`type`.
        :param proof: compares with the dump what :meth:`type` and :meth:`enumerator` return for the module during the
            call. It raises BrokenDump or LookupError, with what does not fit, or what drgn raises for damage.
        :raises LookupError: no variant fits; the text says why, and what to give.
        """
        known = self._module(module)
        troubles: list[str] = []
        for variant in known.declared:
            # A later proof, of another object, is of this variant only.
            self._choose(
                module, replace(known, places=(variant, *known.places[-1:]), described=True, declared=(variant,))
            )
            try:
                proof()
            except _DAMAGE as error:
                troubles.append(in_words(error))
                continue
            return
        if known.declared:
            self._choose(module, known)
            raise LookupError(
                f"{known.trouble}{'; and ' if known.trouble else ''}the layouts of {module}'s structures that kgcore "
                f"knows do not fit: {'; or '.join(dict.fromkeys(troubles))}; {self._what_to_give(module)}"
            )

    def _choose(self, module: str, known: _Module) -> None:
        self._modules[module] = known
        for key in [key for key in self._types if key[0] == module]:
            del self._types[key]

    def loaded(self, module: str) -> bool:
        """Tell whether a module is loaded. If not, it is built in or does not exist.

        :raises LookupError: nothing describes its types; the text says why.
        """
        known = self._module(module)
        if known.declared and not known.described:
            trouble = known.trouble or "the kernel has no BTF of it"
            raise LookupError(f"{trouble}; kgcore tries {len(known.declared)} layouts that it knows, if needed")
        if not known.described:
            raise LookupError(self._excuse(module, known, "every type", ""))
        return known.loaded

    def _excuse(self, module: str, known: _Module, name: str, damage: str) -> str:
        """Return the message that says why a type is unknown, and what to try."""
        if known.described and not damage:
            loaded = "" if known.loaded else ", which is not loaded,"
            return f"neither the kernel nor its module {module}{loaded} has {name}"
        reason = damage or known.trouble or "the kernel has no BTF of it, and its debug file was not found"
        return f"{name} of the kernel's module {module} is unknown: {reason}; {self._what_to_give(module)}"

    def _what_to_give(self, module: str) -> str:
        release = self._target.release
        return (
            f"install {debug_package(release)} and give both vmlinux and {module}.ko of it "
            f"(in usr/lib/debug/lib/modules/{release} or the like) with -s"
        )

    # Where a module's types are

    def _module(self, name: str) -> _Module:
        if name not in self._modules:
            self._modules[name] = self._look(name)
        return self._modules[name]

    def _look(self, name: str) -> _Module:
        program = _ProgramTypes(self._prog)
        if self._has_debug_file(name):
            return _Module((program,), described=True, loaded=True)
        troubles: list[str] = []
        module = None
        with _noted(troubles):
            module = self._loaded(name)
            if module is None:
                return _Module((program,), described=True, loaded=False)
        with _noted(troubles):
            if (btf := self._read_btf(name)) is not None:
                return _Module((BtfTypes(btf), program), described=True, loaded=True)
        with _noted(troubles):
            if (module is not None and self._use_given_file(module, name)) or self._find_debug_file(name):
                return _Module((program,), described=True, loaded=True)
        trouble = "; ".join(dict.fromkeys(troubles))
        if variants := LAYOUTS.get(name, ()):
            declared = tuple(
                Declarations(self._prog, layouts, lambda function: self._has_function(name, function))
                for layouts in variants
            )
            return _Module((program,), described=False, loaded=True, trouble=trouble, declared=declared)
        return _Module((program,), described=False, loaded=True, trouble=trouble)

    # Debug files

    def _has_debug_file(self, name: str) -> bool:
        modules = (module for module in self._prog.modules() if module.name == name)
        return any(module.debug_file_status == ModuleFileStatus.HAVE for module in modules)

    def _find_debug_file(self, name: str) -> bool:
        """Load a module's debug file from where drgn searches or the user said; tell whether one was found.

        Nothing is downloaded. drgn knows the loaded modules only if it has a vmlinux; without one it finds no file.

        :raises LookupError: drgn cannot read the file.
        """
        wanted = [module for module in self._prog.modules() if module.name == name and module.wants_debug_file()]
        if wanted and not self._target.ours:
            raise LookupError("its debug information is not loaded in this drgn")
        try:
            self._prog.find_standard_debug_info(wanted)
        except Exception as error:  # drgn raises what elfutils said as Exception and ValueError
            raise LookupError(f"drgn cannot load its debug file: {error}") from error
        return self._has_debug_file(name)

    def _use_given_file(self, module: Object, name: str) -> bool:
        """Load a debug file of the module that the user named but drgn did not load; tell whether there is one.

        drgn reads a module's build id from ``notes_attrs``, and gives up if that is not in the dump: a makedumpfile
        that is older than the kernel takes slab pages for user memory. But the module's own memory has the note too.

        :param module: ``struct module *``
        :raises LookupError: the file is of a different build, has no debug information, or drgn cannot read it.
        """
        for file in self._target.debug_files:
            if Path(file).name.partition(".")[0].replace("-", "_") != name:
                continue
            note = _build_id_note(file)
            if not note or not any(note in piece for piece in self._memory(module)):
                raise LookupError(f"{file} does not match the build id of the module, or the dump lacks that build id")
            try:
                # drgn closes this descriptor.
                self._prog.extra_module(name, create=True).try_file(file, fd=private_copy(file))
            except Exception as error:  # as above
                raise LookupError(f"drgn cannot load {file}: {error}") from error
            if not self._has_debug_file(name):
                raise LookupError(f"{file} has no debug information")
            return True
        return False

    def _memory(self, module: Object) -> Iterator[bytearray]:
        """Yield the parts of a module's code and data that the dump has, each without gaps.

        ``core_layout`` became one of several areas in ``mem`` in 6.4 (ac3b43283923).
        """
        areas = module.mem if self._target.has_member("struct module", "mem") else [module.core_layout]
        for area in areas:
            start, size = area.base.value_(), area.size.value_()
            if size > _MAX_MEMORY:
                raise BrokenDump(f"implausible size of its memory: {size} bytes")
            piece = bytearray()
            for at in range(start, start + size, SMALLEST_PAGE):
                try:
                    piece += self._prog.read(at, min(SMALLEST_PAGE, start + size - at))
                except FaultError:
                    yield piece
                    piece = bytearray()
            yield piece

    def _read_btf(self, name: str) -> TypeFinder | None:
        return self._btf.read(name)

    # struct module

    def _loaded(self, name: str) -> Object | None:
        """Return a module's ``struct module *``; None if it is not loaded: it is built in or does not exist.

        :raises FaultError: a part of the list is not in the dump.
        :raises BrokenDump: the list does not end.
        """
        head = self._target.symbol_address("modules")
        if head is None:  # without CONFIG_MODULES
            return None
        modules = list_for_each_entry("struct module", Object(self._prog, "struct list_head *", head), "list")
        for number, module in enumerate(modules):
            if module.name.string_() == name.encode():
                return module
            if number == _MAX_MODULES:
                raise BrokenDump("the list of modules is circular", address=head)
        return None

    def _has_function(self, name: str, function: str) -> bool:
        """Tell whether a module's own symbol table (``struct mod_kallsyms``) names a function."""
        module = self._loaded(name)
        if module is None or not self._target.has_member("struct module", "core_kallsyms"):
            raise LookupError("its build options are unknown")
        table = module.core_kallsyms.read_()
        count, names = table.num_symtab.value_(), table.strtab.value_()
        if not 0 < count <= _MAX_SYMBOLS:
            raise BrokenDump(f"implausible number of symbols: {count}")
        symbols = self._prog.read(table.symtab.value_(), count * _SYMBOL.size)
        last = max(offset for (offset,) in _SYMBOL.iter_unpack(symbols))
        if last > _MAX_NAMES:
            raise BrokenDump(f"implausible size of its symbol names: {last} bytes")
        text = self._prog.read(names, last) + kernel_string(self._prog, names + last, _MAX_NAME) + b"\0"
        return b"\0" + function.encode() + b"\0" in text


@contextmanager
def _noted(troubles: list[str]) -> Iterator[None]:
    """Note an error that damage raises and suppress it, so that the caller tries the next place."""
    try:
        yield
    except _DAMAGE as error:
        troubles.append(str(error))


def _build_id_note(file: str) -> bytes:
    """Return the section of a file with its build id; b"" if it has no such section."""
    from elftools.common.exceptions import ELFError  # imported here, since it is rarely needed and slows each start
    from elftools.elf.elffile import ELFFile

    try:
        with reading(file) as opened:
            section = ELFFile(opened).get_section_by_name(".note.gnu.build-id")
            return bytes(section.data()) if section else b""
    except (OSError, ELFError):
        return b""


class _ProgramTypes:
    """The types that drgn finds by name: vmlinux's, and those in the loaded DWARF."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog

    def type(self, name: str) -> Type | None:
        try:
            return self._prog.type(name)
        except (LookupError, SyntaxError):  # as in VariableFinder: an invalid name is an unknown one
            return None

    def enumerator(self, name: str) -> int | None:
        try:
            return int(self._prog.constant(name).value_())
        except LookupError:
            return None
