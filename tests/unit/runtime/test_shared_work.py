"""Workers that share a stage: one ends it, the others wait for its marker; who fails leaves the end to the next."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from diht_k8s.api.errors import DataError, StopRequested
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime import claims, shared_work
from diht_k8s.runtime.claims import STALE_SECONDS, Claims
from diht_k8s.runtime.progress import Reporter
from diht_k8s.runtime.shared_work import END, claims_of, once, until_committed
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.runtime.stage import Context, Outcome
from tests.folders import flat

DOCUMENT = {
    "apiVersion": "diht.dev/v1alpha1",
    "kind": "DihtRun",
    "metadata": {"name": "r"},
    "spec": {"data": {"sources": [{"name": "web", "shards": ["/in/0.tar"]}], "output": "/out"}, "filter": {}},
}
OUTCOME = Outcome([], {"made": 1})


class Worker:
    """One of two workers, whose looks at the shards find what `looks` says: (worked, waiting)."""

    def __init__(self, folder: Path, index: int, *looks: tuple[bool, int]) -> None:
        self.context = Context(
            DihtRun.model_validate(DOCUMENT),
            Stage.FILTER,
            Storage(),
            flat(folder),
            {"inputs": {}},
            Reporter(Stage.FILTER),
            StopFlag(),
            worker=index,
            workers=2,
        )
        self.claims, self.looks, self.slept = claims_of(self.context), list(looks), list[float]()

    def run(
        self, end: Callable[[], Outcome | None] = lambda: OUTCOME, sleep: Callable[[], None] | None = None
    ) -> Outcome | None:
        def waits(seconds: float) -> None:
            self.slept.append(seconds)
            if sleep is not None:
                sleep()

        return until_committed(self.context, self.claims, lambda: self.looks.pop(0), end, sleep=waits)

    def commit(self) -> None:
        self.context.storage.write_bytes(self.context.layout.committed(Stage.FILTER), b"{}")


def test_worker_that_finds_nothing_missing_ends_the_stage_and_the_other_waits_for_the_marker(tmp_path: Path) -> None:
    one, two = Worker(tmp_path, 0, (True, 2), (False, 1), (False, 0)), Worker(tmp_path, 1, (False, 0), (False, 0))
    assert one.run() is OUTCOME
    assert one.slept == [1]
    assert two.run(end=lambda: pytest.fail("two ends"), sleep=one.commit) is None
    assert two.looks == [(False, 0)]


def test_error_at_the_end_leaves_the_end_to_another_worker_at_once(tmp_path: Path) -> None:
    def fails() -> Outcome:
        raise DataError("too many")

    with pytest.raises(DataError, match="too many"):
        Worker(tmp_path, 0, (False, 0)).run(fails)
    assert Worker(tmp_path, 1, (False, 0)).run() is OUTCOME


def test_end_that_finds_a_shard_not_done_goes_back_to_the_shards(tmp_path: Path) -> None:
    ends = [None, OUTCOME]
    one = Worker(tmp_path, 0, (False, 0), (True, 1), (False, 0))
    assert one.run(lambda: ends.pop(0)) is OUTCOME
    assert one.looks == one.slept == []


def test_stop_ends_a_worker_that_waits(tmp_path: Path) -> None:
    assert Worker(tmp_path, 1).claims.take(END)
    one = Worker(tmp_path, 0, (False, 0))
    one.context.stop.requested = True
    with pytest.raises(StopRequested):
        one.run()


def test_end_that_takes_long_stays_with_its_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(shared_work, "BEAT_SECONDS", 0.05)
    now, context = 0.0, Worker(tmp_path, 1).context
    stage = context.layout.stage(context.stage)
    other = Claims(context.storage, stage, context.owner, context.worker, clock=lambda: now)

    def computes() -> Outcome:
        nonlocal now
        for _ in range(3):
            assert not other.take(END, counts_deaths=False)
            seen, until = claim.read_bytes(), time.monotonic() + 60
            while claim.read_bytes() == seen and time.monotonic() < until:
                time.sleep(0.01)
            now += STALE_SECONDS  # however long the beat took, it came in time
        return OUTCOME

    claim = Path(stage, "claims", f"{END}.json")
    assert Worker(tmp_path, 0, (False, 0)).run(computes) is OUTCOME


def test_what_is_done_once_is_waited_for_by_another_run_and_done_by_it_after_an_error(tmp_path: Path) -> None:
    mine, theirs, done = Worker(tmp_path, 0).context, Worker(tmp_path, 1).context, list[str]()

    def work() -> None:
        assert not claims_of(theirs).take("heads", counts_deaths=False)
        raise DataError("disk")

    with pytest.raises(DataError, match="disk"):
        once(mine, "heads", lambda: bool(done), work)
    assert claims_of(theirs).take("heads", counts_deaths=False), "given up at once"
    slept = list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        done.append("by the other")

    once(mine, "heads", lambda: bool(done), lambda: pytest.fail("twice"), sleep=sleep)
    assert len(slept) == 1
