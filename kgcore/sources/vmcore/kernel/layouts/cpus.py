# SPDX-License-Identifier: LGPL-2.1-or-later
"""What kgcore needs of a kernel's CPUs: who ran where, with which registers."""

from kgcore.sources.vmcore.kernel.layouts.base import EVERYWHERE, Row, Use, Way, lines, members, symbols, types

__all__ = ("ROWS",)

ROWS = (
    Row(
        "which CPUs there are",
        Use.REGISTERS,
        (Way(EVERYWHERE, (*symbols("__cpu_possible_mask"), *members("struct cpumask", "bits"))),),
        "it is unknown which thread was running",
        also=types("struct cpumask"),
    ),
    Row(
        "where each CPU has its own memory",
        Use.REGISTERS,
        (
            Way(EVERYWHERE, symbols("__per_cpu_offset")),
            Way(EVERYWHERE, lacks=symbols("__per_cpu_offset"), how="a kernel for a single CPU"),
        ),
        "",
    ),
    Row(
        "the task that a CPU ran",
        Use.REGISTERS,
        (Way(EVERYWHERE, (*symbols("runqueues"), *members("struct rq", "curr"))),),
        "it is unknown which thread was running, and no thread has the registers of its CPU",
        also=(*types("struct rq"), *members("struct task_struct", "on_cpu cpu"), *members("struct thread_info", "cpu")),
    ),
    Row(
        "the registers that the crash path saved",
        Use.REGISTERS,
        (Way(EVERYWHERE, symbols("crash_notes")),),
        "threads that were running have no registers, unless a hypervisor made the dump",
        also=types("note_buf_t"),
    ),
    Row(
        "the CPU that crashed",
        Use.REGISTERS,
        (Way("4.5 (1717f2096b54)", symbols("panic_cpu")),),
        "without a PID, no process is taken; the report does not say that a thread crashed",
        also=members("atomic_t", "counter"),
    ),
    Row(
        "the size of a kernel stack, and so where registers of sleeping threads are",
        Use.REGISTERS,
        (
            Way("6.10 (8f69cba096b5)", symbols("__start_init_stack __end_init_stack")),
            Way(EVERYWHERE, symbols("__start_init_task __end_init_task")),
            Way(EVERYWHERE, types("union thread_union"), how="with vmlinux: BTF lacks that type"),
            Way(EVERYWHERE, how="the usual size of the architecture"),
        ),
        "",
        value="thread_size",
        also=members("struct task_struct", "stack"),
    ),
    Row(
        "when the dump was made by the crash path",
        Use.REGISTERS,
        (Way(EVERYWHERE, lines("CRASHTIME")),),
        "",
    ),
)
