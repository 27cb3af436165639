# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writing TOML (the standard library only reads it): tables, arrays of tables, strings, numbers, lists."""

from __future__ import annotations

import json
from typing import Any


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped too.
    return json.dumps(str(value)).replace("\x7f", "\\u007f")


def _pairs(table: dict[str, Any]) -> list[str]:
    return [f"{json.dumps(key) if not key.isidentifier() else key} = {_value(value)}" for key, value in table.items()]


def dumps(values: dict[str, Any]) -> str:
    """Write a table whose values are plain values, tables, or lists of tables."""
    plain = {k: v for k, v in values.items() if not _is_table(v)}
    lines = _pairs(plain)
    for key, value in values.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", *_pairs(value)]
        elif _is_table(value):
            for row in value:
                lines += ["", f"[[{key}]]", *_pairs(row)]
    return "\n".join(lines) + "\n"


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))
