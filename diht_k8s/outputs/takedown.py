"""Takedown of pairs from an output: kept shards, scores, soft labels, examples of both reports, in the folders of all
runs.

In: a list of uids, paths and digests. Out: the list as `OUTPUT/takedowns/N`, which every later filter of this output
applies, the folders of the stages filter and label without the pairs, with new markers, and nothing else that shows or
names them (`outputs.traces`). Only shards that hold such pairs are rewritten. A plan lists the pairs first, and the
markers are removed meanwhile: an interrupted purge resumes when it is started again, and no program takes a partially
purged output for complete. A model that was trained on the pairs cannot forget them: its training no longer matches its
input, and `diht run` trains another one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import pyarrow as pa

from diht_k8s.api.errors import DataError, RetryableError, UserError
from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import DIGITS, STAGE_FILES, Layout, join, pattern_of
from diht_k8s.api.reports import Committed
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.feature_files import remove_rows
from diht_k8s.data.shards.images import BadImageError, decode
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.parquet import read_table, write_table
from diht_k8s.data.shards.samples import Sample
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage, temporary_of
from diht_k8s.outputs.prune import pattern_of_file, remove_ours
from diht_k8s.outputs.traces import Traces
from diht_k8s.runtime.claims import Watch, living
from diht_k8s.runtime.commit import artefact, commit, find_committed, find_started
from diht_k8s.runtime.inputs import kept_by
from diht_k8s.runtime.progress import Reporter
from diht_k8s.runtime.references import places_named, run_folders, stage_folders
from diht_k8s.runtime.run_folder import runs_of
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.runtime.stage import Context
from diht_k8s.stages.filter.group_summaries import FOLDER, FilteredShard, summarised
from diht_k8s.stages.filter.kept_pairs import KeptPairs, write_scores
from diht_k8s.stages.filter.rules import EXCLUDED, match_rule, names_of, read_exclusions, taken_down
from diht_k8s.stages.filter.scores import Row, Scores, open_scores
from diht_k8s.stages.filter.stage import done_shard, finish
from diht_k8s.stages.filter.summary import MAX_CAPTION, Summary
from diht_k8s.stages.filter.text_spotting.matching import shows_caption

PLAN: Final = "PURGE.json"
REWRITTEN: Final[Mapping[Stage, tuple[str, ...]]] = {
    Stage.FILTER: ("report.json", "scores/*.parquet", "kept/*.tar", "kept/*.parquet"),
    Stage.LABEL: ("report.json", "labels/*.parquet", "embeddings/*.safetensors"),
}
"""What loses the pairs and stays."""
CLEARED: Final = (f"{FOLDER}/*.json", "index/*/shards.table", "index/*/parts/[0-9]*")
CLEARED_LAST: Final = ("duplicates/*.parquet", "duplicates/*/*.parquet", "duplicates/*/*.bin")
"""What the filter makes again, or `diht index`: it names the pairs' files as they were."""
PER_SHARD: Final[Mapping[Stage, tuple[str, ...]]] = {
    Stage.FILTER: ("fingerprints/*.parquet",),
    Stage.LABEL: ("features/*.safetensors",),
}
"""What goes for the shards with such pairs."""
OF_ALL_PAIRS: Final = (
    "vocabulary.json",
    "heads/*.state",
    "heads/*.safetensors",
    "heads.json",
    "teacher_heads.safetensors",
    "labels/*.parquet",
    "report.json",
)
"""What labels that are not complete make again: it came of all pairs, and the rest of them would not fit it."""
OF_FEATURES: Final = "*.safetensors"
"""In `OUTPUT/features/DIGEST`: goes for the shards with such pairs, whose names these files begin with."""
OF_TABLES: Final = ("uids.npy", "uid_index.npy", "survivors/*.parquet")
"""What a filter of captions leaves, which no takedown changes."""
_SHA256_DIGITS: Final = 64


@dataclass(frozen=True)
class TakedownPlan:
    """The pairs to remove, and the markers as they were."""

    filter: dict[str, Any]
    labels: dict[str, dict[str, Any] | None]
    """name of each folder of labels of these pairs -> its marker; None where it is not complete."""
    rows: dict[str, list[int]] = field(default_factory=dict)
    """shard -> numbers of its rows of scores that lose everything but their names."""
    taken: dict[str, dict[str, Any]] = field(default_factory=dict)
    """shard -> counts over the kept pairs among them (`Summary.to_json`)."""
    entries: str = ""
    """Digest of the exclusion list."""
    names: list[str] = field(default_factory=list)
    """uids, digests and paths of these pairs."""
    captions: list[str] = field(default_factory=list)
    """of the kept ones."""
    bad: dict[str, int] = field(default_factory=dict)
    """kept ones whose image has no labels, by reason."""

    @property
    def pairs(self) -> int:
        """Number of kept pairs to remove."""
        return sum(counts["kept"] for counts in self.taken.values())

    @property
    def dropped(self) -> int:
        """Number of pairs that the filter had dropped, of which the scores forget all but the name."""
        return sum(map(len, self.rows.values())) - self.pairs


@dataclass(frozen=True)
class PurgeResult:
    """Counts of a finished purge."""

    pairs: int
    """pairs removed from kept shards."""
    dropped: int
    """pairs that were not kept, whose words and spotted texts were removed from the scores."""
    shards: int
    labels: bool
    """whether there were labels to purge."""
    trained: bool
    """whether a model was trained on removed pairs."""
    folders: tuple[str, ...] = ()
    """folders of filters and labels that belong to no run, relative to the output; they are gone."""
    removed: tuple[str, ...] = ()
    """evaluations, pages and other documents that named the pairs, relative to the output; they are gone, or were freed
    of the names."""
    unmatched: tuple[str, ...] = ()
    """entries of the list that name no pair; empty where an interrupted purge was finished."""


def purge(run: DihtRun, storage: Storage, exclude: str, stop: StopFlag, *, watch: Watch = living) -> PurgeResult:
    """Remove the pairs of a list from all folders of a run's output, unless a filter or a label stage runs there.

    Args:
        run: a run of the output.
        storage: where the output is.
        exclude: URI of the list: uids, paths, SHA-256 of URLs or SHA-256 of images, one a line.
        stop: checked between shards.
        watch: says in which folders somebody works.

    Raises:
        UserError: the list is empty, there is nothing to purge, a filter has begun and is not complete, or a run reads
            a folder of a filter, or of its labels, that belongs to no run.
        RetryableError: somebody works in a folder of a filter, of labels or of an evaluation, or a run came to use one
            that belonged to none.
    """
    entries, layout = read_exclusions(storage, exclude), Layout(run.spec.data.output)
    if not entries:
        raise UserError(f"{exclude} names nothing: give one uid, path or SHA-256 a line")
    runs = list(runs_of(storage, layout.output))
    filters = {place.stage(Stage.FILTER): (found, place) for found, place in runs if Stage.FILTER in place.folders}
    if not filters:
        raise UserError(f"no filter has run in {layout.output}: there is no output to purge yet")
    _refuse_living(watch(storage, _changeable(storage, layout), stop))
    trained = any(find_committed(storage, place, Stage.TRAIN) is not None for _, place in runs)
    takedowns = [_Purge(*filters[folder], storage, stop) for folder in sorted(filters)]
    lost = _without_run(storage, layout, filters, {takedown.identity for takedown in takedowns})
    _refuse_read(storage, layout, lost, [found for found, _ in runs])
    plans = [takedown.plan(entries) for takedown in takedowns]
    _write_takedown(storage, layout, entries)
    done, matched, resumes = PurgeResult(0, 0, 0, labels=False, trained=False), set[str](), False
    for takedown, plan in zip(takedowns, plans, strict=True):
        removed = takedown.execute(plan) if plan.rows else []
        matched |= takedown.matched
        resumes = resumes or takedown.resumes
        done = PurgeResult(
            done.pairs + plan.pairs,
            done.dropped + plan.dropped,
            done.shards + len(plan.rows),
            done.labels or bool(plan.labels),
            done.trained or (plan.pairs > 0 and trained),
            removed=tuple(dict.fromkeys([*done.removed, *removed])),
        )
    if lost:
        used = {place for run in run_folders(storage, layout.output) for place in run.refers}
        for place, stage in lost.items():
            if stage is Stage.FILTER and place in used:
                raise RetryableError(f"a run has come to use {join(layout.output, place)}: start the purge again")
            remove_ours(storage, join(layout.output, place), STAGE_FILES[stage], stop)
        more = Traces(storage, layout.output, entries).remove()
        done = replace(done, folders=tuple(lost), removed=tuple(dict.fromkeys([*done.removed, *more])))
    return done if resumes else replace(done, unmatched=_unmatched(entries, matched))


def _changeable(storage: Storage, layout: Layout) -> list[str]:
    """The folders that a takedown may change."""
    found = [join(layout.output, stage.value) for stage in (Stage.FILTER, Stage.LABEL, Stage.EVALUATE)]
    return [join(folder, name) for folder in found for name in storage.folders(folder)]


def _without_run(
    storage: Storage, layout: Layout, filters: Collection[str], identities: Collection[str]
) -> dict[str, Stage]:
    """Folders of filters to which no run points, and of labels of other pairs than the runs' filters have kept.

    Raw shards that are replaced, or another version of the program, leave such folders. No document says how to search
    them, and no run needs them.

    Args:
        storage: where the output is.
        layout: of the output.
        filters: folders of the filters of all runs.
        identities: of these filters.
    """
    found = dict[str, Stage]()
    for each in stage_folders(storage, layout.output):
        folder = join(layout.output, each.place)
        if each.state == "foreign":
            continue
        if each.stage is Stage.FILTER and folder not in filters:
            found[each.place] = each.stage
        elif each.stage is Stage.LABEL:
            started = find_started(storage, layout.with_folder(Stage.LABEL, folder), Stage.LABEL)
            if started is not None and started.config["inputs"].get("filter") not in identities:
                found[each.place] = each.stage
    return found


def _refuse_read(storage: Storage, layout: Layout, lost: Collection[str], runs: Sequence[DihtRun]) -> None:
    """Refuse folders that a run's document names, and filters to which a run without its document points."""
    readers = [(run.metadata.name, places_named(storage, layout.output, run.model_dump(mode="json"))) for run in runs]
    start = f"{Stage.FILTER.value}/"
    for run in run_folders(storage, layout.output):
        readers.append((run.place, frozenset(place for place in run.refers if place.startswith(start))))
    for reader, places in readers:
        if found := sorted(places.intersection(lost)):
            raise UserError(
                f"{join(layout.output, found[0])} belongs to no run whose document is there, so its pairs cannot be "
                "searched, "
                f"and {reader} refers to it: start the run that made it again, or remove the folder, then purge"
            )


def _refuse_living(alive: Mapping[str, str]) -> None:
    for folder, claim in alive.items():
        raise RetryableError(
            f"somebody works in {folder} ({claim} changes): wait until that stage ends, or stop it, then purge"
        )


def _write_takedown(storage: Storage, layout: Layout, entries: frozenset[str]) -> None:
    """Write the list among the takedowns, unless all of it is there."""
    if entries <= taken_down(storage, layout):
        return
    content = "".join(f"{entry}\n" for entry in sorted(entries)).encode()
    number = 1 + max((int(name) for name in storage.names(layout.takedowns) if name.isdigit()), default=0)
    while not storage.create(join(layout.takedowns, f"{number:06d}"), content):
        number += 1


def _unmatched(entries: Collection[str], matched: Collection[str]) -> tuple[str, ...]:
    """Entries without a pair, as they are written in the list: digests are there in lower case, too."""
    lower = {name.lower() for name in matched}
    found = {entry.lower(): entry for entry in sorted(entries, reverse=True) if entry.lower() not in lower}
    return tuple(sorted(found.values()))


def _bad_reason(sample: Sample) -> str | None:
    """Why labelling could not use an image; None if it could."""
    try:
        decode(sample.image)
    except BadImageError as error:
        return error.reason
    return None


class _Purge:
    def __init__(self, run: DihtRun, layout: Layout, storage: Storage, stop: StopFlag) -> None:
        assert run.spec.filter is not None, "the run points to a filter"
        if any(source.captions for source in run.spec.data.sources):
            raise UserError(
                f"the run {run.metadata.name} filters captions without images: add the list to filter.exclude and "
                "run it "
                "again (no caption is parsed again)"
            )
        self._rules, self._storage, self._stop, self._layout = (
            run.spec.filter,
            storage,
            stop,
            layout,
        )
        self._plan_uri = join(self._layout.stage(Stage.FILTER), PLAN)
        self._before = self._begun()
        self.resumes = bool(self._before.rows)
        self.matched = set[str]()
        """entries of the list that name a pair, as far as shards were searched."""
        committed = Committed.model_validate(self._before.filter)
        self.identity = committed.identity
        """of the filter."""
        self._context = Context(
            run, Stage.FILTER, storage, self._layout, committed.config, Reporter(Stage.FILTER), stop
        )
        self._kept = KeptPairs(storage, self._layout, self._rules.output)
        self._readable = {shard.name: shard for shard in kept_by(committed, run.spec, storage, layout)}
        filtered = {source.name: source.filter for source in run.spec.data.sources}
        self._shards = [
            Shard(item["name"], "", item["source"], filtered.get(item["source"], True))
            for item in committed.summary["shards"]
        ]

    def _begun(self) -> TakedownPlan:
        """The plan of an interrupted purge, or an empty one with the markers.

        Raises:
            UserError: the filter is not complete.
        """
        if self._storage.exists(self._plan_uri):
            return TakedownPlan(**json.loads(self._storage.read_bytes(self._plan_uri)))
        committed = find_committed(self._storage, self._layout, Stage.FILTER)
        if committed is None:
            raise UserError(
                f"{self._layout.stage(Stage.FILTER)} has begun and is not complete: finish this filter, or remove its "
                "folder and its run's below runs/, then purge"
            )
        return TakedownPlan(committed.model_dump(mode="json"), dict(self._labels(committed.identity)))

    def _labels(self, identity: str) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """The folders of labels of this filter's pairs, each with its marker."""
        for name in self._storage.folders(join(self._layout.output, Stage.LABEL.value)):
            layout = self._label_layout(name)
            started = find_started(self._storage, layout, Stage.LABEL)
            if started is not None and started.config["inputs"].get("filter") == identity:
                marker = find_committed(self._storage, layout, Stage.LABEL)
                yield name, None if marker is None else marker.model_dump(mode="json")

    def _label_layout(self, name: str) -> Layout:
        return self._layout.with_folder(Stage.LABEL, join(self._layout.output, Stage.LABEL.value, name))

    def plan(self, entries: frozenset[str]) -> TakedownPlan:
        """Find the pairs; those of an interrupted purge are included."""
        digest = sha256_of(sorted(entries))
        if self._before.rows and self._before.entries != digest:
            raise UserError(
                "a purge of another list was interrupted: start it again with that list, then with this one"
            )
        before = self._before
        plan = replace(
            before,
            rows=dict(before.rows),
            taken=dict(before.taken),
            entries=digest,
            names=list(before.names),
            captions=list(before.captions),
            bad=dict(before.bad),
        )
        for shard in self._shards:
            self._stop.raise_if_requested("nothing has been changed")
            if shard.name not in plan.rows:
                self._find(plan, shard, entries)
        return plan

    def _find(self, plan: TakedownPlan, shard: Shard, entries: frozenset[str]) -> None:
        rows = list(self._scores(shard).rows())
        found = {number for number, row in enumerate(rows) if not entries.isdisjoint({row.uid, row.source})}
        self.matched |= {name for number in found for name in (rows[number].uid, rows[number].source or "")}
        kept = [number for number, row in enumerate(rows) if row.kept]
        by_digest = any(len(entry) == _SHA256_DIGITS for entry in entries)
        if kept and (by_digest or found.intersection(kept)):
            taken = Summary()
            samples = read_pairs(self._storage, self._readable[shard.name])
            for number, sample in zip(kept, samples, strict=True):
                if named := entries.intersection(names_of(sample)):
                    self.matched |= named
                    found.add(number)
                    self._count(taken, rows[number], sample, shard)
                    plan.names.append(hashlib.sha256(sample.image).hexdigest())
                    plan.captions.extend({sample.caption, sample.caption[:MAX_CAPTION]})
                    if (reason := _bad_reason(sample)) is not None:
                        plan.bad[reason] = plan.bad.get(reason, 0) + 1
            if taken.kept:
                plan.taken[shard.name] = {**taken.to_json(), "examples": {}}
        if found:
            plan.rows[shard.name] = sorted(found)
            for row in (rows[number] for number in sorted(found)):
                plan.names.extend(name for name in (row.uid, row.caption_sha256, row.source) if name)

    def _count(self, taken: Summary, row: Row, sample: Sample, shard: Shard) -> None:
        if row.ocr_state != "not_run" and self._rules.text_spotting.mode != "Disabled" and shard.filtered:
            row.matched = shows_caption(sample.caption, row.ocr, match_rule(self._rules))
        least = self._rules.text_spotting.min_matched_characters
        taken.add(row, sample, filtered=shard.filtered, min_characters=least)

    def execute(self, plan: TakedownPlan) -> list[str]:
        """Write the remaining pairs, markers last, then free all else of the pairs; returns what `Traces` changed."""
        storage, gone = self._storage, frozenset(plan.names)
        storage.write_bytes(self._plan_uri, json.dumps(asdict(plan)).encode())
        for name in plan.labels:
            self._open(self._label_layout(name), Stage.LABEL)
        self._open(self._layout, Stage.FILTER)
        for name in (name for name, marker in plan.labels.items() if marker is None and plan.taken):
            remove_ours(storage, self._label_layout(name).stage(Stage.LABEL), OF_ALL_PAIRS, self._stop)
        self._clear(CLEARED)
        for shard in self._shards:
            if shard.name in plan.rows:
                self._stop.raise_if_requested("start the purge again to resume")
                self._purge_shard(plan, shard)
        before = Committed.model_validate(plan.filter)
        found = summarised(self._done(shard) for shard in self._shards)
        outcome = finish(self._context, [found], [shard.name for shard in self._shards], check=False)
        summary = {
            **before.summary,
            **outcome.summary,
            "purged": before.summary.get("purged", 0) + plan.pairs,
            "forgotten": before.summary.get("forgotten", 0) + plan.dropped,
        }
        commit(storage, self._layout, Stage.FILTER, before.config, outcome.artefacts, summary, before)
        for name, marker in plan.labels.items():
            if marker is not None:
                self._commit_label(Committed.model_validate(marker), self._label_layout(name), plan, gone)
        for shard in plan.taken:
            storage.remove(self._layout.fingerprints(shard))
        self._remove_features(plan.taken)
        self._clear(CLEARED_LAST)
        removed = Traces(storage, self._layout.output, gone, frozenset(plan.captions)).remove()
        storage.remove(self._plan_uri)
        return removed

    def _remove_features(self, shards: Collection[str]) -> None:
        """Remove the features that trainings have stored of some shards, under every tower; the next training makes
        them.
        """
        folder = self._layout.feature_sets
        digest = "[0-9a-f]" * DIGITS
        theirs = [f"*/{shard}-{OF_FEATURES.replace('*', digest)}" for shard in shards]
        names = self._storage.files(folder)
        self._storage.remove_files(
            folder, [name for name in names if pattern_of(temporary_of(name) or name, theirs) is not None]
        )

    def _open(self, layout: Layout, stage: Stage) -> None:
        """Remove a marker, and before it the claims, which are those of the dead: to the next start they would look
        held.

        Half of a file, which a killed write has left, may hold a pair, too.
        """
        self._storage.remove_named(join(layout.stage(stage), "claims"), "*.json")
        self._storage.remove(layout.committed(stage))
        folder = layout.stage(stage)
        half = [name for name in self._storage.files(folder) if temporary_of(name) is not None]
        self._storage.remove_files(
            folder, [name for name in half if pattern_of_file(name, STAGE_FILES[stage]) is not None]
        )

    def _clear(self, patterns: Sequence[str]) -> None:
        """Remove what the filter wrote into folders of its own."""
        stage = self._layout.stage(Stage.FILTER)
        for folder in dict.fromkeys(pattern.partition("/")[0] for pattern in patterns):
            names = [f"{folder}/{name}" for name in self._storage.files(join(stage, folder))]
            ours = [name for name in names if pattern_of_file(name, patterns) is not None]
            self._storage.remove_files(stage, ours)

    def _purge_shard(self, plan: TakedownPlan, shard: Shard) -> None:
        """Purge labels first and scores last (they say what the others may still hold)."""
        scores, numbers, layout = self._scores(shard), set(plan.rows[shard.name]), self._layout
        rows = list(scores.rows())
        uids = {rows[number].uid for number in numbers}
        if all(rows[number].is_forgotten for number in numbers):
            return
        kept, header = [number for number, row in enumerate(rows) if row.kept], scores.header
        places = {place for place, number in enumerate(kept) if number in numbers}
        if places:
            for name, marker in plan.labels.items():
                self._purge_labels(self._label_layout(name), shard, places, len(kept), complete=marker is not None)
            header = {**header, "kept": self._kept.rewrite(shard.name, rows, numbers)}
        summary = Summary.from_json(header["summary"])
        taken = plan.taken.get(shard.name)
        summary.exclude(Summary() if taken is None else Summary.from_json(taken), uids)
        kinds = Counter((row.junk, row.reason) for row in map(rows.__getitem__, numbers) if row.junk is not None)
        summary.junk -= kinds
        for number in numbers:
            rows[number].reason = EXCLUDED if rows[number].kept else rows[number].reason
            rows[number].kept = False
            rows[number].forget()
        write_scores(self._storage, layout.scores(shard.name), rows, {**header, "summary": summary.to_json()})

    def _purge_labels(
        self, layout: Layout, shard: Shard, places: Collection[int], kept: int, *, complete: bool
    ) -> None:
        """Remove rows from a shard's labels and embeddings, and its features, which only labelling reads.

        A stage that is not complete makes its labels again, with its counts of bad images, and the embeddings with
        them.
        """
        uri, embeddings = layout.labels(shard.name), layout.embeddings(shard.name)
        self._storage.remove(layout.features(shard.name))
        if not complete:
            self._storage.remove(embeddings)
            return
        if self._storage.exists(embeddings):
            remove_rows(self._storage, embeddings, places, kept)
        table, header = read_table(self._storage, uri)
        if table.num_rows == kept:
            left = [place not in places for place in range(kept)]
            write_table(self._storage, uri, table.filter(pa.array(left)), header)
        elif table.num_rows != kept - len(places):
            raise DataError(f"{uri} has {table.num_rows} rows for {kept} kept pairs: run the stage label again")

    def _commit_label(self, before: Committed, layout: Layout, plan: TakedownPlan, gone: Collection[str]) -> None:
        """Write the label stage's marker and report without the pairs."""
        storage, uri = self._storage, layout.report(Stage.LABEL)
        report = json.loads(storage.read_bytes(uri))
        report["examples"] = [example for example in report.get("examples", []) if example["uid"] not in gone]
        samples = before.summary.get("samples", plan.pairs) - plan.pairs
        bad = Counter[str](before.summary.get("bad", {})) - Counter(plan.bad)
        counts = {"labelled": samples - bad.total(), "bad": dict(bad)}
        report["pictures"] = {"total": samples, **counts}
        storage.write_bytes(uri, json.dumps(report, indent=1, ensure_ascii=False).encode())
        written = {"report.json"}
        for name in plan.taken:
            written |= {f"labels/{name}.parquet", f"embeddings/{name}.safetensors"}
        artefacts = [
            artefact(storage, layout, Stage.LABEL, item.path) if item.path in written else item
            for item in before.artefacts
        ]
        summary = {**before.summary, "samples": samples, **counts}
        commit(storage, layout, Stage.LABEL, before.config, artefacts, summary, before)

    def _scores(self, shard: Shard) -> Scores:
        uri = self._layout.scores(shard.name)
        return open_scores(self._storage.read_bytes(uri), uri)

    def _done(self, shard: Shard) -> FilteredShard:
        found = done_shard(self._context, shard)
        if found is None:
            raise DataError(
                f"{self._layout.scores(shard.name)} does not belong to the committed output: run the stage filter again"
            )
        return found
