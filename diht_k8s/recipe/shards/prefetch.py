"""Work on samples ahead of the model: threads decode and preprocess, results come in the order of the samples.

Pillow releases the interpreter lock while it decodes and resizes, so threads keep a GPU busy, or all cores of a small
machine. One thread does all the work on a sample, so the numbers do not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from diht_k8s.recipe.shards.samples import Sample

MAX_THREADS: Final = 16

Result = TypeVar("Result")


def prefetch(
    samples: Iterable[Sample], prepare: Callable[[Sample], Result], *, ahead: int, threads: int | None = None
) -> Generator[tuple[Sample, Result], None, None]:
    """Each sample with its result. Whoever stops early closes the iterator, which drops what is waiting.

    Args:
        samples: read in this thread, at most `ahead` before they are asked for.
        prepare: runs in a thread of the pool; what it raises is raised here, at its sample's turn.
        ahead: samples that are ready or in work, at least 1.
        threads: of the pool, at most `MAX_THREADS`; None takes one for each core that this process may use.
    """
    waiting: deque[tuple[Sample, Future[Result]]] = deque()
    workers = min(MAX_THREADS, threads or len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(workers, "prefetch", initializer=_use_one_torch_thread) as pool:
        try:
            for sample in samples:
                waiting.append((sample, pool.submit(prepare, sample)))
                if len(waiting) == ahead:
                    yield _next(waiting)
            while waiting:
                yield _next(waiting)
        finally:
            for _, future in waiting:
                future.cancel()


def _next(waiting: deque[tuple[Sample, Future[Result]]]) -> tuple[Sample, Result]:
    sample, future = waiting.popleft()
    return sample, future.result()


def _use_one_torch_thread() -> None:
    """Torch counts its threads for each calling thread: without this, every thread of the pool starts a team of its own."""
    import torch

    torch.set_num_threads(1)
