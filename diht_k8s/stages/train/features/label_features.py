"""Features that the label stage has stored where its teacher is the training's locked tower: one pass serves both.

Weights and pairs are the same if their digests are. That network and view are the same, too, is shown by a few images that
pass the tower again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final

import torch

from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import MARKER, Layout, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.images import decode
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.files import weights_sha256
from diht_k8s.runtime.commit import find_committed
from diht_k8s.stages.label.features import read_features
from diht_k8s.stages.train.checkpoint.init_from import weights_file
from diht_k8s.stages.train.features.feature_set import SUFFIX, FeatureFile, FeatureSet
from diht_k8s.stages.train.features.making import preprocess_of
from diht_k8s.stages.train.model.locked_tower import LockedTower
from diht_k8s.stages.train.stage import label_layout

PROBES: Final = 4
"""Images that pass the tower again."""
TOLERANCE: Final = 5e-3
"""Relative difference of their features: rounding to fp16 makes 2e-4, another crop or colour more than 1e-1."""


def label_features(
    run: DihtRun, storage: Storage, layout: Layout, tower: LockedTower, features: FeatureSet, shards: Sequence[Shard]
) -> dict[str, FeatureFile]:
    """The files of the label stage that hold these features, by shard; none where its teacher is another network.

    Args:
        run: the run document.
        storage: of all files.
        layout: with the folders of filter and labels.
        tower: the locked one.
        features: that are wanted.
        shards: of the training.

    Raises:
        DataError: a file is damaged.
    """
    train = run.spec.train
    assert train is not None
    if not train.distillation.reads_labels or train.shards or run.spec.filter is None or train.init_from is None:
        return {}
    labelled = label_layout(run, layout)
    label, kept = find_committed(storage, labelled, Stage.LABEL), find_committed(storage, layout, Stage.FILTER)
    if label is None or kept is None or label.config["inputs"].get("filter") != kept.identity:
        return {}
    place = weights_file(storage, train.init_from)
    if place.endswith(MARKER) or weights_sha256(storage, place) != label.config["programs"].get("teacher"):
        return {}
    there, config_sha256 = set(storage.names(join(labelled.stage(Stage.LABEL), "features"))), sha256_of(label.config)
    found = [shard for shard in shards if f"{shard.name}{SUFFIX}" in there]
    files = {shard.name: FeatureFile(labelled.features(shard.name), config_sha256, "the teacher") for shard in found}
    return files if found and _agree(storage, found[0], files[found[0].name], tower, features) else {}


def _agree(storage: Storage, shard: Shard, file: FeatureFile, tower: LockedTower, features: FeatureSet) -> bool:
    """Whether the first usable images of a shard have the features that are stored of them."""
    stored = read_features(storage, file.uri, file.config_sha256)
    rows = stored.usable_N.nonzero().flatten().tolist()[:PROBES]
    samples = list(islice(read_pairs(storage, shard), rows[-1] + 1 if rows else 0))
    if not rows:
        return False
    preprocess = preprocess_of(features)
    shown_BW = tower(torch.stack([preprocess(decode(samples[row].image)) for row in rows])).float().cpu()
    theirs_BW = stored.features_ND[rows].float()
    if shown_BW.shape != theirs_BW.shape:
        return False
    return bool(((shown_BW - theirs_BW).norm(dim=1) <= TOLERANCE * shown_BW.norm(dim=1)).all())
