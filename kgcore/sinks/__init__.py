# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write cores: to files past the page cache, to streams, compressed."""

STDOUT = "-"
"""The file name that means standard output."""
