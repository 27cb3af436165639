# SPDX-License-Identifier: LGPL-2.1-or-later
"""The C client's header, by compilers."""

import subprocess
from pathlib import Path

import pytest

from tests.contrib.cclient import CLIENT, STRICT, compiled, compiler, lacks_multilib

USES_ALL = """
int main(int argc, char **argv)
{
    struct kgcore_result result;
    struct kgcore_options options = KGCORE_OPTIONS;
    const char *settings[] = {"profile=mini", NULL};
    options.settings = settings;
    options.result = &result;
    options.flags = KGCORE_OVERWRITE | KGCORE_KEEP_PARTIAL;
    options.tid = KGCORE_LEADER;
    return argc > 1 ? kgcore_dump(argv[1], &options) : kgcore_dump_fd(1, NULL);
}
"""
BEFORE = "#include <stdio.h>\n#include <unistd.h>\n#include <fcntl.h>\n#include <string.h>\n#include <time.h>\n"
MORE = ("-Wshadow", "-Wconversion", "-Wcast-align", "-Wpointer-arith", "-O2")
C = [(cc, standard, "-m64") for cc in ("gcc", "clang") for standard in ("c99", "c11", "c17", "gnu17")]
CXX = [(cc, f"c++{year}", "-m64") for cc in ("g++", "clang++") for year in (11, 14, 17, 20)]
NARROW = [(cc, standard, "-m32") for cc, standard in (("gcc", "c99"), ("clang", "c99"), ("g++", "c++11"))]
IMPORTED = set("__errno_location __stack_chk_fail getauxval getenv memcpy memset strlen syscall".split())
"""All that it wants of the C library; the environment is read at the start only."""


@pytest.mark.parametrize(("cc", "standard", "width"), [*C, *CXX, *NARROW])
def test_no_compiler_complains(cc: str, standard: str, width: str, tmp_path: Path) -> None:
    suffix = "cc" if cc.endswith("++") else "c"
    others = (BEFORE, "#define _GNU_SOURCE 1\n") if standard == "c99" else ()
    for number, before in enumerate(("", *others)):
        source = tmp_path / f"{number}.{suffix}"
        source.write_text(f'{before}#include "kgcore_client.h"\n#include "kgcore_client.h"\n{USES_ALL}')
        flags = (*STRICT, *MORE, f"-std={standard}", width, f"-I{CLIENT}", "-fsyntax-only")
        done = subprocess.run([compiler(cc), *flags, str(source)], capture_output=True, text=True)
        if lacks_multilib(width, done.stderr):
            pytest.skip("no g++-multilib")
        assert (done.returncode, done.stderr) == (0, "")


def test_two_files_of_a_program_include_it(tmp_path: Path) -> None:
    (tmp_path / "one.c").write_text(f'#include "kgcore_client.h"\n{USES_ALL}')
    (tmp_path / "two.c").write_text('#include "kgcore_client.h"\nint two(void);\nint two(void) { return 2; }\n')
    program = compiled(tmp_path / "both", tmp_path / "one.c", str(tmp_path / "two.c"), "-std=c99", "-Wunused")
    assert program.exists()


@pytest.mark.parametrize("optimised", ["-O0", "-O2"])
def test_what_it_wants_of_the_c_library(optimised: str, tmp_path: Path) -> None:
    """No memory, no standard I/O, and nothing that a handler may not call."""
    (tmp_path / "one.c").write_text(f'#include "kgcore_client.h"\n{USES_ALL}')
    target = compiled(tmp_path / "one.o", tmp_path / "one.c", "-std=c99", optimised, "-c")
    done = subprocess.run(["nm", "-u", str(target)], capture_output=True, text=True, check=True)
    found = {line.split()[1] for line in done.stdout.splitlines()} - {"_GLOBAL_OFFSET_TABLE_"}
    assert found <= IMPORTED
    assert "syscall" in found
