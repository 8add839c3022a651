"""Work ahead in threads, with results in the order of the input: images are decoded before their turn.

Pillow releases the interpreter lock while it decodes and resizes, so threads keep a GPU busy, or all cores of a small
machine. One thread does all the work on an item, so the results do not depend on the number of threads.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

MAX_THREADS: Final = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    items: Iterable[Item], prepare: Callable[[Item], Result], *, ahead: int, threads: int | None = None
) -> Generator[tuple[Item, Result], None, None]:
    """Each item with its result. Whoever stops early closes the iterator, which drops what is waiting.

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
    """Torch counts its threads for each calling thread: without this, every thread of the pool starts a team of its own."""
    if torch := sys.modules.get("torch"):  # work that needs torch has imported it before
        torch.set_num_threads(1)
