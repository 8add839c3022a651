"""What `helm test` brings: four pictures, and a run that the operator and the recipe's image can take."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from typing import Any

import pytest

from diht_k8s.recipe.shards.pictures import decode
from tests.contract.chart_pictures import CAPTIONS
from tests.contract.charts import helm_program, rendered

pytestmark = pytest.mark.timeout(600)  # the first one may build helm


@pytest.fixture(scope="session")
def helm() -> str:
    return helm_program() or pytest.skip("no helm: put it on the PATH, or install Go")


def hook(helm: str, kind: str, values: dict[str, Any]) -> dict[str, Any]:
    return next(
        each
        for each in rendered(helm, values)
        if each["kind"] == kind and each["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"
    )


def test_config_map_has_the_four_pictures_with_their_captions(helm: str) -> None:
    data = base64.b64decode(hook(helm, "ConfigMap", {})["binaryData"]["pictures.tar.gz"])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # pyright: ignore[reportOptionalMemberAccess]
    found = [json.loads(members[f"{number}.json"])["caption"] for number in range(4)]
    assert tuple(found) == CAPTIONS
    assert {decode(members[f"{number}.webp"]).size for number in range(4)} == {(160, 96)}


RESOURCES = {"cpu": 1, "memory": "2Gi"}


@pytest.mark.parametrize(
    ("values", "pods"),
    [
        ({}, {"image": "diht-recipe:0.1.0"}),
        (
            {"image": {"repository": "reg.example.org/a/diht-operator", "digest": f"sha256:{'0' * 64}"}},
            {"image": "reg.example.org/a/diht-recipe:0.1.0"},
        ),
        ({"tests": {"image": {"repository": "reg.example.org/r", "tag": "2"}}}, {"image": "reg.example.org/r:2"}),
        ({"tests": {"program": False}}, {"image": ""}),
        (
            {"imagePullSecrets": [{"name": "s"}], "image": {"pullPolicy": "Always"}},
            {"image": "diht-recipe:0.1.0", "imagePullSecrets": ["s"], "imagePullPolicy": "Always"},
        ),
        (
            {"tests": {"pods": {"imagePullPolicy": "Never", "nodeSelector": {"pool": "cpu"}}}},
            {"image": "diht-recipe:0.1.0", "imagePullPolicy": "Never", "nodeSelector": {"pool": "cpu"}},
        ),
    ],
    ids=["defaults", "beside-the-operator", "named", "no-program", "secrets", "pods"],
)
def test_pods_of_its_run_follow_the_values(helm: str, values: dict[str, Any], pods: dict[str, Any]) -> None:
    variables = hook(helm, "Pod", values)["spec"]["containers"][0]["env"]
    found = json.loads(next(each["value"] for each in variables if each["name"] == "PODS"))
    defaults = {"imagePullPolicy": "IfNotPresent", "imagePullSecrets": [], "resources": RESOURCES}
    assert found == {**defaults, **pods}
