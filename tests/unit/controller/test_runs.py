"""The known runs: late events change nothing, one output has one holder, a broken spec is reported plainly."""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.api.errors import UserError
from diht_k8s.controller.runs import KnownRun, Runs, known_run


def run(
    name: str = "r",
    *,
    namespace: str = "n",
    uid: str = "",
    version: int = 1,
    created: str = "2026-01-01T00:00:00Z",
    output: str = "s3://corpus/o",
    status: dict[str, Any] | None = None,
    **spec: Any,
) -> KnownRun:
    metadata = {
        "namespace": namespace,
        "name": name,
        "uid": uid or f"uid-{namespace}-{name}",
        "resourceVersion": str(version),
        "creationTimestamp": created,
        "generation": 1,
        "managedFields": [{"huge": "x"}],
    }
    sources = [{"name": "web", "shards": ["s3://corpus/a.tar"]}]
    body = {"data": {"sources": sources, "output": output}, "filter": {}, **spec}
    return known_run({"metadata": metadata, "spec": body, "status": status})


ENDED = {"conditions": [{"type": "Failed", "status": "True", "reason": "BadData", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}  # fmt: skip


def known(*found: KnownRun) -> Runs:
    runs = Runs()
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
    assert runs.remove(("n", "r"), "old") is None
    assert runs.remove(("n", "r"), "new") is not None
    assert runs.keys() == []


@pytest.mark.parametrize(
    ("mine", "other", "held"),
    [
        (run(created="2026-01-02T00:00:00Z"), run("s"), True),
        (run(), run("s", created="2026-01-02T00:00:00Z"), False),
        (run(uid="b"), run("s", uid="a"), True),
        (run(), run("s", created="2026-01-02T00:00:00Z", status={"startTime": "2026-01-03T00:00:00Z"}), True),
        (run(created="2026-01-02T00:00:00Z"), run("s", status=ENDED), False),
        (run(created="2026-01-02T00:00:00Z"), run("s", output="s3://corpus/other"), False),
        (run(created="2026-01-02T00:00:00Z"), run("s", output="s3://corpus/o/"), True),
        (run(created="2026-01-02T00:00:00Z"), run("s", namespace="m"), True),
        (run(created="2026-01-02T00:00:00Z", output="/data/o"), run("s", namespace="m", output="/data/o"), False),
        (run(created="2026-01-02T00:00:00Z", output="/data/o"), run("s", output="/data/o"), True),
    ],
    ids=[
        "the older one has it", "mine is older", "of one second, the lower uid", "the other has started", "the other has ended",
        "another output", "a slash at the end", "S3 is one for all namespaces", "a path is not", "a path within one namespace",
    ],
)  # fmt: skip
def test_output_belongs_to_one_run(mine: KnownRun, other: KnownRun, held: bool) -> None:
    runs = known(mine, other)
    assert (runs.holder_of_output(mine) == other) is held


def test_spec_is_read_once_for_each_generation_and_a_broken_one_is_reported_plainly() -> None:
    runs = known(run())
    assert runs.parsed(run()) is runs.parsed(run())
    with pytest.raises(UserError, match=r"cannot read the spec: spec.fromTheFuture: Extra inputs are not permitted$"):
        Runs().parsed(run(fromTheFuture={}))
