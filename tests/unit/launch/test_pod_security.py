"""What pods ask of a cluster's Pod Security, and how the fields for fabrics come out in a pod."""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.api.pod_security import Level, demands
from diht_k8s.api.pods import HOST_PORTS, Pods, rendezvous_port
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.launch.render import JobConfig, render
from diht_k8s.launch.stages import stage_app
from tests.unit.api.documents import changed
from tests.unit.launch.pod_security import LEVELS, ROOT


def dotted(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


@pytest.mark.parametrize(("given", "level", "fields"), LEVELS.values(), ids=LEVELS)
def test_level_and_fields_are_those_of_kubernetes(given: dict[str, Any], level: str, fields: tuple[str, ...]) -> None:
    found = demands(Pods.model_validate(given))
    assert str(max((demand.level for demand in found), default=Level.RESTRICTED)) == level
    assert tuple(dotted(demand.path) for demand in found) == fields


def pod_of(pods: dict[str, Any], *, name: str = "a-run") -> dict[str, Any]:
    """The pod of a training."""
    document = changed(spec__train__numNodes=2, spec__train__pods={"image": "i:1", **pods}, metadata__name=name)
    run = DihtRun.model_validate(document)
    job, *_ = render(stage_app(run, Stage.TRAIN), JobConfig(), f"{name}-train-1")
    return job["spec"]["template"]["spec"]


def test_container_has_the_capability_beside_what_every_container_drops() -> None:
    [container] = pod_of({"securityContext": {**ROOT, "capabilities": {"add": ["IPC_LOCK"]}}})["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        **ROOT,
        "capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]},
    }


@pytest.mark.parametrize(
    ("given", "escalation", "dropped"),
    [
        ({"privileged": True}, True, ["ALL"]),
        ({"capabilities": {"add": ["SYS_ADMIN"]}}, True, ["ALL"]),
        ({"capabilities": {"drop": ["NET_RAW"]}}, False, ["NET_RAW"]),
        ({"capabilities": {"drop": []}}, False, []),
    ],
)
def test_context_is_one_that_kubernetes_takes(given: dict[str, Any], escalation: bool, dropped: list[str]) -> None:
    [container] = pod_of({"securityContext": given})["containers"]
    context = container["securityContext"]
    assert (context["allowPrivilegeEscalation"], context["capabilities"]["drop"]) == (escalation, dropped)


def test_context_of_the_pod_is_laid_over_that_of_every_pod() -> None:
    given = {"fsGroup": 5, "supplementalGroups": [44], "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}
    context = pod_of({"podSecurityContext": given})["securityContext"]
    assert context == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
        **given,
    }


def test_pod_on_its_nodes_network_finds_services_and_has_a_port_of_its_own() -> None:
    ports = set()
    for name in ("one", "two"):
        spec = pod_of({"hostNetwork": True}, name=name)
        assert (spec["hostNetwork"], spec["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
        [container] = spec["containers"]
        [port] = [each["containerPort"] for each in container["ports"]]
        assert {"name": "DIHT_MASTER_PORT", "value": str(port)} in container["env"]
        assert port in HOST_PORTS
        ports.add(port)
    assert len(ports) == 2


def test_pod_on_the_pod_network_is_as_before() -> None:
    spec = pod_of({"hostNetwork": False})
    assert "dnsPolicy" not in spec
    assert rendezvous_port(Pods(), "any") == spec["containers"][0]["ports"][0]["containerPort"] == 29500


def test_resources_of_a_fabric_are_requests_and_limits() -> None:
    asked = {"rdma/hca": 8, "vpc.amazonaws.com/efa": 4, "hugepages-2Mi": "5120Mi", "memory": "8Gi"}
    [container] = pod_of({"resources": asked})["containers"]
    for side in ("limits", "requests"):
        assert {name: str(value) for name, value in asked.items()}.items() <= container["resources"][side].items()
