"""Images of two evaluations brought into one order."""

from __future__ import annotations

import numpy as np
import pytest

from diht_k8s.recipe.report.per_image import PerImage


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
