"""AppDef -> manifests. The golden files are read like code: `python -m tests.unit.launch.apps` writes them again."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchx.components.dist import torchrun
from torchx.specs import AppDef, Resource, RetryPolicy, Role, VolumeMount, macros
from torchx.specs.overlays import JOIN, PUT, set_overlay

from diht_k8s.api.errors import UserError
from diht_k8s.launch.render import JobConfig, render
from tests.unit.launch.apps import CASES, GOLDEN, manifest
from tests.unit.launch.kubelet import started

ROLE = Role(name="main", image="app:1", entrypoint="run")


def rendered(role: Role = ROLE, config: JobConfig | None = None, name: str = "app-x") -> list[dict[str, Any]]:
    return render(AppDef("app", roles=[role]), config or JobConfig(), name)


def container(role: Role = ROLE) -> dict[str, Any]:
    return rendered(role)[0]["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("case", CASES)
def test_manifest_is_the_golden_one(case: str) -> None:
    assert manifest(case) == (GOLDEN / f"{case}.yaml").read_text()


def test_golden_folder_holds_nothing_else() -> None:
    assert sorted(path.stem for path in GOLDEN.iterdir()) == sorted(CASES)


def test_rendering_changes_nothing_in_the_application() -> None:
    app = torchrun(m="a.b", j="2x1", image="app:1")
    before = repr(app)
    render(app, JobConfig(), "x")
    assert repr(app) == before


TEXTS = st.text(st.sampled_from("$(){}A_ ab\"'\\é:="), max_size=12)


@given(TEXTS)
def test_words_and_variables_arrive_as_they_were_written(text: str) -> None:
    role = replace(ROLE, args=[text.replace("$", "$$")], env={"A": "1", "TEXT": text.replace("$", "$$")})
    words, env = started(container(role), 0)
    assert (words[1:], env["TEXT"]) == ([text], text)


def test_macros_have_each_replicas_own_values() -> None:
    role = replace(
        ROLE, num_replicas=3, args=[macros.app_id, macros.replica_id], env={"ME": f"{macros.replica_id} of 3"}
    )
    for index in range(3):
        words, env = started(container(role), index)
        assert (words, env["ME"]) == (["run", "app-x", str(index)], f"{index} of 3")


@pytest.mark.parametrize(("index", "endpoint"), [(0, "localhost:29500"), (1, "app-x-0.app-x:29500")])
def test_stock_torchrun_connects_to_replica_0_which_needs_no_dns(index: int, endpoint: str) -> None:
    (role,) = torchrun(m="a.train-vit", j="2x1", image="app:1").roles
    words, env = started(container(role), index)
    asked = re.search(r"--rdzv_endpoint (\S+)", words[2])
    assert asked
    found = subprocess.run(["bash", "-c", f"echo {asked[1]}"], env=env, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == endpoint


@pytest.mark.parametrize(
    ("changes", "has_service"),
    [
        ({}, False),
        ({"num_replicas": 2}, False),
        ({"num_replicas": 2, "port_map": {"c10d": 1}}, True),
        ({"num_replicas": 2, "env": {"A": macros.rank0_env}}, True),
        ({"num_replicas": 1, "port_map": {"c10d": 1}}, False),
    ],
)
def test_service_exists_only_if_replicas_communicate(changes: dict[str, Any], has_service: bool) -> None:
    objects = rendered(replace(ROLE, **changes))
    assert [item["kind"] for item in objects] == ["Job", "Service"][: 1 + has_service]
    spec = objects[0]["spec"]["template"]["spec"]
    assert spec.get("subdomain") == ("app-x" if has_service else None)


@pytest.mark.parametrize(
    ("changes", "config", "limit", "action"),
    [
        ({}, {}, 0, "Ignore"),
        ({"num_replicas": 4}, {}, 0, "FailJob"),
        ({"num_replicas": 4, "max_retries": 2}, {}, 8, "Ignore"),
        ({"num_replicas": 4, "retry_policy": RetryPolicy.REPLICA}, {}, 0, "Ignore"),
        ({}, {"end_on_disruption": True}, 0, "FailJob"),
        ({"num_replicas": 4}, {"end_on_disruption": False}, 0, "Ignore"),
    ],
    ids=["one pod", "gang", "gang with retries", "workers", "attempt of the controller", "as asked"],
)
def test_failures_end_a_job_as_its_kind_asks(
    changes: dict[str, Any], config: dict[str, Any], limit: int, action: str
) -> None:
    spec = rendered(replace(ROLE, **changes), JobConfig(**config))[0]["spec"]
    user, disruption = spec["podFailurePolicy"]["rules"]
    assert (spec["backoffLimit"], disruption["action"]) == (limit, action)
    assert (user["action"], user["onExitCodes"]["values"]) == ("FailJob", [2, 64, 65, 126, 127])


@pytest.mark.parametrize(
    ("role", "name", "words"),
    [
        (replace(ROLE, image=""), "x", "role main has no image: give --image, or pods.image"),
        (replace(ROLE, num_replicas=100), "x" * 61, "has 64 characters, Kubernetes allows 63"),
        (replace(ROLE, mounts=[VolumeMount("nfs/x", "/x")]), "x", "mount nfs/x: write a claim's name, secret/NAME"),
    ],
)
def test_names_and_mounts_that_kubernetes_would_refuse_are_refused(role: Role, name: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        rendered(role, name=name)


def test_application_without_roles_is_refused() -> None:
    with pytest.raises(UserError, match="has no roles"):
        render(AppDef("app"), JobConfig(), "x")


def test_overlay_without_the_roles_container_is_refused() -> None:
    role = replace(ROLE, metadata={})
    set_overlay(role, "kubernetes", "V1Pod", {"spec": {PUT("containers"): [{"name": "other"}]}})
    with pytest.raises(UserError, match="its overlay removes the container main"):
        rendered(role)


def test_mount_of_the_user_replaces_the_default_one() -> None:
    mounts = container(replace(ROLE, mounts=[VolumeMount("scratch", "/tmp")]))["volumeMounts"]
    assert [(mount["name"], mount["mountPath"]) for mount in mounts] == [("dshm", "/dev/shm"), ("mount-0", "/tmp")]


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        ({"persistentVolumeClaim": {"claimName": "c"}}, {"persistentVolumeClaim": {"claimName": "c"}}),
        ({"emptyDir": {"sizeLimit": "1Gi"}}, {"emptyDir": {"sizeLimit": "1Gi"}}),
        ({}, {"emptyDir": {}}),
    ],
)
def test_volume_of_an_overlay_takes_the_place_of_ours(given: dict[str, Any], becomes: dict[str, Any]) -> None:
    role = replace(ROLE, metadata={})
    set_overlay(role, "kubernetes", "V1Pod", {"spec": {JOIN("volumes", on="name"): [{"name": "tmp", **given}]}})
    volumes = rendered(role)[0]["spec"]["template"]["spec"]["volumes"]
    assert [volume for volume in volumes if volume["name"] == "tmp"] == [{"name": "tmp", **becomes}]


@pytest.mark.parametrize(
    ("resource", "requests", "limits"),
    [
        (Resource(cpu=-1, gpu=-1, memMB=-1), None, None),
        (
            Resource(cpu=2, gpu=1, memMB=512),
            {"cpu": "1900m", "memory": "0M", "nvidia.com/gpu": "1"},
            {"cpu": "2000m", "memory": "512M", "nvidia.com/gpu": "1"},
        ),
        (
            Resource(cpu=0, gpu=0, memMB=0, devices={"vpc.amazonaws.com/efa": 4}),
            {"vpc.amazonaws.com/efa": "4"},
            {"vpc.amazonaws.com/efa": "4"},
        ),
    ],
)
def test_requests_leave_room_for_the_node(
    resource: Resource, requests: dict[str, str] | None, limits: dict[str, str] | None
) -> None:
    config = JobConfig(reserved_millicpu=100, reserved_memmb=1024)
    job = rendered(replace(ROLE, resource=resource), config)[0]
    resources = job["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert (resources.get("requests"), resources.get("limits")) == (requests, limits)
