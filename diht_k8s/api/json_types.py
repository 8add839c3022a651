"""Types of JSON values: the path of a field, guards for the type checker, and the texts of a document.

`isinstance` alone leaves the items of a mapping or a list unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


def texts_in(value: Any, *, keys: bool) -> Iterator[str]:
    """All texts of a JSON document, in order; names of fields among them if `keys`."""
    if isinstance(value, str):
        yield value
    elif is_object(value):
        for key, item in value.items():
            if keys:
                yield key
            yield from texts_in(item, keys=keys)
    elif is_list(value):
        for item in value:
            yield from texts_in(item, keys=keys)
