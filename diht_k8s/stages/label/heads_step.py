"""The step `heads`: images and captions of the training shards in, `heads.json` and `teacher_heads.safetensors` out.

The images pass the teacher first (`features/SHARD.safetensors`). Then each concept head is fitted, to a file of its
own, `heads/KIND.safetensors`; at the end both are joined. A head sees cached features only, so its fit takes a few
percent of the time that the teacher took for them. An interrupted fit resumes from `heads/KIND.state`, to the same
bytes.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from diht_k8s.api.errors import DataError, UserError, in_one_line
from diht_k8s.data.feature_files import hash64, read_tensors, write_tensors
from diht_k8s.data.shards.sources import Shard
from diht_k8s.stages.label.caption_concepts import KeptCaptions, read_captions
from diht_k8s.stages.label.features import (
    TeacherFeatures,
    extract_shard,
    read_teacher_features,
    write_features,
)
from diht_k8s.stages.label.head_metrics import head_figures
from diht_k8s.stages.label.heads import Head, State, TrainingImages, fit_head, folds_of
from diht_k8s.stages.label.job import LabelJob, LabelProgress
from diht_k8s.stages.label.targets import Targets, concatenated, encode
from diht_k8s.stages.label.teacher import LazyTeacher, device
from diht_k8s.stages.label.teacher_classes import with_own_classes
from diht_k8s.stages.label.vocabulary import Concepts, read_vocabulary

KINDS: Final[tuple[str, ...]] = ("objects", "attributes")
MEMORY_BYTES: Final = 1 << 30
"""Features of more bytes are kept on disk while the heads are fitted: 420,000 images of a network with 1,280 features.
"""
SAVE_SECONDS: Final = 300.0
"""Interval at which the state of a long fit is saved."""


def make_heads(job: LabelJob, teacher: LazyTeacher) -> None:
    """Pass the training shards through the teacher, fit both heads, and write them."""
    _make_features(job, teacher)
    _fit_heads(job, lambda: teacher.loaded.classifier)
    _join_heads(job)


def _make_features(job: LabelJob, teacher: LazyTeacher) -> None:
    """Pass the training shards without features through the teacher."""
    todo = job.missing("features", ".safetensors", job.training_shards)
    count = LabelProgress(job, "teacher", "features", ".safetensors", job.training_shards)
    for shard in todo:
        job.context.stop.raise_if_requested()
        found = extract_shard(job, teacher, shard, count.within_shard)
        uri = job.context.layout.features(shard.name)
        write_features(job.context.storage, uri, found, job.header)
        count.shard_done()


def _fit_heads(job: LabelJob, classifier: Callable[[], tuple[Tensor, Tensor] | None]) -> None:
    """Fit the concept heads that are missing on the features of the training shards, each to a file of its own.

    `classifier` gives the teacher's own weights and biases, and is called where its classes are concepts.
    """
    context, config = job.context, job.label.heads
    there = set(context.storage.names(job.uri("heads")))
    todo = [kind for kind in KINDS if f"{kind}.safetensors" not in there]
    if not todo:
        return
    vocabulary = read_vocabulary(job)
    images, targets = training_images(job, {kind: getattr(vocabulary, kind) for kind in todo})
    context.progress.start("heads", len(todo) * config.epochs, unit="epochs")
    for number, kind in enumerate(todo):
        progress = _FitProgress(job, kind, number * config.epochs)
        seed = context.run.spec.seed + KINDS.index(kind)
        concepts: Concepts = getattr(vocabulary, kind)
        trained = targets[kind].first(len(concepts.trained)) if concepts.teacher_classes else targets[kind]
        head = fit_head(images, trained, config, seed, device(), progress, progress.saved())
        if concepts.teacher_classes:
            head = with_own_classes(head, images, targets[kind], classifier(), concepts)
        figures = head_figures(head, images, targets[kind], concepts)
        header = {**job.header, "vocabulary_sha256": vocabulary.sha256, "figures": figures}
        tensors = {"weight": head.weight_MCD, "bias": head.bias_MC}
        write_tensors(context.storage, job.uri("heads", f"{kind}.safetensors"), tensors, header)


class _FitProgress:
    """Reports each epoch, and saves the state of the fit every `SAVE_SECONDS` and before a stop."""

    def __init__(self, job: LabelJob, kind: str, before: int) -> None:
        self._job, self._before = job, before
        self._uri = job.uri("heads", f"{kind}.state")
        self._saved_at = time.monotonic()

    def __call__(self, epoch: int, figures: dict[str, float], state: Callable[[], State]) -> None:
        stop = self._job.context.stop
        if stop.requested or time.monotonic() - self._saved_at >= SAVE_SECONDS:
            buffer = io.BytesIO()
            torch.save(state(), buffer)
            self._job.context.storage.write_bytes(self._uri, buffer.getvalue())
            self._saved_at = time.monotonic()
        stop.raise_if_requested()
        self._job.context.progress.update(self._before + epoch, figures)

    def saved(self) -> State | None:
        """The state of an earlier start; its configuration is this one, or the stage would not have begun.

        Raises:
            DataError: the file is damaged.
        """
        storage = self._job.context.storage
        if not storage.exists(self._uri):
            return None
        data = storage.read_bytes(self._uri)
        try:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # zip and pickle raise many kinds; all mean the same to the user
            raise DataError(
                f"{self._uri} is damaged ({in_one_line(error)}): remove it and run the stage label again"
            ) from error


def _join_heads(job: LabelJob) -> None:
    """Put both heads into one file, their figures into another; the weights are written last."""
    context, layout = job.context, job.context.layout
    tensors: dict[str, Tensor] = {}
    figures: dict[str, Any] = {}
    vocabulary_sha256 = read_vocabulary(job).sha256
    for kind in KINDS:
        uri = job.uri("heads", f"{kind}.safetensors")
        found, header = read_tensors(context.storage, uri)
        if (
            header.get("config_sha256") != job.context.config_sha256
            or header.get("vocabulary_sha256") != vocabulary_sha256
        ):
            raise DataError(f"{uri} was made under another configuration: remove it and run the stage label again")
        tensors |= {f"{kind}.weight": found["weight"], f"{kind}.bias": found["bias"]}
        figures[kind] = header["figures"]
    job.write_json(job.uri("heads.json"), {**job.header, **figures})
    header = {**job.header, "vocabulary_sha256": vocabulary_sha256}
    write_tensors(context.storage, layout.teacher_heads, tensors, header)
    context.storage.remove_named(job.uri("heads"), "*.state", "*.safetensors")


def training_images(job: LabelJob, vocabulary: Mapping[str, Concepts]) -> tuple[TrainingImages, dict[str, Targets]]:
    """Features and folds of the usable training images, and what their captions name, for some heads.

    Raises:
        DataError: no image is usable.
        UserError: features beyond `MEMORY_BYTES` find no room on the disk.
    """
    features_ND: Tensor | None = None
    groups: list[Tensor] = []
    targets: dict[str, list[Targets]] = {kind: [] for kind in vocabulary}
    used = 0
    for shard in job.training_shards:
        found, names = read_shard(job, shard)
        rows = found.usable_N[: job.training[shard.name]].nonzero().flatten()
        if features_ND is None:
            features_ND = empty_table(sum(job.training.values()), found.features_ND.shape[1])
        features_ND[used : used + len(rows)] = found.features_ND[rows]
        used += len(rows)
        groups.append(found.group_hash_N[rows])
        for kind, concepts in vocabulary.items():
            column = getattr(names, kind)
            targets[kind].append(encode([column[row] for row in rows.tolist()], concepts))
    if features_ND is None or not used:
        raise DataError("none of the kept images can be decoded: check filter/report.json and the shards")
    folds = job.label.cross_fit
    fold_N = folds_of(torch.cat(groups), folds, job.context.run.spec.seed)
    return TrainingImages(features_ND[:used], fold_N, folds), {
        kind: concatenated(parts) for kind, parts in targets.items()
    }


def empty_table(rows: int, columns: int) -> Tensor:
    """An empty table for fp16 features: in memory, or in a nameless file below TMPDIR if it is larger than
    `MEMORY_BYTES`.

    Raises:
        UserError: the disk has no room for them.
    """
    size = max(1, 2 * rows * columns)
    if size <= MEMORY_BYTES:
        return torch.empty(rows, columns, dtype=torch.float16)
    with tempfile.TemporaryFile() as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # a disk that is full later would end the program by a signal
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()} has no room for {size / 2**30:.1f} GiB of teacher features "
                f"({error.strerror}): "
                "set TMPDIR to a larger disk, or lower label.maxSamples"
            ) from error
        return torch.from_numpy(np.memmap(file, np.float16, "r+", shape=(rows, columns)))


def read_shard(job: LabelJob, shard: Shard) -> tuple[TeacherFeatures, KeptCaptions]:
    """Cached features and caption concepts of one shard, row by row the same pairs."""
    found = read_teacher_features(
        job.context.storage, job.context.layout.features(shard.name), job.context.config_sha256
    )
    captions = read_captions(job.context.storage, job.context.layout, shard)
    check_same_pairs(found, captions.uids, shard.uri)
    return found, captions


def check_same_pairs(found: TeacherFeatures, uids: Sequence[str], where: str) -> None:
    """Scores and kept shard must hold the same pairs in the same order.

    Raises:
        DataError: they do not.
    """
    if found.uid_hash_N.tolist() != [hash64(uid) for uid in uids]:
        raise DataError(f"{where} and the filter's scores do not hold the same pairs: run the stage filter again")


def read_heads(job: LabelJob) -> tuple[list[Head], str]:
    """Both heads and the digest of their vocabulary.

    Raises:
        DataError: the file is damaged or was made under another configuration.
    """
    uri = job.context.layout.teacher_heads
    tensors, header = read_tensors(job.context.storage, uri)
    if header["config_sha256"] != job.context.config_sha256:
        raise DataError(f"{uri} was made under another configuration: run the stage label again")
    heads = [Head(tensors[f"{kind}.weight"], tensors[f"{kind}.bias"], kind=job.label.heads.kind) for kind in KINDS]
    return heads, header["vocabulary_sha256"]
