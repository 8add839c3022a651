"""The stored features of a training: found, or made by its processes before their first step."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.claims import Claims
from diht_k8s.runtime.owner import owner_of
from diht_k8s.runtime.progress import Reporter
from diht_k8s.stages.train.data.normalisation import GREY, Normalisation, normalised
from diht_k8s.stages.train.features.feature_set import FeatureSet, pairs_of
from diht_k8s.stages.train.features.label_features import label_features
from diht_k8s.stages.train.features.making import FeatureMaker, feature_width
from diht_k8s.stages.train.features.rows import CACHE_BYTES, FeatureTables
from diht_k8s.stages.train.model.student import Student


def stored_features(
    run: DihtRun,
    storage: Storage,
    layout: Layout,
    model: Student,
    normalisation: Normalisation,
    shards: Sequence[Shard],
    device: torch.device,
    *,
    rank: int,
    world: int,
    progress: Reporter,
    check: Callable[[], object],
) -> Sequence[FeatureTables]:
    """The features of a training's pairs under its locked tower, a table of each view; none where images pass it in each step.

    Args:
        run: the run document.
        storage: of shards and features.
        layout: with the folder of the filter.
        model: with its tower locked.
        normalisation: of the images.
        shards: with their counts, in the order's numbering.
        device: where the tower runs if features are missing.
        rank: of this process, which makes its share; rank 0 reports.
        world: number of processes.
        progress: of the training.
        check: called between batches; it may raise to stop.

    Raises:
        UserError: the tower gives no vectors, or the concept heads sit inside it.
        DataError: its features are not finite.
    """
    train = run.spec.train
    assert train is not None
    if train.features != "Stored":
        return []
    assert model.locked is not None, "the document's rules require it"
    if (
        train.distillation.mode == "Concepts"
        and train.distillation.heads_input == "Tower"
        and not model.keeps_projection
    ):
        raise UserError(
            "train.distillation.headsInput Tower: the heads sit inside this locked tower, of which the embedding alone is "
            "stored: set Embedding"
        )
    source = "the seed" if train.init_from is None else train.init_from.uri
    sets = [
        FeatureSet(model.locked.sha256, source, model.image_size, normalisation, view)
        for view in range(train.feature_views)
    ]
    feature_width(model.locked, model.image_size, torch.device("cpu"))  # refuses maps before anything passes
    pairs = pairs_of(run, storage, layout, shards)
    labelled = label_features(run, storage, layout, model.locked, sets[0], shards)
    total = sum(shard.samples or 0 for shard in shards)
    if rank == 0:
        if labelled:
            print(f"train: the teacher's features serve {len(labelled)} of {len(shards)} shards", flush=True)
        progress.start("features", total * len(sets))
    grey_W, tables = grey_features(model, normalisation), list[FeatureTables]()
    limit = CACHE_BYTES // max(1, train.loader_workers or 1) // len(sets)
    for features in sets:
        theirs = {} if features.view else labelled
        files = [
            theirs.get(shard.name) or features.file(layout, shard.name, each)
            for shard, each in zip(shards, pairs, strict=True)
        ]
        own = [(shard, file) for shard, file in zip(shards, files, strict=True) if shard.name not in theirs]
        claims = Claims(storage, layout.feature_set(features.config_sha256), owner_of(os.environ), rank)

        def told(missing: int, before: int = features.view * total) -> None:
            if rank == 0:
                progress.update(before + total - missing)

        maker = FeatureMaker(storage, features, model.locked, claims, device, check=check)
        maker.make(own, rank=rank, world=world, missing_left=told)
        tables.append(FeatureTables(storage, files, grey_W, pairs=total, limit=limit))
    model.locked.module.to("cpu")  # the training reads features; a validation moves it back
    return tables


def grey_features(model: Student, normalisation: Normalisation) -> Tensor:
    """The features of the grey image that stands in for one that cannot be used, W."""
    assert model.locked is not None
    pixels_BHWC = torch.tensor(GREY, dtype=torch.uint8).expand(1, model.image_size, model.image_size, 3)
    return model.locked(normalised(pixels_BHWC, of=normalisation))[0]
