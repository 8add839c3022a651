"""Whether the figures of two columns differ: paired over the images that both saw, corrected for their number. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from diht_k8s.recipe.report.overview import headlines
from diht_k8s.recipe.report.paired import holm, paired_differences, verdict
from diht_k8s.recipe.report.per_image import PerImage

Json = dict[str, Any]
Run = tuple[Mapping[str, Any], Mapping[str, PerImage]]
"""A report, and the images of its benchmarks by name."""

SEED: Final = 2024
"""Of the resamples: a comparison printed twice is the same."""
EXAMPLES: Final = 6
NOT_PAIRED: Final = "not the same images"
NO_IMAGES: Final = "no images are kept: run the stage evaluate again"


def differences_of(first: Sequence[Run], second: Sequence[Run]) -> dict[tuple[str, str], Json]:
    """(benchmark, headline figure) -> difference of two columns, each of one or more seeds.

    Holm's correction covers all figures of the two columns. A figure without paired images has only `why`.
    """
    found: dict[tuple[str, str], Json] = {}
    for result in first[0][0]["benchmarks"]:
        names = [head["metric"] for head in headlines(result)]
        if not all(any(other["name"] == result["name"] for other in run[0]["benchmarks"]) for run in second):
            continue
        for name, difference in zip(names, _benchmark(result["name"], names, first, second), strict=True):
            found[result["name"], name] = difference
    tested = [difference for difference in found.values() if "p" in difference]
    for difference, p in zip(tested, holm([each["p"] for each in tested]), strict=True):
        difference |= {"adjusted_p": p, "verdict": verdict(difference["value"], p)}
    return found


def _benchmark(name: str, figures: Sequence[str], first: Sequence[Run], second: Sequence[Run]) -> list[Json]:
    sides = [[kept.get(name) for _, kept in runs] for runs in (first, second)]
    if any(images is None for side in sides for images in side):
        return [{"why": NO_IMAGES} for _ in figures]
    reference = sides[0][0]
    assert reference is not None
    ordered = [[None if each is None else each.in_order_of(reference.uids) for each in side] for side in sides]
    if any(images is None for side in ordered for images in side):
        return [{"why": NOT_PAIRED} for _ in figures]
    hits = [
        np.stack([[each.figures[figure][0] for each in side if each is not None] for figure in figures])
        for side in ordered
    ]
    weights_FN = np.stack([reference.figures[figure][1] for figure in figures])
    seeds = [[run[0]["run"]["seed"] for run in runs] for runs in (first, second)]
    rng = np.random.default_rng(SEED)
    found = paired_differences(hits[0], hits[1], weights_FN, rng, same_seeds=seeds[0] == seeds[1])
    return [{"value": each.value, "interval": [each.low, each.high], "p": each.p} for each in found]


def changed_images(first: Run, second: Run) -> list[Json]:
    """For each benchmark of both: the images that one side gets right and the other does not, and how many."""
    found: list[Json] = []
    for result in first[0]["benchmarks"]:
        heads = headlines(result)
        ours, theirs = first[1].get(result["name"]), second[1].get(result["name"])
        aligned = None if ours is None or theirs is None else theirs.in_order_of(ours.uids)
        if not heads or ours is None or aligned is None or (figure := heads[0]["metric"]) not in aligned.figures:
            continue
        gains_N = aligned.figures[figure][0] - ours.figures[figure][0]
        part: Json = {"name": result["name"], "figure": figure}
        for kind, rows in (
            ("wins", np.argsort(-gains_N, kind="stable")),
            ("losses", np.argsort(gains_N, kind="stable")),
        ):
            changed = [int(row) for row in rows if (gains_N[row] > 0 if kind == "wins" else gains_N[row] < 0)]
            part[kind] = len(changed)
            part[f"{kind}_shown"] = [
                {"uid": ours.uids[row], "shard": ours.shards[row], "text": ours.texts[row]}
                for row in changed[:EXAMPLES]
            ]
        found.append(part)
    return found
