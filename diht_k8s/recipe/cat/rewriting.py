"""Write a shard's kept pairs and scores anew, without pairs that have to go after the fact (takedowns, repeats)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from diht_k8s.recipe.cat.judging import new_row
from diht_k8s.recipe.cat.scores import Row, to_batch
from diht_k8s.recipe.shards.samples import ContentDigest, read_samples, write_samples
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.shards.tables import write_table

_BATCH: Final = 1024


def rewrite_kept(storage: Storage, uri: str, gone: Collection[tuple[str, str]], *, empty: bool) -> dict[str, Any]:
    """Write a kept shard without some pairs; where they have gone already, nothing changes.

    Args:
        storage: where it lies.
        uri: the kept shard.
        gone: key and uid of each pair that goes.
        empty: whether none is left.

    Returns:
        Size and digest of what is left.
    """
    digest = ContentDigest()

    def left() -> Iterator[tuple[str, Mapping[str, bytes]]]:
        for sample in read_samples(storage, uri):
            row = new_row("", sample)
            if (row.index, row.uid) not in gone:
                yield sample.key, sample.members

    write_samples(storage, uri, () if empty else left(), digest=digest)
    return {"size": digest.size, "sha256": digest.sha256}


def write_scores(storage: Storage, uri: str, rows: Sequence[Row], header: dict[str, Any]) -> None:
    """Write the rows of a shard."""
    batches = [to_batch(rows[start : start + _BATCH]) for start in range(0, len(rows), _BATCH)]
    write_table(storage, uri, pa.Table.from_batches(batches), header)
