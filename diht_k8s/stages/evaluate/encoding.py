"""The step `encode`: the images of shards, passed through the model's image tower in batches, and their features as
files.

A file holds the unit features of a shard's images (`data.feature_files`); its header holds what the benchmarks need of
each image. For a shard that cannot be read it holds the reason, so the other benchmarks continue. Workers share the
shards, as those of the filter do, and an interrupted stage resumes from the same bytes. Each shard is encoded once, so
the figures do not depend on the number of workers.
"""

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


import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any, Final

from diht_k8s.api.errors import DihtError
from diht_k8s.api.layout import join
from diht_k8s.data.feature_files import FeatureFile, read_features, write_tensors
from diht_k8s.runtime.claims import Claims, ShardProgress
from diht_k8s.runtime.commit import Count, require_equal
from diht_k8s.runtime.stage import Context
from diht_k8s.stages.evaluate import encoding
from diht_k8s.stages.evaluate.benchmark_images import Cue, VisualQuestion


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
            f"features of {' and '.join(map(str, sorted(widths)))} numbers an image in one benchmark: remove the "
            f"stage's features"
        )
    bad = sum((part.bad for part in parts), Counter[str]())
    features_ND = np.concatenate(full) if full else np.zeros((0, 0), dtype=np.float32)
    damaged = {uri: damage for part in parts for uri, damage in part.damaged.items()}
    samples = sum(part.samples for part in parts)
    return EncodedImages([item for part in parts for item in part.items], features_ND, bad, damaged, samples)


Json = dict[str, Any]


class FeatureFiles:
    """The feature files of a stage, `NNNNN.safetensors` in the order of the shards."""

    def __init__(self, storage: Storage, folder: str, keys: Mapping[str, str]) -> None:
        """List them; nothing is read yet.

        Args:
            storage: of the run.
            folder: where the files lie.
            keys: shard -> digest of all that its features depend on; a file with another key does not count.
        """
        self._storage, self._folder, self._keys = storage, folder, keys
        self._names = {uri: f"{number:05d}" for number, uri in enumerate(keys)}
        self._found = set[str]()
        """shards whose file was found complete or written here; it is read again only for use."""
        self.damaged = dict[str, Damage]()
        """the damaged ones among them; those of all workers once none is missing."""

    @property
    def shards(self) -> list[str]:
        """All shards, in order."""
        return list(self._names)

    def name(self, shard: str) -> str:
        """A short name of a shard, for its claim."""
        return self._names[shard]

    def missing(self) -> list[str]:
        """The shards that nobody has encoded yet, in order."""
        there = set(self._storage.names(self._folder))
        return [shard for shard in self._names if self._file(shard) not in there or not self.holds(shard)]

    def holds(self, shard: str) -> bool:
        """Whether a shard is encoded."""
        if shard not in self._found and (features := self._read(shard)) is not None:
            self._add(shard, features)
        return shard in self._found

    def read(self, shards: Sequence[str]) -> EncodedImages:
        """The images of encoded shards, in order.

        Raises:
            DataError: one of the shards could not be read, or images of it were lost.
        """
        parts: list[EncodedImages] = []
        for shard in shards:
            features = self._read(shard)
            assert features is not None, "every shard is encoded before one is read"
            if isinstance(features, DataError):
                raise features
            _check(self._uri(shard), features)
            parts.append(features)
        return joined(parts)

    def write(self, shard: str, features: EncodedImages | DataError) -> None:
        """Keep the images of a shard, or the reason why there are none."""
        write_encoded(self._storage, self._uri(shard), self._keys[shard], features)
        self._add(shard, features)

    def _add(self, shard: str, features: EncodedImages | DataError) -> None:
        self._found.add(shard)
        if isinstance(features, EncodedImages):
            self.damaged |= features.damaged

    def _read(self, shard: str) -> EncodedImages | DataError | None:
        return read_encoded(self._storage, self._uri(shard), self._keys[shard])

    def _file(self, shard: str) -> str:
        return f"{self._names[shard]}.safetensors"

    def _uri(self, shard: str) -> str:
        return join(self._folder, self._file(shard))


def write_encoded(storage: Storage, uri: str, key: str, found: EncodedImages | DataError) -> None:
    """Write a shard's features.

    Args:
        storage: of the run.
        uri: the file.
        key: what the features depend on: the model and the shard.
        found: the images, or the reason why there are none.
    """
    import torch

    header: Json = {"config_sha256": key}
    tensors = dict[str, torch.Tensor]()
    if isinstance(found, DataError):
        header["error"] = str(found)
    else:
        header |= {"items": [asdict(item) for item in found.items], "bad": dict(sorted(found.bad.items()))}
        header["samples"] = found.samples
        if found.damaged:
            header["damaged"] = {name: damage.to_json() for name, damage in found.damaged.items()}
        tensors["features"] = torch.from_numpy(np.ascontiguousarray(found.features_ND))
    write_tensors(storage, uri, tensors, header)


def read_encoded(storage: Storage, uri: str, key: str) -> EncodedImages | DataError | None:
    """What a file holds; None if it is missing, damaged, or belongs to another model or shard."""
    if not storage.exists(uri):
        return None
    try:
        tensors, header = read_features(storage, FeatureFile(uri, key))
    except DataError:
        return None
    if "error" in header:
        return DataError(header["error"])
    items, damaged = [_item(item) for item in header["items"]], header.get("damaged", {})
    return EncodedImages(
        items,
        tensors["features"].numpy(),
        Counter(header["bad"]),
        {name: Damage(**damage) for name, damage in damaged.items()},
        header["samples"],
    )


def _check(uri: str, found: EncodedImages) -> None:
    """Compare the images of a shard with its tar and with the rows of their features."""
    again, bad = "remove this file and run the stage evaluate again", found.bad.total()
    images = Count(len(found.items), "images are encoded")
    require_equal(uri, again, images, Count(len(found.features_ND), "rows of features"))
    held = Count(found.samples, "images are in the shard")
    require_equal(uri, again, held, Count(images.number + bad, f"are encoded or bad ({bad})"))


def _item(fields: Json) -> BenchmarkImage:
    questions = tuple(
        VisualQuestion(question["text"], tuple(question["answers"]), tuple(question["candidates"]))
        for question in fields["questions"]
    )
    cues = tuple(Cue(**cue) for cue in fields["cues"])
    several = ("captions", "classes", "ignored_classes", "unusable_cues")
    lists = {name: tuple(value) for name, value in fields.items() if name in several and value is not None}
    return BenchmarkImage(**{**fields, **lists, "questions": questions, "cues": cues})


class EncodingWorker:
    """Encodes shards, one at a time."""

    def __init__(
        self,
        context: Context,
        files: FeatureFiles,
        claims: Claims,
        model: Callable[[], LoadedModel],
        decoder: Decoder,
    ) -> None:
        """Prepare; nothing is claimed yet.

        Args:
            context: of the stage.
            files: where the features go.
            claims: of this worker.
            model: gives the model, which is loaded for the first shard.
            decoder: from a file's bytes to an image.
        """
        self._context = context
        self._files = files
        self._claims = claims
        self._model = model
        self._decoder = decoder
        self._images, self._seconds = 0, 0.0

    def encode_share(self) -> None:
        """Encode the shards with which this worker begins."""
        self._encode_free(self._share)

    def encode_missing(self) -> tuple[bool, int]:
        """Encode what is left, from the last shard on, because their owners start with the first.

        Returns:
            Whether there was anything to encode, and how many shards were missing.
        """
        missing = self._files.missing()[::-1]
        return self._encode_free(missing), len(missing)

    def speed(self) -> dict[str, float]:
        """Images a second of this worker; empty where an earlier attempt encoded them all."""
        if not self._images:
            return {}
        return {"samples_per_second": round(self._images / max(self._seconds, 1e-9), 1)}

    @property
    def _share(self) -> list[str]:
        return self._files.shards[self._context.worker :: self._context.workers]

    def _encode_free(self, shards: Sequence[str]) -> bool:
        """Encode the shards that are not and that no other worker has claimed; returns whether there was one."""
        worked = False
        for shard in shards:
            self._context.stop.raise_if_requested("finished shards are kept")
            name = self._files.name(shard)
            if self._files.holds(shard) or not self._claims.take(name, shown=shard):
                continue
            worked = True
            try:
                self._encode(shard)
            except DihtError:
                self._claims.give_up(name)
                raise
        return worked

    def _encode(self, shard: str) -> None:
        loaded, (images, committed) = self._model(), self._progress
        images.begin(shard)
        began, before = time.monotonic(), images.done
        try:
            features = encoding.encode_shard(
                self._context.storage, shard, loaded, images.advance, check=self._check, decoder=self._decoder
            )
        except DataError as error:
            features = error
        self._files.write(shard, features)
        images.finish(shard)
        committed.shard_done()
        self._seconds += time.monotonic() - began
        self._images += images.done - before

    def _check(self) -> None:
        self._context.stop.raise_if_requested()
        self._claims.keep()

    @cached_property
    def _progress(self) -> tuple[_ImageProgress, ShardProgress]:
        """Begun with the first shard: those of this worker's share that are left are the estimate of its work."""
        left = [shard for shard in self._share if not self._files.holds(shard)]
        return _ImageProgress(self._context, left, self._files.damaged), ShardProgress(self._context, "features")


PACKED: Final = (".gz", ".tgz", ".bz2", ".xz")
"""Ends of names of shards of which the bytes read are not the bytes on disk."""


class _ImageProgress:
    """Images done of how many, where no file says how many images a shard holds.

    The total is estimated from the bytes of the shards and those read so far; at the end it is exact. Within a packed
    shard bytes read say nothing until the first one is done, whose rate of packing then holds for all: up to there it
    is left out.
    """

    def __init__(self, context: Context, shards: Sequence[str], damaged: Collection[str]) -> None:
        self._context, self._damaged = context, damaged
        self._sizes = {uri: self._size(uri) for uri in shards}
        self._images, self._read, self._in_shard = 0, 0, 0
        self._current, self._packing = "", 0.0
        """the shard that is read, and bytes read for each byte of a packed one; 0 until one is done."""
        self._said = 0
        """number of damaged shards in the last update: one more is told at once."""
        context.progress.start("images", 0)

    @property
    def done(self) -> int:
        """Images encoded so far."""
        return self._images

    def begin(self, uri: str) -> None:
        """A shard is begun, perhaps one that was another worker's."""
        self._current = uri
        if uri not in self._sizes:
            self._sizes[uri] = self._size(uri)

    def advance(self, images: int, size: int) -> None:
        """A batch of images is encoded, for which `size` bytes of the shard were read; may raise to stop."""
        self._images += images
        self._in_shard += size
        self._update()
        self._context.stop.raise_if_requested()

    def finish(self, uri: str) -> None:
        """A shard is done: its size is what was read, whatever was compressed or left out."""
        size = self._sizes.pop(uri)
        if uri.endswith(PACKED) and size:
            self._packing = self._in_shard / size
        self._read += size
        self._in_shard, self._current = 0, ""
        self._update()

    def _update(self) -> None:
        damaged = len(self._damaged)
        metrics = {"bad_shards": damaged} if damaged else None
        self._context.progress.update(self._images, metrics, total=self._total(), last=damaged > self._said)
        self._said = damaged

    def _total(self) -> int:
        left, packed = sum(self._sizes.values()), self._current.endswith(PACKED)
        if packed and not self._packing:
            return 0
        passed = self._in_shard / self._packing if packed else self._in_shard
        read = self._read + min(passed, self._sizes.get(self._current, 0))
        if not read or not left:
            return self._images
        return max(self._images + 1, round(self._images * (self._read + left) / read))

    def _size(self, uri: str) -> int:
        """Bytes of a shard; a missing one fails when it is read, with its own message."""
        try:
            return self._context.storage.size(uri)
        except DihtError:
            return 0
