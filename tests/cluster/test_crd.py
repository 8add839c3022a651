"""The CRD on a real API server: the verdicts of the table of documents, what may be edited, status, columns, round
trips.

The definition is installed under a group of its own, so that runs that are on the cluster already are not touched.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from diht_k8s.api.base import timestamp
from diht_k8s.api.documents import canonical_json, dump, load
from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.run import Stage
from diht_k8s.api.schema.generate import CRD_FILE
from diht_k8s.api.status import (
    AttemptStatus,
    Condition,
    FailureCause,
    JobReference,
    LastCheckpoint,
    Metric,
    PodCounts,
    ProgressStatus,
    Queue,
    StageState,
    StageStatus,
    Status,
    wire,
)
from tests.cluster.tools import PROJECT, Kubectl, KubectlError, fresh_namespace, wait_until
from tests.contract.documents import Case, yaml_run
from tests.contract.documents.fields import CASES as FIELDS
from tests.contract.documents.fields import OPEN
from tests.contract.documents.rules import CASES as RULES
from tests.unit.api.documents import MINIMAL, changed

pytestmark = pytest.mark.cluster
NOW = timestamp(1_760_000_000)


@dataclass(frozen=True)
class Api:
    """The API server, without a client between: what is sent is what a file holds."""

    kubectl: Kubectl
    client: Any
    group: str
    namespace: str

    @property
    def resource(self) -> str:
        return f"dihtruns.{self.group}"

    def send(
        self, method: str, text: str, *, name: str = "", kind: str = "application/yaml", **query: str
    ) -> tuple[int, Any, str]:
        """Status, answer and warning; `name` may end in `/status`."""
        path = f"/apis/{self.group}/v1alpha1/namespaces/{self.namespace}/dihtruns{'/' + name if name else ''}"
        parameters = "&".join(f"{key}={value}" for key, value in {"fieldValidation": "Strict", **query}.items())
        headers = {"Content-Type": kind, "Accept": "application/json"}
        if token := self.client.configuration.get_api_key_with_prefix("authorization"):
            headers["Authorization"] = token
        url = f"{self.client.configuration.host}{path}?{parameters}"
        body = text.replace("diht.dev/", f"{self.group}/").encode()
        answer = self.client.rest_client.pool_manager.request(method, url, headers=headers, body=body)
        return answer.status, json.loads(answer.data), answer.headers.get("Warning", "")

    def create(self, document: dict[str, Any], status: dict[str, Any] | None = None) -> str:
        """Makes a run under a fresh name, with a status if any; returns its name."""
        name = f"r-{secrets.token_hex(4)}"
        code, answer, _ = self.send("POST", json.dumps({**document, "metadata": {"name": name}}))
        assert code == 201, answer
        if status is not None:
            code, answer = self.patch(f"{name}/status", {"status": status})
            assert code == 200, answer
        return name

    def patch(self, name: str, change: dict[str, Any], **query: str) -> tuple[int, Any]:
        """A merge patch, as kubectl sends for custom resources."""
        return self.send("PATCH", json.dumps(change), name=name, kind="application/merge-patch+json", **query)[:2]


def serves(kubectl: Kubectl, resource: str, namespace: str) -> bool:
    """Whether kubectl finds a resource and the API server answers for it."""
    try:
        kubectl("get", resource, "--namespace", namespace)
    except KubectlError:
        return False
    return True


@pytest.fixture(scope="module")
def api(kubectl: Kubectl) -> Iterator[Api]:
    from kubernetes import config

    group = f"t{secrets.token_hex(4)}.diht.test"
    definition = yaml.safe_load((PROJECT / CRD_FILE).read_text())
    definition["metadata"]["name"], definition["spec"]["group"] = f"dihtruns.{group}", group
    kubectl.apply(json.dumps(definition), "--server-side")
    kubectl.wait_established(f"dihtruns.{group}")
    with fresh_namespace(kubectl, "crd") as namespace:
        # Established is written before every part of the API server knows the resource: the handler, discovery,
        # kubectl's own cache
        wait_until(lambda: serves(kubectl, f"dihtruns.{group}", namespace), "the new resource")
        yield Api(kubectl, config.new_client_from_config(str(kubectl.kubeconfig)), group, namespace)
    kubectl("delete", "crd", f"dihtruns.{group}", "--wait=false")


@pytest.mark.parametrize("case", [*FIELDS, *RULES], ids=lambda case: case.name)
def test_document_gets_the_same_verdict_from_the_api_server_as_from_a_file(api: Api, case: Case) -> None:
    code, answer, _ = api.send("POST", case.text, dryRun="All")
    message = answer.get("message", "")
    assert (code == 201) == case.good, message
    assert case.good or 400 <= code < 500
    assert case.says in message


@pytest.mark.parametrize("case", OPEN, ids=lambda case: case.name)
def test_objects_of_kubernetes_are_left_to_the_operator(api: Api, case: Case) -> None:
    code, answer, _ = api.send("POST", case.text, dryRun="All")
    assert code == 201, answer


def condition(kind: ConditionType, reason: Reason, status: Any = "True") -> Condition:
    return Condition(type=kind, status=status, reason=reason, message="m", last_transition_time=NOW)


def stage(name: str, state: StageState, **more: Any) -> StageStatus:
    return StageStatus(name=name, stage=Stage(name.split("-")[0]), state=state, **more)


def status(*stages: StageStatus, ended: ConditionType | None = None) -> dict[str, Any]:
    conditions = [condition(ended, Reason.COMPLETE)] if ended else []
    return wire(Status(conditions=conditions, stages=list(stages)))


RUNNING = StageState.RUNNING
STATES = {
    "new": None,
    "filter runs": status(stage("filter", RUNNING, attempt=1), stage("train", StageState.PENDING)),
    "filter cached": status(stage("filter", StageState.CACHED)),
    "label runs": status(
        stage("filter", StageState.COMPLETE, attempt=1), stage("label-vocabulary", RUNNING, attempt=1)
    ),
    "train restarts": status(stage("train", StageState.RESTARTING, attempt=3)),
    "complete": status(stage("filter", StageState.COMPLETE, attempt=1), ended=ConditionType.COMPLETE),
    "failed": status(stage("filter", StageState.FAILED, attempt=1), ended=ConditionType.FAILED),
}
ALWAYS = [
    {"suspend": True},
    {"activeDeadlineSeconds": 5},
    {"ttlSecondsAfterFinished": 5},
    {"failurePolicy": {"maxRestarts": 1}},
    {"pods": {"image": "other:2"}},
    {"filter": {"pods": {"image": "other:2"}}},
    {"train": {"pods": {"resources": {"cpu": 2}}}},
    {"evaluate": {"pods": {}}},
]
TWO_SOURCES = [{"name": "a", "shards": ["a.tar"]}, {"name": "b", "shards": ["b.tar"]}]
EDITS: list[tuple[str, dict[str, Any], str]] = [
    ("new", {"filter": {"minActions": 0}}, ""),
    ("new", {"filter": {"textSpotting": {"mode": "Disabled"}}}, ""),
    ("new", {"evaluate": None}, ""),
    ("new", {"train": {"samples": 5}}, ""),
    ("new", {"label": None}, "needs labels"),
    ("new", {"data": {"output": "s3://corpus/other"}}, "spec.data cannot change after the run was created"),
    ("new", {"managedBy": "kueue.x-k8s.io/multikueue"}, "spec.managedBy cannot change after the run was created"),
    ("new", {"data": {"sources": TWO_SOURCES}}, "spec.data cannot change"),
    ("new", {"seed": 1}, "spec.seed cannot change"),
    ("new", {"storage": [{"prefix": "s3://corpus"}]}, "spec.storage cannot change"),
    ("filter runs", {"filter": {"minActions": 0}}, "spec.filter cannot change once the stage has started"),
    ("filter runs", {"filter": {"minActions": 1}}, "spec.filter cannot change"),
    ("filter runs", {"filter": {"workers": 2}}, "spec.filter cannot change"),
    ("filter runs", {"filter": {"textSpotting": {"mode": "Disabled"}}}, "spec.filter cannot change"),
    ("filter runs", {"filter": None, "label": None, "train": {"labels": "x"}}, "spec.filter cannot change"),
    ("filter runs", {"label": {"topK": 5}}, ""),
    ("filter runs", {"train": {"samples": 5}}, ""),
    ("filter runs", {"evaluate": None}, ""),
    ("filter cached", {"filter": {"minActions": 0}}, "spec.filter cannot change"),
    ("label runs", {"label": {"topK": 5}}, "spec.label cannot change"),
    ("label runs", {"train": {"optimizer": {"lr": 1}}}, ""),
    ("train restarts", {"train": {"optimizer": {"lr": 1}}}, "spec.train cannot change"),
    ("train restarts", {"train": {"processesPerNode": 2}}, "spec.train cannot change"),
    ("train restarts", {"train": {"numNodes": 2}}, ""),
    ("train restarts", {"train": {"numNodes": 2, "minNodes": 1}}, ""),
    ("train restarts", {"train": {"minNodes": 2}}, "train.minNodes must be at most numNodes"),
    ("train restarts", {"evaluate": {"fewShot": {"shots": [1]}}}, ""),
    ("complete", {"evaluate": {"fewShot": {"shots": [1]}}}, "or the run has ended"),
    ("complete", {"evaluate": None}, "spec.evaluate cannot change"),
    ("failed", {"train": {"samples": 5}}, "spec.train cannot change"),
    *((state, change, "") for state in STATES for change in ALWAYS),
]


@pytest.fixture(scope="module")
def runs(api: Api) -> dict[str, str]:
    """A run in each state; edits are dry runs, so that they stay as they are."""
    return {state: api.create(MINIMAL, given) for state, given in STATES.items()}


@pytest.mark.parametrize(
    ("state", "change", "says"), EDITS, ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:60]
)
def test_spec_can_be_edited_only_where_it_takes_effect(
    api: Api, runs: dict[str, str], state: str, change: dict[str, Any], says: str
) -> None:
    code, answer = api.patch(runs[state], {"spec": change}, dryRun="All")
    assert (code == 200) == (not says), answer.get("message")
    assert says in answer.get("message", "")


def test_order_of_sources_cannot_change_though_the_api_server_takes_the_lists_as_equal(api: Api) -> None:
    name = api.create(changed(spec__data__sources=TWO_SOURCES))
    code, answer = api.patch(name, {"spec": {"data": {"sources": TWO_SOURCES[::-1]}}})
    assert code == 422
    assert "cannot change its order" in answer["message"]


FULL = Status(
    observed_generation=1,
    conditions=[
        condition(ConditionType.ACCEPTED, Reason.VALID),
        condition(ConditionType.PROGRESSING, Reason.RESTARTING),
        condition(ConditionType.FAILED, Reason.NOT_FINISHED, "False"),
    ],
    start_time=NOW,
    restarts=2,
    progress=ProgressStatus(
        stage="train",
        step="epoch 3",
        done=42,
        total=100,
        percentage=42,
        samples_per_second="12.5",
        estimated_remaining_seconds=77,
        last_updated_time=NOW,
        metrics=[Metric(name="lr", value="5e-05"), Metric(name="loss", value="1.25")],
    ),
    pods=PodCounts(desired=2, active=1, ready=1, failed=1),
    queue=Queue(name="research"),
    last_checkpoint=LastCheckpoint(step=40, time=NOW, uri="s3://corpus/runs/a/train/checkpoints/step-40"),
    stages=[
        stage("filter", StageState.CACHED, output_uri="s3://corpus/runs/a/filter"),
        stage(
            "train",
            RUNNING,
            attempt=3,
            restarts=2,
            restarts_count_towards_max=1,
            backend="Job",
            workload=JobReference(kind="Job", name="a-run-train-3"),
            cause=FailureCause(pod="p", container="c", node="n", exit_code=75, reason="RetryableError", log_tail=["x"]),
        ),
    ],
    attempts=[AttemptStatus(stage="train", number=2, exit_code=75, reason="RetryableError", counted=True)],
)


def test_status_comes_back_as_it_was_written_and_fills_the_columns(api: Api) -> None:
    name = api.create(MINIMAL, wire(FULL))
    assert Status.model_validate(api.kubectl.json("get", api.resource, name, "-n", api.namespace)["status"]) == FULL
    head, row = api.kubectl("get", api.resource, name, "-n", api.namespace, "-o", "wide").splitlines()
    assert head.split() == ["NAME", "STAGE", "STATE", "PROGRESS", "RESTARTS", "AGE", "ETA-SECONDS", "LOSS", "WORKLOAD"]
    values = dict(zip(head.split(), row.split(), strict=True))
    del values["AGE"]
    assert values == {
        "NAME": name,
        "STAGE": "train",
        "STATE": "Restarting",
        "PROGRESS": "42",
        "RESTARTS": "2",
        "ETA-SECONDS": "77",
        "LOSS": "1.25",
        "WORKLOAD": "a-run-train-3",
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stages": [wire_stage | {"attempt": 2} for wire_stage in wire(FULL)["stages"]]}, "attempt never goes back"),
        ({"conditions": [wire(FULL)["conditions"][0]] * 2}, "Duplicate value"),
        ({"progress": {"stage": "train", "percentage": 101}}, "percentage"),
        ({"progress": {"stage": "train", "percentage": 1.5}}, "percentage"),
        ({"progress": {"stage": "train", "samplesPerSecond": "fast"}}, "samplesPerSecond"),
        ({"startTime": "yesterday"}, "startTime"),
        ({"startTime": []}, "startTime"),
        ({"startTime": [["2026-01-01T00:00:00Z"]]}, "startTime"),
        ({"phase": "Running"}, "unknown field"),
    ],
)
def test_status_that_is_no_status_is_refused(api: Api, change: dict[str, Any], says: str) -> None:
    name = api.create(MINIMAL, wire(FULL))
    code, answer = api.patch(f"{name}/status", {"status": change}, dryRun="All")
    assert 400 <= code < 500
    assert says in answer["message"]


def test_status_is_written_through_its_own_path_only(api: Api) -> None:
    name = api.create({**MINIMAL, "status": {"restarts": 5}})
    assert "status" not in api.kubectl.json("get", api.resource, name, "-n", api.namespace)
    api.patch(name, {"status": {"restarts": 5}})
    assert "status" not in api.kubectl.json("get", api.resource, name, "-n", api.namespace)


def test_runs_are_selected_by_output_and_found_among_all(api: Api) -> None:
    name = api.create(changed(spec__data__output="s3://corpus/only-this"))
    found = api.kubectl(
        "get",
        api.resource,
        "-n",
        api.namespace,
        "--field-selector",
        "spec.data.output=s3://corpus/only-this",
        "-o",
        "name",
    )
    assert found.split() == [f"dihtrun.{api.group}/{name}"]
    resources = api.kubectl("api-resources", "--api-group", api.group, "--categories", "all,diht", "--no-headers")
    assert resources.split()[:2] == ["dihtruns", "dr"]


def test_run_means_the_same_from_a_file_and_from_the_cluster(api: Api) -> None:
    text = yaml_run(
        "  seed: 0x10\n"
        "  train: {model: ViT-B-16, samples: 16000000000, batchSize: 32768, distillation: {mode: Disabled}, "
        "compile: yes,\n"
        "    optimizer: {lr: 5e-4, eps: 1.0e-6, weightDecay: 1.0}, loss: {beta: 25e-2}, modelConfig: null}\n",
        metadata=f"{{name: r-{secrets.token_hex(4)}}}",
    )
    from_file = load(text, name="file")
    assert api.send("POST", text)[0] == 201
    stored = api.kubectl.json("get", api.resource, from_file.metadata.name, "-n", api.namespace)
    stored["apiVersion"] = "diht.dev/v1alpha1"
    from_cluster = load(canonical_json(stored), name="cluster")
    assert canonical_json(from_cluster.spec) == canonical_json(from_file.spec)
    assert json.loads(dump(from_cluster))["spec"] == json.loads(dump(from_file))["spec"]
