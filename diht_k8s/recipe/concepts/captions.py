"""Caption concepts of the kept pairs, read from the filter's scores: captions are parsed once in the whole recipe.

In: `filter/scores/SHARD.parquet`. Out: for each row of `kept/SHARD.tar`, in its order, the uid and the names of objects and attributes.
"""

from __future__ import annotations

from dataclasses import dataclass

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import Layout
from diht_k8s.recipe.shards.sets import Shard
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.shards.tables import read_table

COLUMNS = ["uid", "kept", "objects", "attributes"]


@dataclass(frozen=True)
class KeptCaptions:
    """Rows of one kept shard, in its order."""

    uids: list[str]
    objects: list[list[str]]
    """each name once, in the order of the caption."""
    attributes: list[list[str]]


def read_captions(storage: Storage, layout: Layout, shard: Shard) -> KeptCaptions:
    """The caption concepts of one kept shard.

    Raises:
        DataError: the scores and the filter's report disagree about the number of kept pairs.
    """
    table, _ = read_table(storage, layout.scores(shard.name), columns=COLUMNS)
    kept = table.filter(table["kept"])
    if shard.samples is not None and kept.num_rows != shard.samples:
        raise DataError(
            f"{layout.scores(shard.name)} has {kept.num_rows} kept rows where the filter counted {shard.samples}: "
            "run the stage filter again with --replace"
        )
    return KeptCaptions(
        uids=kept["uid"].to_pylist(),
        objects=[_distinct(names) for names in kept["objects"].to_pylist()],
        attributes=[_distinct(pair["attribute"] for pair in pairs or ()) for pairs in kept["attributes"].to_pylist()],
    )


def _distinct(names: object) -> list[str]:
    return list(dict.fromkeys(name for name in names or () if name))  # type: ignore[attr-defined]
