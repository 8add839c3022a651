"""Committed work of workers: counted on storage, timed over all starts, at most once a minute."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.reports import CommittedShards, Progress, parse_progress
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.pipeline.attempt_reports import progress_work
from diht_k8s.pipeline.attempts import CommittedWork
from diht_k8s.runtime.progress import Reporter
from diht_k8s.runtime.shard_progress import ShardProgress
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.runtime.stage import Context
from tests.folders import flat
from tests.unit.api.documents import changed


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Worker:
    """One start of a worker, whose shards a test finishes."""

    def __init__(self, folder: Path, worker: int = 0) -> None:
        self.clock, self.lines, self.scores = Clock(), io.StringIO(), folder / "filter/scores"
        run = load(json.dumps(changed(spec__data__output=str(folder))), name="test")
        reporter = Reporter(Stage.FILTER, worker=worker, stream=self.lines, every_s=0.0)
        storage = Storage()
        layout = flat(folder)
        self.context = Context(
            run, Stage.FILTER, storage, layout, {"inputs": {}}, reporter, StopFlag(), worker=worker, workers=2
        )
        self.work = ShardProgress(self.context, "scores", self.clock)

    def finish(self, *names: str, after: float) -> CommittedShards | None:
        self.clock.now += after
        self.scores.mkdir(parents=True, exist_ok=True)
        for name in names:
            (self.scores / f"{name}.parquet").touch()
        self.work.shard_done()
        self.context.progress.update(len(names), last=True)
        line = parse_progress(self.lines.getvalue().splitlines()[-1])
        assert line is not None
        return line.shards


def test_shards_of_all_workers_count_and_the_time_goes_on_after_a_restart(tmp_path: Path) -> None:
    first, other = Worker(tmp_path), Worker(tmp_path, 1)
    assert first.finish("a", after=59.0) is None, "at most once a minute"
    assert first.finish("b", after=41.0) == CommittedShards(count=2, seconds=100)
    assert other.finish("c", after=500.0) == CommittedShards(count=3, seconds=500)
    again = Worker(tmp_path)
    assert again.finish("d", after=60.0) == CommittedShards(count=4, seconds=160)


def test_time_that_cannot_be_read_begins_again(tmp_path: Path) -> None:
    (tmp_path / "filter/claims").mkdir(parents=True)
    (tmp_path / "filter/claims/time of worker 00000.json").write_text("[]")
    assert Worker(tmp_path).finish("a", after=70.0) == CommittedShards(count=1, seconds=70)


@pytest.mark.parametrize(
    ("shards", "work"),
    [
        (None, None),
        (CommittedShards(count=3, seconds=7), CommittedWork(3, 7)),
        (CommittedShards(count=-3, seconds=2**40), CommittedWork(0, 2**31 - 1)),
    ],
)
def test_plan_reads_committed_shards_from_a_line_of_progress(
    shards: CommittedShards | None, work: CommittedWork | None
) -> None:
    line = Progress(stage=Stage.FILTER, step="", done=0, total=0, shards=shards).line()
    assert progress_work(parse_progress(line)) == work
