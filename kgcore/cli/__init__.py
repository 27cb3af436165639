# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parse the command line, run the command, and show the results."""
