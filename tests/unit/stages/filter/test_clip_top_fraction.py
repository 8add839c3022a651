"""Where the pool is cut: against a plain sort of all pairs."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence

import pyarrow as pa
import pytest

from diht_k8s.stages.filter import clip_score
from diht_k8s.stages.filter.clip_score import Rank, ScoreCutoff, find_cutoff

Pairs = list[list[tuple[str, float]]]


def cut_of(pool: Pairs, share: float) -> ScoreCutoff:
    def read(number: int, columns: Sequence[str]) -> pa.Table:
        uids, scores = [uid for uid, _ in pool[number]], [score for _, score in pool[number]]
        every = {"uid": pa.array(uids, pa.string()), "clip_score": pa.array(scores, pa.float64())}
        return pa.table({**{name: every[name] for name in columns}, "row": list(range(len(uids)))})

    return find_cutoff(read, len(pool), share)


def kept(pool: Pairs, cut: ScoreCutoff) -> list[Rank]:
    ranks = [
        Rank(-score, uid, shard, row) for shard, pairs in enumerate(pool) for row, (uid, score) in enumerate(pairs)
    ]
    return sorted(rank for rank in ranks if rank <= cut.last)


def drawn(shards: int, pairs: int, *, scores: Sequence[float] = (), uids: int = 10**6, seed: int = 0) -> Pairs:
    draw = random.Random(seed)
    return [
        [
            (f"{draw.randrange(uids):x}", draw.choice(scores) if scores else draw.uniform(-0.1, 0.4))
            for _ in range(pairs)
        ]
        for _ in range(shards)
    ]


POOLS = {
    "all scores differ": drawn(5, 40),
    "few scores": drawn(5, 40, scores=(0.2, 0.3, 0.3000000001)),
    "one score": drawn(5, 40, scores=(0.25,)),
    "one score and one uid": drawn(5, 40, scores=(0.25,), uids=1),
    "limits": drawn(2, 40, scores=(-1.0, 1.0, 1.0000001, -1.0000001)),
    "empty shards": [[], *drawn(2, 7), [], []],
    "one pair": [[("a", 0.1)]],
}


@pytest.mark.parametrize("bins", [1, 7, 1 << 16])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("name", list(POOLS))
def test_cut_keeps_the_best_pairs_and_no_other(
    monkeypatch: pytest.MonkeyPatch, name: str, share: float, bins: int
) -> None:
    monkeypatch.setattr(clip_score, "BINS", bins)
    pool = POOLS[name]
    cut, whole = cut_of(pool, share), cut_of(pool, 1.0)
    everything = kept(pool, whole)
    assert cut.pairs == whole.kept == len(everything) == sum(map(len, pool))
    assert cut.kept == math.ceil(share * cut.pairs)
    assert kept(pool, cut) == everything[: cut.kept]
    assert ScoreCutoff.from_json(json.loads(json.dumps(cut.to_json()))) == cut


@pytest.mark.parametrize(("share", "pairs", "expected"), [(0.07, 100, 7), (0.29, 100, 29), (0.3, 11, 4), (1e-05, 1, 1)])
def test_share_is_rounded_up_from_the_number_as_it_is_written(share: float, pairs: int, expected: int) -> None:
    assert cut_of(drawn(1, pairs), share).kept == expected


def test_pool_without_scores_is_not_cut() -> None:
    cut = cut_of([[], []], 0.5)
    assert (cut.pairs, cut.kept) == (0, 0)
