# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs dump themselves, or others, by a call: what gencore and Google's coredumper offered."""
