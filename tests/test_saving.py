# SPDX-License-Identifier: LGPL-2.1-or-later
"""save(): a core in one call, as the command line writes it."""

import gzip
import io
from pathlib import Path
from typing import Any

import pytest

from kgcore import KgcoreError, LimitReached, Limits, Options, save, write_sysroot
from kgcore.check.sysroot import check_sysroot
from kgcore.saving import CoreWriter
from tests.fake_source import COMPLETE, INCOMPLETE, LARGE, LARGE_SIZE, FakeSource


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_directory_a_name_and_a_file_object(tmp_path: Path) -> None:
    source, stream = FakeSource(), io.BytesIO()
    assert save(source, COMPLETE).path == "./core.100"
    assert save(source, COMPLETE, tmp_path, force=True).path == str(tmp_path / "core.100")
    assert save(source, str(COMPLETE), Path("own")).path == "own"
    assert save(source, COMPLETE, stream).path is None
    assert (tmp_path / "core.100").read_bytes() == Path("own").read_bytes() == stream.getvalue() != b""
    assert source.held == 0


def test_compressed_it_has_a_suffix_where_it_has_a_name_of_ours() -> None:
    source, stream = FakeSource(), io.BytesIO()
    save(source, COMPLETE, stream)
    assert save(source, COMPLETE, compress="gzip").path == "./core.100.gz"
    save(source, COMPLETE, "own", compress="gzip")
    for name in ("core.100.gz", "own"):
        assert gzip.decompress(Path(name).read_bytes()) == stream.getvalue()


def test_nothing_is_overwritten_unasked() -> None:
    Path("core.100").write_text("precious")
    with pytest.raises(KgcoreError, match="exists"):
        save(FakeSource(), COMPLETE)
    assert Path("core.100").read_text() == "precious"
    assert save(FakeSource(), COMPLETE, force=True).complete


def test_but_one_writer_overwrites_what_it_has_written() -> None:
    source, writer = FakeSource(), CoreWriter(Options())
    assert writer.save(source, COMPLETE).path == writer.save(source, COMPLETE).path == "core.100"


def test_options_arrive() -> None:
    whole, part = (save(FakeSource(), COMPLETE, io.BytesIO(), Options(mask=mask)) for mask in (0x7F, 0))
    assert whole.data > part.data


def test_limits_put_what_matters_first_and_are_kept() -> None:
    stream = io.BytesIO()
    report = save(FakeSource(), LARGE, stream, limits=Limits(size=LARGE_SIZE // 2))
    assert 0 < len(stream.getvalue()) <= LARGE_SIZE // 2
    assert report.limit
    with pytest.raises(LimitReached):
        save(FakeSource(), LARGE, io.BytesIO(), limits=Limits(size=1))


def test_the_sysroot_beside_it_is_the_one_that_is_written_alone() -> None:
    source = FakeSource()
    save(source, INCOMPLETE, io.BytesIO(), sysroot="beside")
    files = write_sysroot(source, INCOMPLETE, Path("alone"))
    assert files.files[0].path == b"/bin/work"
    assert not files.complete
    listed = [[(file.path, file.whole) for file in check_sysroot(name).files] for name in ("beside", "alone")]
    assert listed[0] == listed[1] != []
    assert source.held == 0


@pytest.mark.parametrize(
    ("wrong", "why"),
    [({"jobs": 0}, "jobs is 0: expected 1 or more"), ({"compress": "bzip2"}, "expected zstd or gzip")],
)
def test_what_makes_no_sense(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        save(FakeSource(), COMPLETE, **wrong)
    assert not list(Path().iterdir())
