"""The status: what it holds, how it is read, and that it is at most 10 KB by construction."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from diht_k8s.api import status as api
from diht_k8s.api.base import TIME_PATTERN, timestamp
from diht_k8s.api.documents import canonical_json
from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.run import Stage
from diht_k8s.api.status import (
    Condition,
    FailureCause,
    Metric,
    NodePreflight,
    Preflight,
    StageStatus,
    Status,
    bounded,
    wire,
)

LOG = ["é" * 250] * 20


def stage(index: int, **cause: Any) -> StageStatus:
    failure = FailureCause(exit_code=1, **cause)
    return StageStatus(name=f"s{index}", stage=Stage.TRAIN, state=api.StageState.FAILED, cause=failure)


def size(status: Status) -> int:
    return len(json.dumps(wire(status), ensure_ascii=False).encode())


def test_time_is_written_as_kubernetes_writes_it() -> None:
    assert timestamp(0.9) == "1970-01-01T00:00:00Z"
    assert timestamp(1_764_000_000) == "2025-11-24T16:00:00Z"
    assert timestamp(-62_135_596_800) == "0001-01-01T00:00:00Z", "Kubernetes' zero time"


def test_status_on_the_wire_leaves_out_what_is_not_set_and_comes_back_equal() -> None:
    status = Status(restarts=1, stages=[stage(0, message="m")])
    document = wire(status)
    assert document == {
        "restarts": 1,
        "stages": [{"name": "s0", "stage": "train", "state": "Failed", "cause": {"exitCode": 1, "message": "m"}}],
    }
    assert Status.model_validate(document) == status


def test_status_of_a_newer_operator_is_readable() -> None:
    condition = {"type": "Failed", "status": "True", "reason": "NotYetInvented", "lastTransitionTime": timestamp(0)}
    status = Status.model_validate({"conditions": [condition], "notYetInvented": 1})
    assert status.conditions[0].reason is Reason.UNKNOWN


def test_status_takes_no_reason_from_outside_the_list() -> None:
    assert Condition(
        type=ConditionType.FAILED, status="True", reason=Reason.BAD_DATA, last_transition_time=timestamp(0)
    )
    assert len({*Reason}) == len(Reason)
    assert all(reason.meaning and reason.value[0].isupper() and reason.value.isalpha() for reason in Reason)


@pytest.mark.parametrize("value", ["5e-05", "1.25", "-3", "nan", "inf"])
def test_metric_takes_numbers_as_text(value: str) -> None:
    assert Metric(name="loss", value=value).value == value


@pytest.mark.parametrize("value", ["fast", "", "1,5", "0x1"])
def test_metric_takes_no_other_text(value: str) -> None:
    with pytest.raises(ValidationError):
        Metric(name="loss", value=value)


def test_small_status_stays_as_it_is() -> None:
    status = Status(stages=[stage(0, log_tail=["short"])])
    assert bounded(status) is status


def test_large_status_loses_the_older_logs_first() -> None:
    cut = bounded(Status(stages=[stage(0, log_tail=LOG), stage(1, log_tail=LOG[:10])]))
    assert size(cut) <= api.MAX_STATUS_BYTES
    assert [len(one.cause.log_tail) for one in cut.stages if one.cause] == [0, 10]


@pytest.mark.parametrize(
    ("message", "uri", "names"),
    [("", "", ["bad", "fit"]), ("é" * 500, "", ["bad"]), ("é" * 500, "s" * 1000, None)],
    ids=["small", "too large", "far too large"],
)
def test_large_status_loses_healthy_nodes_before_logs_and_the_preflight_after_messages(
    message: str, uri: str, names: list[str] | None
) -> None:
    nodes = [NodePreflight(node="bad", problem="x" * 256), NodePreflight(node="fit", pod="p" * 63)]
    checked = stage(0, message="m", log_tail=["short"]).model_copy(update={"preflight": Preflight(nodes=nodes)})
    conditions = [
        Condition(type=kind, status="True", reason=Reason.VALID, message=message, last_transition_time=timestamp(0))
        for kind in ConditionType
    ]
    others = [stage(index, message=message).model_copy(update={"output_uri": uri or None}) for index in range(1, 8)]
    cut = bounded(Status(conditions=conditions, stages=[checked, *(others if message else [])]))
    assert size(cut) <= api.MAX_STATUS_BYTES
    found = cut.stages[0].preflight
    assert (None if found is None else [node.node for node in found.nodes]) == names


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
