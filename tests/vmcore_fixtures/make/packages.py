# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian packages: what the host needs installed, and .deb files of other suites downloaded without installing.

The mirror is taken from apt's own configuration at run time. Each suite gets a private apt root in the cache,
so that nothing of the host's apt state is touched.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .common import BuildError, cache_dir, run, say

# A program that shows a package to be there, and the package.
HOST_TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "makedumpfile": "makedumpfile",
    "busybox": "busybox-static",
    "gcc": "gcc",
    "ld": "binutils",
    "cpio": "cpio",
    "xz": "xz-utils",
    "zstd": "zstd",
    "mkfs.ext4": "e2fsprogs",
    "tar": "tar",
    "gzip": "gzip",
}
HOST_FILES = {
    "/usr/include/stdlib.h": "libc6-dev",
    "/usr/lib/x86_64-linux-gnu/libc.a": "libc6-dev",
    "/usr/share/doc/gcc-multilib": "gcc-multilib",
}
KEYRINGS = Path("/usr/share/keyrings")
INSTALL_TIMEOUT = 900


@dataclass(frozen=True)
class Package:
    """One .deb file in the cache."""

    name: str
    version: str
    path: Path

    def extract(self, target: Path, *patterns: str) -> None:
        """Unpack the files that match the patterns (all without any) into a directory, no maintainer scripts."""
        target.mkdir(parents=True, exist_ok=True)
        unpack = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", self.path], stdout=subprocess.PIPE)
        try:
            done = subprocess.run(
                ["tar", "-x", "-C", target, "--wildcards", *patterns],
                stdin=unpack.stdout,
                capture_output=True,
                timeout=600,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BuildError(f"unpacking {self.path.name} took too long") from error
        finally:
            unpack.kill()
            unpack.wait()
        if done.returncode:
            raise BuildError(f"unpacking {self.path.name}: {done.stderr.decode(errors='replace').strip()}")


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a lock file in the cache: two makers at once must not download or unpack the same thing."""
    with (cache_dir() / f".{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def install_host_tools() -> None:
    """Install by apt whatever the host lacks (needs root only then)."""
    missing = {package for tool, package in HOST_TOOLS.items() if not shutil.which(tool)}
    missing |= {package for path, package in HOST_FILES.items() if not Path(path).exists()}
    install_packages(missing)


def install_packages(missing: Collection[str]) -> None:
    """Install packages by apt, if there are any to install."""
    if not missing:
        return
    say(f"installing {' '.join(sorted(missing))}")
    # Other programs may hold dpkg's lock for a while.
    apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=600"]
    run([*apt, "update"], timeout=INSTALL_TIMEOUT)
    run(
        ["env", "DEBIAN_FRONTEND=noninteractive", *apt, "install", "-y", "--no-install-recommends", *sorted(missing)],
        timeout=INSTALL_TIMEOUT,
    )


def mirror() -> str:
    """The Debian mirror that apt is configured for (its main archive, not security or third parties)."""
    listing = run(["apt-get", "indextargets", "--format", "$(REPO_URI)|$(ORIGIN)|$(LABEL)", "Created-By: Packages"])
    uris: list[str] = []
    for line in listing.splitlines():
        uri, _, rest = line.partition("|")
        if rest == "Debian|Debian":
            uris.append(uri)
    if not uris:
        # apt knows origin and label only after an update: fall back to what the source lists say.
        uris = [uri for uri in _configured_uris() if re.search(r"/debian/?$", uri) or "/archive/debian/" in uri]
    if not uris:
        raise BuildError("apt is configured for no Debian mirror (apt-get indextargets, /etc/apt/sources.list*)")
    return uris[0].rstrip("/")


def _configured_uris() -> list[str]:
    """Every repository address in apt's source lists, one-line and deb822 format."""
    uris: list[str] = []
    etc = Path("/etc/apt")
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        for line in path.read_text(errors="replace").splitlines():
            one_line = re.match(r"deb\s+(?:\[[^]]*\]\s+)?(\S+)", line)
            if one_line:
                uris.append(one_line[1])
            elif line.lower().startswith("uris:"):
                uris += line.split()[1:]
    return uris


class Suite:
    """A private apt root for one Debian suite. There is one object of each (:meth:`of`), which threads share.

    :param architecture: Debian's name of it; "" for the host's.
    """

    _known: ClassVar[dict[tuple[str, str], Suite]] = {}
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, name: str, architecture: str = "") -> None:
        self.name = name
        self.architecture = architecture
        self.root = cache_dir() / "apt" / (f"{name}-{architecture}" if architecture else name)
        self._options: list[str] = []
        self._shown: dict[str, dict[str, str]] = {}
        self._mutex = threading.Lock()

    @classmethod
    def of(cls, name: str, architecture: str = "") -> Suite:
        """The suite of that name."""
        with cls._guard:
            return cls._known.setdefault((name, architecture), cls(name, architecture))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else uses the apt root, no other process either; the package lists are there, fetched once."""
        with self._mutex, locked(f"apt-{self.root.name}"):
            if not self._options:
                self._options = self._update()
            yield

    def _update(self) -> list[str]:
        """Fetch the package lists: from the configured mirror, else from the plain archive path of its host. Returns
        apt's options."""
        configured = mirror()
        plain = re.sub(r"^(\w+://[^/]+)/.*$", r"\1/debian", configured)
        problems: list[str] = []
        for uri in dict.fromkeys([configured, plain]):
            for trust in self._trust():
                try:
                    return self._fetch_lists(uri, trust)
                except BuildError as error:
                    problems.append(str(error))
        raise BuildError(f"no package lists for {self.name}:\n" + "\n".join(problems))

    def _trust(self) -> list[str]:
        """Ways to trust the suite: the installed archive keys, then (a future key) the configured mirror itself."""
        keyring = KEYRINGS / "debian-archive-keyring.gpg"
        return ([f"[signed-by={keyring}]"] if keyring.exists() else []) + ["[trusted=yes]"]

    def _fetch_lists(self, uri: str, trust: str) -> list[str]:
        for part in ("state/lists/partial", "cache/archives/partial"):
            (self.root / part).mkdir(parents=True, exist_ok=True)
        (self.root / "status").touch()
        source = self.root / "sources.list"
        source.write_text(f"deb {trust} {uri} {self.name} main\n")
        options = [
            f"-oDir::State={self.root / 'state'}",
            f"-oDir::State::status={self.root / 'status'}",
            f"-oDir::Cache={self.root / 'cache'}",
            f"-oDir::Etc::sourcelist={source}",
            "-oDir::Etc::sourceparts=-",
            # An expired Release file of an archived suite is no reason to refuse it.
            "-oAcquire::Check-Valid-Until=false",
            # The cache may lie where the user _apt cannot go.
            "-oAPT::Sandbox::User=root",
            "-oAcquire::Retries=3",
            "-oAcquire::http::Timeout=60",
        ]
        if self.architecture:
            options += [f"-oAPT::Architecture={self.architecture}", f"-oAPT::Architectures::={self.architecture}"]
        run(["apt-get", "-q", *options, "-oAPT::Update::Error-Mode=any", "update"], timeout=300)
        return options

    def _show(self, names: Iterable[str]) -> None:
        """Learn the fields of the newest version of packages; of those that are virtual there are none."""
        with self._alone():
            unknown = [name for name in dict.fromkeys(names) if name not in self._shown]
            if not unknown:
                return
            # Its status is that of the last one asked for.
            show = ["sh", "-c", '"$@" || :', "sh", "apt-cache", *self._options, "show", "--no-all-versions", *unknown]
            found = [
                dict(re.findall(r"^([\w-]+): (.*)$", stanza, re.MULTILINE))
                for stanza in run(show, timeout=120).split("\n\n")
            ]
            self._shown |= {name: {} for name in unknown} | {fields["Package"]: fields for fields in found if fields}

    def field(self, package: str, field: str) -> str:
        """A field of the newest version of a package."""
        self._show([package])
        try:
            return self._shown[package][field]
        except KeyError:
            raise BuildError(f"{self.name}: package {package} has no field {field}") from None

    def with_libraries(self, *packages: str, skip: frozenset[str]) -> list[Package]:
        """Packages and (the first alternative of) all they depend on, but for those to skip."""
        names: dict[str, None] = {}
        waiting = set(packages)
        while waiting:
            self._show(sorted(waiting))
            names |= dict.fromkeys(sorted(waiting))
            depends = [self._shown[name].get("Depends", "") for name in waiting]
            needed = (item.strip() for line in depends for item in line.split(",") if item)
            waiting = {re.split(r"[ :(|]", item, maxsplit=1)[0] for item in needed} - names.keys() - skip
        return self.download(*names)

    def download(self, *names: str) -> list[Package]:
        """Bring the newest versions of packages into the cache."""
        self._show(names)
        folder = cache_dir() / "debs"
        folder.mkdir(exist_ok=True)
        found = [
            Package(name, self.field(name, "Version"), folder / Path(self.field(name, "Filename")).name)
            for name in names
        ]
        with self._alone():
            missing = [package for package in found if not package.path.exists()]
            if missing:
                self._download(missing)
        return found

    def _download(self, packages: Sequence[Package]) -> None:
        named = ", ".join(f"{package.name} {package.version}" for package in packages)
        say(f"{self.name}: downloading {named}")
        fresh = self.root / "download"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        versions = [f"{package.name}={package.version}" for package in packages]
        run(["apt-get", "-q", *self._options, "download", *versions], timeout=1800, cwd=fresh)
        # apt-get escapes what may stand in no file name, each time a little differently from the archive.
        got = {path.name.partition("_")[0]: path for path in fresh.glob("*.deb")}
        for package in packages:
            got[package.name].rename(package.path)
