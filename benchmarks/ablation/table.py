"""The ablation's Markdown table: means over seeds, paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.ablation.arms import ARMS, SHOWN
from diht_k8s.report.paired_bootstrap import Difference, holm, paired_differences, verdict
from diht_k8s.report.per_image import PerImage

TITLES: Final = {"r5": "R@5", "r1": "R@1", "mrr": "MRR", "zero_shot": "zero-shot"}
DISTILLED, CONTROLS = "distill", ("distill_shuffled", "distill_untrained")
SEED: Final = 2024
"""Of the resamples: a table printed twice is the same."""

Kept = Mapping[tuple[str, int], PerImage]
Pair = tuple[str, str | None]
"""An arm, and the one that it is compared with."""


@dataclass(frozen=True)
class Column:
    """A figure of some images."""

    title: str
    kept: Kept
    """(arm, seed) -> hits by image."""
    figure: str
    tested: bool = True
    """an untested column is shown with intervals, and nothing in it is bold."""


@dataclass(frozen=True)
class Cell:
    """An arm's figure, and its difference to another arm's."""

    level: float
    """as a share."""
    difference: Difference | None
    decided: bool
    """whether it is clearly different after Holm's correction over the table."""

    def __str__(self) -> str:
        """In percent, and in points; bold where it is clearly different."""
        if (each := self.difference) is None:
            return f"{100 * self.level:.1f}"
        text = f"{100 * each.value:+.1f} ({100 * each.low:+.1f} to {100 * each.high:+.1f})"
        return f"{100 * self.level:.1f}, {f'**{text}**' if self.decided else text}"


def pairs_of(arms: Iterable[str]) -> list[Pair]:
    """Each arm of the ablation with the one that it is compared with, and distillation with its controls."""
    known, trained = {arm.name: arm for arm in ARMS}, set(arms)
    pairs: list[Pair] = []
    for name in (arm.name for arm in ARMS if arm.name in trained):
        against = known[name].against
        pairs.append((name, against if against in trained else None))  # what was not trained is not compared with
        pairs += [(name, control) for control in CONTROLS if name == DISTILLED and control in trained]
    return pairs


def table(columns: Sequence[Column], pairs: Sequence[Pair]) -> str:
    """Markdown.

    Args:
        columns: what is shown.
        pairs: a row each, of the seeds that both arms have; one without common seeds is left out.
    """
    found = cells_of(columns, pairs)
    if not found:
        return "No two arms have a seed in common yet."
    titles = ["arm", "against", *(column.title for column in columns), "seeds"]
    rows = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for pair, cells in found.items():
        against = "" if pair[1] is None else f"`{pair[1]}`"
        rows.append(
            f"| `{pair[0]}` | {against} | {' | '.join(map(str, cells))} | {len(common_seeds(columns[0].kept, pair))} |"
        )
    return "\n".join(rows)


def cells_of(columns: Sequence[Column], pairs: Sequence[Pair]) -> dict[Pair, list[Cell]]:
    """Each pair that has a common seed -> its figure in each column, decided after Holm's correction over all that is
    tested.
    """
    seeds = {pair: common_seeds(columns[0].kept, pair) for pair in pairs}
    shown = [pair for pair in pairs if seeds[pair]]
    found = [[_difference(column, pair, seeds[pair]) for column in columns] for pair in shown]
    tested = [
        each.p for row in found for each, column in zip(row, columns, strict=True) if each is not None and column.tested
    ]
    adjusted = iter(holm(tested))
    return {
        pair: [
            Cell(
                _level(column, pair[0], seeds[pair]),
                each,
                each is not None and column.tested and verdict(each.value, next(adjusted)) in ("better", "worse"),
            )
            for each, column in zip(differences, columns, strict=True)
        ]
        for pair, differences in zip(shown, found, strict=True)
    }


def legend(arms: Iterable[str]) -> str:
    """What the arms are, a line each."""
    chosen = set(arms)
    return "\n".join(f"- `{arm.name}`: {arm.what}" for arm in ARMS if arm.name in chosen)


def figure_columns(kept: Kept) -> list[Column]:
    """Those figures that the images have, each tested."""
    there = next(iter(kept.values())).figures
    return [Column(TITLES[figure], kept, figure) for figure in SHOWN if figure in there]


def common_seeds(kept: Kept, pair: Pair) -> list[int]:
    """The seeds that both arms have."""
    return sorted(set.intersection(*({seed for name, seed in kept if name == arm} for arm in pair if arm is not None)))


def _level(column: Column, arm: str, seeds: Sequence[int]) -> float:
    shares = [hits_N.sum() / weights_N.sum() for hits_N, weights_N in _parts(column, arm, seeds)]
    return float(np.mean(shares))


def _difference(column: Column, pair: Pair, seeds: Sequence[int]) -> Difference | None:
    """Paired over images and seeds; None without another arm."""
    arm, against = pair
    if against is None:
        return None
    parts = [_parts(column, name, seeds) for name in (against, arm)]
    first_1SN, second_1SN = (np.stack([hits_N for hits_N, _ in part])[None] for part in parts)
    weights_1N = parts[1][0][1][None]
    rng = np.random.default_rng(SEED)
    return paired_differences(first_1SN, second_1SN, weights_1N, rng, same_seeds=True)[0]


def _parts(column: Column, arm: str, seeds: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [column.kept[arm, seed].figures[column.figure] for seed in seeds]
