# SPDX-License-Identifier: LGPL-2.1-or-later
"""What kgcore costs: time and memory, each beside something else measured in the same run. See README.md."""
