"""Held-out loss during training (`train.validation`): the same loss on held-out pairs, without crops or dropout.

Every rank takes its rows of each global batch, so the figure is that of the global batch whatever the number of
processes. The short last batch is left out, because the loss depends on the number of negatives; so are pairs beyond
the first `MAX_PAIRS`, but one batch is always measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import open_clip
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchvision.transforms.v2.functional import InterpolationMode, center_crop, resize

from diht_k8s.api.errors import DataError
from diht_k8s.api.train import Train
from diht_k8s.data.shards.images import BadImageError, decode_pixels
from diht_k8s.data.shards.samples import Sample, read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.bad_shards import BadShards, Damage
from diht_k8s.stages.train.data.batch import BatchShare
from diht_k8s.stages.train.data.normalisation import CLIPS, Normalisation, normalised
from diht_k8s.stages.train.deepspeed_engine import DeepSpeedEngine
from diht_k8s.stages.train.loss.hn_nce import HnNceSettings
from diht_k8s.stages.train.loss.losses import hn_nce_loss_and_statistics
from diht_k8s.stages.train.model.student import Features, Student

# Shape legend: B rows of this rank, C channels, H height, W width, T tokens.

MAX_PAIRS = 10_000
"""At most, unless one global batch is larger."""


@dataclass(frozen=True)
class HeldOutPairs:
    """Source of a validation's pairs, and the form of its batches."""

    storage: Storage
    uris: list[str]
    batch_size: int
    """of the global batch."""
    micro_batch: int
    """rows of one rank that pass through the model at once, at most."""
    image_size: int
    context_length: int
    rank: int
    world: int
    max_bad_shards: int | str = 0
    """`data.maxBadShards`, of these shards alone."""
    normalisation: Normalisation = CLIPS

    @property
    def share(self) -> BatchShare:
        """This rank's rows of a batch."""
        return BatchShare(self.batch_size, self.rank, self.world)


class HeldOutValidation:
    """Measures the held-out loss."""

    def __init__(self, held: HeldOutPairs, train: Train) -> None:
        """Read nothing yet."""
        self._pairs, self._train = held, train
        self._bad_shards = BadShards(held.max_bad_shards, len(held.uris))
        self._tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=held.context_length)

    @torch.no_grad()
    def measure(
        self, engine: DeepSpeedEngine, device: torch.device, group: dist.ProcessGroup | None
    ) -> dict[str, float]:
        """The figures of the model as it is now (a collective).

        Raises:
            DataError: the shards hold fewer usable pairs than a global batch, or too many of them are damaged.
        """
        settings = HnNceSettings.of(self._train.loss, group, self._pairs.batch_size)
        sums, batches = torch.zeros(3, dtype=torch.float64), 0
        engine.eval()
        try:
            for samples in self._batches():
                features = self._features(engine, samples, device)
                value, statistics = hn_nce_loss_and_statistics(
                    features.image_BD, features.text_BD, features.logit_scale, settings
                )
                sums += torch.stack([value, *statistics[:2]]).double().cpu()
                batches += 1
        finally:
            engine.train()
        if batches == 0:
            raise DataError(
                f"train.validation.shards hold fewer usable pairs than train.batchSize {self._pairs.batch_size}: add "
                "shards"
            )
        names = ("validation_loss", "validation_image_to_text_top1", "validation_text_to_image_top1")
        return dict(zip(names, (sums / batches).tolist(), strict=True))

    @torch.no_grad()
    def image_embeddings(self, model: Student, device: torch.device) -> Tensor:
        """Unit embeddings of this process's view of all usable images, `MAX_PAIRS` at most.

        Raises:
            DataError: the shards hold no usable pair, or too many of them are damaged.
        """
        parts = list[Tensor]()
        pairs = itertools.islice(self._usable(), MAX_PAIRS)
        while samples := list(itertools.islice(pairs, self._pairs.micro_batch)):
            pixels_BCHW = torch.stack([self._view(sample) for sample in samples]).to(device)
            images = normalised(pixels_BCHW.permute(0, 2, 3, 1).contiguous(), of=self._pairs.normalisation)
            parts.append(nn.functional.normalize(model.encode_image(images), dim=-1))
        if not parts:
            raise DataError("train.validation.shards hold no usable pair: add shards")
        return torch.cat(parts)

    @torch.no_grad()
    def text_embeddings(self, model: Student, device: torch.device) -> tuple[Tensor, list[str]]:
        """Unit embeddings of the captions of these images, and the captions."""
        captions = [sample.caption for sample in itertools.islice(self._usable(), MAX_PAIRS)]
        parts = self._tokenizer(captions).to(device).split(self._pairs.micro_batch)
        return torch.cat([nn.functional.normalize(model.encode_text(part), dim=-1) for part in parts]), captions

    @property
    def damaged(self) -> dict[str, Damage]:
        """The damaged shards that were found, the same on all ranks."""
        return self._bad_shards.found

    def _batches(self) -> Iterator[list[Sample]]:
        """This rank's pairs of each whole global batch, images still encoded."""
        own = self._pairs.share.part(0, 1)
        pairs = itertools.islice(self._usable(), max(MAX_PAIRS, self._pairs.batch_size))
        while len(batch := list(itertools.islice(pairs, self._pairs.batch_size))) == self._pairs.batch_size:
            yield batch[own.start : own.stop]

    def _usable(self) -> Iterator[Sample]:
        for uri in self._pairs.uris:
            for sample in self._bad_shards.salvage(uri, read_samples(self._pairs.storage, uri)):
                if sample.problem is None:
                    yield sample

    def _view(self, sample: Sample | None) -> Tensor:
        """The evaluation view of an image, uint8, C x size x size: resized and centre-cropped; grey if unreadable or
        none.
        """
        size = [self._pairs.image_size]
        grey_CHW = torch.full((3, *size, *size), 117, dtype=torch.uint8)
        if sample is None:
            return grey_CHW
        try:
            pixels_CHW = decode_pixels(sample.image)
        except BadImageError:
            return grey_CHW
        pixels_CHW = resize(pixels_CHW, size, interpolation=InterpolationMode.BICUBIC, antialias=True)
        return center_crop(pixels_CHW, size)

    def _features(self, engine: DeepSpeedEngine, samples: list[Sample], device: torch.device) -> Features:
        """Of pairs, and of surplus rows behind them: all ranks pass as many micro-batches."""
        parts, rows = [], [*samples, *[None] * self._pairs.share.surplus]
        for begin in range(0, len(rows), self._pairs.micro_batch):
            part = rows[begin : begin + self._pairs.micro_batch]
            pixels_BHWC = torch.stack([self._view(sample) for sample in part]).permute(0, 2, 3, 1).contiguous()
            tokens_BT = self._tokenizer(["" if sample is None else sample.caption for sample in part])
            parts.append(
                engine(
                    normalised(pixels_BHWC.to(device), of=self._pairs.normalisation),
                    tokens_BT.to(device),
                    self._train.loss.max_logit_scale,
                )
            )
        image_BD, text_BD = (torch.cat([getattr(part, side) for part in parts]) for side in ("image_BD", "text_BD"))
        return Features(image_BD, text_BD, parts[0].logit_scale, None, None)
