"""The groups of shards that one worker filters: those that it claims, shard by shard, and their summaries.

A shard is done when its scores exist with this run's configuration. A worker claims a group before it filters it (see
`runtime.claims`), and writes the group's summary behind its last shard. Listings say what is done: 1,000 names a
request in place of one for each shard.
"""

from __future__ import annotations

from collections.abc import Sequence

from diht_k8s.api.errors import DihtError
from diht_k8s.api.filter import Filter
from diht_k8s.api.layout import join
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.sources import Shard, ShardGroup
from diht_k8s.runtime.bad_shards import Damage
from diht_k8s.runtime.claims import Claims, ShardProgress
from diht_k8s.runtime.stage import Context
from diht_k8s.stages.filter.clip_score import keeps_top_fraction
from diht_k8s.stages.filter.group_summaries import FilteredShard, GroupSummaries
from diht_k8s.stages.filter.scores import Scores, open_scores
from diht_k8s.stages.filter.shard_filter import ShardFilter


def is_done(scores: Scores, context: Context) -> bool:
    """Whether the scores of a shard have this run's configuration."""
    return scores.header["config_sha256"] == context.config_sha256


class GroupFilter:
    """One worker's part of the filtering of a stage's groups."""

    def __init__(
        self,
        context: Context,
        rules: Filter,
        groups: Sequence[ShardGroup],
        claims: Claims,
        shard_filter: ShardFilter,
    ) -> None:
        """Prepare; nothing is listed yet.

        Args:
            context: the stage's context.
            rules: the run's rules.
            groups: all groups of the stage.
            claims: record which worker works on which group.
            shard_filter: filters a shard.
        """
        self._context, self._rules, self._groups = context, rules, groups
        self._claims, self._shard_filter = claims, shard_filter
        self._scored = frozenset[str]()
        """names of the shards with scores, as last listed."""
        self._summaries = GroupSummaries(context, final=rules.duplicates is None and not keeps_top_fraction(rules))
        self._shard_progress = ShardProgress(context, "scores")
        self._counted = set[int]()
        """numbers of the groups that the progress counts as done."""

    def run(self) -> tuple[bool, int]:
        """Filter the groups that are neither done nor another's; what `filter` raises.

        Returns:
            Whether there was one, and the number of groups that were not done.
        """
        missing = self._missing(self._groups)
        return self._filter_missing(missing, missing), len(missing)

    def filter(self, groups: Sequence[ShardGroup]) -> bool:
        """Filter groups as far as they are neither done nor another's; returns whether there was one.

        Raises:
            StopRequested: between batches, after a signal.
            DataError: more shards are damaged than the run allows.
            UserError: `scoresFrom` holds no matching scores.
        """
        return self._filter_missing(groups, self._missing(groups))

    def _missing(self, groups: Sequence[ShardGroup]) -> list[ShardGroup]:
        """The groups without a summary, in reverse order, because their owners start with the first."""
        self._scored = whole = self._shards("scores")
        if self._rules.duplicates is not None:
            whole = whole & self._shards("fingerprints")
        done = self._summaries.written(groups, whole)
        return [group for group in reversed(groups) if group.number not in done]

    def _shards(self, folder: str) -> frozenset[str]:
        """The shards with a file in a folder of the stage."""
        names = self._context.storage.names(join(self._context.layout.stage(Stage.FILTER), folder))
        return frozenset(name.removesuffix(".parquet") for name in names)

    def _filter_missing(self, groups: Sequence[ShardGroup], missing: Sequence[ShardGroup]) -> bool:
        worked, numbers = False, {group.number for group in missing}
        for group in groups:
            self._raise_if_stopped()
            if group.number not in numbers:
                self._count(group)
                continue
            if self._claims.take(group.name):
                worked = True
                self._filter_group(group, sure=not self._claims.took_over)
        return worked

    def _filter_group(self, group: ShardGroup, *, sure: bool) -> None:
        """Filter the shards of a claimed group that are not done; `sure` says that the listing knows all that are."""
        found = list[FilteredShard]()
        try:
            for shard in group.shards:
                self._raise_if_stopped()
                if len(group.shards) > 1:
                    self._claims.work_on(shard.name)
                before = self._read_scores(shard, sure=sure)
                if before is not None and self._is_filtered(shard, before[0]):
                    found.append(self._filtered_before(shard, *before))
                else:
                    if before is not None:
                        self._summaries.forget(group)
                    found.append(self._filter_shard(shard, None if before is None else before[0]))
            self._summaries.write(group, found)
            self._counted.add(group.number)
        except DihtError:
            self._claims.give_up(group.name)
            raise

    def _filter_shard(self, shard: Shard, before: Scores | None) -> FilteredShard:
        self._shard_filter.progress.begin(shard)
        found = self._shard_filter.filter(shard, before)
        self._shard_progress.shard_done()
        self._finish(shard, found.header["summary"]["input"])
        return found

    def _filtered_before(self, shard: Shard, scores: Scores, content: bytes) -> FilteredShard:
        if "damage" in scores.header:
            self._shard_filter.bad_shards.add(shard.uri, Damage(**scores.header["damage"]))
        self._finish(shard, scores.header["summary"]["input"], skipped=True)
        return FilteredShard.of(shard, scores.header, content, self._shard_filter.kept_files.path(shard.name))

    def _count(self, group: ShardGroup) -> None:
        """Count a group that is done, once."""
        if group.number in self._counted:
            return
        self._counted.add(group.number)
        summary = self._summaries.read(group)
        counts = {each["name"]: each["input"] for each in summary.shards}
        for shard in group.shards:
            if shard.name in summary.damaged:
                self._shard_filter.bad_shards.add(shard.uri, summary.damaged[shard.name])
            self._finish(shard, counts[shard.name], skipped=shard is group.shards[-1])

    def _read_scores(self, shard: Shard, *, sure: bool) -> tuple[Scores, bytes] | None:
        """The scores of a shard that an earlier start or another worker has left, and their content."""
        uri, storage = self._context.layout.scores(shard.name), self._context.storage
        if not (shard.name in self._scored if sure else storage.exists(uri)):
            return None
        content = storage.read_bytes(uri)
        return open_scores(content, uri), content

    def _is_filtered(self, shard: Shard, scores: Scores) -> bool:
        """Whether a shard is done, with its fingerprints if the run drops repeats."""
        if not is_done(scores, self._context) or self._rules.duplicates is None:
            return is_done(scores, self._context)
        return self._context.storage.exists(self._context.layout.fingerprints(shard.name))

    def _finish(self, shard: Shard, samples: int, *, skipped: bool = False) -> None:
        damaged = len(self._shard_filter.bad_shards.found)
        self._shard_filter.progress.finish(shard, samples, skipped=skipped, bad_shards=damaged)

    def _raise_if_stopped(self) -> None:
        self._context.stop.raise_if_requested("finished shards are kept")
