"""The filter of a part of a table: rules on captions, and on sizes where the table has them. No image is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from diht_k8s.api.filter import Filter, TextSpotting
from diht_k8s.data.imports.url_tables import rows_of_part
from diht_k8s.data.shards.samples import Sample, SamplePlaces
from diht_k8s.data.shards.sources import Shard
from diht_k8s.runtime.claims import Claims
from diht_k8s.runtime.stage import Context
from diht_k8s.stages.filter.caption_tables.download_list import DownloadList
from diht_k8s.stages.filter.caption_tables.table_parts import read_rows, sizes_of
from diht_k8s.stages.filter.rules import has_bad_shape
from diht_k8s.stages.filter.scores import Row
from diht_k8s.stages.filter.shard_filter import ShardFilter

BATCH: Final = 1024
"""Rows per batch: they are small, and the parser is faster with more captions (half a second's work)."""


def without_images(rules: Filter) -> Filter:
    """The rules that a caption pass can apply; the later pass over the downloaded shards applies the others."""
    return rules.model_copy(
        update={
            "text_spotting": TextSpotting(mode="Disabled"),
            "clip_score": None,
            "duplicates": None,
            "decontaminate": [],
            "junk_field": None,
        }
    )


class TableFilter(ShardFilter):
    """Filters the parts of the tables of one run, one at a time; all but reading and image rules is as with shards."""

    batch = BATCH

    def __init__(
        self, context: Context, rules: Filter, shards: Sequence[Shard], own: Sequence[Shard], claims: Claims
    ) -> None:
        """Prepare; the parser is loaded with the first caption.

        Args:
            context: the stage's context.
            rules: what `without_images` gives.
            shards: all parts of the stage.
            own: this worker's share of them.
            claims: record which worker works on which group.
        """
        numbers = [limit.name for limit in rules.metadata_limits]
        super().__init__(context, rules, shards, own, claims, DownloadList(context.storage, context.layout, numbers))
        self._caption_scores = None  # another pass over the same tables has the same parts

    def _read(self, shard: Shard, places: SamplePlaces) -> Iterator[Sample]:
        return read_rows(self._context.storage, shard, self._rules)

    def _number_read(self, shard: Shard, places: SamplePlaces) -> int | None:
        return None if shard.part is None else rows_of_part(shard.uri, shard.part)

    def _apply_rules(self, shard: Shard, batch: Sequence[Sample], known: Sequence[Row | None]) -> list[Row]:
        rows, _ = self._rule_chain.apply_to_captions(shard.name, batch, known, filtered=shard.filtered)
        for row, sample in zip(rows, batch, strict=True):
            sizes = sizes_of(sample)
            if not row.reason and shard.filtered and sizes is not None and has_bad_shape(sizes, self._rules):
                row.reason = "size"
            row.kept = not row.reason
        return rows
