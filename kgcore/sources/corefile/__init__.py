# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finished cores as a source."""
