"""What the `diht` commands ask and read: runs by name, the default namespace, errors that name the options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubernetes import config
from kubernetes.config import kube_config

from diht_k8s.api.errors import DihtError, UserError
from diht_k8s.api.run import DihtRun
from diht_k8s.kube import connection
from diht_k8s.kube.connection import connect
from diht_k8s.kube.object_fields import INDEX_LABEL
from diht_k8s.kube.pod_summary import CONTAINER_ANNOTATION, PodSummary, pod_summary
from diht_k8s.kube.runs import RunClient, run_client
from tests.unit.api.documents import changed
from tests.unit.controller.documents import pod
from tests.unit.kube.api_server import ApiServer, refusal

KUBECONFIG = """
apiVersion: v1
clusters: [{name: c, cluster: {server: "http://there"}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u, namespace: team}}]
current-context: x
"""


@pytest.fixture
def server() -> ApiServer:
    return ApiServer()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (refusal('dihtruns.diht.dev "r" not found'), "run n/r: not found: check the name and --namespace"),
        (b"404 page not found\n", "run n/r: the cluster does not know DihtRuns: install the operator"),
        (
            refusal("the server could not find the requested resource"),
            "run n/r: the cluster does not know DihtRuns: install the operator",
        ),
    ],
)
@pytest.mark.parametrize(
    "call",
    [lambda runs: runs.run("r"), lambda runs: runs.annotate("r", "k", "v"), lambda runs: runs.delete("r")],
    ids=["read", "annotate", "delete"],
)
def test_run_that_does_not_exist_is_reported_with_the_option_to_check(
    server: ApiServer, call: Callable[[RunClient], object], answer: Any, says: str
) -> None:
    server.answers = [(404, answer)]
    with pytest.raises(UserError) as raised:
        call(RunClient(server.cluster(), "n"))
    assert str(raised.value) == says


def test_refused_run_is_reported_in_the_words_of_the_api_server(server: ApiServer) -> None:
    server.answers = [(422, refusal("spec.data: output is required"))]
    with pytest.raises(DihtError, match=r"cannot change run n/a-run: spec.data: output is required: correct what"):
        RunClient(server.cluster(), "n").apply(DihtRun.model_validate(changed()))


def test_run_is_applied_as_it_was_written(server: ApiServer) -> None:
    server.answers = [(200, {})]
    RunClient(server.cluster(), "n").apply(DihtRun.model_validate(changed()))
    assert server.asked[0].body == {**changed(), "metadata": {"name": "a-run", "namespace": "n"}}


def test_variant_of_a_sweep_is_applied_with_its_label_and_listed_by_it(server: ApiServer) -> None:
    labels = {"diht.dev/sweep": "s", "other": "x"}
    server.answers = [(200, {}), (200, {"items": [], "metadata": {}}), (200, {"items": [], "metadata": {}})]
    runs = RunClient(server.cluster(), "n")
    runs.apply(DihtRun.model_validate(changed(metadata__labels=labels)))
    assert server.asked[0].body["metadata"]["labels"] == {"diht.dev/sweep": "s"}, "the only one that we read"
    assert (runs.all("s"), runs.all()) == ([], [])
    assert [asked.query.get("labelSelector") for asked in server.asked[1:]] == ["diht.dev/sweep=s", None]


def test_events_are_oldest_first(server: ApiServer) -> None:
    events = [{"lastTimestamp": "2"}, {"lastTimestamp": "3"}, {"lastTimestamp": None}]
    server.answers = [(200, {"items": events, "metadata": {}})]
    assert [event["lastTimestamp"] for event in RunClient(server.cluster(), "n").events("u")] == [None, "2", "3"]
    assert server.asked[0].query["fieldSelector"] == "involvedObject.uid=u"


@pytest.mark.parametrize(("lines", "asked"), [(None, None), (0, "0"), (5, "5")])
def test_log_is_whole_unless_lines_are_given(server: ApiServer, lines: int | None, asked: str | None) -> None:
    server.answers = [(200, b"a\nb\n")]
    document = pod(0)
    document["metadata"]["annotations"] = {CONTAINER_ANNOTATION: "train"}
    summary = pod_summary(document)
    assert isinstance(summary, PodSummary)
    assert b"".join(RunClient(server.cluster(), "n").log(summary, follow=False, lines=lines)) == b"a\nb\n"
    assert server.asked[0].query.get("tailLines") == asked
    assert server.asked[0].query["container"] == "train"


def test_namespace_is_that_of_the_current_context(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(KUBECONFIG)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert run_client(None).namespace == "team"
    assert run_client("mine").namespace == "mine"


@pytest.mark.parametrize(
    ("kubeconfig", "has_token", "expected"),
    [("", True, "pod"), ("somewhere", True, "somewhere"), ("", False, "")],
    ids=["pod", "pod with KUBECONFIG", "pod without a token"],
)
def test_credentials_are_the_pods_unless_kubeconfig_is_set_or_it_has_none(
    kubeconfig: str, has_token: bool, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if has_token:
        (tmp_path / "token").write_text("t")
    monkeypatch.setattr(connection, "POD_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBECONFIG", kubeconfig)
    loaded: list[str] = []
    monkeypatch.setattr(config, "load_incluster_config", lambda **_: loaded.append("pod"))
    monkeypatch.setattr(config, "load_kube_config", lambda config_file, **_: loaded.append(config_file))
    connect()
    assert loaded == [expected]


def test_missing_kubeconfig_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"no cluster: .*: set KUBECONFIG"):
        connect()


@pytest.mark.parametrize(
    "content", [b"x: [", b"[1, 2]", b"\x89\xff", b"clusters: 5\ncontexts: [{name: t}]\ncurrent-context: t"]
)
@pytest.mark.parametrize("open_it", [connect, lambda: run_client("n")], ids=["torchx", "diht"])
def test_invalid_kubeconfig_is_reported_in_one_line(
    open_it: Callable[[], object], content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_bytes(content)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    with pytest.raises(UserError, match=r"(cannot read|no cluster).*: (check|set) KUBECONFIG$") as raised:
        open_it()
    assert "\n" not in str(raised.value)


def labelled(name: str, owner: str | None = None, **labels: str | None) -> dict[str, Any]:
    """A pod with the labels of the run `r`; None leaves a label out."""
    own = {"run": "r", "stage": "train", "attempt": "1"} | labels
    found = {
        f"diht.dev/{key}" if key != "index" else INDEX_LABEL: value for key, value in own.items() if value is not None
    }
    owners = [{"kind": "Job", "name": "r-train-1", "uid": owner, "controller": True}] if owner is not None else []
    metadata = {
        "name": name,
        "namespace": "n",
        "uid": f"uid-{name}",
        "resourceVersion": "1",
        "labels": found,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "ownerReferences": owners,
    }
    return {"metadata": metadata, "status": {"phase": "Running"}}


def job(uid: str, owner: str | None) -> dict[str, Any]:
    found = labelled(f"job-{uid}")
    owners = [{"kind": "DihtRun", "name": "r", "uid": owner, "controller": True}] if owner is not None else []
    return {"metadata": {**found["metadata"], "uid": uid, "ownerReferences": owners}, "spec": {}, "status": {}}


@pytest.mark.parametrize(
    "stranger",
    [
        labelled("s"),
        labelled("s", stage=None),
        labelled("s", index="abc"),
        labelled("s", attempt="99"),
        labelled("s", stage="mining"),
        labelled("s", **{"run-uid": "run-uid"}),
        labelled("s", "no-job", attempt="99"),
        labelled("s", "foreign-job", attempt="99"),
        {"metadata": {"name": "s"}},
    ],
    ids=["labels", "no stage", "index", "attempt", "stage", "run's uid", "no Job", "a Job of nobody's", "nothing"],
)
def test_pods_of_a_run_are_those_of_its_own_jobs_whatever_others_are_labelled_with(
    server: ApiServer, stranger: dict[str, Any]
) -> None:
    jobs = [job("job", "run-uid"), job("foreign-job", None), job("other-runs", "other-uid")]
    pods = [stranger, labelled("own", "job", index="1"), labelled("left", "gone-job", index="0")]
    server.answers = [(200, {"items": found, "metadata": {}}) for found in (jobs, pods)]
    run = {"metadata": {"name": "r", "uid": "run-uid"}, "status": {"attempts": [{"uid": "gone-job"}, {}]}}
    found = RunClient(server.cluster(), "n").pods(run)
    assert [(pod.name, pod.index) for pod in found] == [("own", 1), ("left", 0)]
    assert [asked.query["labelSelector"] for asked in server.asked] == ["diht.dev/run=r"] * 2
