"""Calls as the API server receives them; pages, logs, and errors that say what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from urllib3.exceptions import MaxRetryError

from diht_k8s.api.errors import ExitCode, RetryableError
from diht_k8s.kube import client as kube_client
from diht_k8s.kube.client import Cluster, lines
from diht_k8s.kube.errors import ClusterError, UnavailableError
from tests.unit.kube.api_server import ApiServer, refusal

JOB = {"kind": "Job", "metadata": {"name": "j", "namespace": "n"}}
EVENT = {"metadata": {"name": "e"}, "involvedObject": {"name": "r"}}
RUN = "/apis/diht.dev/v1alpha1/namespaces/n/dihtruns/r"
Call = Callable[[Cluster], Any]


@pytest.fixture
def server() -> ApiServer:
    return ApiServer()


@pytest.mark.parametrize(
    ("call", "request_line", "query", "body"),
    [
        (lambda c: c.create(JOB), "POST /apis/batch/v1/namespaces/n/jobs", {"fieldValidation": "Strict"}, JOB),
        (
            lambda c: c.create(JOB, dry_run=True),
            "POST /apis/batch/v1/namespaces/n/jobs",
            {"fieldValidation": "Strict", "dryRun": "All"},
            JOB,
        ),
        (
            lambda c: c.create({**JOB, "kind": "Service"}),
            "POST /api/v1/namespaces/n/services",
            {"fieldValidation": "Strict"},
            {**JOB, "kind": "Service"},
        ),
        (lambda c: c.get("Job", "n", "j"), "GET /apis/batch/v1/namespaces/n/jobs/j", {}, None),
        (lambda c: c.get("Service", "n", "s"), "GET /api/v1/namespaces/n/services/s", {}, None),
        (
            lambda c: c.patch_job("n", "j", {"spec": {"suspend": True}}),
            "PATCH /apis/batch/v1/namespaces/n/jobs/j",
            {},
            {"spec": {"suspend": True}},
        ),
        (
            lambda c: c.delete_job("n", "j", "u"),
            "DELETE /apis/batch/v1/namespaces/n/jobs/j",
            {},
            {"propagationPolicy": "Foreground", "preconditions": {"uid": "u"}},
        ),
        (
            lambda c: c.delete_job("n", "j", policy="Background"),
            "DELETE /apis/batch/v1/namespaces/n/jobs/j",
            {},
            {"propagationPolicy": "Background"},
        ),
        (
            lambda c: c.delete("Pod", "n", "p", "u"),
            "DELETE /api/v1/namespaces/n/pods/p",
            {},
            {"propagationPolicy": "Background", "preconditions": {"uid": "u"}},
        ),
        (
            lambda c: c.create({**JOB, "kind": "PodGroup"}),
            "POST /apis/scheduling.k8s.io/v1beta1/namespaces/n/podgroups",
            {},
            {**JOB, "kind": "PodGroup"},
        ),
        (lambda c: c.get("PriorityClass", "", "p"), "GET /apis/scheduling.k8s.io/v1/priorityclasses/p", {}, None),
        (lambda c: c.get("Job", "n", "../a b?"), "GET /apis/batch/v1/namespaces/n/jobs/..%2Fa%20b%3F", {}, None),
        (
            lambda c: c.patch_workload_status("n", "w", {"status": {}}),
            "PATCH /apis/kueue.x-k8s.io/v1beta2/namespaces/n/workloads/w/status",
            {},
            {"status": {}},
        ),
        (
            lambda c: c.delete("Service", "n", "s"),
            "DELETE /api/v1/namespaces/n/services/s",
            {},
            {"propagationPolicy": "Background"},
        ),
        (lambda c: c.get_run("n", "r"), f"GET {RUN}", {}, None),
        (
            lambda c: c.delete_run("n", "r", "u"),
            f"DELETE {RUN}",
            {},
            {"propagationPolicy": "Background", "preconditions": {"uid": "u"}},
        ),
        (lambda c: c.delete_run("n", "r"), f"DELETE {RUN}", {}, {"propagationPolicy": "Background"}),
        (
            lambda c: c.write_status("n", "r", "7", {"a": 1}),
            f"PATCH {RUN}/status",
            {},
            [
                {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
                {"op": "add", "path": "/status", "value": {"a": 1}},
            ],
        ),
        (
            lambda c: c.apply_run("n", "r", {"spec": {}}),
            f"PATCH {RUN}",
            {"fieldManager": "diht", "fieldValidation": "Strict", "force": "true"},
            {"spec": {}},
        ),
        (lambda c: c.annotate_run("n", "r", "k", "v"), f"PATCH {RUN}", {}, {"metadata": {"annotations": {"k": "v"}}}),
        (lambda c: c.write_event("n", EVENT), "POST /api/v1/namespaces/n/events", {}, EVENT),
        (
            lambda c: c.listing("Job", None)(labelSelector="a", limit=5),
            "GET /apis/batch/v1/jobs",
            {"labelSelector": "a", "limit": "5"},
            None,
        ),
        (lambda c: c.listing("Pod", "n")(watch=True), "GET /api/v1/namespaces/n/pods", {"watch": "true"}, None),
    ],
)
def test_call_reaches_the_api_server_as_kubernetes_documents_it(
    server: ApiServer, call: Call, request_line: str, query: dict[str, str], body: Any
) -> None:
    server.answers = [(200, {})]
    call(server.cluster())
    (asked,) = server.asked
    assert f"{asked.method} {asked.path}" == request_line
    assert asked.query == query
    assert asked.body == body


@pytest.mark.parametrize(
    ("call", "form"),
    [
        (lambda c: c.write_status("n", "r", "7", {}), "application/json-patch+json"),
        (lambda c: c.apply_run("n", "r", {}), "application/apply-patch+yaml"),
        (lambda c: c.annotate_run("n", "r", "k", "v"), "application/merge-patch+json"),
        (
            lambda c: c.patch_pod_status("n", "p", {}),
            "application/strategic-merge-patch+json",
        ),  # keeps other conditions
    ],
    ids=["status", "apply", "annotate", "pod"],
)
def test_patch_says_its_form(server: ApiServer, call: Call, form: str) -> None:
    server.answers = [(200, {})]
    call(server.cluster())
    assert server.asked[0].headers["content-type"] == form


@pytest.mark.parametrize(
    ("call", "limits_s"),
    [
        (lambda c: c.get("Job", "n", "j"), (5.0, 30.0)),
        (lambda c: c.log_tail("n", "p", "", 3), (5.0, 10.0)),
        (lambda c: list(c.log("n", "p")), (5.0, 30.0)),
        (lambda c: list(c.log("n", "p", follow=True)), None),
        (lambda c: c.listing("Pod", None)(watch=True, timeout_s=(5.0, 60.0)), (5.0, 60.0)),
    ],
    ids=["call", "end of a log", "log", "followed log", "watch"],
)
def test_every_call_has_a_time_limit_unless_it_follows_a_log(
    server: ApiServer, call: Call, limits_s: tuple[float, float] | None
) -> None:
    server.answers = [(200, {})]
    call(server.cluster())
    assert server.asked[0].limits_s == limits_s


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda c: c.create(JOB), "create_job"),
        (lambda c: c.patch_job("n", "j", {}), "patch_job"),
        (lambda c: c.patch_pod_group("n", "g", {}), "patch_podgroup"),
        (lambda c: c.delete_job("n", "j", "u"), "delete_job"),
        (lambda c: c.delete("Service", "n", "s"), "delete_service"),
        (lambda c: c.delete_run("n", "r", "u"), "delete_run"),
        (lambda c: c.apply_run("n", "r", {}), "apply_run"),
        (lambda c: c.annotate_run("n", "r", "k", "v"), "annotate_run"),
        (lambda c: c.write_status("n", "r", "7", {}), "write_status"),
        (lambda c: c.write_event("n", {}), "create_event"),
    ],
)
def test_write_that_is_not_allowed_is_never_sent(server: ApiServer, call: Call, name: str) -> None:
    stopped: list[str] = []

    def stop(write: str) -> None:
        stopped.append(write)
        raise ClusterError(0, "NotLeading", "not leading")

    with pytest.raises(ClusterError, match="not leading"):
        call(Cluster(server.connection(), before_write=stop))
    assert stopped == [name]
    assert not server.asked


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.items("Pod", "n", "a=b"),
        lambda c: list(c.warnings("n")),
    ],
    ids=["pods", "events"],
)
def test_list_is_read_page_by_page(server: ApiServer, call: Call) -> None:
    first = {"items": [{"metadata": 1}, {"metadata": 2}], "metadata": {"continue": "more"}}
    server.answers = [(200, first), (200, {"items": [{"metadata": 3}], "metadata": {}})]
    assert len(call(server.cluster())) == 3
    assert [(asked.query["limit"], asked.query.get("continue")) for asked in server.asked] == [
        ("500", None),
        ("500", "more"),
    ]


def test_list_of_metadata_says_null_where_it_is_empty(server: ApiServer) -> None:
    server.answers = [(200, {"items": None, "metadata": {}})]
    assert server.cluster().items("Pod", "n", "a=b") == []


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), (None, 0.0), ("86400", 60.0), ("-1", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0)],
)
def test_refusal_says_how_long_the_server_wants_to_be_left_alone(
    server: ApiServer, header: str | None, seconds: float
) -> None:
    server.answers = [(429, {}, {} if header is None else {"Retry-After": header})]
    with pytest.raises(UnavailableError) as refused:
        server.cluster().get_run("n", "r")
    assert refused.value.retry_after_s == seconds


@pytest.mark.parametrize(
    ("kind", "namespace", "path"),
    [
        ("DihtRun", None, "/apis/diht.dev/v1alpha1/dihtruns"),
        ("DihtRun", "n", "/apis/diht.dev/v1alpha1/namespaces/n/dihtruns"),
        ("Job", None, "/apis/batch/v1/jobs"),
        ("Pod", "n", "/api/v1/namespaces/n/pods"),
        ("Node", "n", "/api/v1/nodes"),
    ],
)
def test_watch_asks_for_changes_of_one_kind(server: ApiServer, kind: str, namespace: str | None, path: str) -> None:
    server.answers = [(200, {})]
    server.cluster().listing(kind, namespace)(watch=True, allowWatchBookmarks=True, resourceVersion="7")
    [asked] = server.asked
    assert (asked.method, asked.path) == ("GET", path)
    assert asked.query == {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": "7"}


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([(200, {"items": [{"a": 1}]})], {"a": 1}),
        ([(404, refusal("")), (200, {"items": [{"a": 1}]})], {"a": 1}),
        ([(200, {"items": []})], None),
        ([(404, refusal("")), (404, refusal(""))], None),
    ],
    ids=["newest version", "older version", "no workload", "no Kueue"],
)
def test_workload_is_found_in_every_version_of_kueue(server: ApiServer, answers: list[Any], found: Any) -> None:
    server.answers = answers
    assert server.cluster().workload_of("n", "u") == found
    assert {asked.query["labelSelector"] for asked in server.asked} == {"kueue.x-k8s.io/job-uid=u"}


@pytest.mark.parametrize(
    ("status", "body", "exit_code", "sentence"),
    [
        (
            403,
            refusal("not yours"),
            ExitCode.USER_ERROR,
            "cannot list Jobs in namespace n: not yours: ask for the right, or use another namespace",
        ),
        (
            404,
            b"<html>\n none </html>\n",
            ExitCode.USER_ERROR,
            "cannot list Jobs in namespace n: <html> none </html>: check the name and the namespace",
        ),
        (
            400,
            refusal("kind is wrong"),
            ExitCode.USER_ERROR,
            "cannot list Jobs in namespace n: kind is wrong: correct what the message names",
        ),
        (
            400,
            refusal("container c is waiting to start: PodInitializing"),
            ExitCode.USER_ERROR,
            "cannot list Jobs in namespace n: container c is waiting to start: PodInitializing: try again when "
            "it has started",
        ),
        (401, b"", ExitCode.USER_ERROR, "cannot list Jobs in namespace n: Phrase: check the kubeconfig's credentials"),
        (418, refusal("tea"), ExitCode.USER_ERROR, "cannot list Jobs in namespace n: tea: correct the request"),
        (429, b"", ExitCode.RETRYABLE, "cannot list Jobs in namespace n: Phrase: try again"),
        (503, refusal("busy"), ExitCode.RETRYABLE, "cannot list Jobs in namespace n: busy: try again"),
    ],
)
def test_refusal_says_what_failed_why_and_what_to_do(
    server: ApiServer, status: int, body: Any, exit_code: ExitCode, sentence: str
) -> None:
    server.answers = [(status, body)]
    with pytest.raises(ClusterError) as raised:
        server.cluster().items("Job", "n", "a=b")
    assert (str(raised.value), raised.value.exit_code, raised.value.status) == (sentence, exit_code, status)
    assert isinstance(raised.value, RetryableError) == (exit_code is ExitCode.RETRYABLE)


def test_refusal_keeps_the_words_of_the_api_server(server: ApiServer) -> None:
    server.answers = [(409, refusal("j already exists", "AlreadyExists"))]
    with pytest.raises(ClusterError) as raised:
        server.cluster().create(JOB)
    error = raised.value
    assert (error.reason, error.message, error.is_conflict, error.is_not_found) == (
        "AlreadyExists",
        "j already exists",
        True,
        False,
    )


@pytest.mark.parametrize(
    "call", [lambda c: c.get("Job", "n", "j"), lambda c: list(c.log("n", "p"))], ids=["document", "log"]
)
def test_answer_that_breaks_off_can_be_asked_for_again(server: ApiServer, call: Call) -> None:
    server.answers, server.breaks_off = [(200, b"{")], True
    with pytest.raises(RetryableError, match=r"^cannot read .*: no answer from the API server \(.*: check that"):
        call(server.cluster())


def test_answer_that_is_not_json_is_reported_in_one_line(server: ApiServer) -> None:
    server.answers = [(200, b"<html>log in</html>")]
    with pytest.raises(
        RetryableError, match=r"^cannot read Job n/j: no answer from the API server \(JSONDecodeError: "
    ):
        server.cluster().get("Job", "n", "j")


def test_api_server_that_is_away_is_reported_in_one_line(server: ApiServer) -> None:
    server.answers = [MaxRetryError(None, "/", ConnectionError("refused\nby the host"))]  # type: ignore[arg-type]
    with pytest.raises(RetryableError) as raised:
        server.cluster().get("Job", "n", "j")
    assert str(raised.value) == (
        "cannot read Job n/j: no answer from the API server (ConnectionError: refused by the host): "
        "check that the cluster runs and KUBECONFIG names it"
    )


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([b"a\nb", b"c\n", b"d"], [b"a", b"bc", b"d"]),
        ([b"\n\n"], [b"", b""]),
        ([], []),
        (["é".encode()[:1], "é".encode()[1:] + b"\n"], ["é".encode()]),
    ],
)
def test_lines_are_whole_however_the_stream_is_cut(blocks: list[bytes], expected: list[bytes]) -> None:
    assert list(lines(iter(blocks))) == expected


def test_log_tail_keeps_the_end_of_a_long_line(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_client, "LOG_BYTES_KEPT", 4)
    server.answers = [(200, b"0123456789")]
    assert server.cluster().log_tail("n", "p", "", 3) == "6789"
    assert server.asked[0].query["tailLines"] == "3"


def test_log_tail_reads_no_endless_log(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_client, "LOG_BYTES_READ", 3)
    monkeypatch.setattr(kube_client, "LOG_BLOCK_BYTES", 2)
    server.answers = [(200, b"0123456789")]
    assert server.cluster().log_tail("n", "p", "", 3) == "0123"
