"""Caption concepts of the kept pairs, read from the filter's scores: the recipe parses each caption only once.

In: `filter/scores/SHARD.parquet`. Out: for each kept pair, in order, its uid, the names of objects and attributes, and
the objects that the caption credits ("clip art by NAME").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import Layout
from diht_k8s.data.shards.parquet import read_table
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage

COLUMNS: Final = ["uid", "kept", "objects", "attributes", "relations"]
CREDIT: Final = "by"
"""The preposition before authors, makers and owners.

Of 428 names after it in 10,000 captions of the web, about 20 were not credits ("by the door").
"""


@dataclass(frozen=True)
class KeptCaptions:
    """Rows of one kept shard, in its order."""

    uids: list[str]
    objects: list[list[str]]
    """each name once, in the order of the caption."""
    attributes: list[list[str]]
    credits: list[list[str]] = field(default_factory=list)
    """objects that stand after `by`: who made the image or the thing, or what something is near."""


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
            "run the stage filter again"
        )
    return KeptCaptions(
        uids=kept["uid"].to_pylist(),
        objects=[_distinct(names) for names in kept["objects"].to_pylist()],
        attributes=[_distinct(pair["attribute"] for pair in pairs or ()) for pairs in kept["attributes"].to_pylist()],
        credits=[_distinct(_credited(edges or ())) for edges in kept["relations"].to_pylist()],
    )


def _credited(edges: Iterable[Mapping[str, Any]]) -> Iterable[str | None]:
    """Objects of `by`, `draw by`, ..."""
    return (edge["object"] for edge in edges if edge["action"].split()[-1:] == [CREDIT])


def _distinct(names: Iterable[str | None] | None) -> list[str]:
    return list(dict.fromkeys(name for name in names or () if name))
