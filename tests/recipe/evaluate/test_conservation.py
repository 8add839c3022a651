"""Images that are lost on the way to the figures end the stage without a marker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.recipe.evaluate import encoding, measure
from diht_k8s.recipe.evaluate.encoding import EncodedImages
from tests.recipe.evaluate.small_run import document, evaluate

Spoil = Callable[[EncodedImages], None]


def an_image_less(found: EncodedImages) -> None:
    found.items, found.features_ND = found.items[:-1], found.features_ND[:-1]


def a_row_of_features_less(found: EncodedImages) -> None:
    found.features_ND = found.features_ND[:-1]


def an_image_twice(found: EncodedImages) -> None:
    found.items = [*found.items, found.items[0]]
    found.features_ND = np.concatenate([found.features_ND, found.features_ND[:1]])


def a_bad_image_uncounted(found: EncodedImages) -> None:
    found.samples += 1  # as the tar has it


BREAKS: dict[str, tuple[Spoil, str]] = {
    "an image less": (an_image_less, r"24 images are in the shard, but 23 are encoded or bad \(0\)"),
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


def test_image_that_no_figure_counts_ends_the_stage_without_a_marker(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = measure.retrieval.retrieve

    def without_one(*arguments: Any) -> Any:
        found = measured(*arguments)
        found.per_image.uids.pop()
        return found

    monkeypatch.setattr(measure.retrieval, "retrieve", without_one)
    with pytest.raises(DataError, match=r"pairs: 24 images are encoded, but 23 are measured or left out"):
        evaluate(document(fresh))
    assert not (fresh / "out/runs/latest/evaluate/COMMITTED.json").exists()
