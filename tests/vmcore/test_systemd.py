# SPDX-License-Identifier: LGPL-2.1-or-later
"""contrib/systemd's units on a machine whose first process is systemd."""

import re
import subprocess
import sys
from pathlib import Path

from kgcore import check_core
from tests.contrib.cclient import HERE, compiled
from tests.contrib.test_c_dumps import gdb
from tests.vmcore.systemd_machine import UNITS, Machine
from tests.vmcore.tools import ROOT

SCRIPT = r"""
state() { echo "$1: $(systemctl is-active kgcore.socket) $(systemctl is-active kgcore.service)"; }
main() { systemctl show -p MainPID --value kgcore.service; }
nobody="setpriv --reuid=65534 --regid=65534 --clear-groups"
cores=/run/output/cores
mkdir -m 1777 $cores
cd /opt/tests

state "at first"
./faults $cores/root > /tmp/said; status=$?
echo "root: $(tail -n 1 /tmp/said) $status"
state "then"
first=$(main)
$nobody ./faults $cores/nobody > /tmp/said; status=$?
echo "nobody: $(tail -n 1 /tmp/said) $status"
cat > /tmp/python << END
import ctypes
print("python:", ctypes.CDLL("./libgencore.so").gencore(b"$cores/python"))
END
$nobody python3 /tmp/python
sleep 1000 &
roots=$!
$nobody sleep 1000 &
nobodys=$!
until [ "$(cat /proc/$nobodys/comm)" = sleep ]; do :; done
$nobody kgcore ask -o $cores/ask $nobodys
echo "ask: $?"
$nobody kgcore ask -o $cores/foreign $roots 2>&1
echo "foreign: $?"
kgcore ask -o $cores/roots $nobodys
echo "by root: $?"
echo "one service: $([ "$(main)" = "$first" ] && echo yes)"
systemctl stop kgcore.service
state "stopped"
mkdir /etc/systemd/system/kgcore.service.d
cp soon.conf /etc/systemd/system/kgcore.service.d
systemctl daemon-reload
echo "again: $(./faults $cores/again | tail -n 1)"
until [ "$(systemctl is-active kgcore.service)" = inactive ]; do sleep 0.2; done
state "when idle"
echo "result: $(systemctl show -p Result --value kgcore.service)"
echo "failed units: $(systemctl --failed --no-legend --no-pager | wc -l)"
journalctl --no-pager -o cat -u kgcore.service > /run/output/journal
cd $cores
stat -c 'core %n: %u %a' *
"""
IDLE = 1  # seconds; the unit's own would take long


def soon(unit: str) -> str:
    """What lets the service stop soon, and is nothing else but the unit's own command."""
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert " --idle-exit " in command
    return f"[Service]\nExecStart=\nExecStart={re.sub(r'--idle-exit [0-9]+[smh]?', f'--idle-exit {IDLE}', command)}\n"


def test_programs_dump_themselves(tmp_path: Path) -> None:
    """As root and as nobody; the service starts by itself, and stops when nobody wants it."""
    folder = ROOT / "contrib" / "systemd"
    program = compiled(tmp_path / "faults", HERE / "faults.c", "-std=c99", "-g", "-static")
    subprocess.run([sys.executable, "-m", "kgcore", "client", "--build", tmp_path / "library"], check=True)
    (tmp_path / "soon.conf").write_text(soon((folder / "kgcore.service").read_text()))
    files = {f"{UNITS}/{name}": folder / name for name in ("kgcore.socket", "kgcore.service")}
    library = tmp_path / "library/libgencore.so"
    files |= {f"opt/tests/{path.name}": path for path in (program, library, tmp_path / "soon.conf")}
    outcome = Machine(tmp_path, files, ["sockets.target.wants/kgcore.socket"]).boot(SCRIPT)
    said = dict(line.split(": ", 1) for line in outcome.transcript.splitlines() if ": " in line)
    assert outcome.status == 0
    assert said["at first"] == "active inactive"
    assert said["root"] == said["nobody"] == "dumped 0"
    assert said["then"] == "active active"
    assert said["python"] == said["ask"] == said["by root"] == "0"
    assert said["foreign"] == "1"
    assert "another user's" in said["kgcore"]
    assert said["one service"] == "yes"
    assert said["stopped"] == "active inactive"
    assert said["again"] == "dumped"
    assert said["when idle"] == "active inactive"
    assert said["result"] == "success"
    assert said["failed units"] == "0"
    cores = outcome.output / "cores"
    roots, nobodys = ("again", "root", "roots"), ("ask", "nobody", "python")
    modes = {core.name: said[f"core {core.name}"] for core in cores.iterdir()}
    assert modes == dict.fromkeys(roots, "0 600") | dict.fromkeys(nobodys, "65534 600")
    for core in cores.iterdir():
        assert check_core(core).problems == ()
    for name in ("root", "nobody", "again"):
        frames = gdb(program, cores / name, "backtrace")
        assert re.search(r"<signal handler called>\n.* _int_malloc .*\n.* malloc .*\n.* corrupts ", frames), frames
    journal = (outcome.output / "journal").read_text()
    assert re.findall(r"uid (\d+): .*(complete|refused)", journal) == [
        ("0", "complete"),
        *([("65534", "complete")] * 3),
        ("65534", "refused"),
        *([("0", "complete")] * 2),
    ]
