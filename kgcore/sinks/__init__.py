# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where bytes go: files past the page cache, streams, compression."""

STDOUT = "-"
"""What names standard output where a file is asked for."""
