"""One worker's part of the encoding: it claims shards, encodes them and writes their features.

Workers share the shards, as those of the filter do. Each shard is encoded once, so the figures do not depend on the
number of workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Final

from diht_k8s.api.errors import DataError, DihtError
from diht_k8s.data.shards.images import Decoder
from diht_k8s.models.loading import LoadedModel
from diht_k8s.runtime.claims import Claims
from diht_k8s.runtime.shard_progress import ShardProgress
from diht_k8s.runtime.stage import Context
from diht_k8s.stages.evaluate import encoding
from diht_k8s.stages.evaluate.feature_files import FeatureFiles


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

    The total is estimated from the bytes of the shards and those read so far; at the end it is exact. Within a packed shard
    bytes read say nothing until the first one is done, whose rate of packing then holds for all: up to there it is left
    out.
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
