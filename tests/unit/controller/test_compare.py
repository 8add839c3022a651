"""The operator's own checks: its list of runs against the watch, and its right to write before each write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes import client

from diht_k8s.controller import operator as module
from diht_k8s.controller.operator import Operator, Settings
from diht_k8s.controller.runs import known_run
from diht_k8s.kube.client import ClusterError


def document(name: str, version: int) -> dict[str, Any]:
    metadata = {"namespace": "n", "name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"data": {"output": f"s3://corpus/{name}"}}}


class Listed:
    """The runs as the API server lists them."""

    def __init__(self, **versions: int) -> None:
        self.documents, self.read = {name: document(name, version) for name, version in versions.items()}, list[str]()

    def runs_metadata(self, namespace: str | None) -> list[dict[str, Any]]:
        return [each["metadata"] for each in self.documents.values()]

    def get_run(self, namespace: str, name: str) -> dict[str, Any]:
        self.read.append(name)
        return self.documents[name]


def with_operator(monkeypatch: pytest.MonkeyPatch, story: Callable[[Operator], Any], **more: Any) -> Any:
    monkeypatch.setattr(module, "connect", lambda: client.ApiClient(client.Configuration()))

    async def inside() -> Any:
        result = story(Operator(Settings(port=0, **more)))
        return await result if asyncio.iscoroutine(result) else result

    return asyncio.run(inside())


def test_list_of_runs_removes_what_is_gone_and_reads_what_the_watch_has_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = Listed(same=5, newer=7, added=9)

    async def story(found: Operator) -> None:
        found._cluster = listed  # type: ignore[assignment]
        for name, version in (("same", 5), ("newer", 6), ("gone", 3)):
            found._runs.put(known_run(document(name, version)))
        await found._compare_once()
        versions = {key[1]: found._runs.get(key).version for key in found._runs.keys()}  # type: ignore[union-attr] # noqa: SIM118
        assert versions == {"same": "5", "newer": "7", "added": "9"}
        assert sorted(listed.read) == ["added", "newer"]
        queued = {(await found._queue.get())[0][1] for _ in range(3)}
        assert queued == {"gone", "newer", "added"}
        assert sorted(key[1] for key in found._missed) == ["added", "newer"]

    with_operator(monkeypatch, story)


def test_list_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Away(Listed):
        def runs_metadata(self, namespace: str | None) -> list[dict[str, Any]]:
            raise ClusterError(0, "Unreachable", "away")

    async def story(found: Operator) -> None:
        found._cluster = Away()  # type: ignore[assignment]
        found._runs.put(known_run(document("r", 1)))
        await found._compare_once()
        assert found._runs.keys() == [("n", "r")]

    with_operator(monkeypatch, story)


@pytest.mark.parametrize("held", [True, False])
def test_nothing_is_written_without_the_lease(monkeypatch: pytest.MonkeyPatch, held: bool) -> None:
    asked: list[str] = []

    def answer(self: Any, method: str, *_: Any, **__: Any) -> SimpleNamespace:
        asked.append(method)
        found = SimpleNamespace(status=200, data=b"{}", reason="")
        found.response = found  # some calls of the client unwrap it
        return found

    monkeypatch.setattr(client.ApiClient, "call_api", answer)

    def story(found: Operator) -> None:
        assert found._lease is not None
        monkeypatch.setattr(found._lease, "held", lambda: held)
        cluster = found._cluster
        writes: list[Callable[[], Any]] = [
            lambda: cluster.create({"kind": "Job", "metadata": {"namespace": "n"}}),
            lambda: cluster.delete_job("n", "j", "uid"),
            lambda: cluster.delete_service("n", "s"),
            lambda: cluster.delete_run("n", "r", "uid"),
            lambda: cluster.write_status("n", "r", "1", {}),
            lambda: cluster.write_event("n", {"metadata": {}, "involvedObject": {}}),
        ]
        for write in writes:
            if held:
                write()
                continue
            with pytest.raises(ClusterError, match="lease is not held"):
                write()
        assert len(asked) == (len(writes) if held else 0)

    with_operator(monkeypatch, story, lease_namespace="n")
