"""Images from untrusted bytes: header checked before anything is decoded, then RGB on white, upright, first frame.

Stages decode by Pillow (`decode`); the training decodes the usual kinds by torchvision.io in half the time, with the
same pixels (`decode_pixels`). Whatever torchvision would decode differently goes to Pillow: CMYK, palettes,
transparency, 16 bits, interlacing, animations, images that are stored rotated; so does whatever torchvision refuses, so
that Pillow decides whether the image is bad. `thumbnails` makes the images of the report, and `prefetch` decodes before
an image's turn: Pillow releases the interpreter lock, so threads keep a GPU busy, or all cores of a small machine.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.samples import Sample, until_damage
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage

if TYPE_CHECKING:
    from torch import Tensor

FORMATS: Final = ("JPEG", "PNG", "WEBP")
MAX_PIXELS: Final = 25_000_000
"""A 100 KB file can claim 100,000 x 100,000 pixels; no web image that a 224-pixel model needs is this large."""
MIN_SIDE: Final = 8
"""Smaller images are tracking pixels and spacers."""

ImageFile.LOAD_TRUNCATED_IMAGES = False

Decoder = Callable[[bytes], Image.Image]


class BadImageError(ValueError):
    """The image cannot be used; `reason` is one of picture_unreadable, picture_too_large, picture_too_small."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode(data: bytes) -> Image.Image:
    """The image as upright RGB; transparency is laid on white, of animations the first frame is taken.

    Raises:
        BadImageError: unreadable, too large or too small.
    """
    return _decoded(data, _checked_upright)


def decode_as_reference(data: bytes) -> Image.Image:
    """The image as open_clip and clip-benchmark see it: converted to RGB as it is stored.

    Transparency is dropped, so that whatever colour lies under it shows; the EXIF orientation is not applied; the size
    is limited by Pillow alone.

    Raises:
        BadImageError: unreadable, or so large that Pillow takes it for an attack.
    """
    return _decoded(data, lambda image: image.convert("RGB"))


DECODERS: Final[Mapping[str, Decoder]] = {"Ours": decode, "Reference": decode_as_reference}
"""By their names in `evaluate.decode`."""


def _checked_upright(image: Image.Image) -> Image.Image:
    check_size(*image.size)
    ImageOps.exif_transpose(image, in_place=True)
    return _on_white(image)


def _decoded(data: bytes, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        return convert(image)
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError("picture_too_large") from error
    except (
        UnidentifiedImageError,
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        MemoryError,
        IndexError,
        TypeError,
    ) as error:
        raise BadImageError("picture_unreadable") from error


def check_size(width: int, height: int) -> None:
    """Refuse images that would cost too much memory or show nothing."""
    if width * height > MAX_PIXELS:
        raise BadImageError("picture_too_large")
    if min(width, height) < MIN_SIDE:
        raise BadImageError("picture_too_small")


def in_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits scaled to 8, which Pillow would clip to white; any other image as it is."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    image = in_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


def images_of(
    samples: Iterable[Sample], wanted: Collection[str], decoder: Decoder = decode
) -> Iterator[tuple[str, Image.Image]]:
    """(uid, image) of the wanted samples of one shard that can be decoded, in order; stops at the last one."""
    left = set(wanted)
    for sample in samples:
        if sample.uid in left:
            left.remove(sample.uid)
            with contextlib.suppress(BadImageError):  # counted as bad when the shard was first read
                yield sample.uid, decoder(sample.image)
        if not left:
            return


ORIENTATION: Final = 0x0112
"""EXIF's tag for how the camera was held."""


def decode_pixels(data: bytes) -> Tensor:
    """The image as upright RGB: uint8, C x H x W, channels last in memory (see `images.decode` for the steps).

    Raises:
        BadImageError: unreadable, too large or too small.
    """
    import torch
    from torchvision.io import ImageReadMode, decode_image

    if _is_plain(data):
        try:
            return decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
        except RuntimeError:
            pass  # PIL is more lenient in places, and its result counts
    pixels_HWC = np.asarray(decode(data))
    return torch.from_numpy(pixels_HWC.copy()).permute(2, 0, 1)


def _is_plain(data: bytes) -> bool:
    """Whether torchvision gives PIL's pixels for this header; False also where PIL refuses it.

    Raises:
        BadImageError: too large or too small.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            check_size(*image.size)
            return (
                image.mode == "RGB"
                and image.format in FORMATS
                and "transparency" not in image.info
                and getattr(image, "n_frames", 1) == 1
                and not (image.format == "PNG" and _is_deep_or_interlaced(data))
                and image.getexif().get(ORIENTATION, 1) == 1
            )
    except BadImageError:
        raise
    except Exception:  # PIL hits the same error in `decode`, which gives it a reason
        return False


def _is_deep_or_interlaced(png: bytes) -> bool:
    """Whether a PNG's header says more than 8 bits or interlaced (bytes 24 and 28 of the file)."""
    return png[24] != 8 or png[28] != 0


THUMBNAIL_SIDE: Final = 96
THUMBNAIL_QUALITY: Final = 80
THUMBNAIL_SHARDS: Final = 32
"""Images of a report are taken from at most this many shards: each is read from its start."""


def thumbnail(image: Image.Image) -> str:
    """The image as a WebP data URI, no side above 96 pixels."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=THUMBNAIL_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def thumbnails(storage: Storage, wanted: Iterable[tuple[Shard, str]]) -> dict[str, str]:
    """Uid -> data URI of the images at (shard, uid); those beyond `THUMBNAIL_SHARDS` shards are left out."""
    by_shard: dict[Shard, set[str]] = {}
    for shard, uid in wanted:
        if shard in by_shard or len(by_shard) < THUMBNAIL_SHARDS:
            by_shard.setdefault(shard, set()).add(uid)
    return {
        uid: thumbnail(image)
        for shard, uids in by_shard.items()
        for uid, image in images_of(until_damage(read_pairs(storage, shard)), uids)
    }


MAX_THREADS: Final = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    items: Iterable[Item], prepare: Callable[[Item], Result], *, ahead: int, threads: int | None = None
) -> Generator[tuple[Item, Result], None, None]:
    """Each item with its result, in order, whatever the number of threads.

    Whoever stops early closes the iterator, which drops what is waiting.

    Args:
        items: read in this thread, at most `ahead` before they are asked for.
        prepare: runs in a thread of the pool; what it raises is raised here, at its item's turn.
        ahead: items that are ready or in work, at least 1.
        threads: of the pool, at most `MAX_THREADS`; None takes one for each core that this process may use.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    workers = min(MAX_THREADS, threads or len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(workers, "prefetch", initializer=_use_one_torch_thread) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(prepare, item)))
                if len(waiting) == ahead:
                    yield _next(waiting)
            while waiting:
                yield _next(waiting)
        finally:
            for _, future in waiting:
                future.cancel()


def _next(waiting: deque[tuple[Item, Future[Result]]]) -> tuple[Item, Result]:
    item, future = waiting.popleft()
    return item, future.result()


def _use_one_torch_thread() -> None:
    """Torch counts its threads for each calling thread: else every thread of the pool starts a team of its own."""
    if torch := sys.modules.get("torch"):  # work that needs torch has imported it before
        torch.set_num_threads(1)
