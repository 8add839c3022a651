from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from diht_k8s.api import status as api
from diht_k8s.api import status as status_module
from diht_k8s.api.base import timestamp
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


def test_largest_status_fits_after_messages_are_cut() -> None:
    conditions = [
        Condition(type=kind, status="True", reason=Reason.VALID, message="é" * 1024, last_transition_time=timestamp(0))
        for kind in ConditionType
    ]
    stages = [stage(index, log_tail=LOG, message="é" * 1024) for index in range(8)]
    cut = bounded(Status(conditions=conditions, stages=stages))
    assert size(cut) <= api.MAX_STATUS_BYTES
    assert [one.cause.message for one in cut.stages if one.cause][-1]


def test_status_of_many_nodes_and_long_words_keeps_its_limit() -> None:
    long, node = "x" * 1024, "n" * 253
    cause = {
        "pod": "p" * 63,
        "node": node,
        "exitCode": 1,
        "reason": "R" * 63,
        "message": long,
        "logTail": ["y" * 256] * 20,
    }
    stage = {
        "stage": "train",
        "state": "Failed",
        "attempt": 999,
        "avoidNodes": [f"{index:02}{node[2:]}" for index in range(16)],
        "outputUri": "s" * 1056,
        "cause": cause,
        "workload": {"kind": "Job", "name": "j" * 63},
    }
    kinds = ("Accepted", "Progressing", "Complete", "Failed")
    time = "2026-01-01T00:00:00Z"
    found = status_module.Status.model_validate(
        {
            "conditions": [
                {"type": kind, "status": "True", "reason": "Valid", "message": long, "lastTransitionTime": time}
                for kind in kinds
            ],
            "stages": [{"name": f"s{index}", **stage} for index in range(8)],
            "attempts": [
                {"stage": "train", "number": index, "node": node, "reason": "R" * 63, "uid": "u" * 36}
                for index in range(5)
            ],
            "progress": {"stage": "train", "metrics": [{"name": f"{index}" * 20, "value": "1"} for index in range(16)]},
            "queue": {"name": "q" * 253, "reason": long},
            "lastCheckpoint": {"step": 1, "uri": "u" * 1088},
        }
    )
    assert len(json.dumps(status_module.wire(bounded(found)))) <= 10_000
