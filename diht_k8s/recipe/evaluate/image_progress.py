"""Progress of encoding: images done of how many, where no file says how many images a shard holds."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from diht_k8s.api.errors import DihtError
from diht_k8s.recipe.runtime.stage import Context


class ImageProgress:
    """The total is estimated from the bytes of the shards and those read so far; at the end it is exact."""

    def __init__(self, context: Context, shards: Sequence[str], damaged: Collection[str]) -> None:
        self._context, self._damaged = context, damaged
        self._sizes = {uri: self._size(uri) for uri in shards}
        self._images, self._read, self._in_shard = 0, 0, 0
        context.progress.start("images", 0)

    @property
    def done(self) -> int:
        """Images encoded so far."""
        return self._images

    def begin(self, uri: str) -> None:
        """A shard is begun, perhaps one that was another worker's."""
        if uri not in self._sizes:
            self._sizes[uri] = self._size(uri)

    def advance(self, images: int, size: int) -> None:
        """A batch of images is encoded, for which `size` bytes of the shard were read; may raise to stop."""
        self._images += images
        self._in_shard += size
        metrics = {"bad_shards": len(self._damaged)} if self._damaged else None
        self._context.progress.update(self._images, metrics, total=self._total())
        self._context.stop.raise_if_requested()

    def finish(self, uri: str) -> None:
        """A shard is done: its size is what was read, whatever was compressed or left out."""
        self._read += self._sizes.pop(uri)
        self._in_shard = 0
        self._context.progress.update(self._images, total=self._total())

    def _total(self) -> int:
        left = sum(self._sizes.values())
        read = self._read + min(self._in_shard, left)
        if not read or not left:
            return self._images
        return max(self._images + 1, round(self._images * (self._read + left) / read))

    def _size(self, uri: str) -> int:
        """Bytes of a shard; a missing one fails when it is read, with its own message."""
        try:
            return self._context.storage.size(uri)
        except DihtError:
            return 0
