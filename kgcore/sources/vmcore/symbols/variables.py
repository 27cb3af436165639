# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find global variables without DWARF: the address from kallsyms, the type from BTF or from a table.

A kernel's BTF describes at most its per-CPU variables; the table below has the types of the others. To add a variable,
add a line there or, if only one architecture has the variable, to
:attr:`kgcore.arch.architecture.Architecture.variables`; ``tests/vmcore/test_target.py`` compares all of them with a
real vmlinux.
"""

from collections.abc import Mapping
from types import MappingProxyType

from drgn import FindObjectFlags, Object, Program, SymbolKind, Type

from kgcore.arch import ARCHITECTURES
from kgcore.sources.vmcore.symbols.btf import BtfKind
from kgcore.sources.vmcore.symbols.btf_types import TypeFinder

__all__ = ("VARIABLES", "VariableFinder")

# The C types that a variable has or had, separated by "|", newest first: the first one in the kernel counts.
# Array lengths are left out: they depend on the configuration.
_OF_ALL = {
    # tasks, ids, the machine
    "init_task": "struct task_struct",
    "init_mm": "struct mm_struct",
    "init_pid_ns": "struct pid_namespace",
    "init_user_ns": "struct user_namespace",
    "init_uts_ns": "struct uts_namespace",
    "init_css_set": "struct css_set",
    "root_task_group": "struct task_group",
    "overflowuid": "int",
    "overflowgid": "int",
    "fs_overflowuid": "int",
    "fs_overflowgid": "int",
    "task_state_array": "char *[9]",
    "saved_command_line": "char *",
    "linux_banner": "char []",
    "jiffies": "unsigned long",
    "jiffies_64": "u64",
    "modules": "struct list_head",
    "mod_tree": "struct mod_tree_root",
    "btf_idr": "struct idr",
    "prb": "struct printk_ringbuffer *",
    "tainted_mask": "unsigned long",
    # CPUs
    "runqueues": "struct rq",
    "current_task": "struct task_struct *",
    "__per_cpu_offset": "unsigned long []",
    "__cpu_online_mask": "struct cpumask",
    "__cpu_possible_mask": "struct cpumask",
    "__cpu_present_mask": "struct cpumask",
    "nr_cpu_ids": "unsigned int",
    "panic_cpu": "atomic_t",
    "crashing_cpu": "int",
    "crash_notes": "note_buf_t *",
    # mappings
    "special_mapping_vmops": "struct vm_operations_struct",
    "legacy_special_mapping_vmops": "struct vm_operations_struct",
    "shmem_vm_ops": "struct vm_operations_struct",
    "shmem_anon_vm_ops": "struct vm_operations_struct",
    "hugetlb_vm_ops": "struct vm_operations_struct",
    "shmem_aops": "struct address_space_operations",
    "shmem_file_operations": "struct file_operations",
    "hugetlbfs_file_operations": "struct file_operations",
    "elf_format": "struct linux_binfmt",
    "compat_elf_format": "struct linux_binfmt",
    # pages
    "mem_section": "struct mem_section **",
    "memblock": "struct memblock",
    "node_data": "struct pglist_data *[]",
    "max_pfn": "unsigned long",
    "khugepaged_scan": "struct khugepaged_scan",
    "huge_zero_page": "struct page *",
    "huge_zero_folio": "struct folio *",
    "huge_zero_pfn": "unsigned long",
    "zero_pfn": "unsigned long",
    "zero_page_pfn": "unsigned long",
    "hstates": "struct hstate []",
    "hugetlb_max_hstate": "int",
    "default_hstate_idx": "unsigned int",
    "vmap_area_root": "struct rb_root",
    "vmap_area_list": "struct list_head",
    "vmap_nodes": "struct vmap_node *",
    "nr_vmap_nodes": "unsigned int",
    "vmap_zone_size": "unsigned int",
    # swap
    "swap_info": "struct swap_info_struct *[]",
    "nr_swapfiles": "unsigned int",
    "swapper_spaces": "struct address_space *[]",
    "nr_swapper_spaces": "unsigned int []",
    "_totalram_pages": "atomic_long_t",
    "total_swap_pages": "long",
    "nr_swap_pages": "atomic_long_t",
    "zswap_trees": "struct zswap_tree *[] | struct xarray *[]",  # the older one first: xarrays are older still
    "nr_zswap_trees": "unsigned int []",
}
VARIABLES: Mapping[str, str] = MappingProxyType(
    {name: type_ for each in ARCHITECTURES.values() for name, type_ in each.variables.items()} | _OF_ALL
)


class VariableFinder:
    """An object finder for :meth:`drgn.Program.register_object_finder`: variables, functions, enumerators."""

    def __init__(self, prog: Program, types: TypeFinder) -> None:
        self._prog = prog
        self._types = types
        self._found: dict[tuple[str, FindObjectFlags], Object | None] = {}

    def __call__(self, prog: Program, name: str, flags: FindObjectFlags, filename: str | None) -> Object | None:
        if filename:  # neither kallsyms nor BTF knows where a variable was defined
            return None
        key = name, flags
        if key not in self._found:
            self._found[key] = self._find(name, flags)
        return self._found[key]

    def _find(self, name: str, flags: FindObjectFlags) -> Object | None:
        if FindObjectFlags.CONSTANT in flags and (constant := self._types.constant(name)) is not None:
            return constant
        try:
            symbol = self._prog.symbol(name)
        except LookupError:
            return None
        found = self._variable_type(name) if FindObjectFlags.VARIABLE in flags else None
        if found is None and FindObjectFlags.FUNCTION in flags and symbol.kind == SymbolKind.FUNC:
            # Old BTF lacks some functions; drgn's helpers only ask whether a function exists.
            found = self._types.find(name, BtfKind.FUNC) or self._prog.function_type(self._prog.void_type(), ())
        return None if found is None else Object(self._prog, found, address=symbol.address)

    def _variable_type(self, name: str) -> Type | None:
        if (described := self._types.find(name, BtfKind.VAR)) is not None:
            return described
        for spelling in VARIABLES.get(name, "").split("|"):
            try:
                return self._prog.type(spelling.strip())
            except (LookupError, SyntaxError):  # this kernel lacks the type, or the spelling is ""
                pass
        return None
