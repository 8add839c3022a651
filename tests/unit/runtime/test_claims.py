"""Workers that share a stage: claims, deaths on a shard, the end of the stage, and who is at work in a folder."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.errors import DataError, StopRequested
from diht_k8s.api.reports import CommittedShards, parse_progress
from diht_k8s.api.run import Stage
from diht_k8s.data import lease
from diht_k8s.data.lease import BEAT_SECONDS, LOOK_SECONDS, STALE_SECONDS, Owner, this_process
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.claims import (
    END,
    FINAL_STALE_SECONDS,
    MAX_DEATHS,
    Claims,
    ShardProgress,
    claims_of,
    living,
    once,
    until_committed,
)
from diht_k8s.runtime.progress import Reporter
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.runtime.stage import Context, Outcome
from tests.folders import flat
from tests.unit.api.documents import run_over
from tests.unit.data.owners import ended_process

OUTCOME = Outcome([], {"made": 1})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def worker(folder: Path, index: int, clock: Clock | None = None, *, owner: str = "a run") -> Claims:
    return Claims(Storage(), str(folder), Owner(owner), index, clock=clock or Clock())


def dies(folder: Path, index: int = 0, name: str = "a", shard: str = "") -> None:
    """A worker takes a claim, and its program is killed."""
    one = worker(folder, index)
    assert one.take(name)
    if shard:
        one.work_on(shard)


def test_claim_of_another_worker_or_run_is_taken_when_it_stands_still_or_is_known_to_be_dead(tmp_path: Path) -> None:
    clock = Clock()
    assert worker(tmp_path, 0).take("a")
    for other in (worker(tmp_path, 1, clock), worker(tmp_path, 0, clock, owner="another run")):
        assert not other.take("a")
        clock.now += STALE_SECONDS
        assert other.take("a")
    for _ in range(2 * MAX_DEATHS):  # whoever ended with its run was not killed by the shard
        assert worker(tmp_path, 0, owner=ended_process()).take("b")
    here = worker(tmp_path, 0, owner=this_process())
    assert here.take("b")
    assert here.took_over
    assert not worker(tmp_path, 0, owner="another run").take("b"), "its process runs"


def test_clear_leaves_the_one_claim(tmp_path: Path) -> None:
    one = worker(tmp_path, 0)
    for name in ("a", "b", "end"):
        assert one.take(name)
    one.clear("end")
    assert Storage().names(f"{tmp_path}/claims") == ["end.json"]
    assert not worker(tmp_path, 1).take("end")


def test_shard_on_which_three_workers_die_ends_the_stage_by_its_name_and_may_be_tried_again(tmp_path: Path) -> None:
    for _ in range(MAX_DEATHS):
        dies(tmp_path, name="web-00003")
    assert worker(tmp_path, 0).take("web-00003", counts_deaths=False)
    for _ in range(MAX_DEATHS - 1):
        dies(tmp_path, name="web-00003")
    with pytest.raises(DataError, match="web-00003: 3 workers died on this shard"):
        worker(tmp_path, 0).take("web-00003")
    assert worker(tmp_path, 1).take("web-00003"), "a retry with more memory"


@pytest.mark.parametrize("slow", [True, False], ids=["which was only slow", "which is dead"])
def test_deaths_of_different_workers_add_up_and_the_last_must_be_silent_for_longer(tmp_path: Path, slow: bool) -> None:
    clock = Clock()
    watchers = [worker(tmp_path, index, clock) for index in range(MAX_DEATHS + 1)]
    assert watchers[0].take("a")
    for watcher in watchers[1:-1]:
        assert not watcher.take("a")
        clock.now += STALE_SECONDS
        assert watcher.take("a")
    last = watchers[-1]
    assert not last.take("a")
    clock.now += FINAL_STALE_SECONDS - 1
    assert not last.take("a")
    if slow:
        watchers[-2].keep()
    clock.now += 1
    if slow:
        assert not last.take("a")
    else:
        with pytest.raises(DataError):
            last.take("a")


@pytest.mark.parametrize("then", ["gives up", "beats"])
def test_worker_that_has_not_died_forgets_none_that_have(tmp_path: Path, then: str) -> None:
    clock = Clock()
    for _ in range(5):
        stopped = worker(tmp_path, 0)
        assert stopped.take("a")
        stopped.give_up("a")
    for _ in range(MAX_DEATHS - 1):
        dies(tmp_path)
    third = worker(tmp_path, 0, clock)
    assert third.take("a")
    clock.now += BEAT_SECONDS
    if then == "beats":
        third.keep()
    else:
        third.give_up("a")
        dies(tmp_path, 1)
    with pytest.raises(DataError):
        worker(tmp_path, 1 if then == "gives up" else 0).take("a")


def test_deaths_on_a_claim_of_several_shards_count_for_the_shard_that_killed(tmp_path: Path) -> None:
    for progress in range(2 * MAX_DEATHS):  # each death on a shard behind the last one
        dies(tmp_path, name="group", shard=f"shard-{progress}")
    for _ in range(MAX_DEATHS):
        dies(tmp_path, name="group", shard="shard-9")
    with pytest.raises(DataError, match="shard-9: 3 workers died on this shard"):
        worker(tmp_path, 0).take("group")


def test_a_claim_tells_whether_it_had_another_owner(tmp_path: Path) -> None:
    one, again = worker(tmp_path, 0), worker(tmp_path, 0)
    taken = [(each.take(name), each.took_over) for each, name in ((one, "a"), (again, "a"), (again, "b"))]
    assert taken == [(True, False), (True, True), (True, False)]
    again.work_on("shard-1")
    again.give_up("b")
    assert one.take("b")
    assert one.took_over, "shards of the claim may be done"


class Worker:
    """One of two workers, whose looks at the shards find what `looks` says: (worked, waiting)."""

    def __init__(self, folder: Path, index: int, *looks: tuple[bool, int]) -> None:
        self.lines, self.clock, self.scores = io.StringIO(), Clock(), folder / "filter/scores"
        run, reporter = run_over("/in/0.tar", "/out", filter={}), Reporter(Stage.FILTER, stream=self.lines, every_s=0.0)
        shape = {"worker": index, "workers": 2}
        self.context = Context(
            run, Stage.FILTER, Storage(), flat(folder), {"inputs": {}}, reporter, StopFlag(), **shape
        )
        self.claims, self.looks, self.slept = claims_of(self.context), list(looks), list[float]()
        self.progress = ShardProgress(self.context, "scores", self.clock)

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

    def finish(self, *names: str, after: float) -> CommittedShards | None:
        self.clock.now += after
        self.scores.mkdir(parents=True, exist_ok=True)
        for name in names:
            (self.scores / f"{name}.parquet").touch()
        self.progress.shard_done()
        self.context.progress.update(len(names), last=True)
        line = parse_progress(self.lines.getvalue().splitlines()[-1])
        assert line is not None
        return line.shards


def test_worker_that_finds_nothing_missing_ends_the_stage_and_the_other_waits_for_the_marker(tmp_path: Path) -> None:
    one, two = Worker(tmp_path, 0, (True, 2), (False, 1), (False, 0)), Worker(tmp_path, 1, (False, 0), (False, 0))
    assert one.run() is OUTCOME
    assert one.slept == [1]
    assert two.run(end=lambda: pytest.fail("two ends"), sleep=one.commit) is None
    assert two.looks == [(False, 0)]


def test_error_at_the_end_leaves_it_to_another_and_an_end_that_finds_a_shard_not_done_goes_back(tmp_path: Path) -> None:
    def fails() -> Outcome:
        raise DataError("too many")

    with pytest.raises(DataError, match="too many"):
        Worker(tmp_path, 0, (False, 0)).run(fails)
    ends, two = [None, OUTCOME], Worker(tmp_path, 1, (False, 0), (True, 1), (False, 0))
    assert two.run(lambda: ends.pop(0)) is OUTCOME
    assert two.looks == two.slept == []


def test_stop_ends_a_worker_that_waits(tmp_path: Path) -> None:
    assert Worker(tmp_path, 1).claims.take(END)
    one = Worker(tmp_path, 0, (False, 0))
    one.context.stop.requested = True
    with pytest.raises(StopRequested):
        one.run()


def test_end_that_takes_long_stays_with_its_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    clock, context = Clock(), Worker(tmp_path, 1).context
    stage = context.layout.stage(context.stage)
    other = Claims(context.storage, stage, context.owner, context.worker, clock=clock)

    def computes() -> Outcome:
        for _ in range(3):
            assert not other.take(END, counts_deaths=False)
            seen, until = claim.read_bytes(), time.monotonic() + 60
            while claim.read_bytes() == seen and time.monotonic() < until:
                time.sleep(0.01)
            clock.now += STALE_SECONDS  # however long the beat took, it came in time
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
    once(mine, "heads", lambda: bool(done), lambda: pytest.fail("twice"), sleep=lambda _: done.append("by the other"))
    assert done == ["by the other"]


def test_shards_of_all_workers_count_and_the_time_goes_on_after_a_restart(tmp_path: Path) -> None:
    time_file = tmp_path / "filter/claims/time of worker 00000.json"
    time_file.parent.mkdir(parents=True)
    time_file.write_text("[]")  # damaged: it begins again
    first, other = Worker(tmp_path, 0), Worker(tmp_path, 1)
    assert first.finish("a", after=59.0) is None, "at most once a minute"
    assert first.finish("b", after=41.0) == CommittedShards(count=2, seconds=100)
    assert other.finish("c", after=500.0) == CommittedShards(count=3, seconds=500)
    assert Worker(tmp_path, 0).finish("d", after=60.0) == CommittedShards(count=4, seconds=160)


class Watched:
    """Stage folders, and a clock that calls `then` whenever time passes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.slept, self.dead, self.stop = folder, 0.0, set[str](), StopFlag()
        self.then: Callable[[], object] = lambda: None

    def write(self, place: str, **fields: Any) -> None:
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"owner": "o", "beat": "1", **fields}))

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.then()

    def living(self, *names: str) -> dict[str, str]:
        found = living(
            Storage(),
            [f"{self.folder}/{name}" for name in names],
            self.stop,
            is_dead=self.dead.__contains__,
            clock=lambda: self.slept,
            sleep=self.sleep,
        )
        start = f"{self.folder}/"
        return {folder.removeprefix(start): claim.removeprefix(start) for folder, claim in found.items()}


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


@pytest.mark.parametrize(
    ("place", "owner", "waits"),
    [
        ("a/report.json", "o", 0.0),
        ("a/claims/s.json", None, 0.0),
        ("a/claims/s.json", "gone", 0.0),
        ("a/claims/s.json", "o", STALE_SECONDS),
        ("a/claims/damaged.json", "o", STALE_SECONDS),
    ],
    ids=["no claims", "a released claim", "a dead owner", "one that stands still", "a damaged one"],
)
def test_what_nobody_holds_is_not_watched_and_what_stands_still_is_nobodys(
    watched: Watched, place: str, owner: str | None, waits: float
) -> None:
    watched.write(place, owner=owner)
    watched.dead = {"gone"}
    if "damaged" in place:
        (watched.folder / place).write_text("{")
    assert (watched.living("a", "absent"), watched.slept) == ({}, waits)
    watched.write("a/COMMITTED.json")
    watched.slept = 0.0
    assert (watched.living("a"), watched.slept) == ({}, 0.0), "nobody works in a complete folder"


@pytest.mark.parametrize("place", ["a/claims/s.json", "a/lease.json"])
def test_what_is_rewritten_comes_or_goes_is_alive_the_next_time_it_is_read(watched: Watched, place: str) -> None:
    for each in (place, "b/claims/s.json", "c/claims/s.json"):
        watched.write(each)
    watched.then = lambda: (
        watched.write(place, beat=str(watched.slept)),
        watched.write("b/claims/next.json"),
        (watched.folder / "c/claims/s.json").unlink(missing_ok=True),
    )
    assert watched.living("a", "b", "c") == {"a": place, "b": "b/claims/next.json", "c": "c/claims/s.json"}
    assert watched.slept == LOOK_SECONDS


def test_several_folders_are_watched_at_once_until_the_last_has_stood_still_or_died(
    watched: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        watched.write(f"{name}/claims/s.json", owner=name)
    watched.then = lambda: watched.write("b/claims/s.json", beat="2") if watched.slept > 100 else watched.dead.add("c")
    assert watched.living("a", "b", "c") == {"b": "b/claims/s.json"}
    assert watched.slept == STALE_SECONDS
    assert f"{watched.folder}/a and 2 more may be in use" in capsys.readouterr().err
    watched.slept, watched.dead = 0.0, set()
    assert (watched.living("c"), watched.slept) == ({}, LOOK_SECONDS)
    watched.then = lambda: setattr(watched.stop, "requested", True)
    with pytest.raises(StopRequested, match="nothing has been changed"):
        watched.living("a")
