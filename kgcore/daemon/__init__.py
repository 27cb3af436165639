# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon that any program may ask for its own core. docs/daemon.md has its protocol."""
