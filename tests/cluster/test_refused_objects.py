"""Objects that the API server, its admission or a quota refuses, on a real cluster: what a person is told, and how it
goes on.
"""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from torchx.runner import get_runner
from torchx.specs import AppDef, Role
from torchx.specs.overlays import set_overlay

from diht_k8s.kube.errors import ClusterError
from tests.cluster.operators import Runs, World, condition, stages, why, world
from tests.cluster.tools import PATIENCE, Kubectl, KubectlError, cannot, wait_until
from tests.contract.tls_api_server import Certificates

pytestmark = pytest.mark.cluster
ONE = {"label": None, "train": None, "evaluate": None}
"""A run of the stage filter alone."""
IMAGE = "local/none:1"
"""Of pods that need not start."""
JOBS = [{"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}]
ADMISSION = "admissionregistration.k8s.io/v1"
RESTRICTED_POD = {
    "restartPolicy": "Never",
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "main",
            "image": IMAGE,
            "resources": {"limits": {"cpu": "2"}},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    ],
}
NEW_POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "asked-"}, "spec": RESTRICTED_POD}
NEW_JOB = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"generateName": "asked-"},
    "spec": {"template": {"spec": RESTRICTED_POD}},
}


@pytest.fixture(scope="module")
def place(kubectl: Kubectl, own: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One namespace and operator for all tests of this file."""
    if not own:
        cannot("KUBECONFIG is another cluster's: its API server cannot call this machine")
    with world(kubectl, IMAGE, tmp_path_factory.mktemp("operator")) as found:
        wait_until(lambda: found.operator.get("/readyz")[0] == 200, "the operator")
        yield found


@pytest.fixture
def runs(place: World) -> Runs:
    return place.runs


@pytest.fixture
def apply(runs: Runs) -> Iterator[Callable[..., str]]:
    """Creates a run of one stage with more in its pods; it goes at the end."""
    made: list[str] = []

    def create(name: str, **pods: Any) -> str:
        common = runs.document(name, **ONE)["spec"]["pods"]
        lists = {key: [*common[key], *pods.get(key, [])] for key in ("volumes", "volumeMounts", "env")}
        made.append(runs.apply(name, **ONE, pods={**common, **pods, **lists}))
        return name

    yield create
    for name in made:
        runs.delete(name)


def mounted(volume: dict[str, Any], **mount: Any) -> dict[str, Any]:
    """Pods with one more volume."""
    return {
        "volumes": [{"name": "more", **volume}],
        "volumeMounts": [{"name": "more", "mountPath": "/more", **mount}],
    }


def wait_until_refused(runs: Runs, document: dict[str, Any], words: str) -> None:
    """Until admission has seen why it refuses an object, which is only asked for."""

    def refused() -> bool:
        try:
            runs.kubectl("create", "-f", "-", "--dry-run=server", "-n", runs.namespace, stdin=json.dumps(document))
        except KubectlError as error:
            return words in str(error)
        return False

    wait_until(refused, f"a refusal: {words}", 30)


def warnings(runs: Runs, name: str, reason: str) -> list[str]:
    """The Warning events of a run for a reason."""
    selector = f"involvedObject.kind=DihtRun,involvedObject.name={name},type=Warning,reason={reason}"
    found = runs.kubectl.read(f"/api/v1/namespaces/{runs.namespace}/events?fieldSelector={selector}")["items"]
    return [event["message"] for event in found]


def jobs_tried(place: World) -> float:
    """How many Jobs the operator has tried to create."""
    text = place.operator.get("/metrics")[1]
    return sum(float(line.split()[-1]) for line in text.splitlines() if 'writes_total{call="create_job"}' in line)


def started(runs: Runs, name: str) -> None:
    """The Job of a run is there, and the run says so."""
    wait_until(lambda: runs.children(name), f"the Job of {name}", 45)
    wait_until(lambda: "Started" in runs.events(name), f"the event of {name}", 10)
    wait_until(lambda: stages(runs.status(name))["filter"].get("workload"), f"the Job of {name} in its status", 20)
    assert runs.condition(name, "Accepted")["status"] == "True"


@pytest.mark.parametrize(
    ("name", "pods", "words"),
    [
        (
            "unknown",
            mounted({"nfs": {"server": "s", "path": "/", "mountOptions": ["hard"]}}),
            "nfs.mountOptions: unknown key",
        ),
        ("typed", mounted({"emptyDir": {}}, readOnly="yes"), "readOnly"),
        ("driver", mounted({"csi": {"driver": "Not A Driver"}}), "Job driver-filter-1"),
    ],
)
def test_typo_that_kubectl_applies_is_told_within_ten_seconds(
    runs: Runs, apply: Callable[..., str], name: str, pods: dict[str, Any], words: str
) -> None:
    began = time.monotonic()
    apply(name, **pods)
    said = condition(runs.wait_for(name, "Accepted", "InvalidSpec", timeout_s=20), "Accepted")["message"]
    assert time.monotonic() - began < 10.0 * PATIENCE
    assert words in said
    assert runs.children(name) == {}


def test_typo_of_the_last_stage_is_told_before_the_first_one_starts(runs: Runs) -> None:
    driver = [{"name": "more", "csi": {"driver": "Not A Driver"}}]
    volumes = [*runs.document("later")["spec"]["pods"]["volumes"], *driver]
    runs.apply("later", evaluate={**runs.document("later")["spec"]["evaluate"], "pods": {"volumes": volumes}})
    try:
        said = condition(runs.wait_for("later", "Accepted", "InvalidSpec", timeout_s=20), "Accepted")["message"]
        assert "Job later-evaluate-1" in said
        assert "csi.driver" in said
        assert runs.children("later") == {}
    finally:
        runs.kubectl("delete", "dihtrun", "later", "-n", runs.namespace, "--wait=false")


def test_quota_of_jobs_is_told_and_clears_itself(runs: Runs, apply: Callable[..., str]) -> None:
    runs.kubectl("create", "quota", "no-jobs", "--hard=count/jobs.batch=0", "-n", runs.namespace)
    try:
        apply("full")
        status = runs.wait_for("full", "Progressing", "QuotaExceeded", timeout_s=20)
        said = condition(status, "Progressing")["message"]
        assert "Job full-filter-1" in said
        assert "exceeded quota: no-jobs" in said
        assert said in why(runs, "full")
        wait_until(lambda: warnings(runs, "full", "QuotaExceeded") == [said], "the event", 10)
        assert "Started" not in runs.events("full")
    finally:
        runs.kubectl("delete", "quota", "no-jobs", "-n", runs.namespace)
    started(runs, "full")


def test_job_of_somebody_else_is_named_and_the_run_starts_once_it_is_gone(
    runs: Runs, apply: Callable[..., str]
) -> None:
    runs.kubectl("create", "job", "foreign-filter-1", f"--image={IMAGE}", "-n", runs.namespace)
    apply("foreign")
    said = condition(runs.wait_for("foreign", "Accepted", "NameConflict", timeout_s=20), "Accepted")["message"]
    assert said.startswith("a Job named foreign-filter-1 is there already and is not this run's")
    assert said in why(runs, "foreign")
    wait_until(lambda: warnings(runs, "foreign", "NameConflict") == [said], "the event", 10)
    assert "workload" not in stages(runs.status("foreign"))["filter"]
    assert "Started" not in runs.events("foreign")
    runs.kubectl("delete", "job", "foreign-filter-1", "-n", runs.namespace)
    started(runs, "foreign")


LIMITS = {
    "apiVersion": "v1",
    "kind": "LimitRange",
    "metadata": {"name": "small"},
    "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]},
}
NO_PODS = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "no-pods"},
    "spec": {"hard": {"pods": "0"}},
}


@pytest.mark.parametrize(
    ("name", "rule", "pods", "reason", "words"),
    [
        (
            "limited",
            LIMITS,
            {"resources": {"cpu": "2"}},
            "PodRefused",
            "maximum cpu usage per Container is 1, but limit is 2",
        ),
        ("counted", NO_PODS, {}, "QuotaExceeded", "exceeded quota: no-pods"),
        (
            "insecure",
            None,
            mounted({"hostPath": {"path": "/tmp"}}),
            "PodRefused",
            'violates PodSecurity "restricted:latest"',
        ),
    ],
)
def test_refused_pods_are_told_within_five_seconds_of_their_jobs_event(
    runs: Runs,
    apply: Callable[..., str],
    name: str,
    rule: dict[str, Any] | None,
    pods: dict[str, Any],
    reason: str,
    words: str,
) -> None:
    if rule is not None:
        runs.kubectl.create(rule, runs.namespace)
        wait_until_refused(runs, NEW_POD, words)
    try:
        apply(name, **pods)
        selector = f"involvedObject.name={name}-filter-1,reason=FailedCreate"
        path = f"/api/v1/namespaces/{runs.namespace}/events?fieldSelector={selector}"
        wait_until(lambda: runs.kubectl.read(path)["items"], "the Job's event", 20)
        began = time.monotonic()
        status = runs.wait_for(name, "Progressing", reason, timeout_s=20)
        assert time.monotonic() - began < 5.0 * PATIENCE
        said = condition(status, "Progressing")["message"]
        assert words in said
        assert said in why(runs, name)
        wait_until(lambda: warnings(runs, name, reason) == [said], "the event", 10)
    finally:
        if rule is not None:
            runs.kubectl("delete", rule["kind"], rule["metadata"]["name"], "-n", runs.namespace)


def of_namespace(runs: Runs) -> dict[str, Any]:
    return {"matchLabels": {"kubernetes.io/metadata.name": runs.namespace}}


@contextmanager
def policy(runs: Runs) -> Iterator[str]:
    """A ValidatingAdmissionPolicy by which no Job is created in the namespace."""
    name = f"no-jobs-{runs.namespace}"
    constraints = {"resourceRules": JOBS, "namespaceSelector": of_namespace(runs)}
    validations = [{"expression": "false", "message": "no Jobs at night"}]
    documents = [
        {
            "apiVersion": ADMISSION,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {"failurePolicy": "Fail", "matchConstraints": constraints, "validations": validations},
        },
        {
            "apiVersion": ADMISSION,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        },
    ]
    runs.kubectl.apply("\n---\n".join(map(json.dumps, documents)))
    try:
        yield "no Jobs at night"
    finally:
        runs.kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", name)


class Hook(BaseHTTPRequestHandler):
    """Denies everything with HTTP 400, as hooks may that check what a document says."""

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = {"code": 400, "message": "ask the platform team"}
        response = {"uid": review["request"]["uid"], "allowed": False, "status": status}
        text = json.dumps({**review, "response": response}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def webhook(runs: Runs, folder: Path, *, answers: bool) -> Iterator[str]:
    """A webhook that denies Jobs in the namespace, or does not answer."""
    certificates, name = Certificates(folder).make(), f"no-jobs-{runs.namespace}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.path("server.crt"), certificates.path("server.key"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        if answers:
            Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        else:
            server.socket.close()
        client = {
            "url": f"https://127.0.0.1:{server.server_port}/",
            "caBundle": base64.b64encode(certificates.text("ca.crt").encode()).decode(),
        }
        hook = {
            "name": "jobs.example.org",
            "clientConfig": client,
            "rules": JOBS,
            "namespaceSelector": of_namespace(runs),
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 5,
            "failurePolicy": "Fail",
        }
        document = {
            "apiVersion": ADMISSION,
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [hook],
        }
        runs.kubectl.apply(json.dumps(document))
        try:
            yield (
                "denied the request: ask the platform team" if answers else 'failed calling webhook "jobs.example.org"'
            )
        finally:
            runs.kubectl("delete", "validatingwebhookconfiguration", name)
            if answers:
                server.shutdown()


@pytest.mark.parametrize("by", ["policy", "webhook", "dead-webhook"])
def test_job_that_admission_refuses_is_told_tried_again_and_started_once_it_is_allowed(
    place: World, apply: Callable[..., str], tmp_path: Path, by: str
) -> None:
    runs = place.runs
    with policy(runs) if by == "policy" else webhook(runs, tmp_path, answers=by == "webhook") as words:
        wait_until_refused(runs, NEW_JOB, words)
        apply(by)
        status = runs.wait_for(by, "Progressing", "PodRefused", timeout_s=20)
        said = condition(status, "Progressing")["message"]
        assert said.startswith(f"filter: the API server refuses Job {by}-filter-1: ")
        assert words in said
        assert said in why(runs, by)
        wait_until(lambda: warnings(runs, by, "PodRefused"), "the event", 10)
        assert "workload" not in stages(status)["filter"]
        tried = jobs_tried(place)
        wait_until(lambda: jobs_tried(place) > tried, "another try", 30)
        assert len(warnings(runs, by, "PodRefused")) == 1, "one event for all tries"
        assert "Started" not in runs.events(by)
    started(runs, by)


def test_torchx_gives_the_words_of_the_api_server(
    kubectl: Kubectl, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubectl.kubeconfig))
    role = Role(name="main", image=IMAGE, entrypoint="true")
    set_overlay(
        role,
        "kubernetes",
        "V1Pod",
        {"spec": {"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/", "mountOptions": []}}]}},
    )
    with (
        get_runner() as runner,
        pytest.raises(ClusterError, match=r'unknown field "spec.template.spec.volumes.*nfs.mountOptions"'),
    ):
        runner.run(AppDef("refused", roles=[role]), "kubernetes", {"namespace": namespace})
    assert kubectl.json("get", "jobs,services", "-n", namespace)["items"] == []
