"""Setup of a rank from the run document: shards, student, vocabulary, loader, held-out pairs, and the order and
position of a resume.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun
from diht_k8s.api.train import Train
from diht_k8s.data.shards.sources import Shard, known_sources, stem, training_shards
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import Count, require_equal
from diht_k8s.runtime.indexing import IndexedShards, Ranks, indexed
from diht_k8s.runtime.inputs import kept_shards
from diht_k8s.runtime.preflight import usable_cpus
from diht_k8s.stages.label.vocabulary import ConceptVocabulary
from diht_k8s.stages.train.checkpoint.checkpoint import Cursor, CursorOrder, Saved
from diht_k8s.stages.train.collectives import broadcast_error, gather_objects, this_device
from diht_k8s.stages.train.compiler import compile_blocks, require_compiler
from diht_k8s.stages.train.data.collate import ImageSizes
from diht_k8s.stages.train.data.dataset import ShardDataset
from diht_k8s.stages.train.data.loader import Loader, loader_workers
from diht_k8s.stages.train.data.normalisation import Normalisation
from diht_k8s.stages.train.data.sampler import LaneSampler, OrderSizes, sampler_over
from diht_k8s.stages.train.features.rows import FeatureTables, label_embeddings
from diht_k8s.stages.train.model.batch_norm import convert_batch_norm, require_equal_parts
from diht_k8s.stages.train.model.student import Student, has_batch_statistics, require_passing_images, take_sizes
from diht_k8s.stages.train.stage import label_layout
from diht_k8s.stages.train.validation import HeldOutPairs, HeldOutValidation


def read_vocabulary(run: DihtRun, storage: Storage, layout: Layout) -> ConceptVocabulary | None:
    """The concepts of the student's heads; None without distillation."""
    if run.training.distillation.mode != "Concepts":
        return None
    return ConceptVocabulary.from_document(json.loads(storage.read_bytes(label_layout(run, layout).vocabulary)))


def make_student(run: DihtRun, config: dict[str, Any], vocabulary: ConceptVocabulary | None) -> Student:
    """The student with random weights that depend on the run's seed alone.

    Raises:
        UserError: open_clip refuses the configuration, or this machine cannot compile it.
    """
    train = run.training
    if train.compile:
        if train.zero_stage == 3:
            raise UserError(
                "train.compile does not go with train.zeroStage 3, which gathers weights inside the towers: use 2"
            )
        require_compiler(this_device().type)
    torch.manual_seed(run.spec.training_seed)
    return Student(
        config,
        num_objects=len(vocabulary.objects) if vocabulary else 0,
        num_attributes=len(vocabulary.attributes) if vocabulary else 0,
        heads_input=train.distillation.heads_input,
    )


def adapt_student(model: Student, train: Train, *, rank: int, world: int) -> None:
    """Have a student with its first weights, whose image tower is locked or not, compute as the settings say.

    Raises:
        UserError: its image tower takes no images of its size, or no smaller ones in stages; or it has batch
            statistics, and the ranks or micro-batches do not divide the batch.
    """
    if train.stages:
        take_sizes(model.image_tower, [stage.image_size for stage in train.stages])
    if model.locked is None:
        require_passing_images(model.image_tower)
    if train.distillation.regression is not None:  # its targets are embeddings of images, which stay where they are
        model.clip.get_submodule("visual.head.proj").requires_grad_(False)
    if train.activation_checkpointing:
        model.set_grad_checkpointing()
    if has_batch_statistics(model):
        require_equal_parts(train, world)
        if world > 1:
            convert_batch_norm(model, this_device())
        if rank == 0 and train.micro_batch_size is not None:
            logging.warning(
                "the model has batch statistics (BatchNorm): its curve depends on train.microBatchSize, over which "
                "they are taken"
            )
    if train.compile:
        compile_blocks(model.image_tower, model.clip.transformer)


def train_shards(run: DihtRun, storage: Storage, layout: Layout) -> list[Shard]:
    """The shards to train on: `train.shards` (labels go by file names), else the kept shards, else the raw input.

    They have their counts where the filter has counted them.

    Raises:
        UserError: two of `train.shards` have one file name, by which their labels would be found.
    """
    train = run.training
    if train.shards:
        (own,) = known_sources(storage, run.spec.data.output, [train.shards])
        twice = next((name for name, times in Counter(stem(file.uri) for file in own).items() if times > 1), None)
        if twice is not None and train.distillation.reads_labels:
            raise UserError(
                f"spec.train.shards: several files are named {twice}, and labels are found by the name: rename them, "
                "or "
                "write train.distillation: {mode: Disabled} without embeddings"
            )
        return training_shards(own)
    return kept_shards(run.spec, storage, layout)


class TrainingData(NamedTuple):
    """The shards of a training and the order of their samples."""

    indexed: IndexedShards
    sampler: LaneSampler


def training_data(
    run: DihtRun,
    storage: Storage,
    layout: Layout,
    saved: Saved | None,
    *,
    rank: int,
    world: int,
    check: Callable[[], object] | None = None,
) -> TrainingData:
    """The shards with their counts, and the order over them (a collective).

    Args:
        run: the run document.
        storage: reads the shards.
        layout: with the folders of the stages before.
        saved: the checkpoint to go on from, which decides the order.
        rank: of this process.
        world: number of processes.
        check: called while a shard is read; it may raise to stop.

    Raises:
        DataError: all pairs together are fewer than a batch, or the order has more or fewer than there are.
        UserError: another order is asked for than that of the checkpoint.
    """
    train = run.training
    ranks = Ranks(rank, world, gather_objects, broadcast_error)
    shards = train_shards(run, storage, layout)
    found = indexed(run, storage, layout, shards, ranks, in_sequence=sequential_shards(saved), check=check)
    require_batch(found.shards, train.batch_size)
    sampler = resume_sampler(
        saved,
        train,
        [shard.samples or 0 for shard in found.shards],
        run.spec.training_seed,
        weights=shard_weights(run, found.shards),
        sequential=found.sequential,
    )
    drawn = Count(epoch_samples(found.shards, shard_weights(run, found.shards)), "samples by counts and weights")
    ordered = Count(sampler.total, "samples in the order of an epoch")
    require_equal("train", "report this as a fault of the program", drawn, ordered)
    return TrainingData(found, sampler)


def epoch_samples(shards: Sequence[Shard], weights: Sequence[float]) -> int:
    """Samples of an epoch as docs/training.md has it: those of the lightest source once, others as they are heavier.

    Args:
        shards: with their counts.
        weights: of each shard.
    """
    total, least = 0, min(weights, default=1.0)
    for shard, weight in zip(shards, weights, strict=True):
        times = int(weight / least)
        total += times * (shard.samples or 0) + round((weight / least - times) * (shard.samples or 0))
    return total


def require_batch(shards: Sequence[Shard], batch_size: int) -> None:
    """Refuse fewer pairs than a batch.

    Raises:
        DataError: there are fewer.
    """
    total = sum(shard.samples or 0 for shard in shards)
    if total < batch_size:
        raise DataError(f"{total} pairs are fewer than train.batchSize {batch_size}: lower it or loosen the filter")


def shard_weights(run: DihtRun, shards: Sequence[Shard]) -> list[float]:
    """Weight of each shard in an epoch (`data.sources[].weight`)."""
    weights = {source.name: source.weight for source in run.spec.data.sources}
    return [weights.get(shard.source, 1.0) for shard in shards]


def make_loader(
    run: DihtRun,
    storage: Storage,
    layout: Layout,
    data: TrainingData,
    model: Student,
    vocabulary: ConceptVocabulary | None,
    features: Sequence[FeatureTables] = (),
    *,
    rank: int,
    world: int,
) -> Loader:
    """The loader of one rank's batches, of stored features if there are any; nothing is read yet."""
    train = run.training
    labelled = label_layout(run, layout)
    labels = None if vocabulary is None else [labelled.labels(shard.name) for shard in data.indexed.shards]
    workers = loader_workers(train, usable_cpus(), this_device().type)
    return Loader(
        ShardDataset(
            storage,
            data.indexed.shards,
            labels,
            vocabulary_sha256=None if vocabulary is None else vocabulary.sha256,
            indexes=data.indexed,
            features=features,
            embeddings=label_embeddings(run, storage, labelled, data.indexed.shards, readers=workers),
        ),
        data.sampler,
        batch_size=train.batch_size,
        context_length=model.clip.context_length,
        seed=run.spec.training_seed,
        rank=rank,
        world=world,
        workers=workers,
        draw_captions=train.captions == "Drawn",
        image_sizes=ImageSizes.of(train, model.image_size),
    )


def make_validation(
    run: DihtRun,
    storage: Storage,
    model: Student,
    normalisation: Normalisation,
    micro_batch: int,
    *,
    rank: int,
    world: int,
) -> HeldOutValidation | None:
    """The held-out validation; None without `train.validation`."""
    train = run.training
    if train.validation is None:
        return None
    held = HeldOutPairs(
        storage,
        storage.expand(train.validation.shards),
        train.batch_size,
        micro_batch,
        model.image_size,
        model.clip.context_length,
        rank,
        world,
        run.spec.data.max_bad_shards,
        normalisation,
    )
    return HeldOutValidation(held, train)


def sequential_shards(saved: Saved | None) -> frozenset[int] | None:
    """The shards that a checkpoint's order reads in sequence; None for a new training."""
    if saved is None:
        return None
    return frozenset(number for first, last in saved.cursor.order.sequential for number in range(first, last + 1))


def _spans(numbers: frozenset[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    ordered = sorted(numbers)
    firsts = [number for number in ordered if number - 1 not in numbers]
    return list(zip(firsts, [number for number in ordered if number + 1 not in numbers], strict=True))


def resume_sampler(
    saved: Saved | None,
    train: Train,
    sizes: Sequence[int],
    seed: int,
    *,
    weights: Sequence[float],
    sequential: frozenset[int] = frozenset(),
) -> LaneSampler:
    """The order of a checkpoint, or of a new training.

    Args:
        saved: the checkpoint to go on from.
        train: what is asked for.
        sizes: samples of each shard.
        seed: of the shuffle.
        weights: how often each shard is drawn, relative to the others.
        sequential: shards of which no ranges can be read.

    Raises:
        UserError: another order is asked for than that of the checkpoint.
    """
    asked = train.order.model_dump()
    sampler = sampler_over(sizes, train.batch_size, seed, weights=weights, sequential=sequential, **asked)
    if saved is None:
        return sampler
    theirs = OrderSizes(saved.cursor.order.lanes, saved.cursor.order.block, saved.cursor.order.window)
    for name, value in sampler.order._asdict().items():
        if asked[name] is not None and value != getattr(theirs, name):
            raise UserError(
                f"train.order.{name} {asked[name]} is not that of the checkpoint {saved.uri} "
                f"({getattr(theirs, name)}), "
                "which goes on in its own order: remove it"
            )
    return LaneSampler(tuple(sizes), theirs, seed, tuple(weights), sequential)


def resume_cursor(saved: Saved | None, batch_size: int, sampler: LaneSampler, *, config_sha256: str) -> Cursor:
    """The cursor of a checkpoint under this configuration; the start of the training without one.

    Raises:
        UserError: the checkpoint was made with another batch size.
        DataError: it was made over other data.
    """
    if saved is None:
        spans = _spans(sampler.sequential)
        order = CursorOrder(**sampler.order._asdict(), epoch=sampler.total, sequential=spans)
        return Cursor(step=0, position=0, order=order, config_sha256=config_sha256, seconds=0)
    cursor = saved.cursor
    if cursor.position % batch_size or cursor.step * batch_size != cursor.position:
        raise UserError(
            f"the checkpoint {saved.uri} was made with another train.batchSize ({cursor.position} samples in "
            f"{cursor.step} steps): set that one, or take its weights only (initFrom.kind Weights)"
        )
    if cursor.order.epoch != sampler.total:
        raise DataError(
            f"the checkpoint {saved.uri} was made over other data ({cursor.order.epoch} samples an epoch, now "
            f"{sampler.total}): "
            "choose another data.output"
        )
    return cursor.model_copy(update={"config_sha256": config_sha256})
