"""The filter of one shard: its samples through the rules in batches, kept pairs out first, scores last.

Earlier scores of the same samples are taken over as far as their models are still those of the run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import pyarrow as pa

from diht_k8s.api.errors import UserError
from diht_k8s.api.filter import Filter
from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.api.layout import join
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.parquet import write_table
from diht_k8s.data.shards.samples import Sample, SamplePlaces
from diht_k8s.data.shards.shard_index import pack_starts
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.tar_writer import DistinctKeys
from diht_k8s.runtime.bad_shards import BadShards
from diht_k8s.runtime.claims import Claims
from diht_k8s.runtime.stage import Context
from diht_k8s.stages.filter.captions.parser import CaptionParser
from diht_k8s.stages.filter.clip_score import ClipScorer
from diht_k8s.stages.filter.deduplication import write_fingerprints
from diht_k8s.stages.filter.fingerprints import read_gallery
from diht_k8s.stages.filter.group_summaries import FilteredShard
from diht_k8s.stages.filter.kept_pairs import DownloadList, KeptPairs
from diht_k8s.stages.filter.rules import RuleChain, read_exclusions, taken_down
from diht_k8s.stages.filter.scores import Row, Scores, find_scores, schema_of, to_batch
from diht_k8s.stages.filter.stage_progress import StageProgress
from diht_k8s.stages.filter.summary import Summary
from diht_k8s.stages.filter.text_spotting.spotter import TextSpotter
from diht_k8s.stages.filter.uid_lists import CaptionScores

BATCH: Final = 256
"""Samples per batch: enough for the parser's own batches, few enough that a stop request waits only seconds."""
BATCH_BYTES: Final = 128 << 20
"""Bytes at which a batch ends early, since shards may hold large images."""

logger = logging.getLogger(__name__)


def batches_of(samples: Iterable[Sample], most: int) -> Iterator[list[Sample]]:
    """Batches of samples, in order, of `most` samples at most."""
    batch, size = list[Sample](), 0
    for sample in samples:
        batch.append(sample)
        size += sum(map(len, sample.members.values()))
        if len(batch) == most or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@dataclass
class _ScoredSamples:
    """What is gathered of a shard while its kept pairs stream into their file."""

    schema: pa.Schema
    filtered: bool
    min_characters: int
    summary: Summary = field(default_factory=Summary)
    batches: list[pa.RecordBatch] = field(default_factory=list)
    fingerprints: list[bytes] = field(default_factory=list)
    """of the kept pairs."""

    def kept(self, scored: Iterable[tuple[Sequence[Sample], Sequence[Row]]]) -> Iterator[tuple[int, Row, Sample]]:
        """Count batches of samples and rows, and pass the kept pairs on, each with its index in the shard and a key of
        its own.

        The keys of samples that are dropped count, too: a pair has the same one whatever the rules keep beside it.
        """
        keys = DistinctKeys()
        for samples, rows in scored:
            self.batches.append(to_batch(rows, self.schema))
            for sample, row in zip(samples, rows, strict=True):
                number = self.summary.input  # samples before this one
                self.summary.add(row, sample, filtered=self.filtered, min_characters=self.min_characters)
                named = keys.named(sample)
                if row.kept:
                    self.fingerprints.append(row.fingerprint or b"")
                    yield number, row, named

    def table(self) -> pa.Table:
        """The rows of all samples."""
        return pa.Table.from_batches(self.batches or [to_batch([], self.schema)])


class ShardFilter:
    """Filters the shards of one run, one at a time."""

    batch = BATCH

    def __init__(
        self,
        context: Context,
        rules: Filter,
        shards: Sequence[Shard],
        own: Sequence[Shard],
        claims: Claims,
        kept: KeptPairs | DownloadList,
    ) -> None:
        """Prepare; models are loaded with the first sample that needs them.

        Args:
            context: the stage's context.
            rules: the run's thresholds.
            shards: all shards of the stage.
            own: this worker's share of them.
            claims: record which worker works on which group.
            kept: writes what is kept.

        Raises:
            UserError: the run asks for a GPU that cannot be used.
        """
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
        self._scorer = None if rules.clip_score is None else ClipScorer(rules.clip_score, context.storage)
        self._caption_scores = CaptionScores.find(context.storage, rules.scores_from)
        if isinstance(kept, DownloadList):
            self._caption_scores = None  # another pass over the same tables has the same parts
        listed = read_exclusions(context.storage, rules.exclude)
        self._exclusions = listed | taken_down(context.storage, context.layout)
        self.kept_files = kept
        self.bad_shards = BadShards(context.run.spec.data.max_bad_shards, len(shards))
        self.progress = StageProgress(context, shards, own)

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

    def filter(self, shard: Shard, before: Scores | None) -> FilteredShard:
        """Filter a shard: write its kept pairs, its fingerprints if repeats are dropped, and last its scores.

        Args:
            shard: to filter.
            before: scores that lie in the place of its own, without fingerprints.

        Raises:
            StopRequested: between batches, after a signal.
            DataError: more shards are damaged than the run allows.
            UserError: `scoresFrom` holds no matching scores.
        """
        context, places = self._context, SamplePlaces()
        earlier = self._usable(shard, before) or self._of_other_run(shard)
        header = self._header(shard, earlier)
        self._check_scorer(shard, earlier, header)
        characters = self._rules.text_spotting.min_matched_characters
        found = _ScoredSamples(schema_of(header), shard.filtered, characters)
        samples = self.bad_shards.salvage(shard.uri, self._read(shard, places))
        kept = found.kept(self._scored(shard, samples, earlier, header))
        written, summary = self.kept_files.write(shard.name, kept), found.summary
        if self._rules.duplicates is not None:
            write_fingerprints(context, shard, found.fingerprints)
        damage = self.bad_shards.found.get(shard.uri)
        header = {
            **header,
            "kept": written,
            "read": self._number_read(shard, places),
            "raw": pack_starts(places.starts) if shard.part is None else None,
            "summary": summary.to_json(),
            **({"damage": damage.to_json()} if damage else {}),
        }
        content = write_table(context.storage, context.layout.scores(shard.name), found.table(), header)
        if summary.input and summary.hints.samples == summary.input:
            logger.warning("%s: nothing can be read: %s", shard.uri, summary.hints.sentence(shard.source))
        return FilteredShard.of(shard, header, content, self.kept_files.path(shard.name))

    def _scored(
        self, shard: Shard, samples: Iterable[Sample], earlier: Scores | None, header: dict[str, Any]
    ) -> Iterator[tuple[list[Sample], list[Row]]]:
        """The samples in batches, each with its rows."""
        before = iter(()) if earlier is None else _rows_for(header, earlier)
        for batch in batches_of(samples, self.batch):
            self._raise_if_stopped()
            self._claims.keep()
            if earlier is None and self._caption_scores is not None:
                known = self._caption_scores.rows_of(batch)
            else:
                known = [next(before, None) for _ in batch]
            rows = self._apply_rules(shard, batch, known)
            yield batch, rows
            self.progress.advance(rows)

    def _read(self, shard: Shard, places: SamplePlaces) -> Iterator[Sample]:
        return read_pairs(self._context.storage, shard, check=self._raise_if_stopped, places=places)

    def _number_read(self, shard: Shard, places: SamplePlaces) -> int | None:
        """Samples of a shard as its reader counts them; None where only the loop over them can tell."""
        return places.samples

    def _apply_rules(self, shard: Shard, batch: Sequence[Sample], known: Sequence[Row | None]) -> list[Row]:
        return self._rule_chain.apply(shard.name, batch, known, filtered=shard.filtered)

    def _raise_if_stopped(self) -> None:
        self._context.stop.raise_if_requested("finished shards are kept")

    def _check_scorer(self, shard: Shard, earlier: Scores | None, header: dict[str, Any]) -> None:
        """Load the CLIP model where it is needed: one that does not fit ends the stage before anything is read."""
        if (
            shard.filtered
            and self._scorer is not None
            and (earlier is None or _clip_model(earlier) != header["clip_model"])
        ):
            self._scorer.load()

    def _header(self, shard: Shard, earlier: Scores | None) -> dict[str, Any]:
        """Input and models of the scores; a run without T or `clipScore` keeps the texts or scores of the earlier
        ones.
        """
        clip = self._versions.get("clip", None if earlier is None else _clip_model(earlier))
        return {
            "schema_version": SCHEMA_VERSION,
            "config_sha256": self._context.config_sha256,
            "inputs": {shard.name: self._inputs[shard.name]},
            "parser": self._versions["parser"],
            "spotter": self._versions.get("spotter", None if earlier is None else earlier.header["spotter"]),
            **({} if clip is None else {"clip_model": clip}),
            **({} if self._rules.junk_field is None else {"junk_field": self._rules.junk_field}),
        }

    def _usable(self, shard: Shard, earlier: Scores | None) -> Scores | None:
        """The scores if they are of the same images and captions, else None."""
        same = earlier is not None and earlier.header["inputs"] == {shard.name: self._inputs[shard.name]}
        return earlier if same else None

    def _of_other_run(self, shard: Shard) -> Scores | None:
        """The scores of this shard in the folder that the stage reads them from."""
        if (folder := self._context.reads.get("scores")) is None or self._caption_scores is not None:
            return None
        own = self._rules.scores_from is None
        base = join(self._context.layout.output, folder) if own else folder
        uri = join(base, "scores", f"{shard.name}.parquet")
        scores = self._usable(shard, find_scores(self._context.storage, uri))
        if scores is None and not own:  # its own output may have been pruned: the captions are parsed
            raise UserError(
                f"spec.filter.scoresFrom: {uri} does not exist or was made from another {shard.uri}: "
                "name the filter folder of a run over the same shards, or leave scoresFrom out"
            )
        return scores


def _rows_for(header: dict[str, Any], earlier: Scores) -> Iterator[Row]:
    """The rows of earlier scores, without the texts and clip scores of models other than those of the header."""
    same_spotter = earlier.header["spotter"] == header["spotter"]
    same_clip = _clip_model(earlier) == header.get("clip_model")
    for row in earlier.rows():
        read = row if same_spotter else replace(row, ocr=(), ocr_state="not_run", kept=False)
        yield read if same_clip else replace(read, clip_score=None)


def _clip_model(scores: Scores) -> str | None:
    return scores.header.get("clip_model")
