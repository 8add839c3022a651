"""Stored features of a training's locked image tower (`train.features: Stored`): found, or made before the first step.

A set of features is one tower's, of images in one view, each shard's in a file of its own (`data.feature_files`). A
file's name has the shard's and a digest of the pairs in it, so trainings on other pairs, and filters that keep others,
share what they have in common.

What is missing is made: each shard passes the tower once, in one of the processes that need it. All processes of all
gangs that share an output divide the shards by claims, and each waits until none is missing, outside of any collective.
A file is whole or absent, so an interrupted pass goes on at its shard.

Features that the label stage has stored serve, too, where its teacher is the training's locked tower. Weights and pairs
are the same if their digests are. That network and view are the same, too, is shown by a few images that pass the tower
again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Final

import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from diht_k8s.api.errors import UserError
from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import ABOUT_FEATURES, DIGITS, MARKER, Layout, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.feature_files import SUFFIX, FeatureFile
from diht_k8s.data.lease import owner_of
from diht_k8s.data.shards.images import decode
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.files import weights_sha256
from diht_k8s.runtime.bad_shards import Damage, salvaged
from diht_k8s.runtime.claims import BEAT_SECONDS, Claims
from diht_k8s.runtime.commit import Count, find_committed, require_equal
from diht_k8s.runtime.progress import Reporter
from diht_k8s.stages.label.features import extract, read_teacher_features, write_features
from diht_k8s.stages.label.teacher import TeacherNetwork
from diht_k8s.stages.train.checkpoint.init_from import weights_file
from diht_k8s.stages.train.data.augment import train_view
from diht_k8s.stages.train.data.normalisation import GREY, Normalisation, normalised
from diht_k8s.stages.train.features.rows import CACHE_BYTES, FeatureTables
from diht_k8s.stages.train.model.student import LockedTower, Student
from diht_k8s.stages.train.stage import label_layout

# B images, C channels, H height, W width of the images and of the features.

PROBES: Final = 4
"""Images that pass the tower again."""
TOLERANCE: Final = 5e-3
"""Relative difference of their features: rounding to fp16 makes 2e-4, another crop or colour more than 1e-1."""


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
    """The features of a training's pairs under its locked tower, a table of each view; none where images pass it in
    each step.

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
    train = run.training
    if train.features != "Stored":
        return []
    assert model.locked is not None, "the document's rules require it"
    if (
        train.distillation.mode == "Concepts"
        and train.distillation.heads_input == "Tower"
        and not model.keeps_projection
    ):
        raise UserError(
            "train.distillation.headsInput Tower: the heads sit inside this locked tower, of which the embedding "
            "alone is "
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


@dataclass(frozen=True)
class FeatureSet:
    """The features of one tower and one view."""

    tower: str
    """SHA-256 of the locked tower."""
    source: str
    """where the tower comes from, for people."""
    size: int
    """side of the images in pixels."""
    normalisation: Normalisation
    view: int = 0
    """0 is an evaluation's; others are random crops, each image's its own."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """open_clip's, which the exported model has, too."""
        crop = {"crop": self.view} if self.view else {}
        return {"size": self.size, **self.normalisation.preprocessing(), **crop}

    @cached_property
    def config_sha256(self) -> str:
        """Digest of what decides the numbers."""
        return sha256_of({"tower": self.tower, "preprocessing": self.preprocessing})

    def header(self) -> dict[str, Any]:
        """What each of its files says of itself."""
        told = {"tower": self.tower, "source": self.source, "preprocessing": self.preprocessing}
        return {"config_sha256": self.config_sha256, **told}

    def file(self, layout: Layout, shard: str, pairs: str) -> FeatureFile:
        """The file of a shard that holds some pairs, by their digest."""
        name = f"{shard}-{sha256_of(pairs)[:DIGITS]}{SUFFIX}"
        of = f"the image tower {self.tower[:12]} of {self.source}"
        uri = join(layout.feature_set(self.config_sha256), name)
        return FeatureFile(uri, self.config_sha256, of, "remove it, and the next start makes it again")


def pairs_of(run: DihtRun, storage: Storage, layout: Layout, shards: Sequence[Shard]) -> list[str]:
    """For each shard of a training what changes when its pairs do: the filter's digest of what it kept, else its
    version.
    """
    kept: Mapping[str, str] = {}
    train = run.spec.train
    if run.spec.filter is not None and train is not None and not train.shards:
        committed = find_committed(storage, layout, Stage.FILTER)
        kept = {} if committed is None else {item.path: item.sha256 for item in committed.artefacts}
    return [
        kept.get(f"kept/{each.name}.tar") or f"{each.identity} {kept.get(f'kept/{each.name}.parquet', '')}"
        for each in shards
    ]


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
    train = run.training
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
    stored = read_teacher_features(storage, file.uri, file.config_sha256)
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


class FeatureMaker:
    """One process's part of the pass."""

    def __init__(
        self,
        storage: Storage,
        features: FeatureSet,
        tower: LockedTower,
        claims: Claims,
        device: torch.device,
        *,
        check: Callable[[], object],
    ) -> None:
        """Prepare; no image passes yet.

        Args:
            storage: of shards and features.
            features: the set.
            tower: that makes them.
            claims: of this process, in the set's folder.
            device: where the tower runs.
            check: called between shards and batches; it may raise to stop.
        """
        self._storage, self._features, self._claims, self._check = storage, features, claims, check
        self._tower, self._device = tower, device

    def make(
        self,
        shards: Sequence[tuple[Shard, FeatureFile]],
        *,
        rank: int,
        world: int,
        missing_left: Callable[[int], object] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Make what is missing, this rank's share first and then what others have not reached; wait for the rest.

        Args:
            shards: with their files, all in the set's folder.
            rank: of this process.
            world: number of processes.
            missing_left: is told how many pairs' features are missing.
            sleep: waits for seconds.

        Raises:
            UserError: the tower's features are no vectors.
            DataError: they are not finite.
        """
        mine = list(shards[rank::world])
        others = [each for number, each in reversed(list(enumerate(shards))) if number % world != rank]
        while missing := self._missing([*mine, *others]):
            missing_left(sum(shard.samples or 0 for shard, _ in missing))
            if not self._work(missing):
                self._check()
                sleep(min(max(1, len(missing)), BEAT_SECONDS))  # about one request per second
        missing_left(0)

    def _missing(self, shards: Sequence[tuple[Shard, FeatureFile]]) -> list[tuple[Shard, FeatureFile]]:
        there = set(self._storage.names(_folder(shards[0][1]))) if shards else set[str]()
        return [each for each in shards if _name(each[1]) not in there]

    def _work(self, missing: Sequence[tuple[Shard, FeatureFile]]) -> bool:
        """Make those that nobody has claimed; whether there was one."""
        worked = False
        for shard, file in missing:
            self._check()
            claim = _name(file).removesuffix(SUFFIX)
            if self._storage.exists(file.uri) or not self._claims.take(claim, shown=shard.uri):
                continue
            worked = True
            try:
                if not self._storage.exists(file.uri):  # made between the two looks
                    self._write(shard, file)
            finally:
                self._claims.give_up(claim)
        return worked

    def _write(self, shard: Shard, file: FeatureFile) -> None:
        self._storage.create(
            join(_folder(file), ABOUT_FEATURES), json.dumps(self._features.header(), indent=1).encode()
        )
        threads, damaged = torch.get_num_threads(), list[Damage]()
        read = read_pairs(self._storage, shard, check=self._check)
        samples = salvaged(read, lambda damage, _: damaged.append(damage))  # the training counts what lies behind it
        try:
            found = extract(self._network(threads), samples, shard.uri, self._images_done)
        finally:
            torch.set_num_threads(threads)
        if shard.samples is not None and not damaged:
            pairs, rows = Count(shard.samples, "pairs has the shard"), Count(len(found.usable_N), "passed the tower")
            require_equal(shard.uri, "run the stage filter again", pairs, rows)
        write_features(self._storage, file.uri, found, {**self._features.header(), "shard": shard.name})

    def _network(self, threads: int) -> TeacherNetwork:
        module = self._tower.module.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        size = (self._features.size, self._features.size)
        width = feature_width(self._tower, self._features.size, self._device)
        return TeacherNetwork(preprocess_of(self._features), module, width, size, self._device, threads=threads)

    def _images_done(self, images: int) -> None:
        self._check()
        self._claims.keep()


def _folder(file: FeatureFile) -> str:
    return file.uri.rpartition("/")[0]


def _name(file: FeatureFile) -> str:
    return file.uri.rpartition("/")[2]


def preprocess_of(features: FeatureSet) -> Callable[[Image], Tensor]:
    """The view of an image, RGB -> 3xHxW: by open_clip's own code, as an evaluation of the exported model has it, or a
    crop of the training's that depends on image and view alone.
    """
    if features.view:
        return lambda image: _crop(image, features)
    made: Any = image_transform_v2(PreprocessCfg(**features.preprocessing), is_train=False)
    return made


def _crop(image: Image, features: FeatureSet) -> Tensor:
    drawn_by = hashlib.sha256(image.tobytes()).hexdigest()
    pixels_CHW = train_view(pil_to_tensor(image), features.size, seed=0, epoch=features.view, uid=drawn_by)
    return normalised(pixels_CHW.permute(1, 2, 0)[None], of=features.normalisation)[0]


def feature_width(tower: LockedTower, size: int, device: torch.device) -> int:
    """The width of a tower's features.

    Raises:
        UserError: it gives maps and no vectors.
    """
    found = tower(torch.zeros(1, 3, size, size, device=device))
    if found.ndim != 2:
        raise UserError(
            f"train.features Stored: the image tower gives a map of {tuple(found.shape[1:])} for an image, which "
            f"its trained head "
            "pools: set timm_pool avg and timm_proj linear in modelConfig.vision_cfg"
        )
    return found.shape[1]
