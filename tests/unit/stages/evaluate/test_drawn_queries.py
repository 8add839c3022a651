from __future__ import annotations

import hashlib
import random

from diht_k8s.stages.evaluate.drawn_queries import QUERIES, drawn_by_digest

UIDS = [f"image {number}" for number in range(50)]
CAPTIONS = [f"caption {number}" for number in range(50)]


def test_queries_are_those_of_the_smallest_digests_in_any_order() -> None:
    smallest = sorted(UIDS, key=lambda uid: hashlib.sha256(uid.encode()).digest())[:QUERIES]
    rows = list(range(50))
    random.Random(0).shuffle(rows)
    for order in (range(50), rows):
        uids = [UIDS[row] for row in order]
        drawn = drawn_by_digest(uids, [CAPTIONS[row] for row in order])
        assert [uids[row] for row in drawn] == smallest


def test_query_of_an_image_is_its_first_caption_and_no_caption_comes_twice() -> None:
    uids = [uid for uid in UIDS for _ in range(2)]
    drawn = drawn_by_digest(uids, [f"{caption}{end}" for caption in CAPTIONS for end in (", first", ", second")])
    assert len(drawn) == QUERIES
    assert all(row % 2 == 0 for row in drawn)
    assert len(drawn_by_digest(UIDS, ["one flag"] * 49 + ["another"])) == 2
    assert drawn_by_digest([], []) == []
