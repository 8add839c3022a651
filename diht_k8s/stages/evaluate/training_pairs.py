"""The run's training pairs, on which references are fitted: raw pixels, captions and teacher features of each.

Digests of the images find those that a benchmark shares with the training. A run without a retrieval benchmark needs
nothing else, so its images are read but not decoded.

Shapes: D features.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diht_k8s.api.errors import UserError
from diht_k8s.api.reports import Committed
from diht_k8s.data.shards.images import BadImageError, decode
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.samples import Sample
from diht_k8s.data.shards.sources import Shard, known_sources, training_shards
from diht_k8s.runtime.bad_shards import BadShards
from diht_k8s.runtime.inputs import kept_shards
from diht_k8s.runtime.stage import Context
from diht_k8s.stages.evaluate.ridge import raw_pixels

MAX_PAIRS: Final = 20_000
"""Training pairs that a reference is fitted on: more take longer and add little accuracy."""


@dataclass
class TrainingPairs:
    """Training data of the references; only digests in a run without retrieval."""

    number: int = 0
    pixels: list[NDArray[np.float32]] = field(default_factory=list)
    """[D] of each pair."""
    captions: list[str] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)
    """SHA-256 of each image's bytes."""
    teacher: list[NDArray[np.float16]] = field(default_factory=list)
    """[D] of each pair whose shard has teacher features."""


def read_training_pairs(context: Context, label: Committed | None, *, decoded: bool) -> TrainingPairs | str:
    """The first pairs of the run, or the reason why there are none.

    Args:
        context: of the stage.
        label: marker of the label stage, whose teacher features are read; None for none.
        decoded: whether pixels, captions and teacher features are needed.

    Raises:
        DataError: more shards are damaged than the run allows.
    """
    pairs = TrainingPairs()
    try:
        shards = _shards(context)
    except UserError as error:
        return str(error)
    if not shards:
        return "the run names no training pairs"
    total = sum(shard.samples or 0 for shard in shards)
    context.progress.start("reference: training pairs", min(total, MAX_PAIRS))
    bad_shards = BadShards(context.run.spec.data.max_bad_shards, len(shards))
    for shard in shards:
        context.stop.raise_if_requested()
        teacher_ND = _teacher_features(context, label, shard) if decoded else None
        samples = read_pairs(context.storage, shard, check=context.stop.raise_if_requested)
        for row, sample in enumerate(bad_shards.salvage(shard.name, samples)):
            if pairs.number == MAX_PAIRS:
                break
            image = _decoded(sample) if decoded else None
            if sample.problem is not None or (decoded and image is None):
                continue
            pairs.number += 1
            pairs.digests.add(hashlib.sha256(sample.image).hexdigest())
            if image is not None:
                pairs.pixels.append(raw_pixels(image))
                pairs.captions.append(sample.caption)
            if teacher_ND is not None:
                pairs.teacher.append(teacher_ND[row])
        context.progress.update(pairs.number)
        if pairs.number == MAX_PAIRS:
            break
    return pairs


def _shards(context: Context) -> list[Shard]:
    """The shards that the model was trained on, in the training's order."""
    spec = context.run.spec
    if spec.train is not None and spec.train.shards:
        (own,) = known_sources(context.storage, spec.data.output, [spec.train.shards])
        return training_shards(own)
    return kept_shards(spec, context.storage, context.layout)


def _decoded(sample: Sample) -> Image.Image | None:
    """The image of a pair that can be trained on."""
    try:
        return None if sample.problem is not None else decode(sample.image)
    except BadImageError:
        return None


def _teacher_features(context: Context, label: Committed | None, shard: Shard) -> NDArray[np.float16] | None:
    """[N, D] of the pairs of a shard; None where the label stage has kept none."""
    if label is None or not context.storage.exists(uri := context.layout.features(shard.name)):
        return None
    from diht_k8s.stages.label.features import read_features

    return read_features(context.storage, uri, label.config_sha256).features_ND.numpy()
