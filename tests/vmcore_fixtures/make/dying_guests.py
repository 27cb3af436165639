# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests with processes on their way out: in the middle of their core dumps, or with a signal that will end them."""

from __future__ import annotations

from .recipes import FULL, HUGE_PAGES, Recipe, Victim

# Reads nothing of a core until the guest has been dumped: the kernel writes until the pipe is full, and waits. So the
# core that it then reads is the one that was being written at the moment of the dump.
SLOW_CORES = """
cat > /bin/slowcore << 'END'
#!/bin/sh
export PATH=/bin
while [ ! -e /tmp/go ]; do sleep 0.2; done
cat > /cores/core.$1
END
chmod 755 /bin/slowcore
echo '|/bin/slowcore %P' > /proc/sys/kernel/core_pattern
"""
# A frozen process stays, even if it is killed; only cgroups of the first version do that.
FREEZER = """
mkdir /freezer && mount -t cgroup -o freezer none /freezer && mkdir /freezer/dying
"""
DUMPING = ("maperr", "thread", "again", "accerr", "bus", "fpe", "abort", "queue", "sys")
DUMPING_IA32 = ("maperr", "abort", "queue", "sys")
PENDING = ("pending-xcpu", "pending-thread")
NO_CORE = {
    "pending-queue": "it is no signal that makes a core",
    "pending-none": "it dies of none of its signals",
    "frozen": "SIGKILL",
}


def _victim(how: str, program: str = "dying") -> Victim:
    name = f"{program}-{how}"
    lines = ["touch /tmp/go"]
    if how.startswith("pending"):
        lines.append(f"kill -CONT $(pid_of {name})")
    if how not in NO_CORE:
        lines.append(f"wait_gone {name}")
    without = {name: NO_CORE[how]} if how in NO_CORE else {}
    return Victim((name,), program, (name, FULL, how), cores=tuple(lines), without_core=without)


def dying_guest(name: str, suite: str) -> Recipe:
    """One of each kernel, since where it keeps what has changed."""
    return Recipe(
        name,
        suite,
        (
            *map(_victim, (*DUMPING, *PENDING, *NO_CORE)),
            *(_victim(how, "dying-ia32") for how in DUMPING_IA32),
        ),
        ram=384,
        setup=HUGE_PAGES + SLOW_CORES + FREEZER,
        qemu_kdump=False,
        note="processes in the middle of their core dumps",
    )
