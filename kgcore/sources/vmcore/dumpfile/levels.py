# SPDX-License-Identifier: LGPL-2.1-or-later
"""Say in words which pages makedumpfile left out of a dump."""

from collections.abc import Mapping

__all__ = ("LEVEL_CACHE", "LEVEL_USER_DATA", "left_out", "why_left_out")

# makedumpfile -d, makedumpfile.h: DL_EXCLUDE_*
LEVEL_CACHE = 2 | 4
LEVEL_USER_DATA = 8
_KEEPS_PROCESSES = 17


def left_out(level: int | None) -> str:
    """Say which memory of processes makedumpfile left out of a dump, and which level keeps it.

    :param level: makedumpfile's ``-d``; None: the dump does not tell, but lacks user memory.
    :return: a sentence; "" if the level leaves out no memory of processes.
    """
    if level is None:
        return f"the dump excludes user memory; makedumpfile level {_KEEPS_PROCESSES} keeps it"
    if level & LEVEL_USER_DATA:
        return f"makedumpfile level {level} excluded user memory from this dump; level {_KEEPS_PROCESSES} keeps it"
    if level & LEVEL_CACHE:
        return f"makedumpfile level {level} excluded pages of files from this dump; level {_KEEPS_PROCESSES} keeps them"
    return ""


def why_left_out(described: Mapping[str, str]) -> str:
    """Say why a dump lacks memory of a process.

    :param described: what :meth:`kgcore.sources.base.Source.describe` says of the dump.
    :return: a sentence; "" if the reason is unknown.
    """
    level = described.get("dump_level", "")
    if level.isdecimal():
        return left_out(int(level))
    # A dump without a level that is cut off too: the reason may be either.
    return "" if "cut_off_bytes" in described else left_out(None)
