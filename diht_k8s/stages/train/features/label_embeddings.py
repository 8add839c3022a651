"""The embeddings of a CLIP-type teacher that the label stage has stored, for the loss of `train.distillation.embeddings`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import read_committed
from diht_k8s.stages.train.features.feature_set import FeatureFile
from diht_k8s.stages.train.features.rows import CACHE_BYTES, FeatureTables, width_of

REMEDY: Final = "remove the folder of these labels and run the stage label again"


def label_embeddings(
    run: DihtRun, storage: Storage, labelled: Layout, shards: Sequence[Shard], *, readers: int
) -> FeatureTables | None:
    """The embeddings of a training's pairs, image's before caption's; None where none are asked for.

    Args:
        run: the run document.
        storage: of the labels.
        labelled: with the folder of the labels.
        shards: with their counts, in the order's numbering.
        readers: processes of a rank that hold some of them in memory, each its own.

    Raises:
        DataError: the labels are not complete, or a file is damaged.
    """
    train = run.spec.train
    assert train is not None
    if train.distillation.embeddings is None:
        return None
    config_sha256 = read_committed(storage, labelled, Stage.LABEL).config_sha256
    files = [FeatureFile(labelled.embeddings(each.name), config_sha256, "the teacher", REMEDY) for each in shards]
    none_W = torch.zeros(width_of(storage, files[0]))  # of a pair whose image the teacher could not see
    pairs = sum(shard.samples or 0 for shard in shards)
    return FeatureTables(storage, files, none_W, pairs=pairs, limit=CACHE_BYTES // max(1, readers))
