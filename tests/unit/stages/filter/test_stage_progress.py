"""Progress of the whole stage as one worker sees it: its share, shards of others, and spotted images."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.progress import Reporter
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.runtime.stage import Context
from diht_k8s.stages.filter.scores import Row
from diht_k8s.stages.filter.stage_progress import StageProgress
from tests.folders import flat


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


SHARDS = [Shard(name, f"s3://bucket/{name}.tar", "web") for name in ("a", "b", "c", "d")]
DOCUMENT = {
    "apiVersion": "diht.dev/v1alpha1",
    "kind": "DihtRun",
    "metadata": {"name": "run"},
    "spec": {"data": {"sources": [{"name": "web", "shards": ["s3://bucket/a.tar"]}], "output": "out"}, "filter": {}},
}


def rows(count: int, *, looked_at: int = 0, kept: int = 0) -> list[Row]:
    states = ["done"] * looked_at + ["not_run"] * (count - looked_at)
    return [
        Row(shard="a", index="", uid="", caption_sha256="", ocr_state=state, kept=place < kept)
        for place, state in enumerate(states)
    ]


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def progress(clock: Clock, tmp_path: Path) -> tuple[StageProgress, io.StringIO]:
    stream = io.StringIO()
    reporter = Reporter(Stage.FILTER, stream=stream, clock=clock, every_s=0)
    config = {"inputs": {shard.name: "100-etag" for shard in SHARDS}}
    run = DihtRun.model_validate(DOCUMENT)
    context = Context(run, Stage.FILTER, Storage(), flat(tmp_path), config, reporter, StopFlag())
    return StageProgress(context, SHARDS, SHARDS[:2], clock), stream


def test_own_samples_are_scaled_to_all_workers(tmp_path: Path) -> None:
    clock = Clock()
    seen, stream = progress(clock, tmp_path)
    seen.finish(SHARDS[0], 10)
    clock.now = 10.0
    seen.advance(rows(5, looked_at=4, kept=2))
    last = lines(stream)[-1]
    assert (last["done"], last["total"]) == (30, 40)
    assert last["metrics"] == {"kept_percent": 40.0, "pictures_per_second": 0.8}


def test_line_that_stays_has_the_counts_of_the_whole_stage(tmp_path: Path) -> None:
    """A rule on the whole pool has dropped pairs since, and shards of other workers were estimated."""
    seen, stream = progress(Clock(), tmp_path)
    seen.finish(SHARDS[0], 10)
    seen.advance(rows(5, kept=5))
    seen.close({"input": 47, "kept": 14})
    last = lines(stream)[-1]
    assert (last["done"], last["total"], last["metrics"]) == (47, 47, {"kept_percent": pytest.approx(29.7872)})


def test_shards_of_others_do_not_count_beyond_the_total(tmp_path: Path) -> None:
    clock = Clock()
    seen, stream = progress(clock, tmp_path)
    for shard in SHARDS:
        seen.begin(shard)
        clock.now += 10.0
        seen.advance(rows(10, kept=SHARDS.index(shard)))
        seen.finish(shard, 10)
    assert (lines(stream)[-1]["done"], lines(stream)[-1]["total"]) == (40, 40)
    assert lines(stream)[-1]["metrics"] == {"kept_percent": 15.0}
