"""What a release may not take from the one before it. Pure.

The API server keeps objects that the older release wrote, and the older operator writes statuses under the newer definition while an
upgrade or a rollback lasts: the newer schema must take whatever the older one took. CEL rules are not compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

UPPER: Final = ("maximum", "maxLength", "maxItems", "maxProperties")
LOWER: Final = ("minimum", "minLength", "minItems", "minProperties")
SAME: Final = (
    "type",
    "pattern",
    "format",
    "nullable",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
)
KEPT: Final = "x-kubernetes-preserve-unknown-fields"
Schema = Mapping[str, Any]


def incompatibilities(old: Schema, new: Schema, path: str = "") -> Iterator[str]:
    """What of the documents that a structural schema takes another one does not take or would prune, one `path: why` each."""
    yield from (f"{path}: {key} {old.get(key)} -> {new.get(key)}" for key in _narrowed(old, new))
    yield from (f"{path}.{name}: required" for name in sorted({*new.get("required", ())} - {*old.get("required", ())}))
    open_before, open_after = bool(old.get(KEPT)), bool(new.get(KEPT))
    if open_before and not open_after:
        yield f"{path}: unknown fields are pruned"
    for name, schema in old.get("properties", {}).items():
        if (after := new.get("properties", {}).get(name)) is not None:
            yield from incompatibilities(schema, after, f"{path}.{name}")
        elif not open_after:
            yield f"{path}.{name}: gone"
    for key in ("items", "additionalProperties"):
        if isinstance(old.get(key), Mapping):
            yield from incompatibilities(old[key], new.get(key, {}), f"{path}[]")


def _narrowed(old: Schema, new: Schema) -> Iterator[str]:
    """The constraints of one node that are others or tighter."""
    yield from (key for key in SAME if old.get(key) != new.get(key))
    yield from (key for key in UPPER if key in new and new[key] < old.get(key, float("inf")))
    yield from (key for key in LOWER if key in new and new[key] > old.get(key, float("-inf")))
    if "enum" in new and ("enum" not in old or not set(old["enum"]) <= set(new["enum"])):
        yield "enum"
