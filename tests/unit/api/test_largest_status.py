"""The status is at most 10 KB by construction: every field of its schema as large as the schema allows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from diht_k8s.api import status as api
from diht_k8s.api.base import TIME_PATTERN
from diht_k8s.api.documents import canonical_json
from diht_k8s.api.reasons import ConditionType
from diht_k8s.api.status import Status, bounded, wire

WORDS = {"message", "logTail", "step", "unit", "uri", "outputUri"}
"""Fields in which people and programs write; the others are names of Kubernetes and of ours."""
PATTERNS = {"^[A-Z]": "R" * 63, "^-?[0-9]": "-" + "9" * 31}


class Largest:
    """The largest document of a schema; strings differ, since some name an entry of a list."""

    def __init__(self, character: str) -> None:
        schema = Status.model_json_schema(by_alias=True)
        self._definitions: dict[str, Any] = schema["$defs"]
        self._character, self._number = character, itertools.count()
        self._kinds: Iterator[ConditionType] = itertools.cycle(ConditionType)
        self.document = self.of(schema)
        del self.document["conditions"][len(ConditionType) :]  # each type appears once

    def of(self, schema: dict[str, Any], field: str = "") -> Any:
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return next(self._kinds) if name == "ConditionType" else self.of(self._definitions[name], field)
        if "anyOf" in schema:
            return self.of(next(each for each in schema["anyOf"] if each.get("type") != "null"), field)
        if "enum" in schema or "const" in schema:
            return max(schema.get("enum", [schema.get("const")]), key=len)
        match schema["type"]:
            case "object":
                return {name: self.of(each, name) for name, each in schema["properties"].items()}
            case "array":
                return [self.of(schema["items"], field) for _ in range(schema["maxItems"])]
            case "integer":
                return schema["maximum"]
            case "boolean":
                return True
            case "string":
                return self._text(schema, field)
        raise AssertionError(f"no rule for {schema}")

    def _text(self, schema: dict[str, Any], field: str) -> str:
        if schema.get("pattern") == TIME_PATTERN:
            return "2026-01-01T00:00:00Z"
        if "pattern" in schema:
            return next(text for start, text in PATTERNS.items() if schema["pattern"].startswith(start))
        return f"{next(self._number):03}".ljust(schema["maxLength"], self._character if field in WORDS else "x")


@pytest.mark.parametrize("character", ["x", "é", "😀"])
def test_status_with_every_field_at_its_limit_is_cut_to_10_kb(character: str) -> None:
    status = Status.model_validate(Largest(character).document)
    full, cut = (len(canonical_json(wire(each)).encode()) for each in (status, bounded(status)))
    assert full > 2 * api.MAX_STATUS_BYTES
    assert cut <= api.MAX_STATUS_BYTES <= 10_240
    left_out = set(wire(status)) - set(wire(bounded(status)))
    assert left_out <= {"queue", "lastCheckpoint"}
