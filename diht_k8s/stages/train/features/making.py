"""Stored features that are missing: each shard passes the locked tower once, in one of the processes that need it.

All processes of all gangs that share an output divide the shards by claims, and each waits until none is missing, outside
of any collective. A file is whole or absent, so an interrupted pass goes on at its shard.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import ABOUT_FEATURES, join
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.bad_shards import Damage, salvaged
from diht_k8s.runtime.claims import BEAT_SECONDS, Claims
from diht_k8s.runtime.ledger import Count, require_equal
from diht_k8s.stages.label.features import extract, write_features
from diht_k8s.stages.label.teacher import TeacherNetwork
from diht_k8s.stages.train.data.augment import train_view
from diht_k8s.stages.train.data.normalisation import normalised
from diht_k8s.stages.train.features.feature_set import SUFFIX, FeatureFile, FeatureSet
from diht_k8s.stages.train.model.locked_tower import LockedTower

# B images, C channels, H height, W width of the images and of the features.


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
    """The view of an image, RGB -> 3xHxW: by open_clip's own code, as an evaluation of the exported model has it, or a crop of the
    training's that depends on image and view alone.
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
            f"train.features Stored: the image tower gives a map of {tuple(found.shape[1:])} for an image, which its trained head "
            "pools: set timm_pool avg and timm_proj linear in modelConfig.vision_cfg"
        )
    return found.shape[1]
