"""Objects of Kubernetes below `spec.pods`: how problems are told, and what Kubernetes leaves to us.

What a file says of one field is in the table `tests/contract/documents/fields.py`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from diht_k8s.api.documents import check
from tests.unit.api.documents import changed
from tools import kubernetes_types

ALONE = {
    "spec__filter": None,
    "spec__label": None,
    "spec__evaluate": None,
    "spec__train__distillation": {"mode": "Disabled"},
}


def problems(**pods: Any) -> list[str]:
    return [str(problem).split(": ", 1)[1] for problem in check(json.dumps(changed(**pods)))[1]]


@pytest.mark.parametrize(
    ("common", "own", "says"),
    [
        ({"podSecurityContext": {"runAsNonRoot": False}}, {"podSecurityContext": {"runAsGroup": 0}}, ""),
        ({"podSecurityContext": {"runAsUser": 0}}, {"podSecurityContext": {"runAsNonRoot": False}}, ""),
        (
            {"podSecurityContext": {"runAsUser": 0, "runAsNonRoot": False}},
            {"podSecurityContext": {"runAsNonRoot": True}},
            "train: runAsUser 0 is root",
        ),
    ],
)
def test_pods_of_a_stage_are_checked_as_they_are_merged(common: dict[str, Any], own: dict[str, Any], says: str) -> None:
    found = problems(spec__pods=common, spec__train__pods=own, **ALONE)
    assert [says in problem for problem in found] == ([True] if says else [])


def test_every_problem_of_an_object_is_told_at_its_own_field() -> None:
    pods = {
        "tolerations": [{"key": "a", "tolerationSeconds": "60"}, {"key": "a", "efect": "NoExecute"}],
        "resources": {"gpu": 1},
    }
    assert problems(spec__pods=pods) == [
        "spec.pods.resources: gpu is no resource: write cpu, memory, ephemeral-storage, hugepages-SIZE or DOMAIN/NAME, "
        "such as nvidia.com/gpu",
        'spec.pods.tolerations[0].tolerationSeconds: expected a whole number, got "60"',
        "spec.pods.tolerations[1].efect: unknown key; did you mean effect? (Kubernetes 1.37)",
    ]


def test_null_is_absent_in_objects_of_kubernetes() -> None:
    volume = {"name": "v", "emptyDir": {"medium": None, "sizeLimit": 5}, "nfs": None}
    run, _ = check(json.dumps(changed(spec__pods__volumes=[volume])))
    assert run is not None
    assert run.spec.pods.volumes == [{"name": "v", "emptyDir": {"sizeLimit": 5}}]


def test_types_are_those_of_kubernetes_validate() -> None:
    assert kubernetes_types.main(["--check"]) == 0, "run: python -m tools.kubernetes_types"
