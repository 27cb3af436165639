# SPDX-License-Identifier: LGPL-2.1-or-later
"""Generate files from kgcore's parsers: ``python3 -m tools.generate``.

They are committed, so that building a package runs nothing; a test fails if they are outdated.
"""

from pathlib import Path

from kgcore.cli.completion import FILES, script
from tools import kernels
from tools.manpage import man_page

__all__ = ("generated",)

ROOT = Path(__file__).resolve().parents[1]


def generated() -> dict[Path, str]:
    """Return the files by path."""
    files = {ROOT / "completion" / file: script(shell) for shell, file in FILES.items()}
    return files | {ROOT / "man" / "kgcore.1": man_page(), kernels.PAGE: kernels.page(kernels.load())}


if __name__ == "__main__":
    for path, text in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path.relative_to(ROOT))
