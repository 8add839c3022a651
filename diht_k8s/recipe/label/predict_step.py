"""What the steps `heads` and `predict` write for each shard: teacher features, soft labels; and the stage's report.

Each function leaves out the files that are already there. It reads and writes; the maths is in the modules beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import torch

from diht_k8s.api.errors import DihtError
from diht_k8s.api.run import Stage
from diht_k8s.recipe.label import features as shard_features
from diht_k8s.recipe.label.caption_concepts import read_captions
from diht_k8s.recipe.label.heads import Head, folds_of
from diht_k8s.recipe.label.heads_step import check_same_pairs, device, read_heads, read_shard
from diht_k8s.recipe.label.job import LabelJob
from diht_k8s.recipe.label.report import make_report
from diht_k8s.recipe.label.soft_labels import top_k, write_labels
from diht_k8s.recipe.label.teacher import TeacherNetwork, load_teacher
from diht_k8s.recipe.label.teacher_weights import weights_uri
from diht_k8s.recipe.label.vocabulary_step import read_vocabulary
from diht_k8s.recipe.runtime.bad_shards import damage_summary, lost_sample
from diht_k8s.recipe.runtime.claims import Claims
from diht_k8s.recipe.runtime.commit import artefact
from diht_k8s.recipe.runtime.shard_progress import ShardProgress
from diht_k8s.recipe.runtime.shared_work import claims_of, until_committed
from diht_k8s.recipe.runtime.stage import Outcome
from diht_k8s.recipe.shards.pairs import read_pairs
from diht_k8s.recipe.shards.samples import Sample
from diht_k8s.recipe.shards.sources import Shard, share


class LazyTeacher:
    """The teacher, loaded when the first image needs it: timm takes seconds to import."""

    def __init__(self, job: LabelJob, threads: int) -> None:
        self._job, self._threads = job, threads

    @cached_property
    def loaded(self) -> TeacherNetwork:
        """The network with its weights."""
        config = self._job.label.teacher
        loaded = load_teacher(config, self._job.context.storage, weights_uri(config), device())
        return replace(loaded, threads=self._threads)


def claim_threads() -> int:
    """The threads of this process, for the teacher; torch's own operators get one of them on a CPU.

    Features and heads then have the same bits on machines with different numbers of cores.
    """
    threads = torch.get_num_threads()
    if device().type == "cpu":
        torch.set_num_threads(1)
    return threads


def make_features(job: LabelJob, teacher: LazyTeacher) -> None:
    """Pass this worker's share of the training shards through the teacher."""
    mine = share(job.training_shards, job.context.worker, job.context.workers)
    todo = job.missing("features", ".safetensors", mine)
    job.context.storage.reserve(job.context.layout.features(shard.name) for shard in todo)
    count = _StageProgress(job, "teacher", "features", ".safetensors", job.training_shards)
    for shard in todo:
        job.context.stop.raise_if_requested()
        found = _extract(job, teacher, shard, count.within_shard)
        uri = job.context.layout.features(shard.name)
        shard_features.write_features(job.context.storage, uri, found, job.header)
        count.shard_done()


def _extract(
    job: LabelJob, teacher: LazyTeacher, shard: Shard, on_images: Callable[[int], None]
) -> shard_features.TeacherFeatures:
    """Features of a kept shard, with a row for each pair that the filter kept."""
    found = shard_features.extract(teacher.loaded, _kept_samples(job, shard), shard.uri, on_images)
    return replace(found, damage=job.bad_shards.found.get(shard.name))


def _kept_samples(job: LabelJob, shard: Shard) -> Iterator[Sample]:
    """The pairs of a kept shard; placeholders for those behind its damage, so that rows of all files match."""
    samples, count = read_pairs(job.context.storage, shard, check=job.context.stop.raise_if_requested), 0
    for sample in job.bad_shards.salvage(shard.name, samples):
        yield sample
        count += 1
    if shard.name in job.bad_shards.found:
        uids = read_captions(job.context.storage, job.context.layout, shard).uids
        yield from map(lost_sample, uids[count:])


def make_labels(job: LabelJob, teacher: LazyTeacher) -> Outcome | None:
    """Write soft labels until all shards have them; returns the outcome in the worker that ends the stage."""
    context = job.context
    claims = claims_of(context)
    mine = job.missing("labels", ".parquet", share(list(job.shards), context.worker, context.workers))
    names = [shard.name for shard in mine]
    context.storage.reserve([*map(context.layout.labels, names), *claims.uris(names)])
    writer = _LabelWriter(job, teacher, claims)
    writer.write(mine)

    def take() -> tuple[bool, int]:  # from the last one on, because their owners start with the first
        missing = job.missing("labels", ".parquet", list(reversed(job.shards)))
        return writer.write(missing), len(missing)

    return until_committed(context, claims, take, lambda: finish(job))


class _LabelWriter:
    """Labels shards, one at a time; heads and progress are loaded for the first."""

    def __init__(self, job: LabelJob, teacher: LazyTeacher, claims: Claims) -> None:
        self._job, self._teacher, self._claims = job, teacher, claims

    @cached_property
    def _heads(self) -> tuple[list[Head], str]:
        return read_heads(self._job)

    @cached_property
    def _count(self) -> _StageProgress:
        return _StageProgress(self._job, "labels", "labels", ".parquet", self._job.shards)

    def write(self, shards: Sequence[Shard]) -> bool:
        """Label the shards without labels that no other worker has claimed; returns whether there was one."""
        context, worked = self._job.context, False
        for shard in shards:
            context.stop.raise_if_requested("finished shards are kept")
            if context.storage.exists(context.layout.labels(shard.name)) or not self._claims.take(shard.name):
                continue
            worked = True
            try:
                self._write(shard)
            except DihtError:
                self._claims.give_up(shard.name)
                raise
            self._count.shard_done()
        return worked

    def _write(self, shard: Shard) -> None:
        job, (heads, vocabulary_sha256) = self._job, self._heads
        if shard.name in job.training:
            found, captions = read_shard(job, shard)
        else:
            found = _extract(job, self._teacher, shard, self._images_done)
            captions = read_captions(job.context.storage, job.context.layout, shard)
            check_same_pairs(found, captions.uids, shard.uri)
        fold_N = folds_of(found.group_hash_N, job.label.cross_fit, job.context.run.spec.seed)
        least = job.label.min_probability
        probabilities = [head.probabilities(found.features_ND, fold_N).numpy() for head in heads]
        stored = [top_k(each, job.label.top_k, least) for each in probabilities]
        header = {
            **job.header,
            "vocabulary_sha256": vocabulary_sha256,
            "top_k": job.label.top_k,
            **({"min_probability": least} if least else {}),
            **shard_features.found_header(found),
        }
        uri = job.context.layout.labels(shard.name)
        write_labels(job.context.storage, uri, captions.uids, found.usable_N.numpy(), stored, header)

    def _images_done(self, images: int) -> None:
        self._claims.keep()
        self._count.within_shard(images)


def finish(job: LabelJob) -> Outcome:
    """Write the report and say what the stage made."""
    context = job.context
    report = make_report(job, read_vocabulary(job), json.loads(context.storage.read_bytes(job.uri("heads.json"))))
    job.write_json(context.layout.report(Stage.LABEL), report)
    paths = ["vocabulary.json", "heads.json", "teacher_heads.safetensors"]
    paths += [f"labels/{shard.name}.parquet" for shard in job.shards] + ["report.json"]
    artefacts = [artefact(context.storage, context.layout, Stage.LABEL, path) for path in paths]
    label_bytes = sum(item.size for item in artefacts if item.path.startswith("labels/"))
    summary = {
        "samples": report["pictures"]["total"],
        "labelled": report["pictures"]["labelled"],
        "bad": report["pictures"]["bad"],
        "objects": report["vocabulary"]["objects"]["classes"],
        "attributes": report["vocabulary"]["attributes"]["classes"],
        "bytes_per_picture": round(label_bytes / max(1, report["pictures"]["total"]), 1),
        **damage_summary(job.bad_shards.found),
    }
    return Outcome(artefacts, summary)


class _StageProgress:
    """Counts the images of the whole stage: finished shards of all workers and this worker's current one."""

    def __init__(self, job: LabelJob, step: str, folder: str, suffix: str, shards: Sequence[Shard]) -> None:
        self._job, self._folder, self._suffix, self._shards = job, folder, suffix, shards
        self._committed = ShardProgress(job.context, folder)
        self._done = self._finished()
        job.context.progress.start(step, job.samples(shards), done=self._done)

    def _finished(self) -> int:
        total = self._job.samples(self._shards)
        return total - self._job.samples(self._job.missing(self._folder, self._suffix, self._shards))

    def within_shard(self, images: int) -> None:
        self._job.context.stop.raise_if_requested()
        self._update(self._done + images)

    def shard_done(self) -> None:
        self._committed.shard_done()
        self._done = self._finished()
        self._update(self._done)

    def _update(self, done: int) -> None:
        bad_shards = len(self._job.bad_shards.found)
        self._job.context.progress.update(done, {"bad_shards": bad_shards} if bad_shards else None)
