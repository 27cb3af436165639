# SPDX-License-Identifier: LGPL-2.1-or-later
"""A running QEMU guest, opened through its QMP socket: paused while kgcore reads it, and resumed afterwards.

drgn reads the guest's memory. This module adds the pause and the registers of the virtual CPUs. drgn and this module
share one connection, since a QMP socket has one client at a time. QMP: QEMU's docs/interop/qmp-spec.rst and qapi/.
"""

import contextlib
import inspect
import json
import os
import select
import socket
import subprocess
import sys
from array import array
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from struct import Struct
from typing import Any

from drgn import Program

from kgcore.arch import ARCHITECTURES
from kgcore.errors import TargetError
from kgcore.sources.drgnversion import version
from kgcore.sources.vmcore.dumpfile import DumpNote, Frames, everything, open_dump
from kgcore.sources.vmcore.dumpfile.pagesize import usual_page_shift
from kgcore.sources.vmcore.dumpfile.source import ShortFile
from kgcore.sources.vmcore.opening import qemuresume
from kgcore.sources.vmcore.opening.drgnmemory import MemorySegment, assemble

__all__ = ("PausedGuest",)

_PATIENCE = 30  # seconds for an answer
_GREETING = 5
_TIMEVAL = Struct("qq")
_MAX_MEMORY = 1 << 52
_MAX_ANSWER = 1 << 24
_HINT = "start QEMU with -qmp unix:PATH,server=on,wait=off and give PATH, where no other client (libvirt) is connected"


class PausedGuest:
    """A guest that is paused from :meth:`connect` until :meth:`close`, or until this process ends.

    A guest that was already paused stays paused. The attributes are those of a
    :class:`~kgcore.sources.vmcore.dumpfile.DumpFile`.

    :param address: path of a Unix socket, or host:port.
    :raises TargetError: cannot connect to it.
    """

    format = "running guest"
    compression = "none"
    architecture = next(iter(ARCHITECTURES))  # the only one of which drgn reads guests
    dump_level: int | None = None
    release = ""
    needs_platform = False
    vmcoreinfo: bytes | None = None
    missing_bytes = 0
    incomplete = False
    flattened = False

    def __init__(self, address: str) -> None:
        self.address = address
        self.notes: tuple[DumpNote, ...] = ()
        self.notices: tuple[str, ...] = ()
        self.frames: Frames = everything()
        self.page_shift = usual_page_shift(self.architecture)
        self._input = b""
        self._serial = 0
        self._resumer: subprocess.Popen[bytes] | None = None
        self._reader: Program | None = None
        self._leash = -1  # while this is open, the resumer waits
        try:
            self._socket = _connect(address)
        except OSError as error:
            raise TargetError(f"QMP socket {address}: {error.strerror or error}", hint=_HINT) from error

    def connect(self, prog: Program) -> None:
        """Give a Program the guest's memory, and pause the guest."""
        if self._reader is not None:  # drgn has read QMP's greeting, which comes only once
            memory = MemorySegment(0, _MAX_MEMORY, partial(self._reader.read, physical=True), self.page_shift)
            assemble(prog, self.notes, (memory,))
            return
        if not hasattr(prog, "set_qemu_qmp"):
            raise TargetError(f"drgn {version()} cannot read a guest", hint="it needs drgn 0.2.0 or later")
        ready, _, _ = select.select([self._socket], [], [], _GREETING)
        if not ready:
            raise TargetError(f"QMP socket {self.address}: no greeting; another client may be connected", hint=_HINT)
        prog.set_qemu_qmp(self._socket.dup().detach())
        self._reader = prog
        self._pause()

    def _pause(self) -> None:
        """Stop the virtual CPUs and read their registers."""
        if self._execute("query-status")["status"] == "running":
            self._start_resumer()
            self._execute("stop")
        if self._socket.family == socket.AF_UNIX:
            self.notes = self._cpu_notes()
        else:
            self.notices = ("only a Unix socket gives the registers of CPUs; those of running threads are missing",)

    def _start_resumer(self) -> None:
        pipe, self._leash = os.pipe()
        script = inspect.getsource(qemuresume)  # in a zipapp the module has no file
        try:
            self._resumer = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", script, str(pipe), str(self._socket.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                pass_fds=(pipe, self._socket.fileno()),
                start_new_session=True,  # keeps a Ctrl-C at the terminal away from it
            )
        finally:
            os.close(pipe)
        assert self._resumer.stdout is not None
        with self._resumer.stdout as output:
            output.read()  # ends when the resumer is ready

    def _cpu_notes(self) -> tuple[DumpNote, ...]:
        """Return the notes of a dump, with the registers of every CPU: QEMU dumps one page for this."""
        descriptor = os.memfd_create("kgcore-notes", os.MFD_CLOEXEC)
        try:
            self._execute("getfd", descriptor, fdname="kgcore-notes")
            self._execute(
                "dump-guest-memory",
                paging=False,
                protocol="fd:kgcore-notes",
                begin=0,
                length=1 << self.page_shift,
                format="elf",
            )
            with contextlib.closing(open_dump(f"/proc/self/fd/{descriptor}")) as dump:
                return dump.notes
        except TargetError as error:
            self.notices = (f"cannot get the registers of the CPUs: {error.message}",)
            return ()
        finally:
            os.close(descriptor)

    def _execute(self, command: str, descriptor: int | None = None, **arguments: Any) -> Any:
        """Run a QMP command and return its result.

        :param descriptor: a file descriptor to send along with it.
        """
        self._serial += 1
        request = {"execute": command, "arguments": arguments, "id": self._serial}
        attached = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))] if descriptor is not None else []
        try:
            self._socket.sendmsg([json.dumps(request).encode() + b"\n"], attached)
            while True:
                answer = self._line()
                if answer.get("id") != self._serial:
                    continue  # an event
                if "error" in answer:
                    raise TargetError(f"QEMU refuses {command}: {answer['error'].get('desc')}")
                return answer.get("return")
        except (OSError, ValueError, AttributeError) as error:
            raise TargetError(f"QMP socket {self.address}: {command}: {error}", hint=_HINT) from error

    def _line(self) -> dict[str, Any]:
        while b"\n" not in self._input:
            data = self._socket.recv(1 << 16)
            if not data or len(self._input) > _MAX_ANSWER:
                raise ConnectionError("QEMU closed the connection")
            self._input += data
        line, _, self._input = self._input.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def fill(self, pages: Sequence[int], view: memoryview) -> None:
        """Raise ShortFile: only drgn reads the guest's memory."""
        raise ShortFile("a running guest is not a file")

    def close(self) -> None:
        """Resume the guest, if it was running before."""
        if self._leash >= 0:
            os.close(self._leash)
            self._leash = -1
        if self._resumer is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # the resumer finishes without us
                self._resumer.wait(_PATIENCE)
            self._resumer = None
        self._reader = None
        with contextlib.suppress(OSError):
            # The Program may outlive this object and keep drgn's end of the connection open: no client could connect.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _connect(address: str) -> socket.socket:
    """Connect to an address by drgn's rule: host:port if the host does not start like a path, else a Unix socket."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and not host.startswith(("/", ".")) and not Path(address).exists():
        found = socket.create_connection((host or "localhost", int(port)))
    else:
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            found.connect(address)
        except BaseException:
            found.close()
            raise
    # Not settimeout(), which would make it non-blocking for drgn too.
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(_PATIENCE, 0))
    return found
