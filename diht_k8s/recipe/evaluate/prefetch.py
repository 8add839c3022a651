"""Samples in; the same with their preprocessed pixels out, in order: threads decode ahead while the model computes.

Pillow leaves the interpreter to others while it decodes and resizes, so that threads keep a GPU busy, and both cores of a small machine.
Pixels are those of the model's own transform, made by no more than one thread each: the same numbers whatever the number of threads.

Shapes: C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from PIL import Image

from diht_k8s.recipe.shards.images import BadImageError, decode
from diht_k8s.recipe.shards.samples import Sample

if TYPE_CHECKING:
    import torch

AHEAD: Final = 128
"""Images that are ready or being made before they are asked for: two batches."""
MAX_THREADS: Final = 16

Transform = Callable[[Image.Image], "torch.Tensor"]


@dataclass(frozen=True)
class Prepared:
    """An image as the model takes it, or why it cannot be used."""

    pixels_CHW: torch.Tensor | None
    bad: str = ""
    digest: str = ""
    """SHA-256 of the encoded bytes."""


def prepared(samples: Iterable[Sample], transform: Transform) -> Generator[tuple[Sample, Prepared], None, None]:
    """Each sample with its image. Whoever stops early closes the iterator, which drops what is waiting."""
    threads = min(MAX_THREADS, len(os.sched_getaffinity(0)))
    waiting: deque[tuple[Sample, Future[Prepared]]] = deque()
    with ThreadPoolExecutor(threads, "decode", initializer=_one_thread_each) as pool:
        try:
            for sample in samples:
                waiting.append((sample, pool.submit(_prepare, sample, transform)))
                if len(waiting) == AHEAD:
                    yield _next(waiting)
            while waiting:
                yield _next(waiting)
        finally:
            for _, future in waiting:
                future.cancel()


def _next(waiting: deque[tuple[Sample, Future[Prepared]]]) -> tuple[Sample, Prepared]:
    sample, future = waiting.popleft()
    return sample, future.result()


def _prepare(sample: Sample, transform: Transform) -> Prepared:
    if sample.problem is not None and not sample.problem.startswith("caption_"):
        return Prepared(None, sample.problem)
    try:
        image = decode(sample.image)
    except BadImageError as error:
        return Prepared(None, error.reason)
    return Prepared(transform(image), digest=hashlib.sha256(sample.image).hexdigest())


def _one_thread_each() -> None:
    """Torch's threads are counted by each thread for itself: without this every one would start a team of its own."""
    import torch

    torch.set_num_threads(1)
