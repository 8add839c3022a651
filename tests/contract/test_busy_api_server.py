"""A server on the loopback that refuses with Retry-After, as an overloaded API server does."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from diht_k8s.kube.client import Cluster
from diht_k8s.kube.connection import connect
from diht_k8s.kube.errors import UnavailableError


@pytest.mark.parametrize(("wait", "asked"), [(True, 2), (False, 1)])
def test_refused_read_waits_in_its_thread_only_where_it_may(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wait: bool, asked: int
) -> None:
    """A worker of the operator must not sleep for as long as a server likes."""
    questions: list[str] = []

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            questions.append(self.path)
            self.send_response(429)
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        config = {
            "current-context": "c",
            "clusters": [cluster],
            "contexts": [context],
            "users": [{"name": "u", "user": {}}],
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        with pytest.raises(UnavailableError) as refusal:
            Cluster(connect(wait=wait)).get_run("n", "r")
        server.shutdown()
    assert (refusal.value.status, refusal.value.retry_after_s, len(questions)) == (429, 1.0, asked)
