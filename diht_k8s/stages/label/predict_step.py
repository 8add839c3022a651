"""The step `predict`: heads and teacher in, `labels/SHARD.parquet` of all kept shards and the stage's report out.

A CLIP-type teacher's embeddings go to `embeddings/SHARD.safetensors`, where they are asked for.

Workers share the shards, as those of the filter do; a shard that has its labels is left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property

from diht_k8s.api.errors import DihtError
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.sources import Shard, share
from diht_k8s.runtime.bad_shards import damage_summary
from diht_k8s.runtime.claims import Claims, claims_of, until_committed
from diht_k8s.runtime.commit import Count, artefact, require_equal
from diht_k8s.runtime.stage import Outcome
from diht_k8s.stages.label.caption_concepts import read_captions
from diht_k8s.stages.label.features import (
    TeacherFeatures,
    caption_embeddings,
    extract_shard,
    found_header,
    kept_samples,
    write_embeddings,
)
from diht_k8s.stages.label.heads import Head, folds_of
from diht_k8s.stages.label.heads_step import check_same_pairs, read_heads, read_shard
from diht_k8s.stages.label.job import LabelJob, LabelProgress
from diht_k8s.stages.label.report import make_report
from diht_k8s.stages.label.soft_labels import top_k, write_labels
from diht_k8s.stages.label.teacher import LazyTeacher
from diht_k8s.stages.label.vocabulary import read_vocabulary


def make_labels(job: LabelJob, teacher: LazyTeacher) -> Outcome | None:
    """Write soft labels until all shards have them; returns the outcome in the worker that ends the stage."""
    context = job.context
    claims = claims_of(context)
    mine = job.missing("labels", ".parquet", share(list(job.shards), context.worker, context.workers))
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
    def _count(self) -> LabelProgress:
        return LabelProgress(self._job, "labels", "labels", ".parquet", self._job.shards)

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
            found = extract_shard(job, self._teacher, shard, self._images_done)
            captions = read_captions(job.context.storage, job.context.layout, shard)
            check_same_pairs(found, captions.uids, shard.uri)
        if job.label.teacher.text_embeddings:
            self._write_embeddings(shard, found)
        fold_N = folds_of(found.group_hash_N, job.label.cross_fit, job.context.run.spec.seed)
        least = job.label.min_probability
        probabilities = [head.probabilities(found.features_ND, fold_N).numpy() for head in heads]
        stored = [top_k(each, job.label.top_k, least) for each in probabilities]
        header = {
            **job.header,
            "vocabulary_sha256": vocabulary_sha256,
            "top_k": job.label.top_k,
            **({"min_probability": least} if least else {}),
            **found_header(found),
        }
        uri = job.context.layout.labels(shard.name)
        write_labels(job.context.storage, uri, captions.uids, found.usable_N.numpy(), stored, header)

    def _write_embeddings(self, shard: Shard, found: TeacherFeatures) -> None:
        """Before the labels, whose file says that the shard is done."""
        job = self._job
        captions = found.captions or [sample.caption for sample in kept_samples(job, shard)]
        text_ND = caption_embeddings(self._teacher.texts, captions, lambda: self._images_done(len(captions)))
        write_embeddings(job.context.storage, job.context.layout.embeddings(shard.name), found, text_ND, job.header)

    def _images_done(self, images: int) -> None:
        self._claims.keep()
        self._count.within_shard(images)


def finish(job: LabelJob) -> Outcome:
    """Write the report and say what the stage made.

    Raises:
        DataError: labels were lost or came twice, or too many images have none.
    """
    context = job.context
    _check_files(job)
    report = make_report(job, read_vocabulary(job), json.loads(context.storage.read_bytes(job.uri("heads.json"))))
    job.write_json(context.layout.report(Stage.LABEL), report)
    paths = ["vocabulary.json", "heads.json", "teacher_heads.safetensors"]
    paths += [f"labels/{shard.name}.parquet" for shard in job.shards] + ["report.json"]
    if job.label.teacher.text_embeddings:
        paths += [f"embeddings/{shard.name}.safetensors" for shard in job.shards]
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


def _check_files(job: LabelJob) -> None:
    """Compare the files of labels, and of embeddings, with the shards that have kept pairs, by one listing each."""
    kinds = {"labels": ".parquet"} | ({"embeddings": ".safetensors"} if job.label.teacher.text_embeddings else {})
    for kind, suffix in kinds.items():
        there = [name for name in job.context.storage.names(job.uri(kind)) if name.endswith(suffix)]
        more = sorted(set(there) - {f"{shard.name}{suffix}" for shard in job.shards})
        require_equal(
            job.uri(kind),
            f"move away what the stage has not written ({', '.join(more[:3])})"
            if more
            else "run the stage label again",
            Count(len(job.shards), "shards have kept pairs"),
            Count(len(there), f"files of {kind}"),
        )
