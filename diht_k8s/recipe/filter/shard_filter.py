"""Filter shards: samples stream through the filter rules in batches; kept pairs are written first, scores last.

A shard is done when its scores exist with this run's configuration. A worker claims a group of shards before it filters
them (see `runtime.claims`), and writes their summary behind the last one.

Which files of shards lie in the stage's folder, by listings: 1,000 names a request in place of one for each shard.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final, Protocol

import pyarrow as pa

from diht_k8s.api.errors import DihtError, UserError
from diht_k8s.api.filter import Filter
from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.api.layout import join
from diht_k8s.recipe.filter.caption_tables.uid_index import CaptionScores
from diht_k8s.recipe.filter.captions.parser import CaptionParser
from diht_k8s.recipe.filter.clip_score import ClipScorer
from diht_k8s.recipe.filter.clip_top_fraction import keeps_top_fraction
from diht_k8s.recipe.filter.decontamination import read_gallery
from diht_k8s.recipe.filter.deduplication import write_fingerprints
from diht_k8s.recipe.filter.exclusion import read_exclusions
from diht_k8s.recipe.filter.group_summaries import FilteredShard, GroupSummaries
from diht_k8s.recipe.filter.kept_pairs import KeptPairs, WrittenFile
from diht_k8s.recipe.filter.rules import RuleChain
from diht_k8s.recipe.filter.scores import Row, Scores, find_scores, open_scores, schema_of, to_batch
from diht_k8s.recipe.filter.stage_progress import StageProgress
from diht_k8s.recipe.filter.summary import Summary
from diht_k8s.recipe.filter.text_spotting.spotter import TextSpotter
from diht_k8s.recipe.runtime.bad_shards import BadShards, Damage
from diht_k8s.recipe.runtime.claims import Claims
from diht_k8s.recipe.runtime.shard_progress import ShardProgress
from diht_k8s.recipe.runtime.stage import Context
from diht_k8s.recipe.shards.pairs import read_pairs
from diht_k8s.recipe.shards.parquet import write_table
from diht_k8s.recipe.shards.samples import Sample, SamplePlaces
from diht_k8s.recipe.shards.shard_groups import ShardGroup
from diht_k8s.recipe.shards.shard_index import pack_starts
from diht_k8s.recipe.shards.sources import Shard


class WrittenFiles:
    """What the last listing has found."""

    def __init__(self, context: Context, *, duplicates: bool) -> None:
        """Prepare; nothing is listed yet.

        Args:
            context: the stage's context.
            duplicates: whether the run drops repeated images, so that a shard has fingerprints, too.
        """
        self._context, self._duplicates = context, duplicates
        self.scored = frozenset[str]()
        """names of the shards with scores."""
        self.done = frozenset[str]()
        """names of the shards with all files that belong to scores."""
        self.kept = frozenset[str]()
        """names of the files of kept pairs that earlier starts have left."""
        self._listed = False

    def list_again(self) -> None:
        """List the folders as they are now."""
        self.scored = self._shards("scores")
        self.done = self.scored & self._shards("fingerprints") if self._duplicates else self.scored
        if not self._listed:
            self.kept, self._listed = frozenset(self._names("kept")), True

    def _shards(self, folder: str) -> frozenset[str]:
        return frozenset(name.removesuffix(".parquet") for name in self._names(folder))

    def _names(self, folder: str) -> list[str]:
        context = self._context
        return context.storage.names(join(context.layout.stage(context.stage), folder))


BATCH: Final = 256
"""Samples per batch: enough for the parser's own batches, few enough that a stop request waits only seconds."""
RESERVED: Final = 1024
"""Shards whose files are listed in one write, or a group more."""
BATCH_BYTES: Final = 128 << 20
"""Bytes at which a batch ends early, since shards may hold large images."""

logger = logging.getLogger(__name__)


def is_done(scores: Scores, context: Context) -> bool:
    """Whether the scores of a shard have this run's configuration."""
    return scores.header["config_sha256"] == context.config_sha256


def batches_of(samples: Iterable[Sample], most: int | None = None) -> Iterator[list[Sample]]:
    """Batches of samples, in order, of `most` samples at most (`BATCH` if unset)."""
    batch, size = list[Sample](), 0
    for sample in samples:
        batch.append(sample)
        size += sum(map(len, sample.members.values()))
        if len(batch) == (most or BATCH) or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _clip_model(scores: Scores) -> str | None:
    return scores.header.get("clip_model")


class KeptFiles(Protocol):
    """Writes what is kept of each shard (`KeptPairs`, or the survivors of a table)."""

    def uri(self, shard: str) -> str:
        """A shard's file."""
        ...

    def path(self, shard: str) -> str:
        """The file relative to the folder of the stage."""
        ...

    def write(
        self, shard: str, pairs: Iterable[tuple[int, Row, Sample]], *, there: Collection[str]
    ) -> tuple[int, WrittenFile]:
        """Write what is kept: its index in the shard, row and sample; returns their number, size and digest."""
        ...


class ShardFilter:
    """Filters the shards of one run, one at a time."""

    batch: int | None = None
    """samples per batch; None takes `BATCH`."""

    def __init__(
        self,
        context: Context,
        rules: Filter,
        groups: Sequence[ShardGroup],
        claims: Claims,
        kept: KeptFiles | None = None,
    ) -> None:
        """Prepare; models are loaded with the first sample that needs them.

        Args:
            context: the stage's context.
            rules: the run's thresholds.
            groups: all shards of the stage.
            claims: record which worker works on which group.
            kept: writes what is kept; None writes `filter.output`.

        Raises:
            UserError: the run asks for a GPU that cannot be used.
        """
        shards = [shard for group in groups for shard in group.shards]
        self._context, self._rules, self._claims = context, rules, claims
        self._versions: dict[str, str] = context.config["programs"]
        self._inputs: dict[str, str] = context.config["inputs"]
        spotting = rules.text_spotting
        self._spotter = TextSpotter(
            detector_size=spotting.detector_size,
            second_detector_size=spotting.second_detector_size,
            device=spotting.device,
            precision=spotting.precision,
        )
        if spotting.mode != "Disabled":
            self._spotter.check_device()
        self._bad_shards = BadShards(context.run.spec.data.max_bad_shards, len(shards))
        self._scorer = None if rules.clip_score is None else ClipScorer(rules.clip_score, context.storage)
        self._kept = kept or KeptPairs(context.storage, context.layout, rules.output)
        self._caption_scores = CaptionScores.find(context.storage, rules.scores_from)
        self._reserved = set[str]()
        self._exclusions = read_exclusions(context.storage, rules.exclude)
        mine = [shard for group in groups[context.worker :: context.workers] for shard in group.shards]
        self._progress = StageProgress(context, shards, mine)
        self._committed = ShardProgress(context, "scores")
        self._summaries = GroupSummaries(context, final=rules.duplicates is None and not keeps_top_fraction(rules))
        self._there = WrittenFiles(context, duplicates=rules.duplicates is not None)
        self._skipped = set[int]()

    @cached_property
    def _rule_chain(self) -> RuleChain:
        """Created for the first shard that is not done, since the benchmarks may hold many images."""
        context, rules = self._context, self._rules
        return RuleChain(
            rules=rules,
            parser=CaptionParser(kind=rules.parser),
            parser_version=self._versions["parser"],
            spotter=self._spotter,
            exclusions=self._exclusions,
            gallery=read_gallery(context.run.spec, context.storage, rules.decontaminate, context.stop),
            scorer=self._scorer,
        )

    def run(self, groups: Sequence[ShardGroup], *, listed: bool = False) -> bool:
        """Filter the groups that are not done and not claimed by another worker; returns whether there was one.

        Args:
            groups: to filter.
            listed: whether they are what `missing` has just found.

        Raises:
            StopRequested: between batches, after a signal.
            DataError: more shards are damaged than the run allows.
            UserError: `scoresFrom` holds no matching scores.
        """
        worked = False
        missing = {group.number for group in (groups if listed else self.missing(groups))}
        for number, group in enumerate(groups):
            self._context.stop.raise_if_requested("finished shards are kept")
            if group.number not in missing:
                self._skip(group)
                continue
            if group.shards[0].name not in self._reserved:
                self._reserve(groups[number:])
            if self._claims.take(group.name):
                worked = True
                self._filter_group(group, sure=not self._claims.took_over)
        return worked

    def missing(self, groups: Sequence[ShardGroup]) -> list[ShardGroup]:
        """The groups without a summary, in reverse order, because their owners start with the first."""
        self._there.list_again()
        done = self._summaries.there(groups, self._there.done)
        return [group for group in reversed(groups) if group.number not in done]

    def _skip(self, group: ShardGroup) -> None:
        """Count a group that is done, once."""
        if group.number in self._skipped:
            return
        self._skipped.add(group.number)
        summary = self._summaries.read(group)
        counts = {each["name"]: each["input"] for each in summary.shards}
        for shard in group.shards:
            if shard.name in summary.damaged:
                self._bad_shards.add(shard.uri, summary.damaged[shard.name])
            self._finish(shard, counts[shard.name], skipped=shard is group.shards[-1])

    def _filter_group(self, group: ShardGroup, *, sure: bool) -> None:
        """Filter the shards of a claimed group that are not done; `sure` says that the listing knows all that are."""
        found, single = list[FilteredShard](), len(group.shards) == 1
        try:
            for shard in group.shards:
                self._raise_if_stopped()
                if not single:
                    self._claims.work_on(shard.name)
                earlier = self._earlier(shard, sure=sure)
                if earlier is not None and self._is_filtered(shard, earlier[0]):
                    found.append(self._filtered_before(shard, *earlier))
                else:
                    if earlier is not None:
                        self._summaries.forget(group)
                    found.append(self._filter_shard(shard, None if earlier is None else earlier[0]))
            self._summaries.write(group, found)
            self._skipped.add(group.number)
        except DihtError:
            self._claims.give_up(group.name)
            raise

    def _earlier(self, shard: Shard, *, sure: bool) -> tuple[Scores, bytes] | None:
        """The scores of a shard that an earlier start or another worker has left, and their content."""
        uri, storage = self._context.layout.scores(shard.name), self._context.storage
        if not (shard.name in self._there.scored if sure else storage.exists(uri)):
            return None
        content = storage.read_bytes(uri)
        return open_scores(content, uri), content

    def _filtered_before(self, shard: Shard, scores: Scores, content: bytes) -> FilteredShard:
        if "damage" in scores.header:
            self._bad_shards.add(shard.uri, Damage(**scores.header["damage"]))
        assert scores.file.metadata.num_rows == scores.header["summary"]["input"], "one row per sample"
        self._finish(shard, scores.header["summary"]["input"], skipped=True)
        return FilteredShard.of(shard, scores.header, content, self._kept.path(shard.name))

    def _reserve(self, groups: Sequence[ShardGroup]) -> None:
        """List what is written for some groups in advance, which saves a write for each file."""
        layout = self._context.layout
        places = [layout.scores, layout.fingerprints] if self._rules.duplicates is not None else [layout.scores]
        uris, names = list[str](), list[str]()
        for group in groups:
            names += [shard.name for shard in group.shards]
            uris += [place(shard.name) for shard in group.shards for place in (self._kept.uri, *places)]
            uris += [*self._summaries.uris(group), *self._claims.uris([group.name])]
            if len(names) >= RESERVED:
                break
        self._context.storage.reserve(uris)
        self._reserved.update(names)

    def _is_filtered(self, shard: Shard, scores: Scores) -> bool:
        """Whether a shard is done, with its fingerprints if the run drops repeats."""
        if not is_done(scores, self._context) or self._rules.duplicates is None:
            return is_done(scores, self._context)
        return self._context.storage.exists(self._context.layout.fingerprints(shard.name))

    def _filter_shard(self, shard: Shard, earlier: Scores | None) -> FilteredShard:
        self._progress.begin(shard)
        return self._filter(shard, self._usable(shard, earlier) or self._from_other_run(shard))

    def _filter(self, shard: Shard, earlier: Scores | None) -> FilteredShard:
        context, summary, batches, places = self._context, Summary(), list[pa.RecordBatch](), SamplePlaces()
        about = self._header(shard, earlier)
        schema = schema_of(about)
        if (
            shard.filtered
            and self._scorer is not None
            and (earlier is None or _clip_model(earlier) != about["clip_model"])
        ):
            self._scorer.load()  # a model that does not fit ends the stage before anything is read
        before = iter(earlier.rows()) if earlier is not None else iter(())
        spotting, prints = self._rules.text_spotting, list[bytes]()

        def kept() -> Iterator[tuple[int, Row, Sample]]:
            samples = self._bad_shards.salvage(shard.uri, self._read(shard, places))
            for batch in batches_of(samples, self.batch):
                self._raise_if_stopped()
                self._claims.keep()
                rows = self._apply_rules(shard, batch, before, earlier)
                batches.append(to_batch(rows, schema))
                for sample, row in zip(batch, rows, strict=True):
                    number = summary.input  # samples before this one
                    summary.add(row, sample, filtered=shard.filtered, min_characters=spotting.min_matched_characters)
                    if row.kept:
                        prints.append(row.fingerprint or b"")
                        yield number, row, sample
                self._progress.advance(rows)

        count, written = self._kept.write(shard.name, kept(), there=self._there.kept)
        assert count == summary.kept, "one kept pair for each kept row"
        summary.check()
        if self._rules.duplicates is not None:
            write_fingerprints(context, shard, prints)
        damage = self._bad_shards.found.get(shard.uri)
        header = {
            **about,
            "kept": written,
            "raw": pack_starts(places.starts) if shard.part is None else None,
            "summary": summary.to_json(),
            **({"damage": damage.to_json()} if damage else {}),
        }
        table = pa.Table.from_batches(batches or [to_batch([], schema)])
        content = write_table(context.storage, context.layout.scores(shard.name), table, header)
        if summary.input and summary.hints.samples == summary.input:
            logger.warning("%s: nothing can be read: %s", shard.uri, summary.hints.sentence(shard.source))
        self._committed.shard_done()
        self._finish(shard, summary.input)
        return FilteredShard.of(shard, header, content, self._kept.path(shard.name))

    def _finish(self, shard: Shard, samples: int, *, skipped: bool = False) -> None:
        self._progress.finish(shard, samples, skipped=skipped, bad_shards=len(self._bad_shards.found))

    def _raise_if_stopped(self) -> None:
        self._context.stop.raise_if_requested("finished shards are kept")

    def _read(self, shard: Shard, places: SamplePlaces) -> Iterator[Sample]:
        return read_pairs(self._context.storage, shard, check=self._raise_if_stopped, places=places)

    def _apply_rules(
        self, shard: Shard, batch: Sequence[Sample], before: Iterator[Row], earlier: Scores | None
    ) -> list[Row]:
        known = [next(before, None) for _ in batch]
        if earlier is None and self._caption_scores is not None:
            known = self._caption_scores.rows_of(batch)
        if earlier is not None and earlier.header["spotter"] != self._spotter_version(earlier):
            known = [None if row is None else replace(row, ocr=(), ocr_state="not_run", kept=False) for row in known]
        if earlier is not None and _clip_model(earlier) != self._clip_version(earlier):
            known = [None if row is None else replace(row, clip_score=None) for row in known]
        return self._rule_chain.apply(shard.name, batch, known, filtered=shard.filtered)

    def _header(self, shard: Shard, earlier: Scores | None) -> dict[str, Any]:
        clip = self._clip_version(earlier)
        return {
            "schema_version": SCHEMA_VERSION,
            "config_sha256": self._context.config_sha256,
            "inputs": {shard.name: self._inputs[shard.name]},
            "parser": self._versions["parser"],
            "spotter": self._spotter_version(earlier),
            **({} if clip is None else {"clip_model": clip}),
        }

    def _spotter_version(self, earlier: Scores | None) -> str | None:
        """Spotter version behind the stored texts. A run without T keeps the texts of the earlier scores."""
        return self._versions.get("spotter", earlier.header["spotter"] if earlier is not None else None)

    def _clip_version(self, earlier: Scores | None) -> str | None:
        """CLIP model behind the stored scores. A run without `clipScore` keeps the earlier ones."""
        return self._versions.get("clip", None if earlier is None else _clip_model(earlier))

    def _usable(self, shard: Shard, earlier: Scores | None) -> Scores | None:
        """The scores if they are of the same images and captions, else None."""
        return (
            earlier
            if earlier is not None and earlier.header["inputs"] == {shard.name: self._inputs[shard.name]}
            else None
        )

    def _from_other_run(self, shard: Shard) -> Scores | None:
        folder = self._rules.scores_from
        if folder is None or self._caption_scores is not None:
            return None
        uri = join(folder, "scores", f"{shard.name}.parquet")
        scores = self._usable(shard, find_scores(self._context.storage, uri))
        if scores is None:
            raise UserError(
                f"spec.filter.scoresFrom: {uri} does not exist or was made from another {shard.uri}: "
                "name the filter folder of a run over the same shards, or leave scoresFrom out"
            )
        return scores
