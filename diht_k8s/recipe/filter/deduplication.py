"""Drop repeated images from the kept shards (`filter.duplicates`) once all shards are filtered.

Workers share the search for repeats (`repeat_search`), then the shards (`whole_pool`).

Input: the kept shards, each with a file of fingerprints that was written before its scores. Output: kept shards and
scores without the pairs whose image repeats an earlier kept image of the pool (reason `duplicate`); the header of the
scores records that this was done. All kept images of the pool are compared, including those that are repeats
themselves, so the result does not depend on which worker runs when.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import pyarrow as pa

from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.recipe.filter.repeat_search import WORDS, RepeatSearch
from diht_k8s.recipe.filter.scores import Scores
from diht_k8s.recipe.filter.whole_pool import WholePoolRule
from diht_k8s.recipe.runtime.stage import Context
from diht_k8s.recipe.shards.sources import Shard
from diht_k8s.recipe.shards.tables import write_table


def write_fingerprints(context: Context, shard: Shard, bits: Sequence[bytes]) -> None:
    """Write the fingerprint of each kept pair of a shard."""
    table = pa.table({"bits": pa.array(bits, pa.binary(8 * WORDS))})
    header = {"schema_version": SCHEMA_VERSION, "config_sha256": context.config_sha256}
    write_table(context.storage, context.layout.fingerprints(shard.name), table, header)


class Deduplication(WholePoolRule):
    """Drops repeats."""

    mark, claim, reason = "deduplicated", "duplicates", "duplicate"

    def search(self) -> tuple[bool, int]:
        """Find the repeats with the other workers."""
        return self._repeats.run()

    def drops(self, number: int, scores: Scores) -> set[int]:
        """The kept pairs that repeat an earlier image."""
        kept = [place for place, row in enumerate(scores.rows()) if row.kept]
        return {kept[place] for place in self._repeats.places(number).tolist()}

    @cached_property
    def _repeats(self) -> RepeatSearch:
        assert self.rules.duplicates is not None, "the stage checks that the run drops repeats"
        return RepeatSearch(self.context, self.rules.duplicates, self.shards, self.claims)
