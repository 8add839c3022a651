"""Each image's hits in a benchmark's figures, as a Parquet file beside the result, and paired differences made of them.

Columns: `uid`, `shard`, `text` (its class or first caption), `asked` (a digest), and for each figure, named as in the
report, `FIGURE` (the hits of the image's queries, possibly fractional) and `FIGURE weight` (the most that they can be).
A figure is sum(hits) / sum(weights). Mean average precisions are no such sums: of each class `CLASS score` and `CLASS
truth` are kept.

Two models that are compared were asked the same questions, so the interval is that of the difference: images are
resampled for both at once, and seeds too where a side has several; Holm's correction is over several figures. An
interval of one model's figure beside the point of another is wider than that and decides wrongly in both directions.

Shapes: F figures, S and T seeds of the two sides, N images, B and R resamples.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa


from collections.abc import Callable

WEIGHT: Final = " weight"
SCORE: Final = " score"
TRUTH: Final = " truth"
Array = NDArray[np.float64]


def per_image_path(number: int) -> str:
    """The file of a run's benchmark, relative to the stage's folder; numbers start at 0."""
    return f"benchmarks/{number:03d}.parquet"


@dataclass(frozen=True)
class PerImage:
    """N images and their hits."""

    uids: list[str]
    shards: list[str]
    texts: list[str]
    figures: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    """figure -> [N] hits and [N] weights."""
    rankings: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    """class -> [N] scores and [N] truth, see `average_precision`."""
    asked: list[str] = field(default_factory=list)
    """digest of all that was asked about each image, see `asked_digest`; empty where it was not kept."""

    def in_order_of(self, uids: Sequence[str]) -> PerImage | None:
        """The same images in another order; None if they are not the same, or a uid stands for several places."""
        if list(uids) == self.uids:  # copies of an image share a uid, and stand in the same places on both sides
            return self
        place = {uid: row for row, uid in enumerate(self.uids)}
        if len(place) != len(self.uids) or len(uids) != len(self.uids) or place.keys() != set(uids):
            return None
        rows = np.array([place[uid] for uid in uids], dtype=np.int64)
        figures, rankings = (
            {name: (first_N[rows], second_N[rows]) for name, (first_N, second_N) in parts.items()}
            for parts in (self.figures, self.rankings)
        )
        shards, texts = [self.shards[row] for row in rows], [self.texts[row] for row in rows]
        return PerImage(list(uids), shards, texts, figures, rankings, [self.asked[row] for row in rows if self.asked])


def write_per_image(storage: Storage, uri: str, found: PerImage) -> None:
    """Write the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, object] = {"uid": list(found.uids), "shard": list(found.shards), "text": list(found.texts)}
    if found.asked:
        columns["asked"] = list(found.asked)
    for name, (hits_N, weights_N) in found.figures.items():
        columns |= {name: hits_N, name + WEIGHT: weights_N}
    for name, (scores_N, truth_N) in found.rankings.items():
        columns |= {name + SCORE: scores_N, name + TRUTH: truth_N}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    storage.write_bytes(uri, buffer.getvalue())


def read_per_image(storage: Storage, uri: str) -> PerImage | None:
    """Read the file; None if it is not there (results of earlier versions have none).

    Raises:
        DataError: it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not storage.exists(uri):
        return None
    try:
        table = pq.read_table(io.BytesIO(storage.read_bytes(uri)))
        figures, rankings = _pairs(table, "", WEIGHT), _pairs(table, SCORE, TRUTH)
        uids, shards, texts = (table[name].to_pylist() for name in ("uid", "shard", "text"))
        asked = table["asked"].to_pylist() if "asked" in table.column_names else []
        if not all(np.isfinite(part_N).all() for parts in (*figures.values(), *rankings.values()) for part_N in parts):
            raise ValueError("a hit is not finite")  # a test of NaN finds a difference
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise DataError(f"{uri} is damaged ({error}): run the stage evaluate again") from error
    return PerImage(uids, shards, texts, figures, rankings, asked)


def _pairs(table: pa.Table, first: str, second: str) -> dict[str, tuple[Array, Array]]:
    """Name -> the columns NAME`first` and NAME`second`."""
    names = [column.removesuffix(second) for column in table.column_names if column.endswith(second)]
    both = {name: (table[name + first].to_numpy(), table[name + second].to_numpy()) for name in names}
    return {name: (one_N.astype(np.float64), other_N.astype(np.float64)) for name, (one_N, other_N) in both.items()}


RESAMPLES: Final = 10_000
ALPHA: Final = 0.05
"""Level of the test: the chance of a difference on the page where there is none."""
_BLOCK_VALUES: Final = 1 << 22
"""Values in a block of resampling weights, which bounds memory."""

_ROUNDING: Final = 1e-12

Figures = Callable[[Array], Array]
"""[B, N] -> [B, F, S]."""


@dataclass(frozen=True)
class Difference:
    """Second minus first, of a rate."""

    value: float
    low: float
    """lower end of the 95 % interval."""
    high: float
    p: float
    """two-sided, before any correction; never below 2 / RESAMPLES."""


def paired_differences(
    first_FSN: Array, second_FTN: Array, weights_FN: Array, rng: np.random.Generator, *, same_seeds: bool = False
) -> list[Difference]:
    """The differences of sum(hits) / sum(weights) between two models, over resampled images and seeds.

    All figures see the same resamples. With one seed on a side the interval covers the choice of images only. A
    resample of S seeds scatters too little; what it lacks, to Student's t of S - 1 degrees, is drawn with it. Without
    it 49, 26, 17 and 10 % of simulated pairs of 2, 3, 5 and 10 seeds that differed by chance were called different,
    with it 5 to 6 %, and
    0.6 to 1.0 % at 0.83 %, the first level of Holm's correction over six.

    Args:
        first_FSN: hits of each image, possibly fractional, for each figure and seed.
        second_FTN: the same images for the other model.
        weights_FN: the most hits that each image can have.
        rng: source of the draws.
        same_seeds: row s of both sides has the same seed, so seeds are drawn in pairs.

    Raises:
        ValueError: the sides do not have the same images, or there is no image.
    """
    if first_FSN.shape[::2] != weights_FN.shape or second_FTN.shape[::2] != weights_FN.shape:
        raise ValueError(f"{first_FSN.shape} and {second_FTN.shape} hits for {weights_FN.shape} weights")
    return resampled_differences(
        lambda drawn_BN: _rates(drawn_BN, first_FSN, weights_FN),
        lambda drawn_BN: _rates(drawn_BN, second_FTN, weights_FN),
        (weights_FN.shape[1], first_FSN.shape[1], second_FTN.shape[1]),
        rng,
        same_seeds=same_seeds,
    )


def resampled_differences(
    first: Figures, second: Figures, sizes: tuple[int, int, int], rng: np.random.Generator, *, same_seeds: bool = False
) -> list[Difference]:
    """The same of figures that are no rates.

    Args:
        first: [B, N] how often each resample has each image -> [B, F, S] the first model's figures.
        second: the same of the other model, [B, F, T].
        sizes: N, S and T.
        rng: source of the draws.
        same_seeds: see `paired_differences`.

    Raises:
        ValueError: there is no image.
    """
    images, first_seeds, second_seeds = sizes
    if not images:
        raise ValueError("a difference of no images")
    once_1N = np.ones((1, images))
    values_F = (second(once_1N).mean(axis=2) - first(once_1N).mean(axis=2))[0]
    block = max(1, _BLOCK_VALUES // images)
    draws: list[Array] = []
    for start in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - start)
        drawn_BN = np.stack([np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(size)])
        drawn_BN = drawn_BN.astype(np.float64)
        first_BS, second_BT = _seed_shares(first_seeds, second_seeds, size, rng, same_seeds)
        draws.append(
            (second(drawn_BN) * second_BT[:, None]).sum(axis=2) - (first(drawn_BN) * first_BS[:, None]).sum(axis=2)
        )
    # a resample of n has (n - 1) / n of the variance: without this, small sets would find too much
    draws_RF = values_F + (np.concatenate(draws) - values_F) * np.sqrt(images / max(1, images - 1))
    return [_difference(float(value), draws_R) for value, draws_R in zip(values_F, draws_RF.T, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, so that the chance of any false difference stays at the level (Holm
    1979).
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(value: float, adjusted_p: float) -> str:
    """`better`, `worse` or `not clearly different`, after the correction."""
    if adjusted_p > ALPHA:
        return "not clearly different"
    return "better" if value > 0 else "worse"


def _difference(value: float, draws_R: Array) -> Difference:
    low, high = np.quantile(draws_R, [ALPHA / 2, 1 - ALPHA / 2])
    tail = min(np.mean(draws_R <= _ROUNDING), np.mean(draws_R >= -_ROUNDING))
    return Difference(value, float(low), float(high), p=float(min(1.0, max(2 * tail, 2 / RESAMPLES))))


def _rates(drawn_BN: Array, hits_FSN: Array, weights_FN: Array) -> Array:
    """[B, F, S] sum(hits) / sum(weights) of each resample."""
    figures, seeds, images = hits_FSN.shape
    sums_BFS = (drawn_BN @ hits_FSN.reshape(-1, images).T).reshape(-1, figures, seeds)
    return sums_BFS / np.maximum(drawn_BN @ weights_FN.T, 1e-12)[:, :, None]


def _seed_shares(first: int, second: int, size: int, rng: np.random.Generator, same_seeds: bool) -> tuple[Array, Array]:
    """[B, S] and [B, T] share of each seed in each resample, possibly negative; rows sum to 1."""
    first_BS = _drawn_shares(first, size, rng)
    return first_BS, first_BS if same_seeds else _drawn_shares(second, size, rng)


def _drawn_shares(seeds: int, size: int, rng: np.random.Generator) -> Array:
    """[B, S] shares whose deviations from equal ones make the mean of S values scatter as Student's t of S - 1
    degrees.
    """
    if seeds == 1:
        return np.ones((size, 1))
    drawn_BS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=size) / seeds
    factor_B1 = np.sqrt(seeds / rng.chisquare(seeds - 1, size=(size, 1)))  # of S / (S - 1) and (S - 1) / chi squared
    return 1 / seeds + factor_B1 * (drawn_BS - 1 / seeds)
