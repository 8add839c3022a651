"""Records of flight recorders -> one sentence: every way to hang, and its size at a thousand ranks."""

from __future__ import annotations

import pytest

from diht_k8s.api.reports import MAX_LINE_BYTES, Cause
from diht_k8s.runtime.hangs.awaited_rank import Collective, GroupRecord, RankRecord, awaited_rank

WORLD = "gloo:0"


def record(
    rank: int,
    issued: int,
    pending: int | None = None,
    *,
    name: str = "all_reduce",
    doing: str = "",
    more: dict[str, GroupRecord] | None = None,
) -> RankRecord:
    each = None if pending is None else Collective(sequence=pending, name=name)
    groups = {WORLD: GroupRecord(issued=issued, pending=each), **(more or {})}
    return RankRecord(rank=rank, node=f"n{rank // 2}", doing=doing, groups=groups)


def control(issued: int, pending: int | None = None) -> dict[str, GroupRecord]:
    each = None if pending is None else Collective(sequence=pending, name="barrier")
    return {"gloo:1": GroupRecord(issued=issued, pending=each)}


@pytest.mark.parametrize(
    ("records", "ranks", "sentence"),
    [
        (
            [
                record(0, 41, 41),
                record(1, 41, 41, doing="engine.py:9 in step"),
                record(2, 40, doing="dataset.py:7 in read"),
                record(3, 41, 41),
            ],
            4,
            "rank 2 on node n1 has not reached all_reduce 41 (it is at dataset.py:7 in read); the 3 others wait in it",
        ),
        (
            [record(0, 45, 41, doing="engine.py:9 in step"), record(1, 40)],
            2,
            "rank 1 on node n0 has not reached all_reduce 41; the other waits in it (engine.py:9 in step)",
        ),
        (
            [record(0, 41, 41), record(1, 41, 41), record(3, 41, 41)],
            4,
            "rank 2 on node n1 does not answer (stopped or dead); the 3 others wait in all_reduce 41",
        ),
        (
            [record(0, 41, 41)],
            4,
            "ranks 1 (node n0), 2 (node n1), 3 (node n1) do not answer (stopped or dead); the other waits in "
            "all_reduce 41",
        ),
        ([record(0, 40), record(1, 40)], 3, "rank 2 on node n1 does not answer (stopped or dead)"),
        (
            [record(0, 41, 41), record(1, 40), record(2, 40), record(3, 41, 41)],
            4,
            "ranks 1 (node n0), 2 (node n1) have not reached all_reduce 41; the 2 others wait in it",
        ),
        (
            [record(0, 7, 7), record(1, 7, 7)],
            2,
            "all 2 ranks are in all_reduce 7: see the network between their nodes, and their devices",
        ),
        ([record(0, 7, 7), record(1, 7)], 2, "rank 0 on node n0 is still in all_reduce 7, which the others have left"),
        (
            [record(0, 7, 7), record(1, 7, 7, name="all_gather")],
            2,
            "rank 1 on node n0 is in all_gather 7 where rank 0 on node n0 is in all_reduce 7",
        ),
        # rank 0 waits for rank 1, which waits in the other group for rank 2
        (
            [record(0, 9, 9, more=control(4)), record(1, 8, more=control(4, 4)), record(2, 9, more=control(3))],
            3,
            "rank 2 on node n1 has not reached barrier 4; 1 of the 2 others waits in it",
        ),
        ([record(0, 9), record(1, 9)], 2, None),
        ([RankRecord(rank=0, node="n0"), RankRecord(rank=1, node="n0")], 2, None),
    ],
)
def test_sentence_names_whom_the_others_wait_for(records: list[RankRecord], ranks: int, sentence: str | None) -> None:
    assert awaited_rank(records, {rank: f"n{rank // 2}" for rank in range(ranks)}) == sentence


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([record(0, 41, 41), record(1, 41, 41)], None),
        ([record(0, 41, 41), record(1, 40)], "rank 1 on node n0 has not reached all_reduce 41; the other waits in it"),
    ],
)
def test_part_of_a_gang_names_only_whom_it_holds(records: list[RankRecord], sentence: str | None) -> None:
    assert awaited_rank(records, {0: "n0", 1: "n0"}, whole=False) == sentence


def test_sentence_of_a_large_gang_fits_into_a_termination_message() -> None:
    node = "gpu-node-with-a-long-name." + "x" * 220
    nodes = dict.fromkeys(range(1024), node)
    records = [
        RankRecord(
            rank=rank,
            node=node,
            doing="engine.py:310 in step",
            groups={WORLD: GroupRecord(issued=41, pending=Collective(sequence=41, name="all_reduce"))},
        )
        for rank in range(4)
    ]
    sentence = awaited_rank(records, nodes)
    assert sentence is not None
    assert "and 1017 more do not answer (stopped or dead); the 4 others wait in all_reduce 41" in sentence
    cause = Cause(exit_code=75, reason="Retryable", message=sentence)
    encoded = cause.encoded()
    assert len(encoded.encode()) <= MAX_LINE_BYTES
    assert Cause.model_validate_json(encoded).message == sentence
