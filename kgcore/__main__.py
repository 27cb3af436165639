# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the ``kgcore`` command as ``python3 -m kgcore``."""

from kgcore.cli.main import entry

entry()
