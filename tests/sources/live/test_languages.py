# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs of other languages, which dump by other rules than C: their debuggers read our cores as the kernel's own."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.victims_here import live_core, settled, started

GO = """
package main

import (
    "fmt"
    "time"
)

//go:noinline
func waits(number int, done chan int) {
    text := fmt.Sprintf("goroutine %d waits", number)
    <-done
    fmt.Println(text)
}

func main() {
    done := make(chan int)
    for number := 0; number < 5; number++ {
        go waits(number, done)
    }
    time.Sleep(100 * time.Millisecond)
    fmt.Println("ready")
    time.Sleep(1000 * time.Second)
}
"""
JAVA = """
public class Waits {
    static Object lock = new Object();
    static void inTheLock(int depth) throws Exception {
        if (depth > 0) { inTheLock(depth - 1); return; }
        synchronized (lock) { lock.wait(); }
    }
    public static void main(String[] arguments) throws Exception {
        Thread waiter = new Thread(() -> { try { inTheLock(7); } catch (Exception e) { } }, "the-waiter");
        waiter.start();
        while (waiter.getState() != Thread.State.WAITING) Thread.sleep(10);
        System.out.println("ready");
        Thread.sleep(1000000);
    }
}
"""


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"no {program}")


@contextmanager
def ready(*words: object) -> Iterator["subprocess.Popen[str]"]:
    with started(*words) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        settled(process.pid)
        yield process


@pytest.mark.parametrize("freeze", ["fork", "stop"])
def test_go(tmp_path: Path, freeze: str) -> None:
    """delve finds every goroutine where it waits, with its arguments."""
    need("go", "dlv")
    (tmp_path / "waits.go").write_text(GO)
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "GOFLAGS": "-mod=mod", "GO111MODULE": "off"}
    build = ["go", "build", "-gcflags=all=-N -l", "-o", "waits", "waits.go"]
    subprocess.run(build, cwd=tmp_path, env=environment, check=True)
    core = tmp_path / "core"
    with ready(tmp_path / "waits") as process:
        live_core(process.pid, core, "--freeze", freeze)
    said = subprocess.run(
        ["dlv", "core", "--allow-non-terminal-interactive=true", tmp_path / "waits", core],
        input="goroutines -t\nexit\n",
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    ).stdout
    assert len(re.findall(r"main\.waits", said)) >= 5, said
    assert "main.main" in said


@pytest.mark.parametrize("freeze", ["fork", "stop"])
def test_java(tmp_path: Path, freeze: str) -> None:
    """jhsdb walks the heap's threads out of the core: the waiter, and its eight frames."""
    need("java", "javac", "jhsdb")
    (tmp_path / "Waits.java").write_text(JAVA)
    subprocess.run(["javac", "Waits.java"], cwd=tmp_path, check=True)
    core = tmp_path / "core"
    with ready("java", "-Xmx64m", "-XX:+UseSerialGC", "-cp", tmp_path, "Waits") as process:
        program = Path(f"/proc/{process.pid}/exe").resolve()
        live_core(process.pid, core, "--freeze", freeze)
    done = subprocess.run(
        ["jhsdb", "jstack", "--exe", program, "--core", core], capture_output=True, text=True, check=False
    )
    assert '"the-waiter"' in done.stdout, done.stdout + done.stderr
    assert len(re.findall(r"Waits\.inTheLock", done.stdout)) == 8
