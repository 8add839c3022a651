"""Each image's hits in a benchmark's figures, as a Parquet file beside the result, for comparisons to resample.

Columns: `uid`, `shard`, `text` (its class or first caption), `asked` (a digest), and for each figure, named as in the report, `FIGURE` (the
hits of the image's queries, possibly fractional) and `FIGURE weight` (the most that they can be). A figure is sum(hits)
/ sum(weights). Mean average precisions are no such sums: of each class `CLASS score` and `CLASS truth` are kept.
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
