# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python3 -m kgcore``: the same as the ``kgcore`` command."""

from kgcore.cli.main import entry

entry()
