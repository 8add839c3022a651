"""The connection to an API server that speaks TLS: credentials that change, proxies, certificates, kept connections;
and those to the operator's probes.
"""

from __future__ import annotations

import json
import socket
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
from kubernetes.config import incluster_config

from diht_k8s.api.errors import RetryableError
from diht_k8s.controller import operator
from diht_k8s.kube import connection as module
from diht_k8s.kube.client import Cluster
from diht_k8s.kube.connection import connect
from diht_k8s.kube.errors import ClusterError, UnavailableError
from tests.contract.tls_api_server import NAME, ApiServer, Certificates, proxy

PROXY_VARIABLES = (
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
)
JOB = {"kind": "Job", "metadata": {"name": "j", "namespace": "n"}}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("pki")).make()


@pytest.fixture
def server(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setattr(module, "TOKEN_AGE_S", 0.0)
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with ApiServer(certificates).serving() as found:
        yield found


@pytest.fixture
def connected(server: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Cluster]:
    """A client of the server whose kubeconfig has this user and more about the cluster."""

    def open_it(user: dict[str, Any] | None = None, **cluster: Any) -> Cluster:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path, user or {"token": "t"}, **cluster)))
        return Cluster(connect(wait=False))

    return open_it


def plugin(folder: Path) -> tuple[dict[str, Any], Callable[..., None], Callable[[], int]]:
    """A user with an exec plugin, what it will say, and how often it ran."""
    said, runs = folder / "said", folder / "runs"
    runs.touch()

    def say(**status: str) -> None:
        document = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
        said.write_text(json.dumps(document))

    script = f"echo >> '{runs}'; cat '{said}'"
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script]}}
    return user, say, lambda: len(runs.read_text())


def at(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def tokens(server: ApiServer) -> list[str]:
    return [asked.token.lower().removeprefix("bearer ") for asked in server.asked]


@pytest.fixture
def account(server: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The token file of the pod around this program."""
    (tmp_path / "ca.crt").write_text(server.certificates.text("ca.crt"))
    monkeypatch.setattr(module, "POD_ACCOUNT", tmp_path)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    (tmp_path / "token").write_text("first\n")
    return tmp_path / "token"


class Later:
    """The module `datetime` a little more than a minute later, after which the library reads the token again."""

    datetime = type("datetime", (), {"now": lambda: datetime.now() + timedelta(seconds=61)})
    timedelta = timedelta


def test_token_of_the_pod_is_read_again_after_a_minute(
    server: ApiServer, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(connect())
    cluster.get_run("n", "r")
    account.write_text("second")
    cluster.get_run("n", "r")
    monkeypatch.setattr(incluster_config, "datetime", Later)
    cluster.get_run("n", "r")
    assert tokens(server) == ["first", "first", "second"]


def test_token_is_not_asked_for_at_each_call(server: ApiServer, account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKEN_AGE_S", 60.0)
    cluster = Cluster(connect())
    asked: list[Any] = []
    monkeypatch.setattr(cluster._connection._login.api.configuration, "refresh_api_key_hook", asked.append)
    for _ in range(3):
        cluster.get_run("n", "r")
    assert (len(asked), tokens(server)) == (1, ["first"] * 3)


def test_token_of_the_pod_that_is_refused_is_read_again_at_once(server: ApiServer, account: Path) -> None:
    cluster = Cluster(connect())
    account.write_text("second")
    server.admits = lambda asked: asked.token.endswith("second")
    cluster.create(JOB)
    cluster.get_run("n", "r")
    assert tokens(server) == ["first", "second", "second"]
    assert [json.loads(asked.body or b"null") for asked in server.asked] == [JOB, JOB, None], "the same request again"


@pytest.mark.parametrize("content", [None, ""], ids=["gone", "empty"])
def test_token_file_that_cannot_be_read_is_an_error_of_the_call(
    account: Path, content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(connect())
    account.unlink() if content is None else account.write_text(content)
    monkeypatch.setattr(incluster_config, "datetime", Later)
    with pytest.raises(UnavailableError, match=r"^cannot read run n/r: .*[Tt]oken"):
        cluster.get_run("n", "r")


def test_exec_plugin_runs_again_once_its_token_has_expired(
    server: ApiServer, connected: Callable[..., Cluster], tmp_path: Path
) -> None:
    user, say, runs = plugin(tmp_path)
    say(token="short", expirationTimestamp=at(-1))
    cluster = connected(user)
    say(token="long", expirationTimestamp=at(3600))
    for _ in range(3):
        cluster.get_run("n", "r")
    assert (tokens(server), runs()) == (["long"] * 3, 2)


def test_exec_plugin_runs_once_for_all_threads_whose_token_is_refused(
    server: ApiServer, connected: Callable[..., Cluster], tmp_path: Path
) -> None:
    user, say, runs = plugin(tmp_path)
    say(token="old")
    cluster, start = connected(user), Barrier(8)
    say(token="new")
    server.admits = lambda asked: asked.token == "Bearer new"
    done: list[Any] = []

    def ask() -> None:
        start.wait(60)
        done.append(cluster.get_run("n", "r"))

    threads = [Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert (len(done), runs()) == (8, 2)


def test_token_that_stays_refused_is_reported_and_the_plugin_not_asked_in_a_loop(
    server: ApiServer, connected: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RELOAD_AGAIN_S", 600.0)
    user, say, runs = plugin(tmp_path)
    say(token="old")
    cluster = connected(user)
    server.admits = lambda asked: False
    for _ in range(3):
        with pytest.raises(ClusterError, match="check the kubeconfig's credentials"):
            cluster.get_run("n", "r")
    assert (len(server.asked), runs()) == (4, 2)


def test_exec_plugin_that_fails_leaves_nobody_anonymous(
    server: ApiServer, connected: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RELOAD_AGAIN_S", 0.0)
    user, say, _ = plugin(tmp_path)
    say(token="old")
    cluster = connected(user)
    server.admits = lambda asked: asked.token == "Bearer new"
    (tmp_path / "said").write_text("no network")
    for _ in range(2):
        with pytest.raises(ClusterError, match="credentials"):
            cluster.get_run("n", "r")
    assert tokens(server) == ["old", "old"], "never without a token"
    say(token="new")
    cluster.get_run("n", "r")


def test_certificate_of_an_exec_plugin_is_shown_and_renewed(
    server: ApiServer, connected: Callable[..., Cluster], tmp_path: Path
) -> None:
    user, say, _ = plugin(tmp_path)
    own = {
        "clientCertificateData": server.certificates.text("client.crt"),
        "clientKeyData": server.certificates.text("client.key"),
    }
    say(token="old")
    cluster = connected(user)
    say(**own)
    server.admits = lambda asked: asked.user == "operator"
    cluster.get_run("n", "r")
    assert [(asked.token, asked.user) for asked in server.asked] == [("Bearer old", ""), ("", "operator")]


@pytest.mark.parametrize("behind_tls", [False, True], ids=["http proxy", "https proxy"])
@pytest.mark.parametrize("named_by", ["kubeconfig", "environment"])
def test_proxy_is_used(
    server: ApiServer,
    connected: Callable[..., Cluster],
    monkeypatch: pytest.MonkeyPatch,
    behind_tls: bool,
    named_by: str,
) -> None:
    with proxy(server.certificates if behind_tls else None) as (url, targets):
        if named_by == "environment":
            monkeypatch.setenv("HTTPS_PROXY", url)
        cluster = connected(**({"proxy-url": url} if named_by == "kubeconfig" else {}))
        for _ in range(2):
            cluster.get_run("n", "r")
        assert targets == [f"127.0.0.1:{server.port}"], "one tunnel for both"
        assert len(server.asked) == 2


@pytest.mark.parametrize("excluded", ["127.0.0.1", "127.0.0.0/8", "*"])
def test_server_that_no_proxy_names_is_asked_directly(
    server: ApiServer, connected: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch, excluded: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", excluded)
    connected().get_run("n", "r")
    assert len(server.asked) == 1


def test_client_certificate_is_shown(server: ApiServer, connected: Callable[..., Cluster]) -> None:
    found = server.certificates
    connected({"client-certificate": found.path("client.crt"), "client-key": found.path("client.key")}).get_run(
        "n", "r"
    )
    assert [(asked.user, asked.token) for asked in server.asked] == [("operator", "")]


def test_certificate_is_checked_against_the_name_that_the_kubeconfig_gives(
    server: ApiServer, connected: Callable[..., Cluster]
) -> None:
    connected(**{"tls-server-name": NAME}).get_run("n", "r")
    assert [asked.server_name for asked in server.asked] == [NAME]
    with pytest.raises(RetryableError, match="CERTIFICATE_VERIFY_FAILED"):
        connected(**{"tls-server-name": "other.test"}).get_run("n", "r")


def test_server_of_another_authority_is_not_asked(
    server: ApiServer, connected: Callable[..., Cluster], tmp_path: Path
) -> None:
    (tmp_path / "pki").mkdir()
    other = b64encode(Certificates(tmp_path / "pki").make().text("ca.crt").encode()).decode()
    with pytest.raises(RetryableError, match="CERTIFICATE_VERIFY_FAILED"):
        connected(**{"certificate-authority-data": other}).get_run("n", "r")
    assert server.asked == []


def test_connection_stays_open_for_the_next_call(server: ApiServer, connected: Callable[..., Cluster]) -> None:
    cluster = connected()
    server.answer = (200, {}, b'{"items": [], "metadata": {}}')
    cluster.create(JOB)
    cluster.write_status("n", "r", "1", {})
    cluster.write_event("n", {"kind": "Event"})
    cluster.delete_job("n", "j", "u")
    cluster.items("Pod", "n", "a=b")
    assert cluster.log_tail("n", "p", "", 5)
    cluster.listing("Pod", "n")(limit=1)
    b"".join(cluster.listing("Pod", "n")(watch=True).stream(100))
    server.answer = (422, {}, b"{}")
    with pytest.raises(ClusterError):
        cluster.create(JOB)
    server.answer = (200, {}, b"{}")
    cluster.get_run("n", "r")
    assert (len(server.asked), len({asked.connection for asked in server.asked})) == (10, 1)


def test_connection_that_the_server_closed_is_replaced(server: ApiServer, connected: Callable[..., Cluster]) -> None:
    cluster = connected()
    server.answer = (200, {"Connection": "close"}, b"{}")
    for _ in range(2):
        cluster.create(JOB)
    assert len({asked.connection for asked in server.asked}) == 2


@pytest.mark.parametrize(
    "call",
    [lambda c: c.create(JOB), lambda c: c.get_run("n", "r"), lambda c: list(c.log("n", "p"))],
    ids=["write", "read", "log"],
)
def test_answer_that_breaks_off_is_asked_for_again_by_the_caller_alone(
    server: ApiServer, connected: Callable[..., Cluster], call: Callable[[Cluster], Any]
) -> None:
    server.answer, server.breaks_off = (200, {}, b'{"kind": "Job"}'), True
    with pytest.raises(RetryableError, match="no answer from the API server"):
        call(connected())
    assert len(server.asked) == 1


def test_overloaded_server_says_when_to_come_back(server: ApiServer, connected: Callable[..., Cluster]) -> None:
    server.answer = (429, {"Retry-After": "7"}, b'{"message": "busy"}')
    with pytest.raises(UnavailableError, match="busy") as refused:
        connected().create(JOB)
    assert (refused.value.retry_after_s, len(server.asked)) == (7.0, 1)


def test_probe_is_answered_beside_a_hundred_connections_that_send_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator._Quiet, "timeout", 0.5)
    server = operator.serve("127.0.0.1", 0, lambda: "", lambda: "")
    try:
        idle = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(100)]
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/healthz", timeout=5) as answer:
            assert answer.read() == b"ok\n"
        assert idle[0].recv(1) == b"", "it is closed after a while"
        for each in idle:
            each.close()
    finally:
        server.shutdown()
        server.server_close()
