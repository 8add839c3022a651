"""Types of JSON values: the path of a field, and guards for the type checker.

`isinstance` alone leaves the items of a mapping or a list unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

FieldPath = tuple[str | int, ...]
"""Names of fields and indices of list items, from the document's root on."""


def dotted(path: FieldPath) -> str:
    """A field as people write it: `spec.data.sources[0].shards[1]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def is_object(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether the value is a JSON object."""
    return isinstance(value, Mapping)


def is_array(value: Any) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    """Whether the value is a JSON array."""
    return isinstance(value, list | tuple)


def is_dict(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether the value is a JSON object that can be changed in place."""
    return isinstance(value, dict)


def is_list(value: Any) -> TypeGuard[list[Any]]:
    """Whether the value is a JSON array that can be changed in place."""
    return isinstance(value, list)
