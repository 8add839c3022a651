"""The lease of a training: one gang of several runs computes it, and the others end or wait."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from diht_k8s.api.errors import ComputedElsewhere, DataError, StopRequested
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.lease import BEAT_SECONDS, STALE_SECONDS, Owner
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.progress import Reporter
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.runtime.stage import Context
from diht_k8s.stages.train.lease import held_lease, lease_of, wait_until_free
from tests.folders import flat

DOCUMENT = {
    "apiVersion": "diht.dev/v1alpha1",
    "kind": "DihtRun",
    "metadata": {"name": "r"},
    "spec": {"data": {"sources": [{"name": "web", "shards": ["/in/0.tar"]}], "output": "/out"}, "filter": {}},
}
UID = "a0b1c2d3-0000-4000-8000-0123456789ab"


def gang(folder: Path, owner: str) -> Context:
    run = DihtRun.model_validate(DOCUMENT)
    reporter, flag = Reporter(Stage.TRAIN), StopFlag()
    return Context(run, Stage.TRAIN, Storage(), flat(folder), {"inputs": {}}, reporter, flag, owner=Owner(owner))


def commit(context: Context) -> None:
    context.storage.write_bytes(context.layout.committed(Stage.TRAIN), b"{}")


@pytest.mark.parametrize(
    ("holder", "says"),
    [(UID, f"run {UID}"), ("process 1 2 3", "another run"), (f"{UID} b", "another run")],
    ids=["of a cluster", "of a laptop", "of somebody who may write anything"],
)
def test_gang_that_finds_a_living_one_leaves_and_tells_its_uid(tmp_path: Path, holder: str, says: str) -> None:
    other = lease_of(gang(tmp_path, holder))
    other.take()
    with pytest.raises(ComputedElsewhere, match=f"computed by {says}:") as raised:
        held_lease(gang(tmp_path, "2"), lambda _: other.write()).__enter__()
    assert raised.value.exit_code == 75


def test_training_that_is_completed_while_a_gang_watches_is_not_begun_again(tmp_path: Path) -> None:
    other = gang(tmp_path, "1")
    with ExitStack() as stack:
        stack.enter_context(held_lease(other))

        def completes(_: float) -> None:
            stack.close()
            commit(other)

        with pytest.raises(ComputedElsewhere, match="completed"):
            held_lease(gang(tmp_path, "2"), completes).__enter__()
    assert not lease_of(other).is_mine


@pytest.mark.parametrize(
    ("asked", "taken_over", "raises"),
    [(False, True, ComputedElsewhere), (True, True, StopRequested), (False, False, StopRequested)],
    ids=["by another run", "on request", "by the same run"],
)
def test_gang_that_the_fence_stops_says_who_has_taken_over(
    tmp_path: Path, asked: bool, taken_over: bool, raises: type[Exception]
) -> None:
    slow = gang(tmp_path, "1")

    def ranks() -> None:
        slow.stop.requested = asked
        if taken_over:
            lease_of(gang(tmp_path, "2")).write()
        raise StopRequested("attempt 2 has taken over")

    with pytest.raises(raises), held_lease(slow):
        ranks()


@pytest.mark.parametrize("ends", ["free", "dead", "committed"])
def test_waiting_ends_when_the_training_is(tmp_path: Path, ends: str) -> None:
    other, waiting, now = gang(tmp_path, "1"), gang(tmp_path, "2"), 0.0
    wait_until_free(waiting, lambda _: pytest.fail("nobody works"))
    holder = lease_of(other)
    holder.take()

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now <= 10 * BEAT_SECONDS:
            holder.write()
        elif ends == "free":
            holder.release()
        elif ends == "committed":
            commit(other)

    wait_until_free(waiting, sleep, lambda: now)
    assert now == 10 * BEAT_SECONDS + (STALE_SECONDS if ends == "dead" else BEAT_SECONDS)


@pytest.mark.parametrize("fails", [True, False], ids=["a gang that fails", "a gang that only has to commit"])
def test_lease_is_given_up_by(tmp_path: Path, fails: bool) -> None:
    with contextlib.suppress(DataError), held_lease(gang(tmp_path, "1")):
        if fails:
            raise DataError("damaged")
    assert (tmp_path / "train/lease.json").exists() is not fails


@pytest.mark.parametrize("wait", [held_lease, wait_until_free])
def test_stop_ends_a_gang_that_watches(tmp_path: Path, wait: Callable[..., object]) -> None:
    waiting = gang(tmp_path, "2")
    waiting.stop.requested = True
    lease_of(gang(tmp_path, "1")).take()
    with pytest.raises(StopRequested):
        getattr(wait(waiting, lambda _: None), "__enter__", lambda: None)()
