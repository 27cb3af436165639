# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build the KGCORE note, for what ELF has no place: what a core from a dump lacks, and why.

Owner ``KGCORE``, type NT_KGCORE, description: compact ASCII JSON with sorted keys, an object. All known readers
skip it. Linux does not use this type number, since libbfd (gdb, readelf) looks at the type of a core's notes before
the owner, and would take a type 1 for NT_PRSTATUS. docs/vendor-note.md and note.schema.json in
kgcore/schemas describe its keys: keys may be added without a new format; none changes its meaning or goes without one.

It is the same for the same dump and options: no time, no host, no output path. A read that fails after the headers were
written appears only in the report.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from kgcore._version import __version__
from kgcore.coredump.notes import has_fpu_note
from kgcore.elf.layout import Note
from kgcore.filters.base import Keep
from kgcore.model.account import Account
from kgcore.model.kindwords import word_of
from kgcore.model.memory import Run
from kgcore.model.process import ProcessImage, Thread
from kgcore.model.state import ProcessState
from kgcore.model.statejson import to_json
from kgcore.text import plain

__all__ = ("FORMAT", "NT_KGCORE", "OWNER", "vendor_note")

OWNER = b"KGCORE"
NT_KGCORE = 0x4B474352  # "KGCR", in the manner of NT_FILE and NT_SIGINFO
FORMAT = 1
_AT_ONCE = 1024


def vendor_note(
    image: ProcessImage,
    source: Mapping[str, str],
    filter_settings: Mapping[str, int | bool | str],
    policy: str,
    decisions: Sequence[tuple[Keep, Account]],
    missing: Iterable[Run],
    warnings: Iterable[str],
    shared_zeros: int = 0,
    state: ProcessState | None = None,
    limit: Mapping[str, object] | None = None,
) -> Note:
    """Build the KGCORE note.

    :param decisions: one per VMA of the image.
    :param warnings: those of the image and all others.
    :param shared_zeros: bytes of memory that share one range of zeros in the file.
    :param state: None: it is left out.
    :param limit: the limits that it is written under; None: none.
    """
    content: dict[str, object] = {
        "format": FORMAT,
        "kgcore": __version__,
        "source": {plain(key): plain(value) for key, value in source.items()},
        "kernel": plain(image.kernel),
        "tgid": image.tgid,
        "filter": dict(filter_settings),
        "missing_policy": policy,
        "missing": ([hex(run.address), hex(run.end), run.provenance.value, plain(run.detail)] for run in missing),
        "threads": map(_thread, image.threads),
        "vmas": (
            [hex(vma.start), hex(vma.end), hex(vma.flags), keep.reason, keep.length]
            for vma, (keep, _) in zip(image.vmas, decisions, strict=True)
        ),
        "kinds": map(word_of, image.vmas),
        "process": _process(image),
        "accounts": (account.compact() for _, account in decisions),
        "account": Account.sum(account for _, account in decisions).compact(),
        "dying": None if image.dying is None else image.dying.to_json(),
        "warnings": [plain(text) for text in warnings],
    }
    if limit is not None:
        content["limit"] = dict(limit)
    if shared_zeros:
        content["shared_zeros"] = shared_zeros
    if state is not None:
        content["state"] = to_json(state)
    members = b",".join(_json(key) + b":" + _json(content[key]) for key in sorted(content))
    return Note(OWNER, NT_KGCORE, b"{%b}" % members)


def _process(image: ProcessImage) -> dict[str, object]:
    """What is known of the process itself."""
    known = {"start_brk": image.start_brk, "brk": image.brk, "start_stack": image.start_stack}
    dialect = image.dialect
    found: dict[str, object] = {name: hex(address) for name, address in known.items() if address}
    if image.dump_filter is not None:
        found["coredump_filter"] = image.dump_filter
    headers = {"mode": dialect.header_by_mode, "magic": dialect.header_by_magic}
    return {**found, "named": image.named, "headers": [rule for rule, has in headers.items() if has]}


def _json(value: object) -> bytes:
    """Compact JSON. An iterator becomes an array: there may be 100 000 mappings, and all of them as Python objects
    take several times the memory of the note."""
    if isinstance(value, Iterator):
        parts = iter(lambda: list(islice(value, _AT_ONCE)), [])
        return b"[%b]" % b",".join(_json(part)[1:-1] for part in parts)
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def _fpu(thread: Thread) -> str:
    if thread.fpu is not None and thread.fpu.stale:
        return "stale"
    return "none" if thread.fpu is None and not has_fpu_note(thread) else "saved"


def _thread(thread: Thread) -> dict[str, object]:
    return {
        "tid": thread.tid,
        "registers": thread.regs.source.value,
        "unknown": sorted(thread.regs.unknown),
        "fpu": _fpu(thread),
        "cpu": thread.cpu,
    }
