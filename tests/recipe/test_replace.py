"""--replace removes what a stage has written, and nothing of the user's: on a disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli.cached_stages import compare_stages
from diht_k8s.recipe.runtime.ownership import StageStorage
from diht_k8s.recipe.runtime.replacement import remove_output
from diht_k8s.recipe.shards.storage import Storage
from tests.recipe.filter.shards import filter_by_two, filter_with, run_of, write_shards

OTHER = {"minComplexity": 3}
MINE = ("raw/00000.tar", "filter/kept/mine.tar", "filter/notes.txt", "filter/objects/mine.json", "train/bench/test.tar")


def put(output: Path, names: tuple[str, ...] = MINE) -> None:
    for name in names:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(name.encode())


def names_of(output: Path) -> set[str]:
    return {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}


@pytest.mark.parametrize("workers", [1, 2])
def test_replace_removes_what_was_written_and_leaves_the_rest(tmp_path: Path, workers: int) -> None:
    out = tmp_path / "out"
    put(out)
    shards = write_shards(tmp_path / "in")
    if workers == 1:
        filter_with(run_of(out, shards))
    else:
        assert filter_by_two(run_of(out, shards)) == [0, 0]
    found = compare_stages(run_of(out, shards, OTHER), Stage.FILTER, replace=True)[0]
    assert (found.replaced, found.left_count) == (["filter"], 3)
    scores = {f"filter/scores/web-0000{number}.parquet" for number in range(2)}
    assert names_of(out) == {*MINE, *scores, "filter/objects/kept.json"}
    assert filter_with(run_of(out, shards, {"minComplexity": 0})) is not None


def test_folders_that_became_empty_are_removed(tmp_path: Path) -> None:
    storage, layout = Storage(), Layout(str(tmp_path / "out"))
    StageStorage([], layout.stage(Stage.LABEL), writer="w").write_bytes(layout.labels("a"), b"x")
    remove_output(storage, layout, [Stage.LABEL])
    assert not (tmp_path / "out/label").exists()


def test_crash_between_list_and_object_leaves_no_object_that_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(str(tmp_path / "out"))
    storage = StageStorage([], layout.stage(Stage.LABEL), writer="w")

    def killed(self: Path, target: object) -> Path:
        if str(target) == layout.labels("a"):
            raise KeyboardInterrupt
        return rename(self, target)  # type: ignore[arg-type]

    rename = Path.replace
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes(layout.labels("a"), b"x")
    monkeypatch.undo()
    assert "labels/a.parquet" in (tmp_path / "out/label/objects/w-1.json").read_text()
    remove_output(Storage(), layout, [Stage.LABEL])
    assert names_of(tmp_path / "out") == set()


@pytest.mark.parametrize("pattern", ["out/filter/raw/*.tar", "out/{filter,x}/raw/*.tar", "o*/filter/raw/00000.tar"])
def test_input_in_a_stage_folder_of_the_own_output_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    write_shards(tmp_path / "out/filter/raw")
    (tmp_path / "out/x/raw").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UserError, ValueError), match="which the stage filter of this run writes"):
        filter_with(run_of(tmp_path / "out", pattern))
    assert len(list((tmp_path / "out/filter/raw").iterdir())) == 2


def test_documents_may_read_the_stage_folders_of_stages_that_they_lack() -> None:
    run: DihtRun = run_of("out", "out/label/x.tar")
    assert run.spec.stages == (Stage.FILTER,)
