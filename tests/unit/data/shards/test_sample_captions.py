"""Several captions of an image: what counts as one, and how one is drawn."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from diht_k8s.data.shards.sample_captions import MAX_CAPTION_BYTES, weighted_captions
from diht_k8s.data.shards.samples import Sample, make_sample
from diht_k8s.stages.train.data.augment import drawn_caption


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({}, []),
        ({"captions": "a red fox"}, []),
        ({"captions": []}, []),
        ({"captions": [" a  red\nfox ", "fox"]}, [("a red fox", 1.0), ("fox", 1.0)]),
        ({"captions": ["a", "b"], "caption_weights": [3, 0.5]}, [("a", 3.0), ("b", 0.5)]),
        ({"captions": ["a", "b"], "caption_weights": [3]}, [("a", 1.0), ("b", 1.0)]),
        ({"captions": ["a", "b"], "caption_weights": "31"}, [("a", 1.0), ("b", 1.0)]),
        ({"captions": ["a", "b", "c", "d", "e"], "caption_weights": [0, -1, float("nan"), float("inf"), True]}, []),
        ({"captions": ["a", 7, None, "", " ", "\ud800", "x" * (MAX_CAPTION_BYTES + 1)]}, [("a", 1.0)]),
    ],
)
def test_captions_when_listed_then_those_that_can_be_used_with_their_weights(
    meta: dict[str, Any], expected: list[tuple[str, float]]
) -> None:
    assert weighted_captions(meta) == expected


def pair(meta: dict[str, Any], text: str | None = None, uid: str = "u") -> Sample:
    members = {"png": b"x", "json": json.dumps({"uid": uid, **meta}).encode()}
    return make_sample("k", members if text is None else {**members, "txt": text.encode()})


def test_pair_when_it_has_a_list_alone_then_its_caption_is_the_first_that_can_be_used() -> None:
    assert (pair({"captions": [3, "a red fox"]}).caption, pair({"captions": [3, "a red fox"]}).problem) == (
        "a red fox",
        None,
    )
    assert pair({"captions": [3]}).problem == "caption_missing"
    assert pair({"captions": ["a"], "caption": "b"}).caption == "b"
    assert pair({"captions": ["a"]}, text="c").caption == "c"


def test_draw_when_captions_have_weights_then_follows_them() -> None:
    meta = {"captions": ["often", "seldom", "never"], "caption_weights": [3, 1, 0]}
    drawn = Counter(drawn_caption(pair(meta, uid=str(n)), seed=0, epoch=0) for n in range(2000))
    assert set(drawn) == {"often", "seldom"}
    assert drawn["often"] / 2000 == pytest.approx(0.75, abs=0.04)  # four standard deviations


def test_draw_when_repeated_then_the_same_and_other_in_other_epochs_seeds_and_pairs() -> None:
    captions = {"captions": [f"caption {n}" for n in range(1000)]}

    def drawn(*, seed: int = 0, epoch: int = 0, uid: str = "u") -> str:
        return drawn_caption(pair(captions, uid=uid), seed=seed, epoch=epoch)

    assert drawn() == drawn()
    assert len({drawn(), drawn(seed=1), drawn(epoch=1), drawn(uid="v")}) == 4


def test_draw_when_there_is_nothing_to_draw_from_then_the_pairs_own_caption() -> None:
    assert drawn_caption(pair({"caption": "own", "captions": [1, ""]}), seed=0, epoch=0) == "own"
    assert drawn_caption(pair({"caption": "own", "captions": ["other"]}), seed=0, epoch=0) == "other"
    bad = make_sample("k", {"json": b'{"captions": ["a", "b"]}'})
    assert (bad.problem, drawn_caption(bad, seed=0, epoch=0)) == ("picture_missing", bad.caption)
