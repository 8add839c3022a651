"""Workers that share groups of shards while one is killed, and shards that kill: the bytes of one undisturbed worker,
one summary for each group, and the index that the filter makes on its way.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.errors import ExitCode, StopRequested
from diht_k8s.api.pods import OWNER_VARIABLE
from diht_k8s.api.run import DihtRun
from diht_k8s.data.lease import this_process
from diht_k8s.data.shards import sources
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.shard_index import StoredIndex, read_range
from diht_k8s.data.shards.sources import Shard, input_shards
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime import claims
from diht_k8s.runtime.inputs import filter_index, kept_shards
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.runtime.stage import exit_code_of
from diht_k8s.stages.filter import shard_filter
from diht_k8s.stages.filter.shard_filter import ShardFilter
from tests.folders import located
from tests.recipe.filter.shards import (
    CAPTIONS,
    files_of,
    filter_by_two,
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


UNEVEN = [[f"{caption} {number}" for caption in CAPTIONS[: 2 + number % 4]] for number in range(7)]


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of three shards."""
    monkeypatch.setattr(sources, "MAX_GROUPS", 3)


def check_index(run: DihtRun) -> int:
    """The filter's index gives the pairs of kept and raw shards by ranges; the number of pairs of kept shards."""
    storage, layout, found = Storage(), located(run.spec.data.output), 0
    book, raw = filter_index(run.spec, storage, layout), StoredIndex.open(storage, layout.filter_index("raw"))
    assert book is not None
    assert raw is not None
    places = [
        (book, shard) for shard in kept_shards(run.spec, storage, run_layout(run, storage)) if shard.keep_list is None
    ]
    for stored_index, shard in [*places, *((raw, shard) for shard in input_shards(run.spec, storage))]:
        index, samples = stored_index.find(shard.name), list(read_samples(storage, shard.uri))
        assert index is not None
        assert index.identity == storage.identity(shard.uri)
        for first in range(len(samples)):
            assert list(read_range(storage, shard.uri, index, first, len(samples))) == samples[first:]
        found += len(samples) if stored_index is book else 0
    return found


@pytest.mark.parametrize("rules", [{}, {"output": "KeepList"}, {"duplicates": "Exact"}])
def test_groups_of_any_size_and_any_number_of_workers_end_in_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: dict[str, Any]
) -> None:
    shards = write_shards(tmp_path / "in", UNEVEN)
    whole = filter_with(run_of(tmp_path / "one", shards, rules))
    monkeypatch.setattr(sources, "MAX_GROUPS", 3)
    run = run_of(tmp_path / "two", shards, rules)
    assert filter_by_two(run) == [0, 0]
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")
    summaries = [
        path.name for path in (tmp_path / "two/runs/latest/filter/summaries").iterdir() if "filtered" not in path.name
    ]
    assert len(summaries) == 3
    kept = check_index(run)
    assert kept == (0 if "output" in rules else whole.summary["counts"]["kept"])


@pytest.mark.usefixtures("grouped")
def test_a_stop_within_a_group_keeps_its_finished_shards_and_their_places_and_lost_scores_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, stop = write_shards(tmp_path / "in", UNEVEN), StopFlag()
    run, write = run_of(tmp_path / "out", shards), shard_filter.write_table

    def stop_then(*arguments: Any) -> bytes:
        stop.requested = True
        return write(*arguments)

    monkeypatch.setattr(shard_filter, "write_table", stop_then)
    with pytest.raises(StopRequested):
        filter_with(run, stop=stop)
    written = [path.name for path in (tmp_path / "out/runs/latest/filter/scores").iterdir()]
    monkeypatch.setattr(shard_filter, "write_table", lambda *arguments: again.append(arguments[1]) or write(*arguments))
    again: list[str] = []
    committed = filter_with(run)
    assert (len(written), len(again)) == (1, len(UNEVEN) - 1)
    assert check_index(run) == committed.summary["counts"]["kept"]
    folder, whole = tmp_path / "out/runs/latest/filter", files_of(tmp_path / "out")
    for lost in ("scores/web-00003.parquet", "COMMITTED.json"):
        (folder / lost).unlink()
    filter_with(run)
    assert files_of(tmp_path / "out") == whole
