# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two Python threads blocked in functions of known names. Arguments: NAME FILTER. Only built-in modules: no library."""

import _thread
import sys
import time

TRUTH = "/truth/victims/"
lock = _thread.allocate_lock()
tids: list[int] = []


def inner_wait(secret: int) -> int:
    tids.append(_thread.get_native_id())
    lock.acquire()
    return secret


def outer_wait(secret: int) -> int:
    return inner_wait(secret + 1)


def main_wait(secret: int) -> int:
    with open("/proc/self/stat") as stat:
        pid = int(stat.read().split()[0])
    with open(TRUTH + sys.argv[1] + ".json", "w") as out:
        # Written by hand: the module json is not in the minimal package.
        out.write(f'{{"name": "{sys.argv[1]}",\n "pid": {pid},\n "tids": [{pid}, {tids[0]}],\n "threads": [\n')
        out.write(f'  {{"tid": {pid}, "role": "python", "python": ["main_wait", "main"]}},\n')
        out.write(f'  {{"tid": {tids[0]}, "role": "python", "python": ["inner_wait", "outer_wait"]}}]\n}}\n')
    open(TRUTH + sys.argv[1] + ".ready", "w").close()
    lock.acquire()
    return secret


def main() -> None:
    with open("/proc/self/coredump_filter", "w") as out:
        out.write(sys.argv[2])
    lock.acquire()
    _thread.start_new_thread(outer_wait, (41,))
    while not tids:
        time.sleep(0.01)
    time.sleep(0.2)
    main_wait(4711)


main()
