# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run ``kgcore files``: list the open files of a process, or write their contents."""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kgcore.binaries.contents import FileGap
from kgcore.cli.arguments import (
    add_json,
    add_place_options,
    add_show,
    add_supply_options,
    add_task,
    add_version,
    place_of,
    task_of,
    user_files_of,
)
from kgcore.cli.commands import opening
from kgcore.cli.console import Console, Status
from kgcore.cli.parser import Parser, UsageError, flag, option
from kgcore.cli.request import Channel
from kgcore.cli.values import output_name
from kgcore.model.process import OpenFile
from kgcore.sinks import STDOUT
from kgcore.sinks.outputs import output
from kgcore.sources.base import NO_USER_FILES, Source, TaskRef, UserFiles
from kgcore.sources.location import Location
from kgcore.text import first_lines, human_size
from kgcore.views.openfiles import (
    ContentAccount,
    OpenFileTable,
    content_name,
    extract,
    having_open_files,
    list_lines,
    open_files,
)

__all__ = ("FilesCommand", "make_parser", "parse", "run")

_RANGES_TOLD = 20

_EPILOG = """\
examples:
  kgcore files 12345                             descriptors, flags, offsets, names; for deleted files and files in
                                                 memory (tmpfs, memfd) also how much of the content the dump holds
  kgcore files 12345 --extract 7 -o app.log      write the content of the file at descriptor 7
  kgcore files 12345 --extract 7 -o - | strings  the same, into a pipe
  kgcore files 12345 --list files.txt            a text file: fd : name : offset
  kgcore files 12345 --json | jq '.files[] | select(.deleted)'

exit status: 0 complete; 1 failed; 2 usage; 3 done, but incomplete.
"""


@dataclass(frozen=True, slots=True)
class FilesCommand:
    """The arguments of ``kgcore files``.

    :ivar task: the process whose files to show.
    :ivar extract: the descriptor whose file to write.
    :ivar output: the file to write it to; None: ``fd.<tgid>.<fd>``.
    :ivar list: the text file to write.
    """

    place: Location
    show: Channel
    json: bool
    task: TaskRef
    extract: int | None = None
    output: str | None = None
    list: str | None = None
    force: bool = False
    user_files: UserFiles = NO_USER_FILES


def parse(words: Sequence[str], environ: Mapping[str, str]) -> FilesCommand:
    """Parse the words after the command's name.

    :raises UsageError, Answer: as :func:`kgcore.cli.commands.dump.parse` does.
    """
    parsed = make_parser().parse_intermixed_args(list(words))
    if parsed.output and parsed.extract is None:
        raise UsageError("-o needs --extract; --list has its own FILE", hint="see kgcore files --help")
    if parsed.list and parsed.extract is not None:
        raise UsageError("--list and --extract exclude each other")
    if parsed.list and parsed.json:
        raise UsageError("--list writes text and excludes --json")
    if parsed.json and parsed.output == STDOUT:
        raise UsageError("the file and --json cannot both go to standard output", hint="use -o FILE")
    return FilesCommand(
        place=place_of(parsed, environ),
        show=Channel(parsed.show),
        json=parsed.json,
        task=task_of(parsed),
        extract=parsed.extract,
        output=parsed.output,
        list=parsed.list,
        force=parsed.force,
        user_files=user_files_of(parsed),
    )


def make_parser() -> Parser:
    """Return the parser of the words after the command's name."""
    parser = Parser(
        "kgcore files",
        description="List the open files of a process in a vmcore, or write the content of one.",
        epilog=_EPILOG,
    )
    add_version(parser)
    add_show(parser)
    add_json(parser)
    add_place_options(parser, live=True)
    group = parser.add_argument_group("the files")
    option(
        group,
        "--extract",
        metavar="FD",
        type=_descriptor,
        help="write the content of the file at a descriptor; missing parts become holes and are listed",
    )
    option(
        group,
        "-o",
        dest="output",
        metavar="FILE",
        type=output_name,
        help="with --extract: write to FILE (default: fd.<tgid>.<fd>); -: standard output",
    )
    option(
        group,
        "--list",
        metavar="FILE",
        type=output_name,
        help="write a text file instead of the table, one line per file: fd : name : offset; -: standard output",
    )
    flag(group, "--force", help="overwrite files")
    add_supply_options(group)
    add_task(parser)
    return parser


def _descriptor(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a file descriptor")
    return int(text)


def run(command: FilesCommand, console: Console) -> int:
    """List the files, or write one, and return the exit status."""
    if command.output == STDOUT and console.out.isatty():
        raise UsageError("standard output is a terminal", hint="use a pipe, or -o FILE")
    with opening.opened(command.place, command.show, console, command.user_files) as source:
        if command.extract is not None:
            return _extract(command, command.extract, source, console)
        found = open_files(source, command.task, contents=command.list is None)
    for sentence in (*found.lost, *found.remarks):
        console.remark(sentence)
    if command.list is not None:
        with output(command.list, force=command.force) as sink:
            sink.write("".join(list_lines(row.file for row in found.rows)).encode())
            sink.commit()
        if command.list != STDOUT:
            console.say(f"Saved {command.list}")
    elif command.json:
        _put_json(found, console)
    else:
        from kgcore.cli import render

        render.show_open_files(found.rows, console.out)
    return Status.INCOMPLETE if found.lost else Status.COMPLETE


def _put_json(found: OpenFileTable, console: Console) -> None:
    json.dump(found.to_json(), console.out, indent=2)
    console.out.write("\n")


def _extract(command: FilesCommand, fd: int, source: Source, console: Console) -> int:
    with source.process(command.task) as opened:
        process = having_open_files(opened)
        found = process.open_files()
        if all(file.fd != fd for file in found.files):
            for sentence in found.lost:
                console.remark(sentence)
        path = command.output or content_name(found.tgid, fd)
        row = extract(process, found, fd, sys.stdout.buffer if path == STDOUT else path, force=command.force)
    if command.json:
        table = OpenFileTable(tgid=found.tgid, rows=(row,), lost=found.lost, source=source.describe())
        _put_json(table, console)
    elif path != STDOUT:
        console.say(f"Saved {path}")
    assert row.content is not None
    _tell(row.file, row.content, console)
    return Status.INCOMPLETE if row.content.missing else Status.COMPLETE


def _tell(file: OpenFile, content: ContentAccount, console: Console) -> None:
    """Say what is missing."""
    if not content.missing:
        return
    size, lost = human_size(content.size), human_size(content.missing_bytes)
    console.remark(f"file descriptor {file.fd}: {lost} of {size} missing, left as holes:")
    for line in first_lines(content.missing, _RANGES_TOLD, _gap_words, "and {} more ranges; --json lists them"):
        console.remark(f"  {line}")


def _gap_words(gap: FileGap) -> str:
    return f"{gap.start:#x}-{gap.end:#x} {gap.reason}" + (f" ({gap.detail})" if gap.detail else "")
