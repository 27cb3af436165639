# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a finished core and say what is wrong with it and what it lacks.

It reads any Linux core of x86, also the kernel's own; only cores by kgcore say what they lack. Layouts come from
pyelftools and from numbers in this package, not from the code that writes cores, so that no mistake is made twice.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, cast

from kgcore.check.findings import Findings, Stop
from kgcore.check.kernelnotes import check_kernel_notes
from kgcore.check.kgcorenote import check_kgcore
from kgcore.check.notes import KGCORE, CoreNote, read_notes
from kgcore.check.segments import Headers, check_loads, check_shared, read_headers
from kgcore.check.unpack import Unpacked, compression_of
from kgcore.check.verdict import Verdict
from kgcore.errors import KgcoreError
from kgcore.system.regular import reading

__all__ = ("check_core",)


def check_core(path: str | os.PathLike[str]) -> Verdict:
    """Check that a core is well-formed, and say what it lacks.

    It needs neither drgn nor the dump, and reads cores of others, too.

    :param path: of an ELF core, which may be compressed with zstd or gzip.
    :return: its problems, what it lacks, and what it contains.
    :raises KgcoreError: the file cannot be opened or read. Problems in it are in the verdict.
    """
    name = os.fspath(path)
    try:
        with reading(name) as file:
            packed = compression_of(file.read(4))
            unpacked = None if packed is None else Unpacked(file, name, packed, b"\x7fELF")
            whole = file if unpacked is None else cast(BinaryIO, unpacked)
            findings = Findings(os.fstat(file.fileno()).st_size if unpacked is None else unpacked.size)
            if unpacked is None or unpacked.size or not unpacked.trouble:
                with suppress(Stop):
                    _check(whole, findings)
    except OSError as error:
        raise KgcoreError(f"cannot read {name}: {error.strerror or error}") from error
    cut_short = findings.problems == [findings.cut_short]
    if unpacked is not None and unpacked.trouble:
        cut_short &= unpacked.cut_off
        findings.problems.insert(0, unpacked.trouble)
        findings.cut_off = True
    ok = not findings.problems
    lacking = findings.cut_off or bool(findings.lacks)
    complete = None if "kgcore" not in findings.facts and not lacking else not lacking
    return Verdict(
        path=name,
        ok=ok,
        complete=complete,
        problems=tuple(findings.problems),
        lacks=tuple(findings.lacks),
        facts=findings.facts,
        cut_short=cut_short,
    )


def _check(file: BinaryIO, findings: Findings) -> None:
    """:raises Stop: there was no use in going on."""
    size = findings.facts["size"]
    headers = read_headers(file, size, findings)
    sharing = check_loads(headers.loads, size, findings)
    notes = list(_notes(file, headers, size, findings))
    findings.facts["notes"] = len(notes)
    told = check_kgcore(next((note.desc for note in notes if note.kind == KGCORE), None), headers.loads, findings)
    if told is not None and told.limit:
        findings.facts["limit"] = told.limit
    check_shared(file, size, sharing, None if told is None else told.shared_zeros, findings)
    check_kernel_notes([note for note in notes if note.kind != KGCORE], headers, told, findings)


def _notes(file: BinaryIO, headers: Headers, size: int, findings: Findings) -> Iterator[CoreNote]:
    """All notes that are there."""
    present = []
    for offset, length in headers.notes:
        if offset + length > size:
            findings.problem("the file is cut off within the notes")
            findings.cut_off = True
        present.append((offset, max(0, min(length, size - offset))))
    if sum(length for _, length in present) > size:
        findings.problem("the PT_NOTEs have more bytes than the file")
        return iter(())
    return read_notes(file, present, size, findings.problem)
