# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real inputs, damaged in every way that can be thought of, and what kgcore makes of them."""
