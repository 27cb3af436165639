# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon as a service of systemd, as far as that goes without systemd as the first process."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kgcore import check_core, client
from tests.daemon.running import NOBODY, Daemon, daemon, everybodys_directory, notified, program, root_or_skip
from tests.daemon.speaking import asked, packet
from tests.victims_here import ptrace_or_skip, sleeping

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "contrib" / "systemd"
EXPOSURE = 23  # of "systemd-analyze security", 0 to 100: as it was when this was written
_PATIENCE = 3000


def tool(name: str) -> str:
    """A program of systemd's; CI requires it."""
    if shutil.which(name) is None:
        assert not os.environ.get("KGCORE_REQUIRE_VMCORES"), f"{name} is not installed"
        pytest.skip(f"no {name}")
    return name


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Our units, with a program that this machine has."""
    kgcore = tmp_path / "kgcore"
    kgcore.write_text("#!/bin/sh\n")
    kgcore.chmod(0o755)
    for path in UNITS.iterdir():
        text = path.read_text()
        (tmp_path / path.name).write_text(text.replace("ExecStart=kgcore ", f"ExecStart={kgcore} "))
    return tmp_path


def test_units_are_well_formed(units: Path) -> None:
    """And what checks them would say if they were not."""
    (units / "man" / "man1").mkdir(parents=True)
    shutil.copy(ROOT / "man" / "kgcore.1", units / "man" / "man1")
    words = [tool("systemd-analyze"), "verify", str(units / "kgcore.socket"), str(units / "kgcore.service")]
    environment = os.environ | {"MANPATH": str(units / "man")}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    text = (units / "kgcore.service").read_text()
    (units / "kgcore.service").write_text(text.replace("KillMode=process", "KillMod=process"))
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert "KillMod" in done.stderr


def test_what_the_service_may_do(units: Path) -> None:
    words = [tool("systemd-analyze"), "security", "--offline=yes", f"--threshold={EXPOSURE}", "--no-pager"]
    done = subprocess.run([*words, units / "kgcore.service"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    bare = units / "bare.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    assert subprocess.run([*words, bare], capture_output=True, check=False).returncode != 0


def test_no_option_that_hides_what_it_reads() -> None:
    text = (UNITS / "kgcore.service").read_text()
    settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert not {"ProtectProc", "ProcSubset", "PrivateUsers", "PrivatePIDs", "DynamicUser", "User"} & set(settings)
    assert settings["KillMode"] == "process"
    assert settings["Type"] == "notify"
    assert settings["OOMScoreAdjust"] == "-1000"


def test_its_capabilities_are_enough() -> None:
    """Those of the unit, and no_new_privs."""
    root_or_skip()
    ptrace_or_skip()
    found = re.search(r"^CapabilityBoundingSet=(.*)$", (UNITS / "kgcore.service").read_text(), re.MULTILINE)
    assert found is not None
    allowed = "".join(f",+{word.removeprefix('CAP_').lower()}" for word in found[1].split())
    prefix = ("setpriv", "--bounding-set", f"-all{allowed}", "--inh-caps", "-all", "--no-new-privs")
    with daemon(prefix=prefix) as served, everybodys_directory() as place:
        for user in (0, NOBODY):
            text = "say(**asked(path, packet(), new_file('core')))\n"
            said = program(served, text, place, user=user)
            assert (said["errno"], said["status"]) == ("", 0), said
            assert check_core(place / "core").problems == ()
            assert check_core(place / "core").complete
            (place / "core").unlink()
            with subprocess.Popen(["sleep", "1000"], user=user, group=user, extra_groups=[]) as process:
                text = f"say(**asked(path, packet('pid={process.pid}'), new_file('core')))\n"
                try:
                    assert program(served, text, place, user=user)["errno"] == ""
                finally:
                    process.kill()
            (place / "core").unlink()
        status = Path(f"/proc/{served.process.pid}/status").read_text()
        assert "NoNewPrivs:\t1\n" in status


@contextmanager
def activated(*options: str, kind: str = "--seqpacket") -> Iterator[Daemon]:
    """A daemon that systemd's program starts when somebody connects."""
    with everybodys_directory() as directory:
        path, log = directory / "socket", directory / "log"
        words = [tool("systemd-socket-activate"), *filter(None, [kind]), "-l", str(path)]
        words += [sys.executable, "-m", "kgcore", "daemon"]
        with (
            log.open("wb") as errors,
            subprocess.Popen([*words, *options], stderr=errors, start_new_session=True) as process,
        ):
            try:
                for _ in range(_PATIENCE):
                    if path.exists():
                        break
                    time.sleep(0.01)
                yield Daemon(process, path, log)
            finally:
                process.kill()
                process.wait()


def test_socket_activation(tmp_path: Path) -> None:
    """It starts with the first client, which waits meanwhile, and ends when there is none any more."""
    ptrace_or_skip()
    with activated("--idle-exit", "300ms") as served, sleeping() as process:
        for number in range(2):
            assert client.dump(tmp_path / f"core{number}", process.pid, socket=str(served.path)).complete
        assert check_core(tmp_path / "core1").problems == ()
        assert served.process.wait(60) == 0
        assert "kgcore daemon: idle for 0.3 s: ends" in served.said
        assert not [line for line in served.said if "kgcore daemon: listens" in line]
        assert served.path.exists()  # it is systemd's


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (("--socket", "/tmp/other"), "--seqpacket", "the sockets are systemd's (LISTEN_FDS)"),
        ((), "", "is not a listening UNIX socket of SOCK_SEQPACKET (ListenSequentialPacket="),
    ],
)
def test_sockets_that_do_not_fit(options: tuple[str, ...], kind: str, message: str) -> None:
    with activated(*options, kind=kind) as served:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET if kind else socket.SOCK_STREAM) as connection:
            connection.connect(str(served.path))
        assert served.process.wait(60) == 1
        assert message in served.said[-1]


def test_what_it_tells_systemd() -> None:
    """READY when it listens, STOPPING when it ends; and the journal's way to say how important a line is."""
    with everybodys_directory() as place, notified(place) as (environment, told), (place / "log").open("wb") as log:
        status = os.fstat(log.fileno())
        environment |= {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        words = [sys.executable, "-m", "kgcore", "daemon", "--socket", str(place / "socket")]
        with subprocess.Popen(words, env=environment, stderr=log) as process:
            assert told() == b"READY=1"
            assert asked(str(place / "socket"), packet())["errno"] == "EINVAL"
            process.send_signal(signal.SIGTERM)
            assert told() == b"STOPPING=1"
            assert process.wait(60) == 0
        lines = (place / "log").read_text().splitlines()
        assert lines[0].startswith("<6>listens on ")
        assert lines[1].startswith(f"<4>pid {os.getpid()} (")
