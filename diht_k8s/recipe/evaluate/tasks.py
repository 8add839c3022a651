"""One benchmark on one model: from encoded images to the benchmark's part of `report.json` (plain JSON values).

Shapes: N images, M captions, C classes, T templates, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

from diht_k8s.api.errors import DataError
from diht_k8s.api.evaluate import FewShot
from diht_k8s.recipe.clip_models.features import encode_texts
from diht_k8s.recipe.clip_models.loading import LoadedModel
from diht_k8s.recipe.evaluate.benchmark_images import EncodedImages
from diht_k8s.recipe.evaluate.classification import (
    Classification,
    GroupAccuracy,
    by_group,
    class_embeddings,
    classification,
    fill,
    prompts,
)
from diht_k8s.recipe.evaluate.few_shot import FewShotCurve, few_shot_curve
from diht_k8s.recipe.evaluate.retrieval import CUTOFFS, Direction, Retrieval, retrieval, top_items
from diht_k8s.recipe.report.per_image import PER_IMAGE, PerImage

EXAMPLES: Final = 4
"""Best and worst queries shown of each direction."""
SHOWN_ITEMS: Final = 5
MAX_CANDIDATES: Final = 512
"""Queries of rank 1 among which the best are selected."""
MAX_CONFUSION_CLASSES: Final = 60
SHOWN_CONFUSIONS: Final = 12

Json = dict[str, Any]


def classify(
    images: EncodedImages,
    names: Sequence[str],
    templates: Sequence[str],
    loaded: LoadedModel,
    few_shot: FewShot | None,
    seed: Sequence[int],
) -> Json:
    """Zero-shot classification, and the few-shot probe if it is configured.

    Raises:
        DataError: no image has a class, or a class has no name.
    """
    labelled = images.chosen(lambda item: item.label is not None)
    if not labelled.items:
        raise DataError("no image has a class: add a .cls member, or `cls` to the .json")
    labels_N = np.array([item.label for item in labelled.items])
    if (highest := int(labels_N.max())) >= len(names):
        raise DataError(f"an image has class {highest}, but there are {len(names)} class names (0 to {len(names) - 1})")
    classes_CD = class_embeddings(encode_texts(loaded, prompts(names, templates)), len(names))
    scores_NC = labelled.features_ND @ classes_CD.T
    figures = classification(scores_NC, labels_N, np.random.default_rng(seed))
    result: Json = {
        PER_IMAGE: _classified(labelled, figures, labels_N, names),
        "pictures": len(labels_N),
        "without_class": len(images.items) - len(labels_N),
        "classes": list(names),
        "class_pictures": np.bincount(labels_N, minlength=len(names)).tolist(),
        "templates": list(templates),
        "top1": figures.top1,
        "top1_interval": list(figures.top1_interval),
        "top5": figures.top5,
        "balanced": figures.balanced,
        "balanced_interval": list(figures.balanced_interval),
        "majority": figures.majority,
        "chance": figures.chance,
        "per_class": figures.per_class,
        "macro_f1": figures.macro_f1,
        "groups": _groups(by_group(figures.hits_2N, [item.group for item in labelled.items])),
        "confusion": figures.confusion_CC.tolist() if len(names) <= MAX_CONFUSION_CLASSES else None,
        "confused": _confused(figures.confusion_CC, names),
    }
    if few_shot is not None:
        rngs = [np.random.default_rng([*seed, draw]) for draw in range(few_shot.seeds)]
        zero_shot_CD = loaded.logit_scale * classes_CD
        with threadpool_limits(1):  # products this small are slower on several threads
            curve = few_shot_curve(labelled.features_ND, labels_N, zero_shot_CD, few_shot.shots, rngs, names)
        result["few_shot"] = _few_shot(curve)
    return result


def retrieve(images: EncodedImages, templates: Sequence[str], loaded: LoadedModel, seed: Sequence[int]) -> Json:
    """Retrieval both ways, with the best and the worst queries.

    Raises:
        DataError: no image has a caption.
    """
    captioned = images.chosen(lambda item: bool(item.captions))
    captions = [caption for item in captioned.items for caption in item.captions]
    if not captions:
        raise DataError("no image has a caption: add a .txt member, or `caption` to the .json")
    image_of_text_M = image_of_text(captioned)
    texts = [fill(template, caption) for caption in captions for template in templates]
    texts_MD = class_embeddings(encode_texts(loaded, texts), len(captions))
    figures = retrieval(captioned.features_ND, texts_MD, image_of_text_M, np.random.default_rng(seed))
    uids = [item.uid for item in captioned.items]
    text_examples = _examples(
        figures.text_to_image, texts_MD, image_of_text_M, captioned.features_ND, np.arange(len(uids))
    )
    image_examples = _examples(
        figures.image_to_text, captioned.features_ND, np.arange(len(uids)), texts_MD, image_of_text_M
    )
    return {
        PER_IMAGE: _retrieved(captioned, figures),
        "pictures": len(uids),
        "captions": len(captions),
        "without_caption": len(images.items) - len(uids),
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


def _classified(
    labelled: EncodedImages, figures: Classification, labels_N: np.ndarray, names: Sequence[str]
) -> PerImage:
    """An image counts 1 / (C * images of its class) in the mean per class; scaled so that the weights sum to N."""
    ones_N, hits_2N = np.ones(len(labels_N)), figures.hits_2N.astype(np.float64)
    counts_C = np.bincount(labels_N, minlength=len(names))
    share_N = len(labels_N) / (counts_C[labels_N] * np.count_nonzero(counts_C))
    found = {"top-1": (hits_2N[0], ones_N), "mean per class": (hits_2N[0] * share_N, share_N)}
    if figures.top5 is not None:
        found["top-5"] = (hits_2N[1], ones_N)
    return _per_image(labelled, [names[int(label)] for label in labels_N], found)


def _retrieved(captioned: EncodedImages, figures: Retrieval) -> PerImage:
    found = {
        f"{name}, R@{cutoff}": (direction.hits_KN[row], direction.queries_N)
        for name, direction in (
            ("caption to image", figures.text_to_image),
            ("image to caption", figures.image_to_text),
        )
        for row, cutoff in enumerate(CUTOFFS)
    }
    return _per_image(captioned, [item.captions[0] for item in captioned.items], found)


def _per_image(images: EncodedImages, texts: list[str], figures: dict[str, tuple[np.ndarray, np.ndarray]]) -> PerImage:
    return PerImage([item.uid for item in images.items], [item.uri for item in images.items], texts, figures)


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

    def described(chosen: np.ndarray) -> list[Json]:
        if not chosen.size:
            return []
        order, scores = top_items(queries_QD[chosen], gallery_GD, SHOWN_ITEMS)
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

    return {"best": described(best), "worst": described(worst)}


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


def _confused(confusion_CC: np.ndarray, names: Sequence[str]) -> list[Json]:
    """The most common mistakes."""
    wrong = confusion_CC * (1 - np.eye(len(names), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:SHOWN_CONFUSIONS]
    pairs = [divmod(int(cell), len(names)) for cell in order]
    return [
        {"true": names[true], "named": names[named], "pictures": int(wrong[true, named])}
        for true, named in pairs
        if wrong[true, named]
    ]


def _groups(groups: Sequence[GroupAccuracy]) -> list[Json]:
    return [{"name": group.name, "pictures": group.images, "top1": group.top1, "top5": group.top5} for group in groups]


def _few_shot(curve: FewShotCurve) -> Json:
    """The curve as plain values: mean and spread over the draws of each number of shots."""
    points: list[Json] = []
    for shots in sorted({draw.shots for draw in curve.draws}):
        draws = [draw for draw in curve.draws if draw.shots == shots]
        point: Json = {"shots": shots, "draws": len(draws), "held_out": draws[0].held_out}
        for kind in ("probe", "scratch", "pull", "zero_shot"):
            values = np.array([getattr(draw, kind) for draw in draws])
            point[kind] = {"mean": float(values.mean()), "low": float(values.min()), "high": float(values.max())}
            point[kind]["deviation"] = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        points.append(point)
    return {
        "points": points,
        "draws": [asdict(draw) for draw in curve.draws],
        "skipped": [{"shots": shots, "why": why} for shots, why in curve.skipped.items()],
        "test_pictures": curve.test_images,
    }
