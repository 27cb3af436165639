# SPDX-License-Identifier: LGPL-2.1-or-later
"""The C client for tests: its functions in this process, and programs that are compiled with it."""

import ctypes
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CLIENT = HERE.parents[1] / "contrib" / "client"
STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic")
OVERWRITE, KEEP_PARTIAL = 1, 2
ERRNO = 4242
"""What errno is before each call."""


def compiler(name: str) -> str:
    """A compiler, or another program; CI requires it."""
    if shutil.which(name) is None:
        if os.environ.get("KGCORE_REQUIRE_VMCORES"):
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"no {name}")
    return name


def compiled(target: Path, source: Path, *flags: str, cc: str = "gcc") -> Path:
    """A program that includes the header."""
    words = [compiler(cc), *STRICT, f"-I{CLIENT}", "-pthread", *flags, "-o", str(target), str(source)]
    done = subprocess.run(words, capture_output=True, text=True)
    if lacks_multilib(*flags, done.stderr):
        pytest.skip("no g++-multilib")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return target


def lacks_multilib(*said: str) -> bool:
    """Whether a compiler that was to make 32-bit programs has no headers for that; CI requires them."""
    return "-m32" in said and "bits/" in said[-1] and not os.environ.get("KGCORE_REQUIRE_VMCORES")


class _Result(ctypes.Structure):
    _fields_ = (("incomplete", ctypes.c_int), ("size", ctypes.c_uint64), ("message", ctypes.c_char * 256))


class _Options(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("flags", ctypes.c_uint),
        ("pid", ctypes.c_int),
        ("tid", ctypes.c_int),
        ("timeout_ms", ctypes.c_uint),
        ("max_time_ms", ctypes.c_uint),
        ("max_freeze_ms", ctypes.c_uint),
        ("max_size", ctypes.c_uint64),
        ("socket", ctypes.c_char_p),
        ("settings", ctypes.POINTER(ctypes.c_char_p)),
        ("result", ctypes.POINTER(_Result)),
    )


@dataclass(frozen=True)
class Said:
    """What a call said.

    :ivar problem: what it returned: 0, or an errno.
    """

    problem: int
    incomplete: int
    size: int
    message: str


class Client:
    """The header's functions, called in this process; errno has to be as it was after each call."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library), use_errno=True)

    def dump(self, output: Path | str | int | None, settings: tuple[str, ...] = (), **options: Any) -> Said:
        """Call kgcore_dump() with a path, or kgcore_dump_fd() with a descriptor."""
        result = _Result()
        given = _Options(size=ctypes.sizeof(_Options), result=ctypes.pointer(result))
        for name, value in options.items():
            setattr(given, name, str(value).encode() if name == "socket" else value)
        if settings:
            words = [word.encode() for word in settings]
            given.settings = (ctypes.c_char_p * (len(words) + 1))(*words, None)
        return self._call(output, given, result)

    def dump_raw(self, path: Path, options: bytes) -> int:
        """Call kgcore_dump() with an options structure of another version."""
        return int(self._library.ask(os.fsencode(path), ctypes.create_string_buffer(options, len(options))))

    def _call(self, output: Path | str | int | None, given: _Options, result: _Result) -> Said:
        ctypes.set_errno(ERRNO)
        if isinstance(output, int):
            problem = self._library.ask_fd(output, ctypes.byref(given))
        else:
            problem = self._library.ask(None if output is None else os.fsencode(output), ctypes.byref(given))
        assert ctypes.get_errno() == ERRNO, "errno is not as it was"
        return Said(problem, result.incomplete, result.size, result.message.decode())


def options_size() -> int:
    """The size of struct kgcore_options."""
    return ctypes.sizeof(_Options)


def client(directory: Path) -> Client:
    """The header's functions."""
    source = directory / "ask.c"
    source.write_text(
        '#include "kgcore_client.h"\n'
        "int ask(const char *path, const struct kgcore_options *options);\n"
        "int ask_fd(int fd, const struct kgcore_options *options);\n"
        "int ask(const char *path, const struct kgcore_options *options) { return kgcore_dump(path, options); }\n"
        "int ask_fd(int fd, const struct kgcore_options *options) { return kgcore_dump_fd(fd, options); }\n"
    )
    return Client(compiled(directory / "ask.so", source, "-std=c99", "-O2", "-fPIC", "-shared"))
