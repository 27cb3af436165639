# SPDX-License-Identifier: LGPL-2.1-or-later
"""The version, apart from the public face, so that whoever names it imports nothing else."""

__all__ = ("__version__",)

__version__ = "0.1.0"
