# SPDX-License-Identifier: LGPL-2.1-or-later
"""What libraries have to say: drgn logs what troubles it, and its faults have its own words and libkdumpfile's."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from kgcore.cli.console import Console
from kgcore.cli.request import Channel

__all__ = ("routed",)

_LOGGERS = ("drgn", "kgcore.libraries")


@contextmanager
def routed(show: Channel, console: Console) -> Iterator[None]:
    """Show it with ``-v 2``, and with no other level: kgcore's own messages name what matters.

    Afterwards all is as before: in drgn others have said what becomes of it.
    """
    handler: logging.Handler = logging.NullHandler()
    if show & Channel.LIBRARY:
        handler = logging.StreamHandler(console.err)
        handler.setFormatter(logging.Formatter("drgn: %(levelname)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger, logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(logging.WARNING if show & Channel.LIBRARY else logging.CRITICAL)
    try:
        yield
    finally:
        for logger, handlers, propagate, level in before:
            logger.handlers[:] = handlers
            logger.propagate = propagate
            logger.setLevel(level)
