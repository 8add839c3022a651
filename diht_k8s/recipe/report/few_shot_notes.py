"""What the few-shot probe's curve says: where it is above the probe from scratch and where not, from its draws. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from diht_k8s.recipe.report.paired import holm, paired_differences, verdict

SEED: Final = 2024
"""Of the resamples: a page made twice is the same."""
LEAST_DRAWS: Final = 3
WORDS: Final = {"better": "above", "worse": "below", "not clearly different": "not clearly different from"}


def few_shot_verdicts(draws: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Shots -> whether the probe from zero-shot is `better`, `worse` or `not clearly different` than that from scratch.

    Both are fitted on the same draw of shots, so draws are the paired units; Holm's correction is over the numbers of
    shots. Numbers of shots with fewer than `LEAST_DRAWS` draws are left out.
    """
    by_shots: dict[int, list[Mapping[str, Any]]] = {}
    for draw in draws:
        by_shots.setdefault(draw["shots"], []).append(draw)
    tested = {shots: found for shots, found in sorted(by_shots.items()) if len(found) >= LEAST_DRAWS}
    differences = []
    for found in tested.values():
        scratch_FSN, probe_FSN = (np.array([[[draw[kind] for draw in found]]]) for kind in ("scratch", "probe"))
        rng = np.random.default_rng(SEED)
        differences += paired_differences(scratch_FSN, probe_FSN, np.ones((1, len(found))), rng)
    adjusted = holm([difference.p for difference in differences])
    return {
        shots: verdict(difference.value, p) for shots, difference, p in zip(tested, differences, adjusted, strict=True)
    }


def few_shot_notes(benchmark: Mapping[str, Any]) -> list[str]:
    """One sentence on probe and scratch, and why; none where the probe has no draws."""
    few_shot = benchmark.get("few_shot", {})
    verdicts = few_shot_verdicts(few_shot.get("draws", []))
    if not verdicts:
        return []
    parts = [
        f"{words} it at {_listed([shots for shots, found in verdicts.items() if found == kind])} shots per class"
        for kind, words in WORDS.items()
        if kind in verdicts.values()
    ]
    zero_shot, chance = few_shot["points"][0]["zero_shot"]["mean"], benchmark["chance"]
    draws = few_shot["points"][0]["draws"]
    note = (
        f"{benchmark['name']}: against the probe from scratch, the probe from zero-shot is {', '.join(parts)} (paired "
        f"over {draws} draws). Its prior is the zero-shot classifier, right for {100 * zero_shot:.1f}\N{NO-BREAK SPACE}% "
        f"where guessing gives {100 * chance:.1f}\N{NO-BREAK SPACE}%."
    )
    if "worse" in verdicts.values():
        note += " A ball around a weak prior holds the probe back as soon as the shots say more than the prior."
    return [note]


def _listed(numbers: Sequence[int]) -> str:
    texts = [str(number) for number in numbers]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
