"""Prefetched batches of one rank: from a thread, or from n worker processes that each make a part of its rows.

Workers are readers as ranks are (see `collate`), so neither the batches nor the cursor depend on their number. What is
prepared ahead is bounded in bytes. Surplus rows are made once and put behind a rank's pairs.

Batches that a thread reads ahead, a bounded number of them; its error comes when the batch is asked for that it
stands for.

Each travels to the device on a stream of its own, while the one before it trains. Begun after the step's end, the copy
of 4,096 images of 224 px would take 12 to 25 ms of an idle card. Two batches lie on the device at a time.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import itertools
import queue
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from functools import cache, partial
from typing import Any, Final

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from diht_k8s.api.errors import DihtError, RetryableError, StopRequested
from diht_k8s.api.train import Train
from diht_k8s.stages.train.collectives import set_this_device
from diht_k8s.stages.train.data.batch import Batch, BatchShare, merged
from diht_k8s.stages.train.data.collate import CollateSettings, Collator, ImageSizes, surplus_rows
from diht_k8s.stages.train.data.dataset import ShardDataset
from diht_k8s.stages.train.data.sampler import LaneSampler

PREFETCH_BYTES = 512 << 20
"""Batches that wait for their step: as many as fit, from one to `PREFETCH_BATCHES`."""
PREFETCH_BATCHES = 4
_PR_SET_PDEATHSIG = 1


class Loader:
    """Iterates over the batches of one rank from a position on."""

    def __init__(
        self,
        source: ShardDataset,
        sampler: LaneSampler,
        *,
        batch_size: int,
        image_sizes: ImageSizes,
        context_length: int,
        seed: int,
        rank: int,
        world: int,
        workers: int,
        draw_captions: bool = False,
    ) -> None:
        """Make a loader; nothing is read yet.

        Args:
            source: the shards.
            sampler: the global order over them.
            batch_size: of the global batch.
            image_sizes: side of the images in pixels, by batch.
            context_length: tokens of a caption at most.
            seed: of the augmentation and of the draw of captions.
            rank: of this process.
            world: number of processes.
            workers: processes that make the batches, at most one for each pair of the rank; 0: a thread of this
                process.
            draw_captions: draw one of a pair's captions in each epoch.
        """
        self._job = CollateSettings(source, sampler, batch_size, image_sizes, context_length, seed, draw_captions)
        self._share = BatchShare(batch_size, rank, world)
        self._surplus = cache(partial(surplus_rows, self._job, self._share.surplus))
        self.workers = min(workers, self._share.pairs)
        seen = image_sizes.last**2 * 3 if not source.features else 2 * source.features[0].width
        seen += 0 if source.embeddings is None else 2 * source.embeddings.width
        self._prefetch = max(1, min(PREFETCH_BATCHES, PREFETCH_BYTES // (self._share.rows * seen)))

    def batches(self, position: int) -> ReadAhead:
        """Batches without end, the first one beginning at a global position (a multiple of the batch size).

        Reading begins with this call, in the background.
        """
        made = self._merged(self._start_workers(position)) if self.workers else self._here(position)
        made = self._filled_up(made, position) if self._share.surplus else made
        return ReadAhead(lambda ahead: self._fill(made, ahead), depth=self._prefetch)

    def _fill(self, made: Generator[Batch], ahead: ReadAhead) -> None:
        try:
            self._job.source.check = lambda: _raise_if_set(ahead.closed)  # workers are killed instead
            pinning = set_this_device().type == "cuda"  # page-locked memory belongs to the thread's current device
            with contextlib.closing(made):
                for batch in made:
                    if not ahead.hand_over(batch.pinned() if pinning else batch):
                        return
        except BaseException as error:  # the training thread raises it
            ahead.hand_over(error)

    def _here(self, position: int) -> Generator[Batch]:
        with contextlib.closing(Collator(self._job, rows=self._share.part(0, 1))) as collator:
            for start in itertools.count(position, self._job.batch_size):
                yield collator.batch(start)

    def _filled_up(self, made: Generator[Batch], position: int) -> Generator[Batch]:
        """Batches with this rank's surplus rows behind its pairs, of which it may have none."""
        with contextlib.closing(made):
            for start in itertools.count(position, self._job.batch_size):
                surplus = self._surplus(self._job.image_sizes.at(start))
                yield merged([next(made), surplus]) if self._share.pairs else surplus

    def _start_workers(self, position: int) -> Iterator[Any]:
        """Fork the workers, from the thread with which they shall end.

        Forked, not spawned: a spawned one would import DeepSpeed first, seconds and hundreds of MiB for each. What a
        fork must not share, the connections to storage, belongs to one process each (see `Storage`).
        """
        before = signal.getsignal(signal.SIGCHLD)
        loader = DataLoader(
            _Parts(self._job, position, self._share),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=self._prefetch,
            collate_fn=_as_it_is,
            worker_init_fn=_settle,
            multiprocessing_context="fork",
        )
        parts = iter(loader)
        if threading.current_thread() is threading.main_thread():
            # torch's handler would raise in the middle of a step; that a worker is gone shows in `_merged`, too
            signal.signal(signal.SIGCHLD, before)
        return parts

    def _merged(self, parts: Iterator[Any]) -> Generator[Batch]:
        """Batches of the parts that the workers hand over in turn."""
        while True:
            try:
                made = [next(parts) for _ in range(self.workers)]
            except (RuntimeError, EOFError, OSError) as error:
                if not _is_lost_worker(error):
                    raise
                raise RetryableError(
                    f"rank {self._share.rank} lost a loader worker ({str(error) or type(error).__name__}): start "
                    "again; if it comes back, raise pods.shmSize or "
                    "memory, or lower train.loaderWorkers"
                ) from error
            for part in made:
                if isinstance(part, BaseException):
                    raise part
            yield merged(made)


def _raise_if_set(closed: threading.Event) -> None:
    """End the reading of a shard whose batches nobody awaits."""
    if closed.is_set():
        raise StopRequested("the loader is closed: start again to resume")


def _is_lost_worker(error: Exception) -> bool:
    """Whether a worker died: torch says so, or the socket that passes its tensors closes before torch notices."""
    if isinstance(error, RuntimeError):
        return str(error).startswith("DataLoader worker")
    return isinstance(error, EOFError | ConnectionError | FileNotFoundError) and not str(error).startswith("Caught ")


class _Parts(IterableDataset[Any]):
    """One worker's parts of the rank's batches; the last thing that it yields is the error that ends it."""

    def __init__(self, job: CollateSettings, position: int, share: BatchShare) -> None:
        self._job, self._position, self._share = job, position, share

    def __iter__(self) -> Iterator[Batch | DihtError]:
        info = get_worker_info()
        assert info is not None
        rows = self._share.part(info.id, info.num_workers)
        collator = Collator(self._job, rows=rows, sharers=info.num_workers)
        try:
            for start in itertools.count(self._position, self._job.batch_size):
                yield collator.batch(start)
        except DihtError as error:  # as a value: torch would bury the line under a traceback
            yield error


def _as_it_is(part: Any) -> Any:
    return part


def _settle(worker: int) -> None:
    """Reset the SIGTERM handler that a worker inherits from its rank, and end with the rank."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


MAX_WORKERS: Final = 64
"""Loader workers of a rank that are chosen without being asked for."""


def loader_workers(train: Train, cpus: float, device: str) -> int:
    """Workers of a rank: `train.loaderWorkers`, else those that the pod's CPUs leave beside the ranks themselves.

    Where a CPU trains, its cores are busy with that: a thread decodes. One reads stored features, too, of which there
    is nothing to decode. The number changes no batch (see `Loader`).

    Args:
        train: the settings.
        cpus: of the pod.
        device: type of the device that trains.
    """
    if train.loader_workers is not None:
        return train.loader_workers
    return (
        0
        if device == "cpu" or train.features == "Stored"
        else min(MAX_WORKERS, max(1, int(cpus / train.processes_per_node) - 1))
    )


STOP_SECONDS = 30.0
"""For the batch that is being made to be finished, at the end."""


class ReadAhead:
    """An iterator over the batches, without end; `close` ends the thread."""

    def __init__(self, fill: Callable[[ReadAhead], None], *, depth: int) -> None:
        """Begin to read.

        Args:
            fill: what the thread does: it calls `hand_over` until that is refused.
            depth: batches that wait, at most.
        """
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(depth)
        self._error: BaseException | None = None
        self.closed = threading.Event()
        self._thread = threading.Thread(target=fill, args=(self,), name="loader", daemon=True)
        self._thread.start()
        # A thread that still computes when the interpreter is taken down would abort the process, and hide its exit
        # code.
        atexit.register(self.close)

    def __iter__(self) -> ReadAhead:
        """The batches from here on."""
        return self

    def __next__(self) -> Batch:
        """The next batch, once it is there."""
        if self._error is not None:
            raise self._error
        return self._opened(self._ready.get())

    def next_if_ready(self) -> Batch | None:
        """The next batch if it is there; an error waits for `next`."""
        with contextlib.suppress(queue.Empty):
            item = self._ready.get_nowait() if self._error is None else self._error
            if not isinstance(item, BaseException):
                return item
            self._error = item
        return None

    def close(self) -> None:
        """End the thread, after the batch that it makes."""
        atexit.unregister(self.close)
        self.closed.set()
        self._thread.join(STOP_SECONDS)

    def hand_over(self, item: Batch | BaseException) -> bool:
        """Put a batch, or the error in its place, where `next` finds it; False if nobody waits for it any longer."""
        while not self.closed.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=0.2)
                return True
        return False

    def _opened(self, item: Batch | BaseException) -> Batch:
        if isinstance(item, BaseException):
            self._error = item
            raise item
        return item


class DeviceBatches:
    """An iterator over the batches of a rank, on its device; for the thread that trains."""

    def __init__(self, read: ReadAhead, device: torch.device) -> None:
        """Make one.

        Args:
            read: the batches on the host, in page-locked memory.
            device: of this rank; the CPU gets the batches as they are.
        """
        self._read, self._device = read, device
        self._sent: Batch | None = None
        if device.type != "cpu":
            self._module = torch.get_device_module(device)
            self._copies = self._module.Stream(device)

    def __iter__(self) -> Iterator[Batch]:
        """The batches from here on."""
        return self

    def __next__(self) -> Batch:
        """The next batch; the one after it sets out, if it is read by now."""
        if self._device.type == "cpu":
            return next(self._read)
        batch = self._send(next(self._read)) if self._sent is None else self._sent
        computes = self._module.current_stream(self._device)
        computes.wait_stream(self._copies)  # before the next copy is queued there, which is not to be waited for
        batch.used_on(computes)
        later = self._read.next_if_ready()
        self._sent = None if later is None else self._send(later)
        return batch

    def close(self) -> None:
        """End the reading."""
        self._read.close()

    def _send(self, batch: Batch) -> Batch:
        with self._module.stream(self._copies):
            return batch.on(self._device)
