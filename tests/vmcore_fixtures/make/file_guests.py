# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guests with open files of every kind, and with processes in containers."""

from __future__ import annotations

from .recipes import FULL, HUGE_PAGES, Derived, Recipe, Victim, derived_31
from .swap_guests import ZRAM_MODULES

# The ids are made up; the shapes of the names are what systemd, docker and the kubelet make of them.
_DOCKER = "/cgroup/system.slice/docker-" + "0123456789abcdef" * 4 + ".scope"
_POD = (
    "/cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-pod1234.slice/cri-containerd-" + "fedcba98" * 8 + ".scope"
)
_OLD = "/named/system.slice/lxc.payload.web"
_GROUPS = f"""
ifconfig lo up
mkdir -p {_DOCKER} {_POD} /named
mount -t cgroup -o none,name=systemd named /named || die "no named hierarchy"
mkdir -p {_OLD}
"""


def files_guest(name: str, suite: str, flavour: str = "cloud", program: str = "") -> Recipe:
    """A guest with one victim that has the files, and others that are in containers.

    :param program: how the names of the victims' programs end.
    """
    algorithm = "lz4" if suite in ("trixie", "sid") else "lzo-rle"
    none = "it is not about memory"

    def contained(victim: str, group: str, levels: str) -> Victim:
        arguments = (victim, FULL, group, levels)
        return Victim((victim,), f"contained{program}", arguments, cores=(), without_core={victim: none})

    victims = (
        Victim(
            ("openfiles",),
            f"openfiles{program}",
            ("openfiles", FULL),
            cores=(),
            before=(_GROUPS, f"zram {algorithm}"),
            without_core={"openfiles": none},
        ),
        contained("docker", _DOCKER, "1"),
        contained("pod", _POD, "3"),
        contained("lxc", _OLD, "1"),
        contained("service", "/cgroup/system.slice", "0"),
    )
    return Recipe(
        name,
        suite,
        victims,
        (Derived("vmcore.d1-zlib", 1, "zlib"), derived_31(suite)),
        ram=320,
        setup=HUGE_PAGES,
        qemu_kdump=False,
        flavour=flavour,
        modules=("crc32c_generic", *ZRAM_MODULES) if program else ZRAM_MODULES,
        swap_mib=32,
        note="open files of every kind; processes in containers",
    )
