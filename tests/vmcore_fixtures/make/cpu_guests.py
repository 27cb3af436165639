# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest whose CPUs come and go, so that QEMU's list of them has gaps, and another order than the kernel's."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from . import fixture, qemu
from .common import BuildError
from .recipes import FULL, HUGE_PAGES, THREADS, Recipe, simple

SPUN = ("2", "4", "5")
# Of QEMU's six: 0 to 3 are there from the beginning, 1 is unplugged; 5 is added, and then 4, which the kernel numbers
# as it likes; 3 goes offline, but stays in its socket.
CPUS = """
say PLUG
read -r go < /dev/ttyS0
for cpu in 4 5; do
    for i in $(seq 100); do [ -d /sys/devices/system/cpu/cpu$cpu ] && break; sleep 0.1; done
    echo 1 > /sys/devices/system/cpu/cpu$cpu/online
done
echo 0 > /sys/devices/system/cpu/cpu3/online
cat /sys/devices/system/cpu/online
"""


def cpus_guest(name: str, suite: str) -> Recipe:
    """A spinner on each CPU that was not there all the time, or stands elsewhere in QEMU's list."""
    return Recipe(
        name,
        suite,
        (*THREADS, simple("spin", FULL, *SPUN)),
        ram=384,
        append=f"isolcpus={','.join(SPUN)}",
        setup=HUGE_PAGES + CPUS,
        note="a CPU unplugged, two added, one offline; what QEMU says of their registers",
    )


class CpusMaker(fixture._Maker):
    """Plugs and unplugs, and asks QEMU for the registers at the moment of the dump."""

    def _arguments(self, initrd: Path) -> list[str]:
        arguments = super()._arguments(initrd)
        arguments[arguments.index("-smp") + 1] = "4,maxcpus=6"
        return arguments

    def _dump(self, guest: qemu.Guest) -> None:
        guest.wait_for("PLUG", self.recipe.boot_timeout)
        unplug(guest, 1)
        for number in (5, 4):
            plug(guest, number)
            time.sleep(1)
        guest.send("go\n")
        dump = guest.dump

        def with_registers(path: Path, form: str) -> None:
            if not (self.target / "truth").exists():
                (self.target / "truth").mkdir()
                (self.target / "truth/registers.txt").write_text(guest.monitor("info registers -a"))
            dump(path, form)

        guest.dump = with_registers  # type: ignore[method-assign]
        super()._dump(guest)


def slots(guest: qemu.Guest) -> list[dict[str, Any]]:
    """The places for CPUs, ascending."""
    found: list[dict[str, Any]] = guest.qmp("query-hotpluggable-cpus")
    return sorted(found, key=lambda slot: [slot["props"][f"{level}-id"] for level in ("socket", "core", "thread")])


def plug(guest: qemu.Guest, number: int) -> None:
    """Add a CPU."""
    slot = slots(guest)[number]
    guest.qmp("device_add", driver=slot["type"], id=f"added-{number}", **slot["props"])


def unplug(guest: qemu.Guest, number: int) -> None:
    """Remove a CPU, and wait until the guest has let it go."""
    path = slots(guest)[number].get("qom-path")
    if path is None:
        raise BuildError(f"QEMU has no CPU {number}")
    guest.qmp("device_del", id=path)
    for _ in range(200):
        if "qom-path" not in slots(guest)[number]:
            return
        time.sleep(0.1)
    raise BuildError("the guest does not let its CPU go")
