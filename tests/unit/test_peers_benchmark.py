"""The benchmark of peers: when all pods of a job run, and the table that it prints."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks._peers import PEERS
from benchmarks.peers import ROWS, Pods, table


def event(kind: str, uid: str, phase: str = "Running", *, job: str = "j", deleting: bool = False) -> dict[str, Any]:
    metadata = {"uid": uid, "labels": {"job": job}, **({"deletionTimestamp": "x"} if deleting else {})}
    return {"type": kind, "object": {"metadata": metadata, "status": {"phase": phase}}}


def test_job_is_complete_once_all_its_pods_run_and_again_once_all_are_new() -> None:
    pods = Pods("job", 2)
    pods.take(event("ADDED", "a", "Pending"), 1.0)
    pods.take(event("MODIFIED", "a"), 2.0)
    assert pods.complete_at("j") is None
    pods.take(event("MODIFIED", "b"), 3.0)
    pods.take(event("MODIFIED", "b"), 9.0)
    pods.take(event("ADDED", "c", job="other"), 9.0)
    assert pods.complete_at("j") == 3.0
    old = frozenset({"a", "b"})
    pods.take(event("MODIFIED", "a", "Failed"), 10.0)
    pods.take(event("MODIFIED", "b", deleting=True), 10.0)
    pods.take(event("DELETED", "b"), 10.0)
    pods.take(event("ADDED", "d"), 11.0)
    assert pods.complete_at("j", without=old) is None
    pods.take(event("ADDED", "e"), 12.0)
    assert pods.complete_at("j", without=old) == 12.0
    assert pods.present == {"a", "c", "d", "e"}


def test_bookmarks_and_pods_of_nobody_count_for_nothing() -> None:
    pods = Pods("job", 1)
    pods.take({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "5"}}}, 1.0)
    pods.take({"type": "ADDED", "object": {"metadata": {"uid": "x"}, "status": {"phase": "Running"}}}, 1.0)
    assert (pods.running, pods.present) == ({}, set())


def test_table_has_a_column_for_each_operator_and_a_row_for_each_figure() -> None:
    keys = [key for first, second, _ in ROWS.values() for key in (first, second) if key]
    text = table({name: {"title": name.upper(), **dict.fromkeys(keys, 1.5)} for name in ("a", "b")})
    head, _, *rows = text.splitlines()
    assert (head, len(rows)) == ("| | A | B |", len(ROWS))
    assert rows[0] == "| until all pods run, p50 / p99 | 1.5 / 1.5 s | 1.5 / 1.5 s |"


@pytest.mark.parametrize("name", PEERS)
def test_each_operator_gets_a_gang_of_the_same_size_that_restarts(name: str) -> None:
    peer = PEERS[name]
    document = peer.document("j", 10)
    assert document["metadata"]["name"] == "j"
    assert document["apiVersion"] == f"{peer.group}/{peer.version}"
    assert "10" in str(document["spec"])
