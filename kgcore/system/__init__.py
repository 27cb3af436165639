# SPDX-License-Identifier: LGPL-2.1-or-later
"""Use the operating system: signals, standard streams, private directories, regular files."""
