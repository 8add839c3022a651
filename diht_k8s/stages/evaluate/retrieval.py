"""Retrieval both ways: R@k with intervals, chance and ranks, and the best and worst queries as examples.

Tie rule: if wrong items score exactly as high as the best right one, the result is the mean over all orders of the tied
items, so a hit can be fractional. A model that gives every item the same score gets exactly chance, and nothing depends
on the order of the gallery. Items with identical features (a repeated caption) are scored once, so rounding cannot
break their tie.

Scores are computed for one block of queries at a time, so a million images and five million captions need little more
memory than their features.

Shapes: N images, M captions, Q queries, G gallery items, U distinct gallery items, D features, K cut-offs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.api.errors import DataError
from diht_k8s.report.per_image import PerImage
from diht_k8s.stages.evaluate.class_texts import ensemble_prompts, prompts
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.results import FOUND, Measured, asked_digest, drawn_by_digest, per_image_of
from diht_k8s.stages.evaluate.scores import Interval, distinct_rows, rate_intervals, similarity
from diht_k8s.stages.evaluate.soundness import TextEncoder

CUTOFFS: Final[tuple[int, ...]] = (1, 5, 10)
_BLOCK_SCORES: Final = 1 << 24
"""Scores in memory at once (64 MiB of float32), for any size of the gallery."""
EXAMPLES: Final = 4
"""Best and worst queries shown of each direction."""
MAX_CANDIDATES: Final = 512
"""Queries of rank 1 among which the best are selected."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Direction:
    """One direction of retrieval."""

    recall: dict[int, float]
    """k -> R@k: share of queries with a right item among the first k."""
    interval: dict[int, Interval]
    """k -> 95 % bootstrap interval; images are resampled, the gallery stays."""
    chance: dict[int, float]
    """k -> R@k of a random order."""
    ranks_Q: NDArray[np.float64]
    """mean rank of each query's best right item, 1 is the top."""
    hits_KN: NDArray[np.float64]
    """hits of each image's queries for each of `CUTOFFS`, possibly fractional."""
    queries_N: NDArray[np.float64]
    """queries of each image."""


@dataclass(frozen=True)
class Retrieval:
    """Both directions."""

    image_to_text: Direction
    text_to_image: Direction


def retrieve(images: EncodedImages, templates: Sequence[str], encode: TextEncoder, seed: Sequence[int]) -> Measured:
    """Retrieval both ways, with the best and the worst queries.

    Raises:
        DataError: no image has a caption.
    """
    captioned = gallery(images)
    captions = [caption for item in captioned.items for caption in item.captions]
    if not captions:
        raise DataError("no image has a caption: add a .txt member, or `caption` to the .json")
    image_of_text_M = image_of_text(captioned)
    texts_MD = ensemble_prompts(encode(prompts(captions, templates)), len(captions))
    figures = retrieval(captioned.features_ND, texts_MD, image_of_text_M, np.random.default_rng(seed))
    uids = [item.uid for item in captioned.items]
    text_examples = _examples(
        figures.text_to_image, texts_MD, image_of_text_M, captioned.features_ND, np.arange(len(uids))
    )
    drawn = np.array(drawn_by_digest([uids[row] for row in image_of_text_M], captions))
    text_examples["drawn"] = _described(
        drawn, figures.text_to_image, texts_MD, image_of_text_M, captioned.features_ND, np.arange(len(uids))
    )
    image_examples = _examples(
        figures.image_to_text, captioned.features_ND, np.arange(len(uids)), texts_MD, image_of_text_M
    )
    without = sum(not item.captions for item in images.items)
    result = {
        "pictures": len(uids),
        "copies": len(images.items) - without - len(uids),
        "captions": len(captions),
        "without_caption": without,
        "no_caption": dict(sorted(Counter(item.no_caption for item in images.items if not item.captions).items())),
        "templates": list(templates),
        "text_to_image": direction_json(figures.text_to_image),
        "image_to_text": direction_json(figures.image_to_text),
        "examples": {
            "text_to_image": _named(
                text_examples, queries=captions, query_images=[uids[i] for i in image_of_text_M], items=uids
            ),
            "image_to_text": _named(image_examples, queries=uids, query_images=uids, items=captions),
        },
    }
    return Measured(result, _retrieved(captioned, figures), captioned.items, shown_images(result))


def gallery(images: EncodedImages) -> EncodedImages:
    """The images with a caption, each once: the captions of its copies stand behind those of the first."""
    captioned = images.chosen(lambda item: bool(item.captions))
    captions_of: dict[int, list[str]] = {}
    for row, item in zip(captioned.first_rows().tolist(), captioned.items, strict=True):
        captions_of.setdefault(row, []).extend(item.captions)
    items = [replace(captioned.items[row], captions=tuple(captions)) for row, captions in captions_of.items()]
    return replace(captioned, items=items, features_ND=captioned.features_ND[list(captions_of)])


def retrieval(
    image_features_ND: NDArray[np.floating],
    text_features_MD: NDArray[np.floating],
    image_of_text_M: NDArray[np.int64],
    rng: np.random.Generator,
) -> Retrieval:
    """R@1, R@5 and R@10 both ways; any caption of an image is right.

    Args:
        image_features_ND: features of the images, unit length.
        text_features_MD: features of the captions, unit length.
        image_of_text_M: index of each caption's image.
        rng: draws of the bootstrap.

    Raises:
        ValueError: an image has no caption, or a similarity is not finite.
    """
    images_N = np.arange(len(image_features_ND))
    return Retrieval(
        image_to_text=direction(image_features_ND, images_N, text_features_MD, image_of_text_M, rng),
        text_to_image=direction(text_features_MD, image_of_text_M, image_features_ND, images_N, rng),
    )


def direction(
    query_features_QD: NDArray[np.floating],
    query_ids_Q: NDArray[np.int64],
    gallery_features_GD: NDArray[np.floating],
    gallery_ids_G: NDArray[np.int64],
    rng: np.random.Generator,
) -> Direction:
    """One direction: a gallery item is right for a query when their ids (the image's index) agree.

    Raises:
        ValueError: a query has no right item in the gallery, or a similarity is not finite.
    """
    higher_Q, tied_Q, right_Q = rank_counts(query_features_QD, query_ids_Q, gallery_features_GD, gallery_ids_G)
    groups_N, group_of_Q = np.unique(query_ids_Q, return_inverse=True)
    counts_N = np.bincount(group_of_Q, minlength=len(groups_N)).astype(np.float64)
    hits_KQ = [expected_hits(higher_Q, tied_Q, right_Q, cutoff) for cutoff in CUTOFFS]
    summed = [np.bincount(group_of_Q, weights=hits_Q, minlength=len(groups_N)) for hits_Q in hits_KQ]
    hits_KN = np.stack(summed).astype(np.float64)
    bounds: dict[int, Interval] = dict(zip(CUTOFFS, rate_intervals(hits_KN, counts_N, rng), strict=True))
    recall = {cutoff: float(hits_Q.mean()) for cutoff, hits_Q in zip(CUTOFFS, hits_KQ, strict=True)}
    chance = {cutoff: chance_recall(query_ids_Q, gallery_ids_G, cutoff) for cutoff in CUTOFFS}
    ranks_Q = 1 + higher_Q + tied_Q / (right_Q + 1)
    return Direction(recall, bounds, chance, ranks_Q, hits_KN, counts_N)


def expected_hits(
    higher_Q: NDArray[np.int64], tied_Q: NDArray[np.int64], right_Q: NDArray[np.int64], cutoff: int
) -> NDArray[np.float64]:
    """Share of the orders of tied items that put a right one among the first `cutoff`.

    Args:
        higher_Q: wrong items above the best right one.
        tied_Q: wrong items that score the same.
        right_Q: right items that score the same, at least 1.
        cutoff: k.
    """
    hits_Q = (higher_Q < cutoff).astype(np.float64)
    for query in np.flatnonzero((tied_Q > 0) & (higher_Q < cutoff)):
        hits_Q[query] = _hit_probability(int(right_Q[query]), int(tied_Q[query]), cutoff - int(higher_Q[query]))
    return hits_Q


def chance_recall(query_ids_Q: NDArray[np.int64], gallery_ids_G: NDArray[np.int64], cutoff: int) -> float:
    """R@k of a random order of the gallery."""
    ids, counts = np.unique(gallery_ids_G, return_counts=True)
    right_Q = counts[np.searchsorted(ids, query_ids_Q)]
    sizes, numbers = np.unique(right_Q, return_counts=True)
    gallery = len(gallery_ids_G)
    shares = [_hit_probability(int(size), gallery - int(size), cutoff) for size in sizes]
    return float(np.average(shares, weights=numbers))


def top_items(
    query_features_QD: NDArray[np.floating], gallery_features_GD: NDArray[np.floating], count: int
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """The best `count` gallery items of each query and their scores, best first, ties by index. For a few queries."""
    scores_QG = similarity(query_features_QD, gallery_features_GD)
    order_QK = np.argsort(-scores_QG, axis=1, kind="stable")[:, :count]
    return order_QK, np.take_along_axis(scores_QG, order_QK, axis=1)


def _hit_probability(right: int, wrong: int, draws: int) -> float:
    """Probability that `draws` items out of right + wrong include a right one."""
    if draws > wrong:
        return 1.0
    return 1 - comb(wrong, draws) / comb(wrong + right, draws)


def rank_counts(
    query_features_QD: NDArray[np.floating],
    query_ids_Q: NDArray[np.int64],
    gallery_features_GD: NDArray[np.floating],
    gallery_ids_G: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """For each query: wrong items above its best right item, wrong items tied with it, right items tied with it.

    Raises:
        ValueError: a query has no right item in the gallery, or a similarity is not finite: NaN is below nothing, so it
            would rank first.
    """
    missing = np.setdiff1d(query_ids_Q, gallery_ids_G)
    if missing.size:
        raise ValueError(f"query {missing[0]} has no right item in the gallery")
    distinct_UD, distinct_of_G = distinct_rows(gallery_features_GD)
    by_id_G = np.argsort(gallery_ids_G, kind="stable")
    sorted_ids_G = gallery_ids_G[by_id_G]
    step = max(16, _BLOCK_SCORES // len(gallery_ids_G))
    counts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []
    for start in range(0, len(query_ids_Q), step):
        ids_B = query_ids_Q[start : start + step]
        scores_BG = query_features_QD[start : start + step] @ distinct_UD.T
        if not np.isfinite(scores_BG).all():
            raise ValueError("a similarity is not finite: the features are NaN or infinite")
        if distinct_of_G is not None:
            scores_BG = scores_BG[:, distinct_of_G]
        first_B, last_B = np.searchsorted(sorted_ids_G, ids_B), np.searchsorted(sorted_ids_G, ids_B, side="right")
        counts.append(_counted(scores_BG, by_id_G, first_B, last_B))
    higher, tied, right = (np.concatenate(parts) for parts in zip(*counts, strict=True))
    return higher, tied, right


def _counted(
    scores_BG: NDArray[np.floating],
    by_id_G: NDArray[np.int64],
    first_B: NDArray[np.int64],
    last_B: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """`rank_counts` of a block in two passes; the right items of row b are by_id_G[first_B[b] : last_B[b]]."""
    higher_B, tied_B, right_B = np.zeros((3, len(scores_BG)), dtype=np.int64)
    for row, scores_G in enumerate(scores_BG):
        own = scores_G[by_id_G[first_B[row] : last_B[row]]]
        best = own.max()
        right_B[row] = np.count_nonzero(own == best)
        higher_B[row] = np.count_nonzero(scores_G > best)
        tied_B[row] = np.count_nonzero(scores_G == best) - right_B[row]
    return higher_B, tied_B, right_B


def _retrieved(captioned: EncodedImages, figures: Retrieval) -> PerImage:
    found = {
        f"{name}, R@{cutoff}": (direction.hits_KN[row], direction.queries_N)
        for name, direction in (
            ("caption to image", figures.text_to_image),
            ("image to caption", figures.image_to_text),
        )
        for row, cutoff in enumerate(CUTOFFS)
    }
    first, asked = (
        [item.captions[0] for item in captioned.items],
        [asked_digest(item.captions) for item in captioned.items],
    )
    return per_image_of(captioned.items, first, asked, found)


def shown_images(result: Json) -> list[str]:
    """Uids of the images that the examples of a retrieval result show."""
    uids: list[str] = []
    for chosen in result["examples"]["text_to_image"].values():
        uids += [item["item"] for example in chosen for item in example["top"]] + [
            example["picture"] for example in chosen
        ]
    for chosen in result["examples"]["image_to_text"].values():
        uids += [example["picture"] for example in chosen]
    return list(dict.fromkeys(uids))


def image_of_text(captioned: EncodedImages) -> np.ndarray:
    """[M] index of the image of each caption."""
    return np.repeat(np.arange(len(captioned.items)), [len(item.captions) for item in captioned.items])


def direction_json(figures: Direction) -> Json:
    """One direction as plain values; cut-offs are strings, as JSON keys must be."""
    return {
        "recall": {str(k): value for k, value in figures.recall.items()},
        "interval": {str(k): list(value) for k, value in figures.interval.items()},
        "chance": {str(k): value for k, value in figures.chance.items()},
        "median_rank": float(np.median(figures.ranks_Q)),
        "queries": len(figures.ranks_Q),
    }


def _examples(
    figures: Direction,
    queries_QD: np.ndarray,
    query_ids_Q: np.ndarray,
    gallery_GD: np.ndarray,
    gallery_ids_G: np.ndarray,
) -> Json:
    """The hits with the largest margins and the misses with the worst ranks: query, rank, first items and scores."""
    first = np.flatnonzero(figures.ranks_Q == 1)[:MAX_CANDIDATES]
    margins = np.zeros(0)
    if first.size and len(gallery_GD) > 1:
        _, scores = top_items(queries_QD[first], gallery_GD, 2)
        margins = scores[:, 0] - scores[:, 1]
    best = first[np.argsort(-margins, kind="stable")[:EXAMPLES]] if margins.size else first[:EXAMPLES]
    worst = np.argsort(-figures.ranks_Q, kind="stable")[:EXAMPLES]
    worst = worst[figures.ranks_Q[worst] > 1]

    chosen = {"best": best, "worst": worst}
    given = figures, queries_QD, query_ids_Q, gallery_GD, gallery_ids_G
    return {kind: _described(queries, *given) for kind, queries in chosen.items()}


def _described(
    chosen: np.ndarray,
    figures: Direction,
    queries_QD: np.ndarray,
    query_ids_Q: np.ndarray,
    gallery_GD: np.ndarray,
    gallery_ids_G: np.ndarray,
) -> list[Json]:
    """Some queries, each with its rank, first items and their scores."""
    if not chosen.size:
        return []
    order, scores = top_items(queries_QD[chosen], gallery_GD, FOUND)
    return [
        {
            "query": int(query),
            "rank": float(figures.ranks_Q[query]),
            "top": [
                {
                    "item": int(item),
                    "score": round(float(score), 4),
                    "right": bool(gallery_ids_G[item] == query_ids_Q[query]),
                }
                for item, score in zip(order[row], scores[row], strict=True)
            ],
        }
        for row, query in enumerate(chosen)
    ]


def _named(examples: Json, *, queries: Sequence[str], query_images: Sequence[str], items: Sequence[str]) -> Json:
    """Examples with captions and uids in place of indexes."""
    return {
        kind: [
            {
                "query": queries[example["query"]],
                "picture": query_images[example["query"]],
                "rank": example["rank"],
                "top": [{**item, "item": items[item["item"]]} for item in example["top"]],
            }
            for example in chosen
        ]
        for kind, chosen in examples.items()
    }
