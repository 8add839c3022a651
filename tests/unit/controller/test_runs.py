"""The known runs: late events change nothing, one output has one holder, a broken spec is reported plainly."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest

from diht_k8s.api.errors import UserError
from diht_k8s.controller.cache.runs import RETRY_ANNOTATION, CachedRun, RunStore, cached_run
from tests.unit.controller.cached_runs import ended_run, run
from tests.unit.controller.documents import NOW, at
from tests.unit.controller.stories import make, play


def known(*found: CachedRun) -> RunStore:
    runs = RunStore()
    for each in found:
        runs.put(each)
    return runs


def test_older_and_equal_versions_change_nothing() -> None:
    runs = known(run(version=100))
    assert not runs.put(run(version=99))
    assert not runs.put(run(version=100))
    assert runs.put(run(version=101))
    found = runs.get(("n", "r"))
    assert found is not None
    assert found.version == "101"
    assert "managedFields" not in found.document["metadata"]


def test_deletion_of_an_earlier_run_of_the_same_name_leaves_the_new_one() -> None:
    runs = known(run(uid="new", version=5))
    assert not runs.remove(("n", "r"), "old")
    assert runs.remove(("n", "r"), "new")
    assert runs.keys() == []


def test_spec_is_read_once_for_each_generation_and_a_broken_one_is_reported_plainly() -> None:
    runs = known(run())
    assert runs.parsed(run()) is runs.parsed(run())
    with pytest.raises(UserError, match=r"cannot read the spec: spec.fromTheFuture: Extra inputs are not permitted$"):
        RunStore().parsed(run(fromTheFuture={}))


def with_document(found: CachedRun, **metadata: Any) -> CachedRun:
    return replace(found, document={**found.document, "metadata": {**found.document["metadata"], **metadata}})


@pytest.mark.parametrize(
    ("found", "is_small"),
    [
        (run(), False),
        (ended_run(), True),
        (ended_run(kind="Failed"), True),
        (replace(ended_run(), generation=2), False),
        (replace(ended_run(), deleting=True), False),
        (with_document(ended_run(kind="Failed"), annotations={RETRY_ANNOTATION: at(NOW)}), False),
        (with_document(ended_run(kind="Failed"), annotations={RETRY_ANNOTATION: at(NOW - 1)}), True),
        (with_document(ended_run(), annotations={RETRY_ANNOTATION: at(NOW)}), True),
    ],
    ids=[
        "runs",
        "complete",
        "failed",
        "its spec changed",
        "being deleted",
        "to be retried",
        "retried before",
        "complete, retried",
    ],
)
def test_run_is_kept_whole_until_nothing_is_left_to_do(found: CachedRun, is_small: bool) -> None:
    runs = known(found)
    assert (runs.finished(found.key) is not None, runs.get(found.key) is None) == (is_small, is_small)
    assert (len(runs), runs.keys()) == (1, [] if is_small else [found.key])


def test_run_that_ends_and_one_that_begins_again_change_their_form() -> None:
    runs = known(run(version=1))
    assert runs.put(ended_run(version=2, kind="Failed"))
    assert (runs.get(("n", "r")), runs.put(run(version=1))) == (None, False)
    assert runs.put(run(version=3))
    assert (runs.finished(("n", "r")), len(runs)) == (None, 1)


def test_late_write_brings_no_deleted_run_back() -> None:
    runs = known(run(version=1))
    runs.remove(("n", "r"))
    assert not runs.put(run(version=2), only_existing=True)
    assert len(runs) == 0


@pytest.mark.parametrize(
    ("settings", "due"),
    [
        ({}, ["own"]),
        ({"ttl_s": 50.0}, ["old", "own"]),
        ({"ttl_s": 5000.0}, ["own"]),
        ({"history_limit": 1}, ["old", "own"]),
        ({"history_limit": 2}, ["old", "own"]),
        ({"history_limit": 3}, ["own"]),
    ],
)
def test_finished_runs_are_due_by_their_own_time_the_default_and_the_limit(settings: Any, due: list[str]) -> None:
    runs = RunStore(**settings)
    for each in (
        ended_run("old", NOW - 100),
        ended_run("own", NOW - 60, ttlSecondsAfterFinished=30),
        ended_run("kept", NOW - 40, ttlSecondsAfterFinished=1_000_000),
        ended_run("elsewhere", NOW - 45, namespace="m"),
        run("runs"),
    ):
        runs.put(each)
    assert sorted(name for _, name in runs.due(NOW)) == due


def test_finished_run_takes_some_hundred_bytes() -> None:
    """Ten thousand runs that went through all stages; whole, each takes 18,000 bytes."""
    cluster, number = make(), 10_000
    play(cluster)
    text = json.dumps(cluster.runs["r"])
    runs = RunStore(ttl_s=1000.0)
    tracemalloc.start()
    try:
        for index in range(number):
            document = json.loads(text)
            document["metadata"] |= {
                "name": f"run-{index:05}",
                "uid": f"7c1f5b7e-0000-4000-8000-{index:012}",
                "resourceVersion": str(1_000_000 + index),
            }
            runs.put(cached_run(document))
        del document
        assert tracemalloc.get_traced_memory()[0] / number < 450
    finally:
        tracemalloc.stop()
    assert len(runs) == number
