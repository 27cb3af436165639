# SPDX-License-Identifier: LGPL-2.1-or-later
"""The published schemas, stricter than they are published."""

from typing import Any


def strict(schema: Any) -> Any:
    """The same, of objects that have no other keys."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    more = {"additionalProperties": False} if "properties" in schema and "required" in schema else {}
    return {key: strict(value) for key, value in schema.items()} | more
