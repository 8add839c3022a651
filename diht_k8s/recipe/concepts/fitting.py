"""The step `heads`: features and captions of the training pictures in, `heads.json` and `teacher_heads.safetensors` out.

The two heads share nothing, so each may be trained by another worker: it goes to `heads/KIND.safetensors`, and worker 0 puts them together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from safetensors.torch import save
from torch import Tensor

from diht_k8s.api.errors import DataError
from diht_k8s.recipe.concepts.captions import KeptCaptions, read_captions
from diht_k8s.recipe.concepts.features import ShardFeatures, hash64, read_features, read_safetensors
from diht_k8s.recipe.concepts.heads import Head, TrainingPictures, folds_of, train_head
from diht_k8s.recipe.concepts.job import Job
from diht_k8s.recipe.concepts.quality import measure
from diht_k8s.recipe.concepts.targets import encode
from diht_k8s.recipe.concepts.vocabulary import Vocabulary
from diht_k8s.recipe.shards.sets import Shard

KINDS: Final[tuple[str, ...]] = ("objects", "attributes")


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def read_vocabulary(job: Job) -> Vocabulary:
    """The frozen classes."""
    return Vocabulary.from_document(json.loads(job.context.storage.read_bytes(job.context.layout.vocabulary)))


def kinds_of(worker: int, workers: int) -> list[str]:
    """The heads that a worker trains."""
    return list(KINDS[worker::workers])


def missing_heads(job: Job, kinds: Sequence[str] = KINDS) -> list[str]:
    """Heads that nobody has trained yet."""
    there = set(job.context.storage.names(job.uri("heads")))
    return [kind for kind in kinds if f"{kind}.safetensors" not in there]


def train_heads(job: Job, kinds: Sequence[str]) -> None:
    """Train some heads on the features of the training shards, each to a file of its own."""
    context, config = job.context, job.label.heads
    todo = missing_heads(job, kinds)
    if not todo or context.storage.exists(context.layout.teacher_heads):
        return
    vocabulary = read_vocabulary(job)
    pictures, captions = _training_pictures(job)
    context.progress.start("heads", len(todo) * config.epochs, unit="epochs")
    for number, kind in enumerate(todo):
        concepts = getattr(vocabulary, kind)
        targets = encode(getattr(captions, kind), concepts)
        seed = context.run.spec.seed + KINDS.index(kind)
        head = train_head(pictures, targets, config, seed, device(), _on_epoch(job, number * config.epochs))
        header = {**job.header, "vocabulary_sha256": vocabulary.sha256}
        figures = measure(head, pictures, targets, concepts)
        metadata = {"diht": json.dumps({**header, "figures": figures}, sort_keys=True)}
        tensors = {"weight": head.weight_MCD, "bias": head.bias_MC}
        context.storage.write_bytes(job.uri("heads", f"{kind}.safetensors"), save(tensors, metadata=metadata))


def join_heads(job: Job) -> None:
    """Put both heads into one file, their figures into another; the weights are written last."""
    context, layout = job.context, job.context.layout
    if context.storage.exists(layout.teacher_heads):
        return
    tensors: dict[str, Tensor] = {}
    figures: dict[str, Any] = {}
    vocabulary_sha256 = read_vocabulary(job).sha256
    for kind in KINDS:
        uri = job.uri("heads", f"{kind}.safetensors")
        found, header = read_safetensors(context.storage, uri)
        if header.get("config_sha256") != job.config_sha256 or header.get("vocabulary_sha256") != vocabulary_sha256:
            raise DataError(f"{uri} was made under another configuration: remove it and run the stage label again")
        tensors |= {f"{kind}.weight": found["weight"], f"{kind}.bias": found["bias"]}
        figures[kind] = header["figures"]
    job.write_json(job.uri("heads.json"), {**job.header, **figures})
    metadata = {"diht": json.dumps({**job.header, "vocabulary_sha256": vocabulary_sha256}, sort_keys=True)}
    context.storage.write_bytes(layout.teacher_heads, save(tensors, metadata=metadata))
    context.storage.remove(job.uri("heads"))


def _on_epoch(job: Job, before: int) -> Callable[[int, dict[str, float]], None]:
    def report(epoch: int, figures: dict[str, float]) -> None:
        job.context.stop.raise_if_requested()
        job.context.progress.update(before + epoch, figures)

    return report


def _training_pictures(job: Job) -> tuple[TrainingPictures, KeptCaptions]:
    """Features, folds and caption concepts of the usable training pictures.

    Raises:
        DataError: no picture is usable.
    """
    features: list[Tensor] = []
    groups: list[Tensor] = []
    captions = KeptCaptions([], [], [])
    for shard in job.training_shards:
        found, names = read_shard(job, shard)
        rows = found.usable_N[: job.training[shard.name]].nonzero().flatten()
        features.append(found.features_ND[rows])
        groups.append(found.group_hash_N[rows])
        for target, source in (
            (captions.uids, names.uids),
            (captions.objects, names.objects),
            (captions.attributes, names.attributes),
        ):
            target.extend(source[row] for row in rows.tolist())
    if not captions.uids:
        raise DataError("none of the kept pictures can be decoded: look at filter/report.json and the shards")
    folds = job.label.cross_fit
    fold_N = folds_of(torch.cat(groups), folds, job.context.run.spec.seed)
    return TrainingPictures(torch.cat(features), fold_N, folds), captions


def read_shard(job: Job, shard: Shard) -> tuple[ShardFeatures, KeptCaptions]:
    """Cached features and caption concepts of one shard, row by row the same pairs."""
    found = read_features(job.context.storage, job.features_uri(shard.name), job.config_sha256)
    captions = read_captions(job.context.storage, job.context.layout, shard)
    check_same_pairs(found, captions.uids, shard.uri)
    return found, captions


def check_same_pairs(found: ShardFeatures, uids: Sequence[str], where: str) -> None:
    """Scores and kept shard must hold the same pairs in the same order.

    Raises:
        DataError: they do not.
    """
    if found.uid_hash_N.tolist() != [hash64(uid) for uid in uids]:
        raise DataError(
            f"{where} and the filter's scores do not hold the same pairs: run the stage filter again with --replace"
        )


def read_heads(job: Job) -> tuple[list[Head], str]:
    """Both heads and the digest of their vocabulary.

    Raises:
        DataError: the file is damaged or was made under another configuration.
    """
    uri = job.context.layout.teacher_heads
    tensors, header = read_safetensors(job.context.storage, uri)
    if header["config_sha256"] != job.config_sha256:
        raise DataError(f"{uri} was made under another configuration: run the stage label again with --replace")
    heads = [Head(tensors[f"{kind}.weight"], tensors[f"{kind}.bias"]) for kind in KINDS]
    return heads, header["vocabulary_sha256"]
