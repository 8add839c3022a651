"""Objects of Kubernetes below `spec.pods`: rules that Python alone knows, how problems are told, the tables that make them up.

What file and CRD both say of them is the table `tests/contract/documents/kubernetes.py`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from diht_k8s.api.documents import check
from diht_k8s.api.kubernetes_types.definitions import definitions
from diht_k8s.api.kubernetes_types.field_bounds import ALSO_REQUIRED, BOUNDS, UNSUPPORTED
from diht_k8s.api.kubernetes_types.object_rules import RULES
from tests.unit.api.documents import changed
from tools import kubernetes_types

NEAR = "requiredDuringSchedulingIgnoredDuringExecution"
TWICE = {"items": [{"key": "k", "path": "same"}]}
ISCSI = {
    "targetPortal": "10.0.0.1:3260",
    "iqn": "iqn.2001-04.org.example:d",
    "initiatorName": "iqn.2001-04.org.example:i",
    "lun": 0,
}


def problems(**pods: Any) -> list[str]:
    return [str(problem) for problem in check(json.dumps(changed(**pods)))[1]]


def near(**term: Any) -> dict[str, Any]:
    return {"affinity": {"podAntiAffinity": {NEAR: [{"topologyKey": "zone", **term}]}}}


def volume(**source: Any) -> dict[str, Any]:
    return {"volumes": [{"name": "v", **source}]}


def template(**spec: Any) -> dict[str, Any]:
    return volume(ephemeral={"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"], **spec}}})


def divided(resource: str, divisor: str) -> dict[str, Any]:
    return {"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}}]}


@pytest.mark.parametrize(
    ("pods", "says"),
    [
        (near(matchLabelKeys=["a"]), "matchLabelKeys and mismatchLabelKeys need labelSelector"),
        (near(labelSelector={}, matchLabelKeys=["a"], mismatchLabelKeys=["a"]), "no key may stand in two of them"),
        (near(labelSelector={"matchLabels": {"a": "b"}}, matchLabelKeys=["a"]), "no key may stand in two of them"),
        (near(labelSelector={"matchLabels": {"a b": "c"}}), "a b is no key: write NAME or DOMAIN/NAME"),
        (
            {
                "affinity": {
                    "nodeAffinity": {
                        NEAR: {
                            "nodeSelectorTerms": [
                                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["Node"]}]}
                            ]
                        }
                    }
                }
            },
            "the value of matchFields is a node's name",
        ),
        (template(resources={}), "a claim asks for storage"),
        (template(resources={"requests": {"storage": 0}}), "a claim asks for storage"),
        (template(resources={"requests": {"memory": "1Gi"}}), "memory is no key: write storage"),
        (
            volume(projected={"sources": [{"secret": {"name": "s", **TWICE}}, {"configMap": {"name": "c", **TWICE}}]}),
            "two sources make the same file",
        ),
        (
            volume(
                projected={
                    "sources": [
                        {
                            "podCertificate": {
                                "signerName": "example.org/ca",
                                "keyType": "ED25519",
                                "keyPath": "k",
                                "userAnnotations": {"a": "b"},
                            }
                        }
                    ]
                }
            ),
            "a is no key: write DOMAIN/NAME",
        ),
        (
            volume(flexVolume={"driver": "d", "options": {"kubernetes.io/fsType": "xfs"}}),
            "options of kubernetes.io and k8s.io",
        ),
        ({"volumes": [{"name": "v" * 60, "iscsi": ISCSI}]}, "at most 62 characters together"),
        (divided("limits.cpu", "1Mi"), "divisor is 1 or 1m for cpu"),
        (divided("requests.memory", "2Mi"), "divisor is 1 or 1m for cpu"),
        (
            {
                "podSecurityContext": {
                    "sysctls": [{"name": "net.core.a", "value": "1"}, {"name": "net/core/a", "value": "2"}]
                }
            },
            "two of sysctls have one name",
        ),
        ({"labels": {"Example.org/a": "b"}}, "Example.org/a is no key: write NAME or DOMAIN/NAME"),
        ({"annotations": {"a b": "c"}}, "a b is no key"),
        ({"nodeSelector": {"a/b/c": "d"}}, "a/b/c is no key"),
        ({"topology": {"required": "a" * 64}}, "a is no key: write NAME or DOMAIN/NAME"),
        ({"topology": {"sliceRequired": "Example.org/a", "sliceSize": 2}}, "Example.org/a is no key"),
        ({"nodeSelector": {"a\n": "d"}}, "is no key"),
        ({"resources": {"gpu": 1}}, "gpu is no resource: write cpu, memory"),
        ({"resources": {"requests.nvidia.com/gpu": 1}}, "is no resource"),
        ({"resources": {"nvidia.com/gpu": "1500m"}}, "nvidia.com/gpu is counted: 1500m is not a whole number"),
        ({"resources": {"hugepages-2Mi": "3Mi", "cpu": 1}}, "3Mi is no multiple of the page size of hugepages-2Mi"),
        ({"resources": {"hugepages-2Mi": "9" * 32, "cpu": 1}}, "or too large"),
        ({"resources": {"hugepages-big": 1, "cpu": 1}}, "hugepages-big names no size of pages"),
    ],
)
def test_object_that_the_api_server_refuses_is_refused(pods: dict[str, Any], says: str) -> None:
    found = problems(spec__pods=pods)
    assert len(found) == 1
    assert says in found[0]
    assert f"spec.pods.{next(iter(pods))}" in found[0]


PRIVILEGED = {"securityContext": {"privileged": True}}
BOTH_WAYS = {"volumeMounts": [{"name": "tmp", "mountPath": "/a", "mountPropagation": "Bidirectional"}]}
OF_NETWORK = {"podSecurityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}}
FILE = {"env": [{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}}}]}


@pytest.mark.parametrize(
    ("common", "own", "says"),
    [
        (
            PRIVILEGED,
            {"securityContext": {"allowPrivilegeEscalation": False}},
            "train: privileged and allowPrivilegeEscalation",
        ),
        (
            {"podSecurityContext": {"runAsNonRoot": False}},
            {"podSecurityContext": {"runAsNonRoot": True, "runAsGroup": 0}},
            "",
        ),
        (
            {"podSecurityContext": {"runAsUser": 0, "runAsNonRoot": False}},
            {"podSecurityContext": {"runAsNonRoot": True}},
            "train: runAsUser 0 is root",
        ),
        (BOTH_WAYS, {}, "train: mountPropagation: Bidirectional needs securityContext.privileged"),
        (BOTH_WAYS, PRIVILEGED, ""),
        (OF_NETWORK, {"hostNetwork": True}, "train: podSecurityContext.sysctls of the network"),
        (
            {"hostNetwork": True},
            {"podSecurityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}},
            "",
        ),
        ({"resources": {"hugepages-2Mi": "4Mi"}}, {}, "train: resources: huge pages need cpu or memory"),
        ({"resources": {"hugepages-2Mi": "4Mi"}}, {"resources": {"cpu": 1}}, ""),
        (FILE, volume(secret={"secretName": "s"}), "train: env: fileKeyRef names v, which is no emptyDir"),
        (FILE, volume(emptyDir={}), ""),
    ],
)
def test_pods_of_a_stage_are_checked_as_they_are_merged(common: dict[str, Any], own: dict[str, Any], says: str) -> None:
    alone = {
        "spec__filter": None,
        "spec__label": None,
        "spec__evaluate": None,
        "spec__train__distillation": {"mode": "Disabled"},
    }
    found = problems(spec__pods=common, spec__train__pods=own, **alone)
    assert [says in problem for problem in found] == ([True] if says else [])


def test_every_problem_of_an_object_is_told_at_its_own_field() -> None:
    pods = {
        "tolerations": [{"key": "a", "effect": "NoRun", "tolerationSeconds": "60"}, {"key": "a", "efect": "NoExecute"}]
    }
    found = problems(spec__pods=pods)
    assert [line.split(": ", 1)[1] for line in found] == [
        "spec.pods.tolerations[0].effect: \"NoRun\" is not one of 'NoSchedule', 'PreferNoSchedule' or 'NoExecute'",
        'spec.pods.tolerations[0].tolerationSeconds: expected a whole number, got "60"',
        "spec.pods.tolerations[1].efect: unknown key; did you mean effect? (Kubernetes 1.37)",
    ]


def test_null_is_absent_in_objects_of_kubernetes() -> None:
    run, _ = check(json.dumps(changed(spec__pods=volume(emptyDir={"medium": None, "sizeLimit": 5}, nfs=None))))
    assert run is not None
    assert run.spec.pods.volumes == [{"name": "v", "emptyDir": {"sizeLimit": 5}}]


def test_types_are_those_of_kubernetes_validate() -> None:
    assert kubernetes_types.main(["--check"]) == 0, "run: python -m tools.kubernetes_types"


def test_bounds_and_rules_name_fields_and_types_that_kubernetes_has() -> None:
    fields = {f"{name}.{field}" for name, each in definitions().types.items() for field in each["fields"]}
    required = {f"{name}.{field}" for name, names in ALSO_REQUIRED.items() for field in names}
    assert BOUNDS.keys() | required <= fields
    assert RULES.keys() <= definitions().types.keys()
    assert not UNSUPPORTED.keys() & fields
