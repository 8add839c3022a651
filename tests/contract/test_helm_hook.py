"""What `helm test` brings: four images, and a run that the operator and the recipe's image can take."""

from __future__ import annotations

import base64
import io
import json
import runpy
import sys
import tarfile
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from diht_k8s import __version__
from diht_k8s.api.documents import check
from diht_k8s.data.shards.images import decode
from tests.contract.chart_pictures import CAPTIONS
from tests.contract.charts import CHART, rendered

pytestmark = pytest.mark.timeout(3600)  # the first one may build helm, after Kubernetes


def hook(helm: str, kind: str, values: dict[str, Any]) -> dict[str, Any]:
    return next(
        each
        for each in rendered(helm, values)
        if each["kind"] == kind and each["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"
    )


def test_config_map_has_the_four_images_with_their_captions(helm: str) -> None:
    data = base64.b64decode(hook(helm, "ConfigMap", {})["binaryData"]["pictures.tar.gz"])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # pyright: ignore[reportOptionalMemberAccess]
    found = [json.loads(members[f"{number}.json"])["caption"] for number in range(4)]
    assert tuple(found) == CAPTIONS
    assert {decode(members[f"{number}.webp"]).size for number in range(4)} == {(160, 96)}


RESOURCES = {"cpu": 1, "memory": "2Gi"}
DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("values", "pods"),
    [
        ({}, {"image": f"diht-recipe:{__version__}"}),
        (
            {"image": {"repository": "reg.example.org/a/diht-operator", "digest": DIGEST}},
            {"image": f"reg.example.org/a/diht-recipe:{__version__}"},
        ),
        ({"tests": {"image": {"repository": "reg.example.org/r", "tag": "2"}}}, {"image": "reg.example.org/r:2"}),
        ({"tests": {"image": {"tag": "2", "digest": DIGEST}}}, {"image": f"diht-recipe@{DIGEST}"}),
        ({"tests": {"program": False}}, {"image": ""}),
        (
            {"imagePullSecrets": [{"name": "s"}], "image": {"pullPolicy": "Always"}},
            {"image": f"diht-recipe:{__version__}", "imagePullSecrets": ["s"], "imagePullPolicy": "Always"},
        ),
        (
            {"tests": {"pods": {"imagePullPolicy": "Never", "nodeSelector": {"pool": "cpu"}}}},
            {"image": f"diht-recipe:{__version__}", "imagePullPolicy": "Never", "nodeSelector": {"pool": "cpu"}},
        ),
    ],
    ids=["defaults", "beside-the-operator", "named", "pinned", "no-program", "secrets", "pods"],
)
def test_pods_of_its_run_follow_the_values(helm: str, values: dict[str, Any], pods: dict[str, Any]) -> None:
    variables = hook(helm, "Pod", values)["spec"]["containers"][0]["env"]
    found = json.loads(next(each["value"] for each in variables if each["name"] == "PODS"))
    defaults = {"imagePullPolicy": "IfNotPresent", "imagePullSecrets": [], "resources": RESOURCES}
    assert found == {**defaults, **pods}


class Runs:
    """The API server's answers to the script: the statuses one after the other, the last one for ever."""

    def __init__(self, *statuses: dict[str, str]) -> None:
        self.statuses, self.calls = list(statuses), list[str]()

    def create_namespaced_custom_object(self, *at: Any) -> None:
        self.document = at[-1]
        self.calls.append("create")

    def patch_namespaced_custom_object(self, *at: Any) -> None:
        assert at[-1] == {"spec": {"suspend": False}}
        self.calls.append("patch")

    def delete_namespaced_custom_object(self, *at: Any) -> None:
        self.calls.append("delete")

    def get_namespaced_custom_object(self, *at: Any) -> dict[str, Any]:
        found = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        conditions = [
            {"type": kind, "status": str(kind == "Failed"), "reason": reason} for kind, reason in found.items()
        ]
        return {"status": {"conditions": conditions}} if conditions else {}


def end_of_script() -> str:
    """What it ends with: a complaint, or nothing."""
    try:
        runpy.run_path(str(CHART / "files/test_run.py"))
    except SystemExit as stop:
        return str(stop.code)
    return ""


SUSPENDED = {"Accepted": "Valid", "Progressing": "Suspended"}
DONE = {"Progressing": "Complete", "Complete": "Complete"}


@pytest.mark.parametrize(
    ("pods", "statuses", "calls", "said"),
    [
        ({"image": "r"}, [{}, SUSPENDED, DONE], ["create", "patch", "delete"], None),
        ({"image": ""}, [SUSPENDED], ["create", "delete"], None),
        ({"image": "r"}, [{}], ["create", "delete"], "did not become Suspended: no status at all"),
        (
            {"image": "r"},
            [SUSPENDED, {"Progressing": "ImagePullFailed"}],
            ["create", "patch", "delete"],
            "Complete did not become Complete: Progressing=False ImagePullFailed",
        ),
        (
            {"image": "r"},
            [SUSPENDED, {"Failed": "UserError"}, {}],
            ["create", "patch", "delete"],
            "Failed=True UserError",
        ),
    ],
    ids=["completes", "no-program", "no-operator", "no-image", "fails"],
)
def test_script_says_what_happened_and_deletes_its_run_in_any_case(
    pods: dict[str, Any], statuses: list[Any], calls: list[str], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(*statuses)
    fake = SimpleNamespace(
        client=SimpleNamespace(CustomObjectsApi=lambda: runs),
        config=SimpleNamespace(load_incluster_config=lambda: None),
    )
    monkeypatch.setitem(sys.modules, "kubernetes", fake)
    monkeypatch.setattr("time.sleep", lambda _: None)
    settings = {"NAMESPACE": "n", "RUN": "r", "PICTURES": "p", "TIMEOUT_SECONDS": "0.05", "PODS": json.dumps(pods)}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    ended = end_of_script()
    assert said in ended if said else ended == ""
    assert runs.calls == calls
    run, problems = check(yaml.safe_dump(runs.document))
    assert run is not None, problems
