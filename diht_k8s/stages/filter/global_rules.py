"""Rules on the whole pool, applied once all shards are filtered: the workers' part around each rule's search.

Workers share the search, then the shards, by claims, as for filtering. Input: the scores of all shards. Output: kept pairs
and scores without what the rule drops; the header of the scores records that it was applied.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from diht_k8s.api.filter import Filter
from diht_k8s.data.shards.sources import Shard
from diht_k8s.runtime.claims import Claims
from diht_k8s.runtime.stage import Context
from diht_k8s.stages.filter.kept_pairs import KeptPairs
from diht_k8s.stages.filter.scores import Scores, header_of, read_scores


class GlobalRule(ABC):
    """A rule that drops kept pairs, shard by shard, by what it knows of all of them."""

    mark: ClassVar[str]
    """name in the header of the scores that says that the rule was applied."""
    claim: ClassVar[str]
    """what the names of its claims end with."""
    reason: ClassVar[str]
    """of the pairs that it drops."""

    def __init__(self, context: Context, rules: Filter, shards: Sequence[Shard], claims: Claims) -> None:
        """Prepare.

        Args:
            context: the stage's context.
            rules: the run's rules.
            shards: all shards in order; filtered, and the rules before this one applied.
            claims: record which worker works on what.
        """
        self.context, self.rules, self.shards, self.claims = context, rules, shards, claims
        self._done: set[str] = set()

    @classmethod
    def is_applied(cls, header: Mapping[str, Any]) -> bool:
        """Whether the rule has dropped its pairs from the shard with this header of its scores."""
        return bool(header.get(cls.mark))

    @abstractmethod
    def search(self) -> tuple[bool, int]:
        """Work on what must be known of the pool.

        Returns:
            Whether there was anything to do, and the number of steps that others have not finished yet; (False, 0) once
            it is known.
        """

    @abstractmethod
    def drops(self, number: int, scores: Scores) -> Collection[int]:
        """The rows of a shard that the rule drops."""

    def run(self) -> tuple[bool, int]:
        """Search with the other workers, then process the shards that none of them has claimed.

        Returns:
            Whether there was anything to do, and the number of steps or shards that others have not finished yet.
        """
        own, workers = self.context.worker, self.context.workers
        order = sorted(range(len(self.shards)), key=lambda number: (number % workers != own, number))
        worked, waiting = False, 0
        for number in order:
            shard = self.shards[number]
            if shard.name in self._done:
                continue
            self.pause()
            if self.is_applied(header_of(self.context.storage, self.scores_uri(shard))):
                self._done.add(shard.name)
                continue
            searched, others = self.search()
            if searched or others:
                return worked or searched, others
            if self.claims.take(f"{shard.name} {self.claim}"):
                self._drop(number)
                self._done.add(shard.name)
                worked = True
            else:
                waiting += 1
        return worked, waiting

    def scores_uri(self, shard: Shard) -> str:
        """The scores of a shard."""
        return self.context.layout.scores(shard.name)

    def pause(self) -> None:
        """Where the work may stop."""
        self.context.stop.raise_if_requested("finished shards are kept")

    def _drop(self, number: int) -> None:
        context, shard = self.context, self.shards[number]
        scores = read_scores(context.storage, self.scores_uri(shard))
        files = KeptPairs(context.storage, context.layout, self.rules.output)
        files.drop(shard.name, scores, self.drops(number, scores), self.reason, mark=self.mark)
