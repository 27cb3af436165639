# SPDX-License-Identifier: LGPL-2.1-or-later
"""C programs that dump themselves through the daemon."""

import errno
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kgcore import check_core
from tests.contrib.cclient import CLIENT, HERE, STRICT, compiled, compiler
from tests.daemon.running import Daemon, daemon, everybodys_directory
from tests.victims_here import ptrace_or_skip
from tests.vmcore.corefile import Core

DOCUMENT = HERE.parents[1] / "docs" / "client.md"
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture(scope="module")
def served() -> Iterator[Daemon]:
    ptrace_or_skip()
    with daemon() as found:
        yield found


def run(*words: object, socket: Path, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"KGCORE_SOCKET": str(socket)}
    return subprocess.run(
        [str(word) for word in words], env=environment, cwd=cwd, capture_output=True, text=True, timeout=120
    )


def gdb(program: Path, core: Path, *commands: str) -> str:
    words = ["gdb", "-nx", "-q", "-batch", *(word for command in commands for word in ("-ex", command))]
    return subprocess.run([*words, str(program), str(core)], capture_output=True, text=True, timeout=120).stdout


@pytest.fixture(scope="module", params=["-m64", "-m32"])
def faults(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Static, so that gdb knows the names of functions inside of malloc().
    flags = ("-std=c99", "-g", "-static", request.param)
    return compiled(tmp_path_factory.mktemp("faults") / "faults", HERE / "faults.c", *flags)


def test_a_fault_inside_of_malloc(served: Daemon, faults: Path, tmp_path: Path) -> None:
    """A real one, in a thread that holds malloc's lock."""
    core = tmp_path / "core"
    done = run(faults, core, socket=served.path)
    assert (done.returncode, done.stderr) == (0, "")
    tid, address = re.match(r"(\d+) (0x\w+)\ndumped\n$", done.stdout).groups()  # type: ignore[union-attr]
    assert check_core(core).problems == ()
    assert next(iter(Core(core).threads)) == int(tid)
    assert Core(core).read(int(address, 16), 4) == (4711).to_bytes(4, "little")
    frames = gdb(faults, core, "backtrace")
    names = re.findall(r"^#\d+ +(?:0x\w+ in )?(<signal handler called>|\w+)", frames, re.MULTILINE)
    assert "kgcore_dump" in names
    above, below = names[: names.index("<signal handler called>")], names[names.index("<signal handler called>") + 1 :]
    assert above[-1] == "handler"
    assert below[0] == "_int_malloc"
    assert below[1:3] == ["malloc", "corrupts"]
    assert "$1 = 4711" in gdb(faults, core, "frame function corrupts", "print secret")
    # The lock that it holds, as the C library has it.
    assert "$1 = 1" in gdb(faults, core, "print *(int *)&main_arena")


def test_as_nobody(served: Daemon, faults: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root is somebody else")
    with everybodys_directory() as directory:
        program = Path(shutil.copy(faults, directory))
        done = run(*NOBODY, program, "core", socket=served.path, cwd=directory)
        assert (done.returncode, done.stderr) == (0, "")
        assert (directory / "core").stat().st_uid == 65534
        assert (directory / "core").stat().st_mode & 0o777 == 0o600
        assert check_core(directory / "core").problems == ()


def test_the_daemon_is_killed(faults: Path, tmp_path: Path) -> None:
    """After somebody connected, and before he was served."""
    ptrace_or_skip()
    with daemon() as killed:
        killed.process.send_signal(signal.SIGSTOP)
        words = [str(faults), str(tmp_path / "core")]
        environment = os.environ | {"KGCORE_SOCKET": str(killed.path)}
        with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE) as program:
            while not (tmp_path / "core").exists():
                assert program.poll() is None
            killed.process.kill()
            assert program.wait(60) == errno.EPIPE
    assert not (tmp_path / "core").exists()
    assert run(faults, tmp_path / "core", socket=killed.path).returncode in (errno.ECONNREFUSED, errno.ENOENT)


@pytest.mark.parametrize("settings", ["", "filter=0", "freeze=fork", "compress=gzip", "no=such", "max-size=x"])
def test_settings(settings: str, served: Daemon, tmp_path: Path) -> None:
    (tmp_path / "asks.c").write_text(
        '#include "kgcore_client.h"\n#include <stdio.h>\n'
        "int main(int argc, char **argv) { struct kgcore_result result; struct kgcore_options o = KGCORE_OPTIONS;\n"
        "    const char *settings[2] = {argv[2], NULL};\n"
        "    o.result = &result; if (argc > 2) o.settings = settings;\n"
        "    o.max_time_ms = 60000; o.max_freeze_ms = 60001; o.max_size = 1 << 30; o.timeout_ms = 60000;\n"
        '    printf("%d ", kgcore_dump(argv[1], &o));\n'
        '    printf("%d %lu %s\\n", result.incomplete, (unsigned long)result.size, result.message); return 0; }\n'
    )
    program = compiled(tmp_path / "asks", tmp_path / "asks.c", "-std=c99")
    core = tmp_path / "core"
    problem, incomplete, size, message = run(program, core, *filter(None, [settings]), socket=served.path).stdout.split(
        " ", 3
    )
    if settings in ("no=such", "max-size=x"):
        assert problem == str(errno.EINVAL)
        assert settings.partition("=")[0] in message
        assert not core.exists()
    else:
        assert (problem, incomplete, message) == ("0", "0", "\n")
        assert int(size) == core.stat().st_size
        assert core.read_bytes().startswith(b"\x1f\x8b" if settings == "compress=gzip" else b"\x7fELF")


# libgencore.so


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As its Makefile makes it."""
    directory = tmp_path_factory.mktemp("library")
    for name in ("Makefile", "gencore.c", "kgcore_client.h"):
        shutil.copy(CLIENT / name, directory)
    words = [compiler("make"), "-C", str(directory), f"CFLAGS={' '.join(STRICT)} -O2"]
    done = subprocess.run([*words, "install", f"DESTDIR={directory}/there"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    header = directory / "there/usr/local/include/kgcore_client.h"
    assert header.read_bytes() == (CLIENT / "kgcore_client.h").read_bytes()
    return directory / "there/usr/local/lib/libgencore.so"


LOOKS_IT_UP = """
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>
int (*generate)(char *);
static int deep(int depth) { return depth ? deep(depth - 1) + 1 : generate("a core of mine"); }
int main(void) {
    void *library = dlopen("libgencore.so", RTLD_NOW);
    if (!library) { puts(dlerror()); return 1; }
    *(void **)&generate = dlsym(library, "gencore");
    if (!generate) { puts(dlerror()); return 1; }
    printf("%d\\n", deep(3));
    return dlclose(library);
}
"""


def test_a_program_that_looks_it_up(served: Daemon, library: Path, tmp_path: Path) -> None:
    (tmp_path / "looks.c").write_text(LOOKS_IT_UP)
    program = compiled(tmp_path / "looks", tmp_path / "looks.c", "-std=gnu99", "-g")
    run_it = ["env", f"LD_LIBRARY_PATH={library.parent}", program]
    done = run(*run_it, socket=served.path, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("3\n", 0)
    core = tmp_path / "a core of mine"
    assert check_core(core).problems == ()
    frames = gdb(program, core, f"set solib-search-path {library.parent}", "backtrace")
    names = re.findall(r"^#\d+ +(?:0x\w+ in )?(\w+)", frames, re.MULTILINE)
    assert names[names.index("gencore") :] == ["gencore", "deep", "deep", "deep", "deep", "main"]
    assert run(*run_it, socket=served.path, cwd=tmp_path).stdout == f"{errno.EEXIST + 3}\n"
    assert run(*run_it, socket=tmp_path / "no", cwd=tmp_path).stdout == f"{errno.ENOENT + 3}\n"


def test_it_offers_one_function(library: Path) -> None:
    done = subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    assert [line.split()[1:] for line in done.stdout.splitlines()] == [["T", "gencore"]]
    dynamic = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    assert "Library soname: [libgencore.so]" in dynamic


# What docs/client.md shows


def test_the_example_of_the_document(served: Daemon, tmp_path: Path) -> None:
    (example,) = re.findall(r"^```c\n(.*?^```)", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "example.c").write_text(example.removesuffix("```"))
    program = compiled(tmp_path / "example", tmp_path / "example.c", "-std=c99", "-g")
    done = run(program, socket=served.path, cwd=tmp_path)
    assert done.returncode == -signal.SIGSEGV
    (core,) = tmp_path.glob("core.*")
    assert "<signal handler called>" in gdb(program, core, "backtrace")
    assert "core" in done.stderr
