"""Images of two evaluations brought into one order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.storage import Storage
from diht_k8s.report.per_image import PerImage, read_per_image, write_per_image


def images(uids: list[str]) -> PerImage:
    hits = np.arange(len(uids), dtype=np.float64)
    return PerImage(uids, ["0.tar"] * len(uids), list(uids), {"top-1": (hits, np.ones(len(uids)))})


@pytest.mark.parametrize(
    ("own", "wanted", "hits"),
    [
        (["a", "b", "c"], ["c", "a", "b"], [2, 0, 1]),
        (["a", "b", "a"], ["a", "b", "a"], [0, 1, 2]),
        (["a", "b", "a"], ["b", "a", "a"], None),
        (["a", "b"], ["a", "c"], None),
        (["a", "b"], ["a"], None),
    ],
    ids=["another order", "copies in the same places", "copies in others", "other images", "fewer images"],
)
def test_order_when_uids_are_given_is_theirs_or_none(own: list[str], wanted: list[str], hits: list[int] | None) -> None:
    found = images(own).in_order_of(wanted)
    assert (None if found is None else found.figures["top-1"][0].tolist()) == hits
    assert found is None or found.uids == wanted


def test_order_when_it_is_another_keeps_weights_shards_and_texts_with_their_images() -> None:
    hits, weights = np.array([0.0, 1.0, 2.0]), np.array([3.0, 4.0, 5.0])
    found = PerImage(["a", "b", "c"], ["0", "1", "2"], ["x", "y", "z"], {"R@1": (hits, weights)}).in_order_of(
        ["c", "a", "b"]
    )
    assert found is not None
    assert (found.shards, found.texts) == (["2", "0", "1"], ["z", "x", "y"])
    assert [part.tolist() for part in found.figures["R@1"]] == [[2.0, 0.0, 1.0], [5.0, 3.0, 4.0]]


@pytest.mark.parametrize("part", [0, 1], ids=["a hit", "a weight"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_file_whose_hits_are_not_finite_is_damaged(tmp_path: Path, part: int, value: float) -> None:
    found = images(["a", "b"])
    write_per_image(Storage(), f"{tmp_path}/a.parquet", found)
    assert read_per_image(Storage(), f"{tmp_path}/a.parquet") is not None
    found.figures["top-1"][part][1] = value
    write_per_image(Storage(), f"{tmp_path}/a.parquet", found)
    with pytest.raises(DataError, match="a hit is not finite"):
        read_per_image(Storage(), f"{tmp_path}/a.parquet")
