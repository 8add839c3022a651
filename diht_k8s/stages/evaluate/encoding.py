"""The step `encode`: the images of a shard, passed through the model's image tower in batches."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.images import Decoder, decode
from diht_k8s.data.shards.samples import SamplePlaces, read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.features import IMAGE_BATCH, encode_pixels
from diht_k8s.models.loading import LoadedModel
from diht_k8s.runtime.bad_shards import Damage, salvaged
from diht_k8s.stages.evaluate.benchmark_images import BenchmarkImage, prepare_image, read_images

if TYPE_CHECKING:
    import torch


@dataclass
class EncodedImages:
    """Encoded images of one or more shards, in order."""

    items: list[BenchmarkImage] = field(default_factory=list)
    features_ND: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    bad: Counter[str] = field(default_factory=Counter)
    damaged: dict[str, Damage] = field(default_factory=dict)
    """shard -> its damage; the images before it are here."""
    samples: int = 0
    """that their shards hold, as the reader of the tars counts them."""

    def chosen(self, keep: Callable[[BenchmarkImage], bool]) -> EncodedImages:
        """The images for which `keep` is true."""
        rows = [row for row, item in enumerate(self.items) if keep(item)]
        return EncodedImages(
            [self.items[row] for row in rows], self.features_ND[rows], self.bad, self.damaged, self.samples
        )

    def first_rows(self) -> NDArray[np.int64]:
        """[N] for each image the first row of the same digest; its own where it has none."""
        first: dict[str, int] = {}
        rows = [first.setdefault(item.digest, row) if item.digest else row for row, item in enumerate(self.items)]
        return np.array(rows, dtype=np.int64)


def encode_shard(
    storage: Storage,
    uri: str,
    loaded: LoadedModel,
    advance: Callable[[int, int], None] = lambda images, size: None,
    *,
    check: Callable[[], object] | None = None,
    decoder: Decoder = decode,
) -> EncodedImages:
    """Read and encode one shard, up to its damage, with one batch of pixels in memory.

    Args:
        storage: where the shard is.
        uri: its name.
        loaded: the model.
        advance: called with the images of each batch and the bytes read for them.
        check: called while the shard is read; it may raise to stop.
        decoder: from a file's bytes to an image.
    """
    result, blocks, places = EncodedImages(), list[NDArray[np.float32]](), SamplePlaces()
    pixels: list[torch.Tensor] = []
    read = 0

    def encode() -> None:
        nonlocal read
        blocks.append(encode_pixels(loaded, pixels))
        advance(len(pixels), read)
        pixels.clear()
        read = 0

    samples = salvaged(
        read_samples(storage, uri, check=check, places=places),
        lambda damage, sentence: result.damaged.update({uri: damage}),
    )
    with contextlib.closing(
        read_images(samples, uri, partial(prepare_image, transform=loaded.transform, decoder=decoder), result.bad)
    ) as images:
        for item, pixels_CHW, size in images:
            result.items.append(item)
            read += size
            pixels.append(pixels_CHW)
            if len(pixels) == IMAGE_BATCH:
                encode()
    if pixels:
        encode()
    if blocks:
        result.features_ND = np.concatenate(blocks)
    result.samples = places.samples
    return result


def joined(parts: Sequence[EncodedImages]) -> EncodedImages:
    """The images of several shards, in order.

    Raises:
        DataError: their features are not of one width.
    """
    full = [part.features_ND for part in parts if part.items]
    if len(widths := {features_ND.shape[1] for features_ND in full}) > 1:
        raise DataError(
            f"features of {' and '.join(map(str, sorted(widths)))} numbers an image in one benchmark: remove the stage's features"
        )
    bad = sum((part.bad for part in parts), Counter[str]())
    features_ND = np.concatenate(full) if full else np.zeros((0, 0), dtype=np.float32)
    damaged = {uri: damage for part in parts for uri, damage in part.damaged.items()}
    samples = sum(part.samples for part in parts)
    return EncodedImages([item for part in parts for item in part.items], features_ND, bad, damaged, samples)
