"""An API server behind the client's connection pool: it answers from a script and records what it was asked."""

from __future__ import annotations

import http.client
import io
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import urllib3
from kubernetes import client

from diht_k8s.kube.client import Cluster
from diht_k8s.kube.connection import Connection


class BrokenBody(io.BytesIO):
    """The connection is closed in the middle of the answer."""

    def read(self, amount: int | None = -1) -> bytes:
        raise http.client.IncompleteRead(b"")


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]
    limits_s: tuple[float, float] | None
    """Connect and read; None waits for ever."""


@dataclass
class ApiServer:
    """Answers in order: an HTTP status with a document or bytes, perhaps headers, or an exception in place of an
    answer.
    """

    answers: list[Any] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    breaks_off: bool = False
    """Closes the connection in the middle of each answer."""

    def connection(self) -> Connection:
        settings = client.Configuration()
        settings.host = "http://api"
        api = client.ApiClient(settings)
        api.rest_client.pool_manager = self  # type: ignore[assignment]
        return Connection(api)

    def cluster(self) -> Cluster:
        return Cluster(self.connection())

    def urlopen(self, method: str, url: str, **options: Any) -> urllib3.HTTPResponse:
        """Stands for `urllib3.PoolManager.urlopen`."""
        parts, body = urlsplit(url), options.get("body")
        headers = {key.lower(): value for key, value in options["headers"].items()}
        document = json.loads(body) if body else None
        timeout = options["timeout"]
        limits_s = (timeout.connect_timeout, timeout.read_timeout) if timeout is not None else None
        self.asked.append(Asked(method, parts.path, dict(parse_qsl(parts.query)), document, headers, limits_s))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, content, *headers = answer
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        response = BrokenBody(data) if self.breaks_off else io.BytesIO(data)
        preload = options["preload_content"]
        return urllib3.HTTPResponse(response, *headers, status=status, reason="Phrase", preload_content=preload)


def refusal(message: str, reason: str = "Reason") -> dict[str, Any]:
    return {"kind": "Status", "reason": reason, "message": message}
