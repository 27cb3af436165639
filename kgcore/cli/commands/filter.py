# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run ``kgcore filter CORE``: write a finished core anew, with less in it."""

from collections.abc import Mapping, Sequence

from kgcore.cli.arguments import FILTER_BITS, add_show, add_version, existing
from kgcore.cli.commands.dumping import DumpCommand, add_core_options, request_of, run
from kgcore.cli.parser import Parser
from kgcore.cli.values import file_name
from kgcore.sinks import STDOUT
from kgcore.sources.location import CoreLocation

__all__ = ("make_parser", "parse", "run")

_EPILOG = (
    FILTER_BITS
    + """
CORE may be the kernel's, kgcore's, gdb's or of another tool, and compressed with zstd or gzip; - is standard input.
Notes and registers stay as they are. If nothing is left out, NEW is CORE, byte for byte. What CORE does not have
stays out of NEW; where CORE does not say what a mapping is, it is kept if it may be what FILTER keeps.

examples:
  kgcore filter core -o small --exclude 'size:>1G'     without what is larger than a gigabyte
  kgcore filter core -o shareable --redact name:[stack]  zeros in the place of the stack
  kgcore filter core -o mini --profile mini            what backtraces need
  zstd -dc core.zst | kgcore filter - -o - -f 1 | zstd > small.zst

exit status: 0 complete; 1 it could not be read or written; 2 usage; 3 written, but incomplete.
"""
)


def parse(words: Sequence[str], environ: Mapping[str, str]) -> DumpCommand:
    """Parse the words after the command's name.

    :raises UsageError, Answer: as :func:`kgcore.cli.commands.dump.parse` does.
    """
    parsed = make_parser().parse_intermixed_args(list(words))
    core = parsed.core if parsed.core == STDOUT else existing(parsed.core, "core")
    return DumpCommand(CoreLocation(core), request_of(parsed))


def make_parser() -> Parser:
    """Return the parser of the words after the command's name."""
    parser = Parser(
        "kgcore filter",
        usage="kgcore filter [-f FILTER] [--exclude RULE]... [-D DIR | -o FILE] CORE | -",
        description="Write a finished core anew, with less in it.",
        epilog=_EPILOG,
    )
    add_version(parser)
    add_show(parser)
    add_core_options(parser, held=True)
    parser.add_argument("core", metavar="CORE", type=file_name, help="the core; -: standard input")
    # The one process of a core is the current one
    parser.set_defaults(tasks=(), all=False, match=[], uid=[], swap=[], root=None)
    return parser
