"""Drop repeated images from the kept shards (`filter.duplicates`) once all shards are filtered.

Workers share the search for repeats (`repeat_search`), then the shards, by claims, as for filtering.

Input: the kept shards, each with a file of fingerprints that was written before its scores. Output: kept shards and
scores without the pairs whose image repeats an earlier kept image of the pool (reason `duplicate`); the header of the
scores records that this was done. All kept images of the pool are compared, including those that are repeats
themselves, so the result does not depend on which worker runs when.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import pyarrow as pa

from diht_k8s.api.filter import Filter
from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.recipe.filter.kept_pairs import KeptPairs
from diht_k8s.recipe.filter.repeat_search import WORDS, RepeatSearch
from diht_k8s.recipe.filter.scores import Scores, read_scores
from diht_k8s.recipe.runtime.claims import Claims
from diht_k8s.recipe.runtime.stage import Context
from diht_k8s.recipe.shards.sources import Shard
from diht_k8s.recipe.shards.tables import write_table

REASON = "duplicate"


def write_fingerprints(context: Context, shard: Shard, bits: Sequence[bytes]) -> None:
    """Write the fingerprint of each kept pair of a shard."""
    table = pa.table({"bits": pa.array(bits, pa.binary(8 * WORDS))})
    header = {"schema_version": SCHEMA_VERSION, "config_sha256": context.config_sha256}
    write_table(context.storage, context.layout.fingerprints(shard.name), table, header)


def is_deduplicated(scores: Scores) -> bool:
    """Whether the repeats of a shard have been dropped."""
    return bool(scores.header.get("deduplicated"))


class Deduplication:
    """Drops repeats, shard by shard."""

    def __init__(self, context: Context, rules: Filter, shards: Sequence[Shard], claims: Claims) -> None:
        """Prepare.

        Args:
            context: the stage's context.
            rules: the run's rules.
            shards: all shards in order, all of them filtered.
            claims: record which worker works on which shard.
        """
        self._context, self._rules, self._shards, self._claims = context, rules, shards, claims
        self._done: set[str] = set()

    def run(self) -> tuple[bool, int]:
        """Find the repeats with the other workers, then process the shards that none of them has claimed.

        Returns:
            Whether there was anything to do, and the number of steps or shards that others have not finished yet.
        """
        own, workers = self._context.worker, self._context.workers
        order = sorted(range(len(self._shards)), key=lambda number: (number % workers != own, number))
        worked, waiting = False, 0
        for number in order:
            shard = self._shards[number]
            if shard.name in self._done:
                continue
            self._context.stop.raise_if_requested("finished shards are kept")
            scores = read_scores(self._context.storage, self._context.layout.scores(shard.name))
            if is_deduplicated(scores):
                self._done.add(shard.name)
                continue
            searched, others = self._search.run()
            if searched or others:
                return worked or searched, others
            if self._claims.take(f"{shard.name} duplicates"):
                self._drop_repeats(number, scores)
                self._done.add(shard.name)
                worked = True
            else:
                waiting += 1
        return worked, waiting

    @cached_property
    def _search(self) -> RepeatSearch:
        assert self._rules.duplicates is not None, "the stage checks that the run drops repeats"
        return RepeatSearch(self._context, self._rules.duplicates, self._shards, self._claims)

    def _drop_repeats(self, number: int, scores: Scores) -> None:
        context = self._context
        kept = [place for place, row in enumerate(scores.rows()) if row.kept]
        repeats = {kept[place] for place in self._search.places(number).tolist()}
        files = KeptPairs(context.storage, context.layout, self._rules.output)
        files.drop(self._shards[number].name, scores, repeats, REASON, mark="deduplicated")
