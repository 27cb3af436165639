# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process that makes one core. It tells its progress and its end as packets for the client."""

import errno
import json
import resource
import socket
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass

from kgcore.coredump.report import Report
from kgcore.coredumper.making import make
from kgcore.coredumper.wish import Wish
from kgcore.daemon import protocol
from kgcore.daemon.log import Level, say
from kgcore.daemon.refusal import number_of
from kgcore.errors import KgcoreError
from kgcore.system.children import die_with_parent

__all__ = ("Job", "file_size_of", "work")

_OOM = "/proc/self/oom_score_adj"
_INTERVAL = 0.1  # seconds between two reports of progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the process that makes a core has to know.

    :ivar id: of the request.
    :ivar session: id of the process that waits for it.
    :ivar progress: whether the client wants to hear of it; ``report``: whether it wants the report.
    :ivar file_size: bytes that a file of the client may have (RLIMIT_FSIZE).
    """

    wish: Wish
    id: int
    session: int
    progress: bool
    report: bool
    file_size: int


def work(job: Job, answers: socket.socket) -> int:
    """Make the core, and send what became of it: a DONE or an ERROR. Return the exit status."""
    if not die_with_parent(job.session):
        return 1
    _limit_file_size(job.file_size)
    _be_the_first_to_go()
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if job.progress and now - last >= _INTERVAL:
            last = now
            with suppress(BlockingIOError):
                answers.send(protocol.progress(job.id, done, total), socket.MSG_DONTWAIT)

    try:
        report, size = make(job.wish, progress)
        packet = protocol.done(job.id, report.exit_status, size, _text(report) if job.report else b"")
    except KgcoreError as error:
        packet = protocol.error(job.id, number_of(error), str(error))
    except MemoryError:
        packet = protocol.error(job.id, errno.ENOMEM, "out of memory")
    except Exception:  # noqa: BLE001  (a defect: the log has it, and the client an answer)
        say(Level.ERROR, f"unexpected: {traceback.format_exc()}")
        packet = protocol.error(job.id, errno.EIO, "unexpected error of the daemon; its log says which")
    try:
        answers.send(packet)
    except OSError:
        return 1
    return 0


def _text(report: Report) -> bytes:
    return json.dumps(report.to_json()).encode()


def _be_the_first_to_go() -> None:
    """When memory gets short, the kernel shall kill this process, and not the daemon or a guardian."""
    with suppress(OSError), open(_OOM, "r+") as file:
        if int(file.read()) < 0:
            file.seek(0)
            file.write("0")


def _limit_file_size(size: int) -> None:
    """Obey a limit to the size of files: what writes more gets EFBIG. (Python ignores SIGXFSZ.)

    :param size: RLIM_INFINITY: none.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if size != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or size < soft):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def file_size_of(pid: int) -> int:
    """Return the limit to the size of files of a process, the soft one, by its /proc/PID/limits, which all may read.

    :raises OSError: it has ended.
    """
    with open(f"/proc/{pid}/limits") as file:
        for line in file:
            if line.startswith("Max file size"):
                word = line.split()[3]
                return resource.RLIM_INFINITY if word == "unlimited" else int(word)
    return resource.RLIM_INFINITY
