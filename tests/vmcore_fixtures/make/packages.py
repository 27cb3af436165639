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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
    """A private apt root for one Debian suite.

    :param architecture: Debian's name of it; "" for the host's.
    """

    def __init__(self, name: str, architecture: str = "") -> None:
        self.name = name
        self.architecture = architecture
        self.root = cache_dir() / "apt" / (f"{name}-{architecture}" if architecture else name)
        self.options: list[str] = []
        self._shown: dict[str, str] = {}

    def update(self) -> None:
        """Fetch the package lists: from the configured mirror, else from the plain archive path of its host."""
        configured = mirror()
        plain = re.sub(r"^(\w+://[^/]+)/.*$", r"\1/debian", configured)
        problems: list[str] = []
        for uri in dict.fromkeys([configured, plain]):
            for trust in self._trust():
                try:
                    self._update(uri, trust)
                    return
                except BuildError as error:
                    problems.append(str(error))
        raise BuildError(f"no package lists for {self.name}:\n" + "\n".join(problems))

    def _trust(self) -> list[str]:
        """Ways to trust the suite: the installed archive keys, then (a future key) the configured mirror itself."""
        keyring = KEYRINGS / "debian-archive-keyring.gpg"
        return ([f"[signed-by={keyring}]"] if keyring.exists() else []) + ["[trusted=yes]"]

    def _update(self, uri: str, trust: str) -> None:
        for part in ("state/lists/partial", "cache/archives/partial"):
            (self.root / part).mkdir(parents=True, exist_ok=True)
        (self.root / "status").touch()
        source = self.root / "sources.list"
        source.write_text(f"deb {trust} {uri} {self.name} main\n")
        self.options = [
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
            self.options += [f"-oAPT::Architecture={self.architecture}", f"-oAPT::Architectures::={self.architecture}"]
        run(["apt-get", "-q", *self.options, "-oAPT::Update::Error-Mode=any", "update"], timeout=300)

    def field(self, package: str, field: str) -> str:
        """A field of the newest version of a package."""
        if package not in self._shown:
            show = ["apt-cache", *self.options, "show", "--no-all-versions", package]
            self._shown[package] = run(show, timeout=120)
        for line in self._shown[package].splitlines():
            key, _, value = line.partition(": ")
            if key == field:
                return value
        raise BuildError(f"{self.name}: package {package} has no field {field}")

    def with_libraries(self, package: str, *, skip: frozenset[str]) -> list[Package]:
        """A package and (the first alternative of) all it depends on, but for those to skip."""
        found: dict[str, Package] = {}
        waiting = [package]
        while waiting:
            name = waiting.pop()
            if name in found or name in skip:
                continue
            found[name] = self.download(name)
            try:
                depends = self.field(name, "Depends")
            except BuildError:
                continue
            waiting += [re.split(r"[ :(|]", item.strip(), maxsplit=1)[0] for item in depends.split(",")]
        return list(found.values())

    def download(self, package: str) -> Package:
        """Bring the newest version of a package into the cache."""
        version = self.field(package, "Version")
        folder = cache_dir() / "debs"
        folder.mkdir(exist_ok=True)
        path = folder / Path(self.field(package, "Filename")).name
        if not path.exists():
            say(f"{self.name}: downloading {package} {version}")
            fresh = self.root / "download"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            run(["apt-get", "-q", *self.options, "download", f"{package}={version}"], timeout=1800, cwd=fresh)
            (found,) = fresh.glob("*.deb")
            found.rename(path)
        return Package(package, version, path)
