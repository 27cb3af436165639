# SPDX-License-Identifier: LGPL-2.1-or-later
"""A busy program dumps itself again and again, while the daemon is killed at random: its books are right, each call has
an errno, and nothing is left."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from kgcore import check_core
from tests.compiler import compiled
from tests.daemon.running import NOBODY, everybodys_directory, root_or_skip
from tests.sources.live.test_goes_on import BOOKKEEPER, close, left_alone
from tests.victims_here import ptrace_or_skip

CLIENT = Path(__file__).parents[2] / "contrib" / "client"
DUMPS = int(os.environ.get("KGCORE_DAEMON_DUMPS", "10"))  # by hand: 1000
ALLOWED = {0, errno.EPIPE, errno.EIO, errno.ECONNREFUSED, errno.ENOENT, errno.EBUSY, errno.ECONNRESET}
_PATIENCE = 60 + 3 * DUMPS  # seconds

# A seventeenth thread of that program, which has it dumped; the others keep their books meanwhile.
ASKER = r"""
#include <dirent.h>
#include "kgcore_client.h"

static const char *place;
static int wanted;

static int descriptors(void)
{
    int found = 0;
    DIR *directory = opendir("/proc/self/fd");
    while (readdir(directory))
        found++;
    closedir(directory);
    return found;
}

static void *ask(void *arg)
{
    long by_errno[256] = {0};
    char socket[200], name[200], said[200];
    struct kgcore_options options = KGCORE_OPTIONS;
    int before = descriptors(), asked = 0, number = 0;
    (void)arg;
    snprintf(socket, sizeof socket, "%s/socket", place);
    options.socket = socket;
    while (asked < wanted || by_errno[0] == 0) {
        snprintf(name, sizeof name, "%s/core.%d", place, number++);
        int problem = kgcore_dump(name, &options);
        by_errno[problem & 255]++;
        if (problem == ENOENT || problem == ECONNREFUSED)
            usleep(2000); /* there is no daemon now */
        else
            asked++;
        if (problem == 0 && asked < wanted)
            unlink(name);
    }
    int after = descriptors();
    snprintf(name, sizeof name, "%s/unfinished", place), snprintf(said, sizeof said, "%s/asked", place);
    FILE *file = fopen(name, "w");
    fprintf(file, "{\"before\": %d, \"after\": %d, \"errnos\": {\"0\": %ld", before, after, by_errno[0]);
    for (int i = 1; i < 256; i++)
        if (by_errno[i])
            fprintf(file, ", \"%d\": %ld", i, by_errno[i]);
    fprintf(file, "}}\n");
    fclose(file);
    rename(name, said);
    return NULL;
}

int main(int argc, char **argv)
"""
START = """
    place = argv[argc - 2], wanted = atoi(argv[argc - 1]);
    pthread_create(&(pthread_t){0}, NULL, ask, NULL);
"""


def source() -> str:
    """The program with the thread that asks."""
    text = BOOKKEEPER
    for old, new in (
        ("int main(void)\n", ASKER.lstrip("\n")),
        ("    while (started < THREADS)\n", START + "    while (started < THREADS)\n"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    ptrace_or_skip()
    root_or_skip()
    with everybodys_directory() as directory:
        yield compiled(directory, source(), "-pthread", f"-I{CLIENT}")


@contextmanager
def serving(place: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A daemon, which may be anywhere in its start."""
    words = [sys.executable, "-m", "kgcore", "daemon", "--socket", str(place / "socket")]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def descendants(pid: int) -> list[int]:
    """The processes that a daemon has forked, but guardians: they must not be killed."""
    found = []
    with suppress(OSError):
        for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(OSError):
                if Path(f"/proc/{word}/comm").read_text() == "kgcore-guardian\n":
                    continue
                if b"\0daemon\0--socket\0" in Path(f"/proc/{word}/cmdline").read_bytes():
                    found += [int(word), *descendants(int(word))]
    return found


def kill_some(daemon: int, chance: random.Random) -> None:
    """Kill processes that make cores, those that wait for them, and in the end the daemon, alone or with all."""
    time.sleep(chance.uniform(0.2, 1))  # at first it starts
    for _ in range(chance.randrange(8)):
        some = descendants(daemon)
        kill(*chance.choice((some[-1:], some[:1])))
        time.sleep(chance.uniform(0, 0.5))
    kill(daemon, *chance.choice(([], descendants(daemon))))


def peace(end: Path) -> None:
    """Let it be, for a while, or until the program has had enough."""
    until = time.monotonic() + 5
    while not end.exists() and time.monotonic() < until:
        time.sleep(0.01)


def kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("user", [0, NOBODY])
def test_books_are_right(program: Path, user: int) -> None:
    chance = random.Random(user)
    with everybodys_directory() as place:
        with subprocess.Popen(
            [program, place, str(DUMPS)],
            stdout=subprocess.PIPE,
            text=True,
            user=user,
            group=user,
            extra_groups=[],
            cwd=place,
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline().startswith("ready ")
                deadline = time.monotonic() + _PATIENCE
                lives = 0
                while not (place / "asked").exists():
                    assert time.monotonic() < deadline
                    assert process.poll() is None
                    with serving(place) as daemon:
                        lives += 1
                        if lives % 4:
                            kill_some(daemon.pid, chance)
                        else:
                            peace(place / "asked")
                left_alone(process.pid)
                close(process)
            finally:
                process.kill()
        said: dict[str, Any] = json.loads((place / "asked").read_text())
        found = {int(number): count for number, count in said["errnos"].items()}
        assert set(found) <= ALLOWED, {errno.errorcode.get(number, number): count for number, count in found.items()}
        assert found[0] > 0
        assert said["before"] == said["after"]
        cores = [*place.glob("core.*")]
        assert len(cores) <= 1, "what failed is gone"
        for core in cores:
            assert check_core(core).problems == ()
            assert core.stat().st_uid == user
        print(found)
