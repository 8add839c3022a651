"""What users read when the API server refuses or does not answer; the log's stream as lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client
from kubernetes.config import kube_config
from urllib3.exceptions import MaxRetryError

from diht_k8s.api.errors import DihtError, RetryableError, UserError
from diht_k8s.kube.launch_client import Cluster, connect
from diht_k8s.kube.runs_client import open_kube

START = datetime(2026, 1, 1, tzinfo=UTC)
POD = {"metadata": {"name": "p", "namespace": "ns"}}


class Answer:
    """An answer whose body comes in pieces."""

    closed = False

    def __init__(self, *chunks: bytes) -> None:
        self.chunks, self.data = chunks, b"".join(chunks)

    def stream(self, size: int, decode_content: bool) -> Any:
        yield from self.chunks

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[dict[str, Any]]]:
    """Lets the API server answer with something, or fail; what it was asked for."""

    def script(what: Any) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            asked.append({"arguments": arguments, **options})
            if isinstance(what, Exception):
                raise what
            return what

        for api, names in (
            (client.BatchV1Api, ("create_namespaced_job", "delete_namespaced_job", "list_namespaced_job")),
            (client.CoreV1Api, ("list_namespaced_pod", "read_namespaced_pod_log")),
            (client.ApisApi, ("get_api_versions",)),
        ):
            for name in names:
                monkeypatch.setattr(api, name, call)
        return asked

    return script


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(client.ApiClient(client.Configuration()))


def refused(status: int, message: str = "") -> client.ApiException:
    error = client.ApiException(status=status, reason="Reason")
    error.body = json.dumps({"message": message}) if message else "<html>"
    return error


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (refused(403, "not yours"), UserError, "cannot list Jobs in namespace ns: not yours: ask for the right"),
        (refused(404), UserError, "cannot list Jobs in namespace ns: Reason: check the namespace"),
        (refused(401), UserError, "check the kubeconfig's credentials"),
        (refused(418, "tea"), UserError, "tea: correct the request"),
        (refused(429), RetryableError, "try again"),
        (refused(503, "busy"), RetryableError, "busy: try again"),
        (MaxRetryError(None, "/", None), RetryableError, "no answer from the API server"),  # type: ignore[arg-type]
    ],
)
def test_refusal_says_what_why_and_what_to_do(
    answer: Callable[[Any], Any], cluster: Cluster, error: Exception, kind: type[DihtError], words: str
) -> None:
    answer(error)
    with pytest.raises(kind, match=words):
        cluster.jobs("ns", "a=b")


def test_deletion_of_what_is_gone_is_done(answer: Callable[[Any], Any], cluster: Cluster) -> None:
    answer(refused(404))
    cluster.delete_job("ns", "job")


def test_log_of_a_pod_that_is_gone_has_no_lines(answer: Callable[[Any], Any], cluster: Cluster) -> None:
    answer(refused(404))
    assert list(cluster.log(POD, "main", since=None, now=START, follow=False)) == []


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"a\nb", b"c\n", b"d"], ["a", "bc", "d"]),
        ([b"\n\n"], ["", ""]),
        ([], []),
        (["é".encode()[:1], "é".encode()[1:] + b"\n\xff\n"], ["é", "�"]),
    ],
)
def test_log_comes_in_whole_lines_however_the_stream_is_cut(
    answer: Callable[[Any], Any], cluster: Cluster, chunks: list[bytes], lines: list[str]
) -> None:
    response = Answer(*chunks)
    answer(response)
    assert list(cluster.log(POD, "main", since=None, now=START, follow=True)) == lines
    assert response.closed


@pytest.mark.parametrize(("age_s", "asked_s"), [(0, 1), (1.5, 2), (60, 61), (-5, 1)])
def test_log_since_a_moment_is_asked_for_in_whole_seconds_before_it(
    answer: Callable[[Any], Any], cluster: Cluster, age_s: float, asked_s: int
) -> None:
    asked = answer(Answer())
    list(cluster.log(POD, "main", since=START - timedelta(seconds=age_s), now=START, follow=False))
    assert asked[0]["since_seconds"] == asked_s


def test_pods_come_oldest_first(answer: Callable[[Any], Any], cluster: Cluster) -> None:
    pods = [{"metadata": {"creationTimestamp": at, "name": at}} for at in ("2", "3", "1")]
    answer(Answer(json.dumps({"items": pods}).encode()))
    assert [pod["metadata"]["name"] for pod in cluster.pods("ns", "a=b")] == ["1", "2", "3"]


def test_group_is_served_where_it_is_listed(answer: Callable[[Any], Any], cluster: Cluster) -> None:
    answer(Answer(json.dumps({"groups": [{"name": "batch.volcano.sh"}]}).encode()))
    assert cluster.serves("batch.volcano.sh")
    assert not cluster.serves("other")


def test_no_kubeconfig_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"no cluster: .*: set KUBECONFIG"):
        connect()


@pytest.mark.parametrize(
    "content", [b"x: [", b"[1, 2]", b"\x89\xff", b"clusters: 5\ncontexts: [{name: t}]\ncurrent-context: t"]
)
@pytest.mark.parametrize("open_it", [connect, lambda: open_kube("n")], ids=["torchx", "diht"])
def test_kubeconfig_that_is_none_is_told_in_one_line(
    open_it: Callable[[], object], content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_bytes(content)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    with pytest.raises(UserError, match=r"(cannot be read|no cluster).*: (check|set) KUBECONFIG$") as raised:
        open_it()
    assert "\n" not in str(raised.value)
