"""PairMatching, CaptionChoice and Association: benchmarks whose questions are groups of images and captions.

Winoground (arXiv 2204.03162): a group has two images and a caption for each. SugarCrepe (arXiv 2306.14610): an image
has a right caption and wrong ones. WinoGAViL (arXiv 2207.12576): a cue is associated with some of its candidate
images. Equal scores are never a success: a model that cannot tell the captions apart has not answered. A group that
lacks an image or the right caption is left out and counted.

Shapes: P pairs, N captions of one image, A candidates of one cue, G groups, T texts, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.api.errors import DataError
from diht_k8s.report.per_image import PerImage
from diht_k8s.stages.evaluate.benchmark_images import BenchmarkImage
from diht_k8s.stages.evaluate.class_texts import ARTICLE, ensemble_prompts, fill
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.results import Measured, asked_digest
from diht_k8s.stages.evaluate.scores import Interval, query_scores, rate_interval
from diht_k8s.stages.evaluate.soundness import TextEncoder

PAIR_CHANCE = {"text score": 1 / 4, "image score": 1 / 4, "group score": 1 / 6}
"""Winoground's scores of random similarities: each of two captions wins with 1/2; of the 24 orders of four scores, four
put both right ones above both wrong ones."""
SIZES: Final = ((5, 6), (10, 12))
"""Numbers of candidates over which WinoGAViL's figures are also given alone; DataComp takes the second."""
MIN_GROUPS: Final = 30
"""Groups that such a part needs: with fewer, a resample may hold none of them."""


@dataclass(frozen=True)
class GroupScore:
    """One figure over all groups."""

    name: str
    value: float
    interval: Interval
    """95 %, over groups."""
    chance: float
    hits_G: NDArray[np.float64]
    weights_G: NDArray[np.float64]
    """1 where the group counts, 0 where it does not; or the number of its questions."""


def pair_hits(similarity_P22: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
    """Winoground's text, image and group score of each pair.

    Args:
        similarity_P22: of caption i and image j of each pair at [i, j]; caption i belongs to image i.

    Returns:
        Name of the score -> 1.0 or 0.0 for each pair. Text: each image is closer to its own caption than to the other
        one. Image: each caption is closer to its own image. Group: both.
    """
    right_P2 = np.stack([similarity_P22[:, 0, 0], similarity_P22[:, 1, 1]], axis=1)
    other_caption_P2 = np.stack([similarity_P22[:, 1, 0], similarity_P22[:, 0, 1]], axis=1)
    other_image_P2 = other_caption_P2[:, ::-1]
    text_P = (right_P2 > other_caption_P2).all(axis=1)
    image_P = (right_P2 > other_image_P2).all(axis=1)
    hits = {"text score": text_P, "image score": image_P, "group score": text_P & image_P}
    return {name: np.asarray(hits_P, dtype=np.float64) for name, hits_P in hits.items()}


def choice_hit(scores_N: NDArray[np.floating]) -> float:
    """1.0 if the first caption, the right one, is above all others; else 0.0."""
    return float(scores_N[0] > scores_N[1:].max())


def jaccard(scores_A: NDArray[np.floating], associated_A: NDArray[np.bool_]) -> float:
    """Jaccard index of the associated candidates and as many of the best-scoring ones; of equal scores a wrong one
    wins.

    Raises:
        ValueError: no candidate is associated.
    """
    wanted = int(associated_A.sum())
    if not wanted:
        raise ValueError("no candidate is associated with the cue")
    chosen = np.lexsort((associated_A, -scores_A))[:wanted]  # else the order of the files would decide
    shared = int(associated_A[chosen].sum())
    return shared / (2 * wanted - shared)


def chance_jaccard(candidates: int, associated: int) -> float:
    """Mean Jaccard index over all choices of as many candidates as are associated."""
    return sum(
        comb(associated, shared)
        * comb(candidates - associated, associated - shared)
        / comb(candidates, associated)
        * shared
        / (2 * associated - shared)
        for shared in range(associated + 1)
    )


def group_score(
    name: str,
    hits_G: Sequence[float] | NDArray[np.float64],
    weights_G: Sequence[float] | NDArray[np.float64],
    chance: float,
    rng: np.random.Generator,
) -> GroupScore:
    """A figure sum(hits) / sum(weights), with its interval over resamples of the groups that count."""
    hits, weights = np.asarray(hits_G, dtype=np.float64), np.asarray(weights_G, dtype=np.float64)
    counted = weights > 0
    bounds = rate_interval(hits[counted], weights[counted], rng)
    return GroupScore(name, float(hits.sum() / weights.sum()), bounds, chance, hits, weights)


def match_pairs(images: EncodedImages, templates: Sequence[str], encode: TextEncoder, seed: Sequence[int]) -> Measured:
    """Winoground's scores of groups of two images with a caption each.

    Raises:
        DataError: there is no such group.
    """
    rows_of: dict[str, list[int]] = {}
    for row, item in enumerate(images.items):
        if item.group is not None:
            rows_of.setdefault(item.group, []).append(row)
    told = {row for row, item in enumerate(images.items) if item.captions and not item.lacks_first}
    pairs = {group: rows for group, rows in rows_of.items() if len(rows) == 2 and told.issuperset(rows)}
    if not pairs:
        raise DataError("no group has two images with a caption each: write the same `group` into the .json of both")
    rows_P2 = np.array(list(pairs.values()))
    captions = [images.items[row].captions[0] for row in rows_P2.reshape(-1)]
    texts_P2D = _texts(captions, templates, encode).reshape(len(pairs), 2, -1)
    images_P2D = images.features_ND[rows_P2]
    hits = pair_hits(np.einsum("pid,pjd->pij", texts_P2D, images_P2D))
    rng, ones = np.random.default_rng(seed), np.ones(len(pairs))
    scores = [group_score(name, hits_P, ones, PAIR_CHANCE[name], rng) for name, hits_P in hits.items()]
    shards = [images.items[rows[0]].uri for rows in pairs.values()]
    texts = [" / ".join(images.items[row].captions[0] for row in rows) for rows in pairs.values()]
    paired = [images.items[row] for row in rows_P2.reshape(-1)]
    asked = [
        asked_digest([[images.items[row].uid, images.items[row].captions[0]] for row in rows_2]) for rows_2 in rows_P2
    ]
    kept = PerImage(list(pairs), shards, texts, asked=asked)
    alone = sum(item.group is None for item in images.items)
    left_out = len(rows_of) - len(pairs)
    return _measured(scores, kept, templates, paired, len(paired), left_out, without_group=alone)


def choose_captions(
    images: EncodedImages, templates: Sequence[str], encode: TextEncoder, seed: Sequence[int]
) -> Measured:
    """SugarCrepe's accuracy: the first caption of each image is above its others. Equal images are one group.

    Raises:
        DataError: no image has two captions.
    """
    asked = [
        row
        for row, item in enumerate(images.items)
        if len(item.captions) > 1 and not item.lacks_first and not item.unusable_captions
    ]
    if not asked:
        raise DataError("no image has a right caption and a wrong one: write both into the .txt, the right one first")
    captions = [caption for row in asked for caption in images.items[row].captions]
    texts_MD = _texts(captions, templates, encode)
    rows_of: dict[str, list[int]] = {}
    hits: list[float] = []
    start = 0
    for number, row in enumerate(asked):
        item = images.items[row]
        stop = start + len(item.captions)
        hits.append(choice_hit(query_scores(texts_MD[start:stop], images.features_ND[row])))
        rows_of.setdefault(item.digest or item.uid, []).append(number)
        start = stop
    chance = float(np.mean([1 / len(images.items[row].captions) for row in asked]))
    hits_G = [sum(hits[number] for number in numbers) for numbers in rows_of.values()]
    found = group_score(
        "accuracy", hits_G, [float(len(n)) for n in rows_of.values()], chance, np.random.default_rng(seed)
    )
    first = [images.items[asked[numbers[0]]] for numbers in rows_of.values()]
    return _measured(
        [found],
        PerImage(
            [item.uid for item in first],
            [item.uri for item in first],
            [item.captions[0] for item in first],
            asked=[asked_digest([images.items[asked[n]].captions for n in numbers]) for numbers in rows_of.values()],
        ),
        templates,
        [images.items[row] for row in asked],
        len(rows_of),
        len(images.items) - len(asked),
        questions=len(asked),
    )


def associate(images: EncodedImages, templates: Sequence[str], encode: TextEncoder, seed: Sequence[int]) -> Measured:
    """WinoGAViL's Jaccard index: as many images as are associated with a cue are chosen among its candidates.

    Raises:
        DataError: no cue has all of its candidates.
    """
    candidates: dict[str, list[tuple[int, bool]]] = {}
    cue_of: dict[str, str] = {}
    needed: dict[str, int] = {}
    mixed: set[str] = set()
    for row, item in enumerate(images.items):
        for cue in item.cues:
            candidates.setdefault(cue.group, []).append((row, cue.associated))
            if cue_of.setdefault(cue.group, cue.text) != cue.text:
                mixed.add(cue.group)
            needed[cue.group] = max(needed.get(cue.group, 0), cue.candidates)
    unusable = [group for item in images.items for group in item.unusable_cues]
    broken = {group for group in unusable if group} | mixed
    whole = [group for group, found in candidates.items() if group not in broken and _is_whole(found, needed[group])]
    if not whole:
        told = f" ({len(unusable):,} have no text, or an `associated` that is not true or false)" if unusable else ""
        raise DataError(f"no cue has its candidate images{told}: write `cues` into the .json of each image")
    texts_GD = _texts([cue_of[group] for group in whole], templates, encode)
    hits: list[float] = []
    for text_D, group in zip(texts_GD, whole, strict=True):
        rows, associated = (np.array(column) for column in zip(*candidates[group], strict=True))
        hits.append(jaccard(query_scores(images.features_ND[rows], text_D), associated))
    sizes_G = np.array([len(candidates[group]) for group in whole])
    chances_G = np.array([_chance(candidates[group]) for group in whole])
    rng = np.random.default_rng(seed)
    scores = [group_score("Jaccard", hits, np.ones(len(whole)), float(chances_G.mean()), rng)]
    for low, high in SIZES:
        part_G = (sizes_G >= low) & (sizes_G <= high)
        if MIN_GROUPS <= part_G.sum() < len(whole):
            name = f"Jaccard of {low} to {high} candidates"
            scores.append(
                group_score(
                    name, np.array(hits) * part_G, part_G.astype(np.float64), float(chances_G[part_G].mean()), rng
                )
            )
    shards = [images.items[candidates[group][0][0]].uri for group in whole]
    used = [images.items[row] for row in sorted({row for group in whole for row, _ in candidates[group]})]
    left_out = len(candidates.keys() | broken) - len(whole)
    asked = [
        asked_digest([cue_of[group], sorted((images.items[row].uid, right) for row, right in candidates[group])])
        for group in whole
    ]
    kept = PerImage(whole, shards, [cue_of[group] for group in whole], asked=asked)
    alone = sum(not item.cues and not item.unusable_cues for item in images.items)
    return _measured(
        scores, kept, templates, used, len(used), left_out, without_group=alone, unusable_cues=len(unusable)
    )


def article_of(cue: str) -> str:
    """`An` before a vowel's letter, else `A`: DataComp's prompt for a cue."""
    return "An" if cue[:1].lower() in set("aeiou") else "A"


def _is_whole(found: Sequence[tuple[int, bool]], needed: int) -> bool:
    """Whether a group has right and wrong candidates, each once, and as many as it says."""
    right, images = sum(associated for _, associated in found), len({row for row, _ in found})
    return 0 < right < len(found) == images and needed in (0, images)


def _chance(found: Sequence[tuple[int, bool]]) -> float:
    return chance_jaccard(len(found), sum(associated for _, associated in found))


def _texts(texts: Sequence[str], templates: Sequence[str], encode: TextEncoder) -> NDArray[np.float32]:
    """[len(texts), D] unit embeddings: a text is the mean of its prompts."""
    filled = [fill(template.replace(ARTICLE, article_of(text)), text) for text in texts for template in templates]
    return ensemble_prompts(encode(filled), len(texts))


def _measured(
    scores: Sequence[GroupScore],
    groups: PerImage,
    templates: Sequence[str],
    images: Sequence[BenchmarkImage],
    pictures: int,
    left_out: int,
    **rest: int,
) -> Measured:
    """Figures and hits of groups, of which `groups` says names and texts."""
    hits = {each.name: (each.hits_G, each.weights_G) for each in scores}
    figures = {
        "pictures": pictures,
        "groups_scored": len(groups.uids),
        "left_out": left_out,
        "templates": list(templates),
        "scores": [
            {"name": each.name, "value": each.value, "interval": list(each.interval), "chance": each.chance}
            | {"groups": int(np.count_nonzero(each.weights_G))}
            for each in scores
        ],
        **rest,
    }
    return Measured(figures, replace(groups, figures=hits), images)
