# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the operating system gives a program: signals, standard streams, private directories, regular files."""
