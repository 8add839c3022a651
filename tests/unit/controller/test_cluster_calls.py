"""Calls to the API server: pages of lists, and the preconditions of deletes and status writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes import client

from diht_k8s.kube.client import Cluster, answer_of, pages
from diht_k8s.kube.errors import UnavailableError


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([([1, 2], "more"), ([3], "")], [1, 2, 3]),
        ([([], "")], []),
        ([(None, "")], []),
    ],
    ids=["two pages", "nothing", "nothing, as lists of metadata say it"],
)
def test_list_gives_the_items_of_all_pages(answers: list[tuple[Any, str]], found: list[int]) -> None:
    asked: list[Any] = []

    def listing(**options: Any) -> SimpleNamespace:
        asked.append(options.get("_continue"))
        items, token = answers[len(asked) - 1]
        return SimpleNamespace(status=200, data=json.dumps({"items": items, "metadata": {"continue": token}}))

    assert list(pages("list things", listing)) == found
    assert asked == [None, "more"][: len(answers)]


def sent(monkeypatch: pytest.MonkeyPatch, call: Callable[[Cluster], Any]) -> Any:
    """The body that a call sends."""
    bodies: list[Any] = []

    def answer(self: Any, method: str, url: str, headers: Any, body: Any, *_: Any, **__: Any) -> SimpleNamespace:
        bodies.append(body)
        found = SimpleNamespace(status=200, data=b"{}", reason="")
        found.response = found  # some calls of the client unwrap it
        return found

    monkeypatch.setattr(client.ApiClient, "call_api", answer)
    call(Cluster(client.ApiClient(client.Configuration())))
    return bodies[0]


@pytest.mark.parametrize(
    "delete",
    [lambda cluster: cluster.delete_job("n", "j", "the-uid"), lambda cluster: cluster.delete_run("n", "r", "the-uid")],
    ids=["Job", "run"],
)
def test_delete_takes_only_the_object_of_that_uid(
    monkeypatch: pytest.MonkeyPatch, delete: Callable[[Cluster], Any]
) -> None:
    assert sent(monkeypatch, delete)["preconditions"] == {"uid": "the-uid"}


def test_status_is_written_only_to_the_version_that_it_was_made_from(monkeypatch: pytest.MonkeyPatch) -> None:
    patch = sent(monkeypatch, lambda cluster: cluster.write_status("n", "r", "41", {"stages": []}))
    assert {"op": "replace", "path": "/metadata/resourceVersion", "value": "41"} in patch
    assert {"op": "add", "path": "/status", "value": {"stages": []}} in patch


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), (None, 0.0), ("86400", 60.0), ("-1", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0)],
)
def test_refusal_says_how_long_the_server_wants_to_be_left_alone(header: str | None, seconds: float) -> None:
    answer = SimpleNamespace(
        status=429, data=b"{}", reason="", headers={} if header is None else {"Retry-After": header}
    )
    with pytest.raises(UnavailableError) as refusal:
        answer_of("list things", lambda **_: answer)
    assert refusal.value.retry_after_s == seconds
