"""Workers that share shards while one is killed, and shards that kill: the bytes of one undisturbed worker."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.errors import ExitCode
from diht_k8s.api.pods import OWNER_VARIABLE
from diht_k8s.api.run import DihtRun
from diht_k8s.data.lease import this_process
from diht_k8s.data.shards.sources import Shard
from diht_k8s.runtime import claims
from diht_k8s.runtime.stage import exit_code_of
from diht_k8s.stages.filter.shard_filter import ShardFilter
from tests.recipe.filter.shards import (
    CAPTIONS,
    files_of,
    filter_pairs,
    filter_slowly,
    filter_with,
    folder_of,
    pair,
    run_of,
    work,
    write_shards,
)

SHARDS = [[f"{caption} {number}" for caption in CAPTIONS] for number in range(6)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    shards = write_shards(folder / "in", SHARDS)
    filter_with(run_of(folder / "out", shards))
    return shards, files_of(folder / "out")


def test_surviving_worker_finishes_the_work_of_a_killed_one(
    tmp_path: Path, undisturbed: tuple[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, wanted = undisturbed
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.5)
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.1)
    context, folder = multiprocessing.get_context("fork"), folder_of(run_of(tmp_path / "out", shards))
    one, two = (
        context.Process(target=filter_slowly, args=(run_of(tmp_path / "out", shards), worker, 2)) for worker in (0, 1)
    )
    two.start()
    while not (folder / "claims/web-00001.json").exists() and two.is_alive():
        time.sleep(0.01)
    two.kill()
    two.join()
    assert (folder / "claims/web-00001.json").exists()
    one.start()
    one.join()
    assert one.exitcode == 0
    assert files_of(tmp_path / "out") == wanted


def _killed_by_a_shard(run: DihtRun, worker: int) -> None:
    """A worker that the kernel kills whenever it filters one of the shards."""
    filter_shard = ShardFilter.filter

    def poisoned(self: ShardFilter, shard: Shard, before: Any) -> Any:
        if shard.name == "web-00003":
            os.kill(os.getpid(), signal.SIGKILL)
        return filter_shard(self, shard, before)

    ShardFilter.filter = poisoned  # type: ignore[method-assign]  # this process ends with it
    os._exit(exit_code_of(lambda: work(run, worker, 2)))


def test_shard_that_kills_three_workers_ends_the_stage_and_is_named(
    tmp_path: Path,
    undisturbed: tuple[str, dict[str, bytes]],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(OWNER_VARIABLE, this_process())  # as `diht run`, which starts its workers again
    run, context = run_of(tmp_path / "out", undisturbed[0]), multiprocessing.get_context("fork")
    codes = []
    for _ in range(4):
        worker = context.Process(target=_killed_by_a_shard, args=(run, 1))
        worker.start()
        worker.join()
        codes.append(worker.exitcode)
    assert codes == [-signal.SIGKILL] * 3 + [ExitCode.BAD_DATA]
    assert "web-00003: 3 workers died on this shard" in capfd.readouterr().err


def test_caption_of_100_mb_is_bad_and_costs_no_more(tmp_path: Path) -> None:
    members = [*pair("a", b"dog " * (25 << 20)), *pair("b", CAPTIONS[0])]
    committed = filter_pairs(tmp_path, members, {"maxBadPercent": 50.0})
    assert committed.summary["counts"]["bad"] == {"member_too_large": 1}
