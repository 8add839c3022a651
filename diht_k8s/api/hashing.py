"""`config_sha256`: equal for two stages whose outputs must be equal, whatever machine, pods or processes ran them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence, Set
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from diht_k8s.api.base import is_array, is_object
from diht_k8s.api.documents import canonical_json, model_in
from diht_k8s.api.run import Spec, Stage

SCHEMA_VERSION: Final = 1
"""Version of the artefacts' headers and of the rule by which `config_sha256` is made."""
STAGE_VERSIONS: Final[dict[Stage, int]] = {Stage.FILTER: 3, Stage.LABEL: 3, Stage.TRAIN: 1, Stage.EVALUATE: 10}
"""Raised when a stage's program gives other results for the same configuration."""
SHOWN: Final = 48
"""Characters of a value in a difference."""
CONTEXT: Final = 12
"""Of these, how many may stand before the first one that differs."""


def result_fields(model: BaseModel) -> dict[str, Any]:
    """The set fields that change the result: no defaults, no placement."""
    fields: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = _result_value(getattr(model, name))
        if value == _result_value(field.get_default(call_default_factory=True)) or _is_placement(field):
            continue
        fields[field.alias or name] = value
    return fields


def _is_placement(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return is_object(extra) and bool(extra.get("x-placement"))


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
        **({} if stage is Stage.FILTER else {"seed": spec.training_seed if stage is Stage.TRAIN else spec.seed}),
        "config": {name: value for name, value in result_fields(getattr(spec, stage.value)).items() if name != "seed"},
        "inputs": dict(inputs),
        "programs": dict(programs),
    }


def run_fields(spec: Spec) -> dict[str, Any]:
    """The set fields of a run document that change any result."""
    data = {name: value for name, value in result_fields(spec.data).items() if name != "output"}
    return {"seed": spec.seed, "data": data, **stages_fields(spec)}


def stages_fields(spec: Spec) -> dict[str, Any]:
    """The set fields of a run's stages that change their results."""
    return {stage.value: result_fields(getattr(spec, stage.value)) for stage in spec.stages}


def run_sha256(spec: Spec) -> str:
    """Digest of `run_fields`: two runs of one name and digest are the same run."""
    return sha256_of(run_fields(spec))


def field_without_result(path: Sequence[str]) -> str | None:
    """The field on a path below `spec` that changes no result: placement, or outside all digests; None if each may.

    An unknown field counts as one that may: the document's check names it.
    """
    if list(path[:2]) == ["data", "output"]:
        return "data.output"
    model: type[BaseModel] | None = Spec
    for depth, key in enumerate(path):
        if key.isdigit():  # an item of a list
            continue
        fields = {} if model is None else {field.alias or name: field for name, field in model.model_fields.items()}
        if (field := fields.get(key)) is None:
            return None
        outside = depth == 0 and key not in ("seed", "data", *Stage)
        if outside or _is_placement(field):
            return ".".join(path[: depth + 1])
        model = model_in(field.annotation)
    return None


def decided_by(spec: Spec, stage: Stage) -> str:
    """Digest of what in a run document decides a stage's result: two documents for which it is equal share the stage.

    It stands for `config_sha256` as long as the stages before have not ended; what lies at the inputs is left open.
    """
    inputs = {before.value: decided_by(spec, before) for before in _read_by(spec, stage)}
    if stage in (Stage.FILTER, Stage.TRAIN):
        unused = {"output", "weight"} if stage is Stage.FILTER else {"output"}
        inputs["data"] = sha256_of(_without(result_fields(spec.data), unused))
    if stage is Stage.FILTER and spec.filter is not None and spec.evaluate is not None:
        kept_out = [each for each in spec.evaluate.benchmarks if each.name in spec.filter.decontaminate]
        inputs["benchmarks"] = sha256_of([result_fields(each) for each in kept_out])
    return sha256_of(stage_config(spec, stage, inputs, {}))


def _read_by(spec: Spec, stage: Stage) -> list[Stage]:
    """The stages of a run whose output a stage reads."""
    train, evaluate = spec.train, spec.evaluate
    unread: set[Stage] = set()
    if stage is Stage.TRAIN and train is not None:
        if train.shards:
            unread.add(Stage.FILTER)
        if train.labels is not None or not train.distillation.reads_labels:
            unread.add(Stage.LABEL)
    if stage is Stage.EVALUATE and evaluate is not None and evaluate.model is not None:
        return []
    before = list(Stage)[: list(Stage).index(stage)]
    return [each for each in before if each in spec.stages and each not in unread]


def _without(value: Any, names: Set[str]) -> Any:
    if is_object(value):
        return {key: _without(item, names) for key, item in value.items() if key not in names}
    return [_without(item, names) for item in value] if is_array(value) else value


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
    old, new = (_text(value) for value in (before, after))
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
    start = same - CONTEXT if same > SHOWN - CONTEXT else 0  # what differs is seen, also far into a long value
    return [f"{path}: {_brief(old, start)} -> {_brief(new, start)}"]


def _text(value: Any) -> str:
    return "(default)" if value is None else canonical_json(value)


def _brief(text: str, start: int) -> str:
    part = f"...{text[start:]}" if start else text
    return part if len(part) <= SHOWN else f"{part[: SHOWN - 3]}..."
