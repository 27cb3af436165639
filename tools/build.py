# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes what users get, a wheel, a source distribution and a zipapp: ``python3 -m tools.build [DIRECTORY]``.

The same commit gives the same bytes, wherever and whenever, with the same Python and the same versions of the packages:
all is made of a copy of the files in git whose times and modes are set, and setuptools' own archive of the sources,
which records who made it and when, is packed anew.
"""

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

__all__ = ("build",)

ROOT = Path(__file__).resolve().parents[1]

_EXTERNAL = ("drgn",)
"""Dependencies that a zipapp cannot hold: Python does not load shared objects out of it."""

_MAIN = """\
# SPDX-License-Identifier: LGPL-2.1-or-later
import sys

if sys.version_info < (3, 11):
    sys.exit("kgcore: it needs Python 3.11 or later, this is " + sys.version.split()[0])

from kgcore.cli.main import entry

entry()
"""


def build(root: Path, output: Path, epoch: int) -> list[Path]:
    """Make all of it.

    :param root: a git checkout.
    :param epoch: the time that all files are to have.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        stage = Path(directory) / "kgcore"
        _copy(root, stage, epoch)
        made = Path(directory) / "made"
        environment = os.environ | {"SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0"}
        # Isolated, this would take whatever setuptools is the newest today.
        command = [sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel", "--outdir", str(made)]
        done = subprocess.run(
            [*command, str(stage)], check=False, env=environment, capture_output=True, text=True, umask=0o022
        )
        if done.returncode:
            sys.exit(f"tools.build: {done.stdout}{done.stderr}")
        (wheel,), (sources,) = made.glob("*.whl"), made.glob("*.tar.gz")
        _pack_anew(sources, epoch)
        results = [Path(shutil.copy(path, output)) for path in (wheel, sources)]
        app = output / "kgcore.pyz"
        app.write_bytes(_zipapp(stage, epoch))
        app.chmod(0o755)
    return [*results, app]


def source_time(root: Path) -> int:
    """$SOURCE_DATE_EPOCH, else when the last commit was made."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return int(given or _git(root, "log", "-1", "--format=%ct"))


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True, text=True).stdout


def _copy(root: Path, stage: Path, epoch: int) -> None:
    """The files in git, as they are now."""
    for name in _git(root, "ls-files", "-z").split("\0"):
        if name and (root / name).is_file():
            path = stage / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, path)
            path.chmod(0o755 if os.access(root / name, os.X_OK) else 0o644)
    for path in [stage, *stage.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
        os.utime(path, (epoch, epoch))


def _pack_anew(path: Path, epoch: int) -> None:
    """A source distribution that does not say who packed it, and when."""
    with tarfile.open(path) as old:
        members = sorted(((member, old.extractfile(member)) for member in old), key=lambda pair: pair[0].name)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new:
            for member, content in members:
                member.uid = member.gid = 0
                member.uname = member.gname = ""
                member.mtime = epoch
                member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
                member.pax_headers = {}
                new.addfile(member, content)
    path.write_bytes(gzip.compress(packed.getvalue(), mtime=epoch))


def _zipapp(stage: Path, epoch: int) -> bytes:
    """kgcore and those of its dependencies that are nothing but Python, to be run by python3."""
    files = dict(_dependencies(stage)) | {"__main__.py": _MAIN.encode()}
    for path in (stage / "kgcore").rglob("*"):
        if path.is_file():
            files[str(path.relative_to(stage))] = path.read_bytes()
    for path in (stage / "contrib/client").iterdir():
        files[f"share/kgcore/client/{path.name}"] = path.read_bytes()
    files["LICENSE"] = (stage / "LICENSE").read_bytes()
    archive = io.BytesIO()
    archive.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as zipped:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, time.gmtime(epoch)[:6])
            info.external_attr = 0o100644 << 16
            zipped.writestr(info, files[name], zipfile.ZIP_DEFLATED)
    return archive.getvalue()


def _dependencies(stage: Path) -> Iterator[tuple[str, bytes]]:
    """The files of the dependencies that pyproject.toml names, as they are installed here, with their licences.

    Not those of their own: rich wants Pygments and markdown-it-py for things that kgcore does not do.
    """
    project = tomllib.loads((stage / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        name = requirement.split(">=")[0]
        if name in _EXTERNAL:
            continue
        for file in distribution(name).files or ():
            kept = ".dist-info" not in file.parts[0] or "licen" in str(file).lower() or file.name == "METADATA"
            if kept and ".." not in file.parts and file.suffix != ".pyc":
                if file.suffix == ".so":
                    sys.exit(f"tools.build: {name} is not pure Python: {file}")
                yield str(file), file.read_binary()


if __name__ == "__main__":
    for made in build(ROOT, Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist"), source_time(ROOT)):
        digest = hashlib.sha256(made.read_bytes()).hexdigest()
        print(f"{made}  {made.stat().st_size} bytes  sha256 {digest}")
