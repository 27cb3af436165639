# SPDX-License-Identifier: LGPL-2.1-or-later
"""Route the log of drgn and libkdumpfile."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from kgcore.cli.console import Console
from kgcore.cli.request import Channel

__all__ = ("routed",)

_LOGGERS = ("drgn", "kgcore.libraries")


@contextmanager
def routed(show: Channel, console: Console) -> Iterator[None]:
    """Show library messages with ``-v 2`` and hide them otherwise: kgcore's own messages say what matters.

    Restore the loggers afterwards: inside drgn they belong to somebody else.
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
