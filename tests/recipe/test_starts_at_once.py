"""Programs that start at the same moment, on a disk: one folder, one marker."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime import stage as frame
from diht_k8s.runtime.commit import find_committed
from diht_k8s.runtime.run_folder import run_layout
from tests.recipe.filter.shards import config_of, files_of, filter_with, run_of, work, write_shards

OTHER = {"minComplexity": 0}
ROUNDS = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("whole")
    shards = write_shards(folder / "in")
    filter_with(run_of(folder / "out", shards))
    return shards, files_of(folder / "out")


def start(program: Callable[..., object], *arguments: Any) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=program, args=arguments)
    process.start()
    return process


def filter_at_once(run: DihtRun, worker: int, workers: int, barrier: Barrier) -> None:
    """Run the filter and wait for the other starter right before the folder is begun."""
    begin = frame.start

    def begin_together(*arguments: Any) -> Any:
        barrier.wait(60)
        return begin(*arguments)

    frame.start = begin_together
    work(run, worker, workers)


def both(runs: list[DihtRun], workers: int) -> list[int | None]:
    barrier = multiprocessing.get_context("fork").Barrier(2)
    processes = [start(filter_at_once, run, number % workers, workers, barrier) for number, run in enumerate(runs)]
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def check_marker(run: DihtRun) -> str:
    """The digest of the configuration of a run's filter, whose files are those that the marker names."""
    layout = run_layout(run, Storage())
    committed = find_committed(Storage(), layout, Stage.FILTER)
    assert committed is not None
    for item in committed.artefacts:
        assert hashlib.sha256(Path(layout.stage(Stage.FILTER), item.path).read_bytes()).hexdigest() == item.sha256
    return committed.config_sha256


@pytest.mark.parametrize("workers", [1, 2], ids=["the same work", "shared work"])
def test_workers_that_start_at_once_begin_one_folder(
    tmp_path: Path, whole: tuple[str, dict[str, bytes]], workers: int
) -> None:
    shards, wanted = whole
    for number in range(ROUNDS):
        out = tmp_path / str(number)
        assert both([run_of(out, shards)] * 2, workers) == [0, 0]
        assert files_of(out) == wanted
        assert len(list((out / "filter").iterdir())) == 1
        check_marker(run_of(out, shards))


def test_two_configurations_that_start_at_once_commit_each_in_its_folder(
    tmp_path: Path, whole: tuple[str, dict[str, bytes]]
) -> None:
    shards, _ = whole
    for number in range(ROUNDS):
        runs = [run_of(tmp_path / str(number), shards), run_of(tmp_path / str(number), shards, OTHER)]
        assert both(runs, 1) == [0, 0]
        assert [check_marker(run) for run in runs] == [config_of(run) for run in runs]
