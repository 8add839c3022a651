"""SIGKILL between the list of objects and an object, and starts at the same moment: whole programs on a disk."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli.cached_stages import compare_stages
from diht_k8s.recipe.runtime import stage as frame
from diht_k8s.recipe.runtime.commit import find_committed
from diht_k8s.recipe.runtime.replacement import survey
from diht_k8s.recipe.shards.storage import Storage
from tests.recipe.filter.shards import config_of, files_of, filter_with, run_of, write_shards

OTHER = {"minComplexity": 0}
MINE = {"filter/kept/mine.tar", "filter/.mine.tar.abcdefgh.tmp", "filter/objects/mine.json"}
OBJECT = "kept/web-00001.tar"
ROUNDS = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("whole")
    shards = write_shards(folder / "in")
    filter_with(run_of(folder / "out", shards))
    return shards, files_of(folder / "out")


def names_of(output: Path) -> set[str]:
    return {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}


def start(program: Callable[..., object], *arguments: Any) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=program, args=arguments)
    process.start()
    return process


def after_its_list(place: Path) -> bool:
    return place.parent.name == "objects" and OBJECT in place.read_text()


def as_the_object(place: Path) -> bool:
    return str(place).endswith(OBJECT)


def filter_until_killed(run: DihtRun, killed: Callable[[Path], bool], *, renamed: bool) -> None:
    """Run the filter and send itself SIGKILL before or after the rename of the file that `killed` picks."""
    replace = Path.replace

    def replace_and_die(self: Path, target: Any) -> Path:
        if renamed:
            replace(self, target)
        if killed(Path(target)):
            os.kill(os.getpid(), signal.SIGKILL)
        return Path(target) if renamed else replace(self, target)

    Path.replace = replace_and_die  # type: ignore[method-assign]
    filter_with(run)


@pytest.mark.parametrize("resumed", [False, True], ids=["replaced at once", "resumed first"])
@pytest.mark.parametrize(
    ("killed", "renamed", "left"),
    [(after_its_list, True, 0), (as_the_object, False, 1), (as_the_object, True, 0)],
    ids=["before the object", "while the object is written", "after the object"],
)
def test_sigkill_between_list_and_object_leaves_nothing_that_replace_does_not_remove(
    tmp_path: Path, whole: tuple[str, dict[str, bytes]], killed: Callable[[Path], bool], *, renamed: bool, left: int,
    resumed: bool,
) -> None:  # fmt: skip
    out, (shards, wanted) = tmp_path / "out", whole
    for name in MINE:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(name.encode())
    process = start(lambda: filter_until_killed(run_of(out, shards), killed, renamed=renamed))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (out / "filter" / OBJECT).exists() == (killed is as_the_object and renamed)
    assert len(list((out / "filter/kept").glob(f".{Path(OBJECT).name}.*.tmp"))) == left
    found = survey(Storage(), Layout(str(out)), Stage.FILTER)
    assert {f"filter/{path}" for path in found.foreign} == MINE, "each object and temporary file is listed"
    if resumed:
        filter_with(run_of(out, shards))
        assert {name: data for name, data in files_of(out).items() if name != "kept/mine.tar"} == wanted
    compare_stages(run_of(out, shards, OTHER), Stage.FILTER, replace=True)
    rest = {name for name in names_of(out) if not name.startswith("filter/scores/")}
    assert rest - {"filter/objects/kept.json"} == MINE
    assert all((out / name).read_bytes() == name.encode() for name in MINE)


def filter_at_once(run: DihtRun, worker: int, workers: int, barrier: Barrier) -> None:
    """Run the filter and wait for the other starter right before the folder is claimed; exit code 64 if refused."""
    begin = frame.begin

    def begin_together(*arguments: Any) -> Any:
        barrier.wait(60)
        return begin(*arguments)

    frame.begin = begin_together
    try:
        filter_with(run, worker=worker, workers=workers)
    except UserError as error:
        os._exit(error.exit_code)


def both(runs: list[DihtRun], workers: int) -> list[int | None]:
    barrier = multiprocessing.get_context("fork").Barrier(2)
    processes = [start(filter_at_once, run, number % workers, workers, barrier) for number, run in enumerate(runs)]
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def check_marker(out: Path) -> str:
    """The digest of the configuration of the committed output, whose files are those that the marker names."""
    committed = find_committed(Storage(), Layout(str(out)), Stage.FILTER)
    assert committed is not None
    for item in committed.artefacts:
        assert hashlib.sha256((out / "filter" / item.path).read_bytes()).hexdigest() == item.sha256
    return committed.config_sha256


@pytest.mark.parametrize("workers", [1, 2], ids=["the same work", "shared work"])
def test_workers_that_start_at_once_claim_one_folder_and_list_all_that_they_write(
    tmp_path: Path, whole: tuple[str, dict[str, bytes]], workers: int
) -> None:
    shards, wanted = whole
    for number in range(ROUNDS):
        out = tmp_path / str(number)
        assert both([run_of(out, shards)] * 2, workers) == [0, 0]
        assert files_of(out) == wanted
        check_marker(out)
        found = survey(Storage(), Layout(str(out)), Stage.FILTER)
        assert found.foreign == ()
        listed = {path for name in found.lists for path in json.loads((out / "filter" / name).read_text())["objects"]}
        assert set(found.owned) <= listed


def test_one_of_two_configurations_that_start_at_once_commits(
    tmp_path: Path, whole: tuple[str, dict[str, bytes]]
) -> None:
    shards, _ = whole
    for number in range(ROUNDS):
        out = tmp_path / str(number)
        runs = [run_of(out, shards), run_of(out, shards, OTHER)]
        codes = both(runs, 1)
        print(codes)
        assert sorted(codes, key=str) == [0, 64]
        assert check_marker(out) == config_of(runs[codes.index(0)])
        assert survey(Storage(), Layout(str(out)), Stage.FILTER).foreign == ()
