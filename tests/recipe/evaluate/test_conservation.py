"""Images that are lost on the way to the figures end the stage without a marker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.stages.evaluate import classification, encoding, retrieval
from diht_k8s.stages.evaluate.encoding import EncodedImages
from tests.recipe.evaluate.small_run import document, evaluate, pairs

Spoil = Callable[[EncodedImages], None]


def a_row_of_features_less(found: EncodedImages) -> None:
    found.features_ND = found.features_ND[:-1]


def an_image_twice(found: EncodedImages) -> None:
    found.items = [*found.items, found.items[0]]
    found.features_ND = np.concatenate([found.features_ND, found.features_ND[:1]])


def a_bad_image_uncounted(found: EncodedImages) -> None:
    found.samples += 1  # as the tar has it


BREAKS: dict[str, tuple[Spoil, str]] = {
    "a row of features less": (a_row_of_features_less, "24 images are encoded, but 23 rows of features"),
    "an image twice": (an_image_twice, r"24 images are in the shard, but 25 are encoded or bad \(0\)"),
    "a bad image uncounted": (a_bad_image_uncounted, r"25 images are in the shard, but 24 are encoded or bad \(0\)"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_planted_break_in_the_features_ends_the_stage_without_a_marker(
    name: str, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spoil, said), encode_shard = BREAKS[name], encoding.encode_shard

    def spoilt(*arguments: Any, **options: Any) -> EncodedImages:
        found = encode_shard(*arguments, **options)
        spoil(found)
        return found

    monkeypatch.setattr(encoding, "encode_shard", spoilt)
    with pytest.raises(DataError, match=said):
        evaluate(document(fresh))
    assert not (fresh / "out/runs/latest/evaluate/COMMITTED.json").exists()


TASKS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "Retrieval": (retrieval, "retrieve", {}),
    "Classification": (classification, "classify", {"classNames": "heldout/names.txt"}),
}


@pytest.mark.parametrize("task", TASKS)
def test_image_that_no_figure_counts_ends_the_stage_without_a_marker(
    task: str, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name, texts = TASKS[task]
    measured = getattr(module, name)

    def without_one(*arguments: Any) -> Any:
        found = measured(*arguments)
        found.per_image.uids.pop()
        return found

    monkeypatch.chdir(fresh)
    question = {"question": "which colour is it?", "answers": ["red"]}
    write_samples(Storage(), "asked.tar", pairs(24, 7000, **question))
    benchmark = {"name": "only", "type": task, "shards": ["asked.tar"], **texts}
    run = document(fresh, {"benchmarks": [benchmark]})
    monkeypatch.setattr(module, name, without_one)
    with pytest.raises(DataError, match=r"only: 24 images are encoded, but 23 are measured or left out"):
        evaluate(run)
    assert not (fresh / "out/runs/latest/evaluate/COMMITTED.json").exists()
    monkeypatch.setattr(module, name, measured)
    evaluate(run)
    assert (fresh / "out/runs/latest/evaluate/COMMITTED.json").exists()
