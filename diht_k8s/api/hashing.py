"""`config_sha256`: equal for two stages whose outputs must be equal, whatever machine, pods or processes ran them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from diht_k8s.api.documents import canonical_json
from diht_k8s.api.json_types import is_array, is_object
from diht_k8s.api.run import Spec, Stage

SCHEMA_VERSION: Final = 1
"""Version of the artefacts' headers and of the rule by which `config_sha256` is made."""
STAGE_VERSIONS: Final[dict[Stage, int]] = {Stage.FILTER: 1, Stage.LABEL: 2, Stage.TRAIN: 1, Stage.EVALUATE: 3}
"""Raised when a stage's program gives other results for the same configuration."""


def result_fields(model: BaseModel) -> dict[str, Any]:
    """The set fields that change the result: no defaults, no placement."""
    fields: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = _result_value(getattr(model, name))
        extra = field.json_schema_extra
        if value == _result_value(field.get_default(call_default_factory=True)) or (
            is_object(extra) and extra.get("x-placement")
        ):
            continue
        fields[field.alias or name] = value
    return fields


def _result_value(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return result_fields(value)
    return [_result_value(item) for item in value] if is_array(value) else value


def stage_config(spec: Spec, stage: Stage, inputs: Mapping[str, str], programs: Mapping[str, str]) -> dict[str, Any]:
    """What `config_sha256` covers.

    Args:
        spec: the run.
        stage: the stage.
        inputs: name of each input (a shard, the stage before) -> digest or ETag.
        programs: name of each model used (parser, OCR, teacher) -> version or digest of its weights.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "stage": stage.value,
        "stage_version": STAGE_VERSIONS[stage],
        "seed": spec.seed,
        "config": result_fields(getattr(spec, stage.value)),
        "inputs": dict(inputs),
        "programs": dict(programs),
    }


def sha256_of(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """What differs between two configurations, one `field: before -> after` each, for a person."""
    if is_object(before) and is_object(after):
        keys = sorted({*before, *after})
        return [
            line
            for key in keys
            for line in differences(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
        ]
    if canonical_json(before) == canonical_json(after):
        return []
    return [f"{path}: {_brief(before)} -> {_brief(after)}"]


def _brief(value: Any) -> str:
    text = "(default)" if value is None else canonical_json(value)
    return text if len(text) <= 48 else f"{text[:45]}..."
