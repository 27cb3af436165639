# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where processes come from."""
