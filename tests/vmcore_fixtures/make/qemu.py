# SPDX-License-Identifier: LGPL-2.1-or-later
"""Running a guest in QEMU: its serial line, the QMP socket, dumps of the stopped machine."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from .common import BuildError, run

QEMU = "qemu-system-x86_64"
POLL = 0.1
# The crash that a recipe wants is "sysrq triggered crash". (Of half a line it is not known yet what it says.)
FAILED = re.compile(r"@@FAIL [^@]*@@|Kernel panic - not syncing: (?!sysrq triggered)[^\n]*\n")


def version() -> str:
    """The version of the host's QEMU."""
    match = re.search(r"version (\S+)", run([QEMU, "--version"]))
    return match[1] if match else "unknown"


class Guest:
    """A running virtual machine (emulated: no KVM); ends with the with statement, whatever happens."""

    def __init__(self, arguments: list[str], serial_log: Path) -> None:
        self._serial_log = serial_log
        self._text = ""
        self._seen = 0
        self._condition = threading.Condition()
        # A socket's path must be short; the cache's may be long.
        self._sockets = tempfile.TemporaryDirectory(prefix="kgcore-qmp-")
        path = os.path.join(self._sockets.name, "qmp")
        self.gdb = os.path.join(self._sockets.name, "gdb")
        self._process = subprocess.Popen(
            [
                # When the maker is killed, its guests are too.
                "setpriv", "--pdeathsig", "KILL",
                QEMU, "-accel", "tcg,thread=multi", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial",
                "-qmp", f"unix:{path},server=on,wait=off", "-gdb", f"unix:{self.gdb},server=on,wait=off", *arguments,
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        threading.Thread(target=self._read_serial, daemon=True).start()
        self._qmp: socket.socket | None = None
        self._qmp_buffer = b""
        self._qmp_path = path

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._qmp:
            self._qmp.close()
        self._sockets.cleanup()

    def _read_serial(self) -> None:
        assert self._process.stdout
        with self._serial_log.open("wb") as log:
            while data := os.read(self._process.stdout.fileno(), 65536):
                log.write(data)
                log.flush()
                with self._condition:
                    self._text += data.decode(errors="replace")
                    self._condition.notify_all()

    @property
    def text(self) -> str:
        """All that it has printed so far."""
        return self._text

    def tail(self, lines: int = 40) -> str:
        """The last lines of the serial log."""
        return "\n".join("    " + line for line in self._text.splitlines()[-lines:])

    def wait_for(self, marker: str, timeout: float) -> str:
        """Wait until the guest has printed @@marker@@ (a regular expression); returns its first group, if any."""
        wanted = re.compile(f"@@{marker}@@")
        end = time.monotonic() + timeout
        with self._condition:
            while True:
                failed = FAILED.search(self._text)
                if failed:
                    raise BuildError(f"the guest failed: {failed[0]}\n{self.tail()}")
                found = wanted.search(self._text, self._seen)
                if found:
                    self._seen = found.end()
                    return found[1] if wanted.groups else ""
                if self._process.poll() is not None:
                    raise BuildError(f"QEMU ended before {marker}:\n{self.tail()}")
                if time.monotonic() > end:
                    raise BuildError(f"no {marker} from the guest within {timeout:.0f} s:\n{self.tail()}")
                self._condition.wait(POLL)

    def send(self, text: str) -> None:
        """Write to the guest's serial line."""
        assert self._process.stdin
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def wait_end(self, timeout: float) -> None:
        """Wait until the guest has powered off."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise BuildError(f"the guest does not power off:\n{self.tail()}") from error

    # ---- QMP ----
    def _read_message(self) -> dict[str, Any]:
        assert self._qmp
        while b"\n" not in self._qmp_buffer:
            data = self._qmp.recv(65536)
            if not data:
                raise BuildError("QEMU closed its QMP socket")
            self._qmp_buffer += data
        line, _, self._qmp_buffer = self._qmp_buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def qmp(self, command: str, timeout: float = 120, **arguments: Any) -> Any:
        """Run a QMP command and return its result."""
        if not self._qmp:
            self._qmp = socket.socket(socket.AF_UNIX)
            self._qmp.settimeout(timeout)
            self._qmp.connect(self._qmp_path)
            self._read_message()
            self.qmp("qmp_capabilities")
        self._qmp.settimeout(timeout)
        self._qmp.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            try:
                message = self._read_message()
            except TimeoutError as error:
                raise BuildError(f"QMP {command}: no answer within {timeout:.0f} s") from error
            if "error" in message:
                raise BuildError(f"QMP {command}: {message['error'].get('desc')}")
            if "return" in message:
                return message["return"]

    def monitor(self, line: str) -> str:
        """What QEMU's monitor for people answers."""
        return str(self.qmp("human-monitor-command", 120, **{"command-line": line}))

    def dump(self, path: Path, form: str) -> None:
        """Dump the (stopped) machine's physical memory: form is elf or kdump-zlib."""
        self.qmp("dump-guest-memory", 600, paging=False, protocol=f"file:{path}", format=form)
