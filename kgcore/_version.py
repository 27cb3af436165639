# SPDX-License-Identifier: LGPL-2.1-or-later
"""Define the version, so that importing it imports nothing else."""

__all__ = ("__version__",)

__version__ = "0.1.0"
