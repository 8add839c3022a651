"""The lease of a training: one gang of several runs computes it; a dead one's goes to the next."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from diht_k8s.api.errors import ComputedElsewhere, DataError, StopRequested
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.claims import STALE_SECONDS
from diht_k8s.runtime.owner import Owner
from diht_k8s.runtime.progress import Reporter
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.runtime.stage import Context
from diht_k8s.stages.train import lease
from diht_k8s.stages.train.lease import LOOK_SECONDS, held_lease, wait_until_free
from tests.folders import flat
from tests.unit.runtime.owners import ended_process

DOCUMENT = {
    "apiVersion": "diht.dev/v1alpha1",
    "kind": "DihtRun",
    "metadata": {"name": "r"},
    "spec": {"data": {"sources": [{"name": "web", "shards": ["/in/0.tar"]}], "output": "/out"}, "filter": {}},
}
UID = "a0b1c2d3-0000-4000-8000-0123456789ab"
ONE, TWO = Owner("1"), Owner("2")


def gang(folder: Path, owner: Owner) -> Context:
    return Context(
        DihtRun.model_validate(DOCUMENT),
        Stage.TRAIN,
        Storage(),
        flat(folder),
        {"inputs": {}},
        Reporter(Stage.TRAIN),
        StopFlag(),
        owner=owner,
    )


def beats(folder: Path, after: int = 1) -> Callable[[float], None]:
    """A sleep during which the holder of the lease shows that it lives, the `after`th time."""
    slept = list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == after:
            path = folder / "train/lease.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "beat": "next"}))

    return sleep


@pytest.mark.parametrize(
    ("holder", "says"),
    [(UID, f"run {UID}"), ("process 1 2 3", "another run"), (f"{UID} b", "another run")],
    ids=["of a cluster", "of a laptop", "of somebody who may write anything"],
)
def test_gang_that_finds_a_living_one_leaves_and_tells_its_uid(tmp_path: Path, holder: str, says: str) -> None:
    with (
        held_lease(gang(tmp_path, Owner(holder))),
        pytest.raises(ComputedElsewhere, match=f"computed by {says}:") as raised,
        held_lease(gang(tmp_path, TWO), beats(tmp_path)),
    ):
        pytest.fail("two gangs")
    assert raised.value.exit_code == 75


@pytest.mark.parametrize("holder", ["stands still", "is known to be dead"])
def test_lease_of_a_dead_gang_is_taken_over_and_the_dead_one_cannot_take_it_back(tmp_path: Path, holder: str) -> None:
    slept, dead = list[float](), ONE if holder == "stands still" else Owner(ended_process())
    with ExitStack() as stack:
        zombie = lease._Lease(gang(tmp_path, dead))
        zombie.take(slept.append)
        stack.enter_context(held_lease(gang(tmp_path, TWO), slept.append))
        assert sum(slept) == (STALE_SECONDS if dead is ONE else 0)
        before = (tmp_path / "train/lease.json").read_bytes()
        zombie.keep()
        zombie.release()
        assert (tmp_path / "train/lease.json").read_bytes() == before


def test_next_attempt_of_the_same_run_goes_on_at_once_and_its_zombie_leaves_the_lease_alone(tmp_path: Path) -> None:
    zombie = lease._Lease(gang(tmp_path, ONE))
    zombie.take(lambda _: pytest.fail("waits"))
    with held_lease(gang(tmp_path, ONE), lambda _: pytest.fail("waits")):
        zombie.release()
        assert (tmp_path / "train/lease.json").exists()


def test_training_that_is_completed_while_a_gang_watches_is_not_begun_again(tmp_path: Path) -> None:
    other, waiting = gang(tmp_path, ONE), gang(tmp_path, TWO)
    with ExitStack() as stack:
        stack.enter_context(held_lease(other))

        def completes(_: float) -> None:
            stack.close()
            other.storage.write_bytes(other.layout.committed(Stage.TRAIN), b"{}")

        with pytest.raises(ComputedElsewhere, match="completed"), held_lease(waiting, completes):
            pytest.fail("begun again")
    assert not (tmp_path / "train/lease.json").exists()


@pytest.mark.parametrize(
    ("asked", "taken_over", "raises"),
    [(False, True, ComputedElsewhere), (True, True, StopRequested), (False, False, StopRequested)],
    ids=["by another run", "on request", "by the same run"],
)
def test_gang_that_the_fence_stops_says_who_has_taken_over(
    tmp_path: Path, asked: bool, taken_over: bool, raises: type[Exception]
) -> None:
    slow = gang(tmp_path, ONE)

    def ranks() -> None:
        slow.stop.requested = asked
        if taken_over:
            lease._Lease(gang(tmp_path, TWO)).take(lambda _: None)
        raise StopRequested("attempt 2 has taken over")

    with pytest.raises(raises), held_lease(slow):
        ranks()


def test_waiting_ends_when_the_training_is_committed_free_or_dead(tmp_path: Path) -> None:
    other, waiting = gang(tmp_path, ONE), gang(tmp_path, TWO)
    wait_until_free(waiting, lambda _: pytest.fail("nobody works"))
    holder = lease._Lease(other)
    holder.take(lambda _: None)
    slept = list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) < 7:
            holder.keep()

    wait_until_free(waiting, sleep)
    assert sum(1 for each in slept if each == LOOK_SECONDS) > STALE_SECONDS / LOOK_SECONDS
    other.storage.write_bytes(other.layout.committed(Stage.TRAIN), b"{}")
    wait_until_free(waiting, lambda _: pytest.fail("it is committed"))


@pytest.mark.parametrize("fails", [True, False], ids=["a gang that fails", "a gang that only has to commit"])
def test_lease_is_given_up_by(tmp_path: Path, fails: bool) -> None:
    def ranks() -> None:
        if fails:
            raise DataError("damaged")

    with contextlib.suppress(DataError), held_lease(gang(tmp_path, ONE)):
        ranks()
    assert (tmp_path / "train/lease.json").exists() is not fails


def test_stop_ends_a_gang_that_watches(tmp_path: Path) -> None:
    waiting = gang(tmp_path, TWO)
    waiting.stop.requested = True
    with held_lease(gang(tmp_path, ONE)), pytest.raises(StopRequested), held_lease(waiting, lambda _: None):
        pytest.fail("begun")
