"""What a Role has no place for, as overlays."""

from __future__ import annotations

from typing import Any

import pytest
from torchx.specs import RetryPolicy
from torchx.specs.overlays import apply_overlay, get_overlay

from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.launch import stages
from tests.unit.api.documents import changed

FIELD = {"fieldRef": {"fieldPath": "spec.nodeName"}}
CREDENTIALS = [
    {
        "name": f"DIHT_STORAGE_1_{key}",
        "valueFrom": {"secretKeyRef": {"name": "keys", "key": f"AWS_{key}"}},
    }
    for key in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")
]


def overlay(kind: str, stage: Stage = Stage.TRAIN, **changes: Any) -> dict[str, Any]:
    run = DihtRun.model_validate(changed(**changes))
    return get_overlay(stages.stage_app(run, stage).roles[0], "kubernetes", kind, flat_fallback=False)


@pytest.mark.parametrize(
    ("changes", "container"),
    [
        ({}, {}),
        ({"spec__pods": {"imagePullPolicy": "Never"}}, {"imagePullPolicy": "Never"}),
        (
            {"spec__pods": {"resources": {"cpu": "500m", "nvidia.com/gpu": 2}}},
            {
                "resources": {
                    "limits": {"cpu": "500m", "nvidia.com/gpu": "2"},
                    "requests": {"cpu": "500m", "nvidia.com/gpu": "2"},
                }
            },
        ),
        (
            {"spec__pods": {"volumes": [{"name": "a"}], "volumeMounts": [{"name": "a", "mountPath": "/a"}]}},
            {"volumeMounts": [{"name": "a", "mountPath": "/a"}]},
        ),
        (
            {"spec__pods": {"env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": FIELD}, {"name": "C"}]}},
            {"env": [{"name": "B", "valueFrom": FIELD}, {"name": "C"}]},
        ),
        (
            {"spec__storage": [{"prefix": "s3://aaa"}, {"prefix": "s3://bbb", "secretRef": {"name": "keys"}}]},
            {"env": CREDENTIALS},
        ),
        (
            {"spec__storage": [{"prefix": f"{each}://aaa", "secretRef": {"name": each}} for each in ("gs", "az")]},
            {
                "env": [
                    {
                        "name": "DIHT_STORAGE_0_GOOGLE_CREDENTIALS",
                        "valueFrom": {"secretKeyRef": {"name": "gs", "key": "GOOGLE_CREDENTIALS"}},
                    },
                    {
                        "name": "DIHT_STORAGE_1_AZURE_STORAGE_CONNECTION_STRING",
                        "valueFrom": {"secretKeyRef": {"name": "az", "key": "AZURE_STORAGE_CONNECTION_STRING"}},
                    },
                ]
            },
        ),
    ],
    ids=[
        "nothing",
        "pull policy",
        "exact quantities",
        "mounts",
        "env by reference",
        "credentials of a storage rule",
        "of other stores",
    ],
)
def test_container_gets_what_a_role_cannot_say(changes: dict[str, Any], container: dict[str, Any]) -> None:
    assert overlay("V1Container", Stage.FILTER, **changes) == container


def test_pods_of_a_training_alone_learn_the_name_of_their_node() -> None:
    given = {"env": [{"name": "B", "valueFrom": FIELD}]}
    named = [item["name"] for item in overlay("V1Container", spec__pods=given)["env"]]
    assert overlay("V1Container") == {"env": [{"name": "DIHT_NODE_NAME", "valueFrom": FIELD}]}
    assert named == ["DIHT_NODE_NAME", "B"]


def test_volumes_join_those_of_the_scheduler_by_name() -> None:
    spec = {"volumes": [{"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "1M"}}, {"name": "tmp"}]}
    apply_overlay(spec, overlay("V1Pod", spec__pods={"shmSize": "8Gi", "volumes": [{"name": "v"}]})["spec"])
    assert spec["volumes"] == [
        {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},
        {"name": "tmp"},
        {"name": "v"},
    ]


@pytest.mark.parametrize(
    ("stage", "changes", "job"),
    [
        (Stage.TRAIN, {}, {}),
        (Stage.TRAIN, {"spec__pods": {"queueName": "q"}}, {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "q"}}}),
        (
            Stage.TRAIN,
            {"spec__train__numNodes": 2},
            {"spec": {"successPolicy": {"rules": [{"succeededIndexes": "0"}]}}},
        ),
        (
            Stage.FILTER,
            {"spec__filter__workers": 2},
            {"spec": {"backoffLimit": 6, "successPolicy": {"rules": [{"succeededCount": 1}]}}},
        ),
        (Stage.FILTER, {"spec__filter__workers": 1}, {}),
        (
            Stage.EVALUATE,
            {"spec__evaluate__workers": 3},
            {"spec": {"backoffLimit": 9, "successPolicy": {"rules": [{"succeededCount": 1}]}}},
        ),
        (Stage.LABEL, {"spec__label__workers": 2}, {"spec": {"backoffLimit": 6}}),
    ],
)
def test_gang_has_succeeded_when_node_0_has_and_workers_when_one_has(
    stage: Stage, changes: dict[str, Any], job: dict[str, Any]
) -> None:
    assert overlay("V1Job", stage, **changes) == job


@pytest.mark.parametrize(
    ("step", "spec"),
    [
        ("predict", {"backoffLimit": 6, "successPolicy": {"rules": [{"succeededCount": 1}]}}),
        ("heads", None),
    ],
)
def test_first_worker_of_predict_to_succeed_has_committed_the_stage(step: str, spec: dict[str, Any] | None) -> None:
    run = DihtRun.model_validate(changed(spec__label__workers=2))
    overlays = get_overlay(
        stages.stage_app(run, Stage.LABEL, step=step).roles[0], "kubernetes", "V1Job", flat_fallback=False
    )
    assert overlays.get("spec") == spec


@pytest.mark.parametrize(
    ("stage", "policy"), [(Stage.FILTER, RetryPolicy.REPLICA), (Stage.TRAIN, RetryPolicy.APPLICATION)]
)
def test_ranks_restart_together_and_workers_alone(stage: Stage, policy: RetryPolicy) -> None:
    run = DihtRun.model_validate(changed())
    assert stages.stage_app(run, stage).roles[0].retry_policy is policy
