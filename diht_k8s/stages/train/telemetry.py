"""Telemetry of rank 0: progress lines, metrics, warnings of loss spikes and stragglers; profiles of a few steps of each
rank.
"""

from __future__ import annotations

import gzip
import logging
import resource
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch.profiler import ProfilerActivity, profile

from diht_k8s.api.errors import DihtError
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.checkpoint.checkpoint import Cursor
from diht_k8s.stages.train.data.batch import Batch
from diht_k8s.stages.train.engine import Losses
from diht_k8s.stages.train.flops import MfuMeter
from diht_k8s.stages.train.metrics import Metrics

LOG_EVERY_S = 2.0
LOG_LINES = 1000
"""Lines of a long training for each factor of e in time, about; keeps the metrics small."""

LAG_LINES = 5
"""Lines in a row in which the same rank lags before the log says so: a busy machine slows one for a moment."""


@dataclass(frozen=True)
class TrainStep:
    """Figures of one step."""

    cursor: Cursor
    losses: Losses
    lr: float
    logit_scale: float
    gradient_norm: Callable[[], float]
    """asked for only when a line is written, since it may wait for the device."""
    own_seconds: Sequence[float]
    """of each rank, in data and forward pass, up to the first collective."""
    loss_scale: float | None
    """of fp16; None where the precision needs none."""
    batch: Batch
    """rank 0's part."""
    held_out: Mapping[str, float]
    """figures of a validation after this step; empty without one."""
    last: bool
    failed_checkpoints: int = 0
    """of this attempt, so far."""


class Telemetry:
    """Adds up steps and writes a line of metrics every few seconds."""

    def __init__(
        self,
        metrics: Metrics,
        meter: MfuMeter | None,
        *,
        batch_size: int,
        world: int,
        bus_bandwidth: float | None = None,
    ) -> None:
        """Make one.

        Args:
            metrics: where lines go.
            meter: of the utilisation; None where the device's peak is not known.
            batch_size: pairs of the global batch.
            world: number of ranks.
            bus_bandwidth: what the preflight measured, in GB/s.
        """
        self.fabric = {} if bus_bandwidth is None else {"bus_bandwidth_gb_per_second": bus_bandwidth}
        self._first = True
        self._metrics, self._batch_size, self._world = metrics, batch_size, world
        self._spikes = Spikes()
        self._at, self._samples, self._operations = time.monotonic(), 0, 0.0
        self._own = [0.0] * world
        self._lagging: tuple[int, ...] = ()
        self._meter = meter

    def add(self, step: TrainStep, waited_seconds: float) -> bool:
        """Add a step; whether a line was written, which resets `waited_seconds` (for data, since the last line)."""
        self._samples += self._batch_size
        self._own = [total + new for total, new in zip(self._own, step.own_seconds, strict=True)]
        if self._meter is not None:
            self._operations += self._meter.operations(step.batch)
        if step.losses.finite and (median := self._spikes.add(step.losses.total)) is not None:
            logging.warning(
                "loss spike at step %d: %.4g after a median of %.4g", step.cursor.step, step.losses.total, median
            )
        now = time.monotonic()
        every_s = max(LOG_EVERY_S, step.cursor.seconds / LOG_LINES)
        if not (step.last or step.held_out or now - self._at >= every_s or step.cursor.step <= 1):
            return False
        self._metrics.add(
            {
                **_figures(step),
                **self._rates(now, waited_seconds),
                **self.failures(step.failed_checkpoints),
                **step.held_out,
                **(self.fabric if self._first else {}),
            }
        )
        self._first = False
        self._at, self._samples, self._operations, self._own = now, 0, 0.0, [0.0] * self._world
        self._spikes.count = 0
        self._metrics.try_write()
        return True

    def failures(self, checkpoints: int) -> dict[str, float]:
        """Failed writes of this attempt; empty where all succeeded."""
        counts = {"failed_checkpoints": checkpoints, "failed_metrics": self._metrics.failed}
        return {name: count for name, count in counts.items() if count}

    def _rates(self, now: float, waited_seconds: float) -> dict[str, float]:
        elapsed = max(now - self._at, 1e-9)
        found = {
            "samples_per_second": self._samples / elapsed,
            "data_wait_percent": 100 * waited_seconds / elapsed,
            "peak_memory_mib": peak_memory_mib(),
            "loss_spikes": self._spikes.count,
        }
        if self._world > 1:
            rank, ratio = slowest(self._own)
            found |= {"slowest_rank": rank, "slowest_rank_ratio": ratio}
            self._lagging = (*self._lagging, rank)[-LAG_LINES:] if ratio > STRAGGLER_RATIO else ()
            if self._lagging == (rank,) * LAG_LINES:
                logging.warning("rank %d takes %.1f times as long as the others", rank, ratio)
                self._lagging = ()
        if self._meter is not None:
            found["mfu_percent"] = self._meter.percent(self._operations, elapsed)
        return found


def _figures(step: TrainStep) -> dict[str, float]:
    losses = step.losses
    scaling = {} if step.loss_scale is None else {"loss_scale": step.loss_scale}
    return {
        "step": step.cursor.step,
        "samples": step.cursor.position,
        "time": int(time.time()),
        "loss": losses.total,
        "contrastive_loss": losses.contrastive,
        "object_loss": losses.object,
        "attribute_loss": losses.attribute,
        "embedding_loss": losses.embedding,
        "regression_loss": losses.regression,
        "lr": step.lr,
        "logit_scale": step.logit_scale,
        "gradient_norm": step.gradient_norm(),
        **scaling,
        "image_to_text_top1": losses.image_to_text_top1,
        "text_to_image_top1": losses.text_to_image_top1,
        "hardest_negative_weight": losses.hardest_weight,
        "duplicate_caption_share": losses.duplicate_share,
    }


def peak_memory_mib() -> float:
    """Most memory so far: the device's, or this process's on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


WINDOW: Final = 100
SPIKE_DEVIATIONS: Final = 8.0
"""A loss this many mean absolute deviations above the median of the last hundred is a spike (our choice)."""
MIN_SPIKE: Final = 0.05
"""... and at least this share above it, so that a loss that hardly moves has none."""
STRAGGLER_RATIO: Final = 1.5
"""A rank that takes more than this multiple of the others' median time is reported."""


class Spikes:
    """Finds losses that jump out of the last hundred."""

    def __init__(self) -> None:
        self._window: deque[float] = deque(maxlen=WINDOW)
        self.count = 0
        """spikes since it was last read and set to 0."""

    def add(self, loss: float) -> float | None:
        """Take in a finite loss; the median that it jumped from, or None."""
        spike = None
        if len(self._window) == WINDOW:
            median = statistics.median(self._window)
            deviation = sum(abs(value - median) for value in self._window) / WINDOW
            if loss > median + max(SPIKE_DEVIATIONS * deviation, MIN_SPIKE * abs(median)):
                spike, self.count = median, self.count + 1
        self._window.append(loss)
        return spike


def slowest(seconds: Sequence[float]) -> tuple[int, float]:
    """The rank that worked longest before the first collective, and its time over the others' median."""
    if len(seconds) < 2:
        return 0, 1.0
    rank = max(range(len(seconds)), key=seconds.__getitem__)
    others = statistics.median(value for index, value in enumerate(seconds) if index != rank)
    return rank, seconds[rank] / others if others > 0 else 1.0


FIRST_STEP = 10
"""Steps of an attempt that are left out: kernels are chosen and caches filled."""
ROWS = 40


class Profiler:
    """Records the steps FIRST_STEP to FIRST_STEP + number of this attempt, then writes what it saw."""

    def __init__(self, storage: Storage, layout: Layout, *, steps: int, rank: int) -> None:
        """Record `steps` steps; 0 does nothing."""
        self._storage, self._folder, self._rank = storage, join(layout.stage(Stage.TRAIN), "profile"), rank
        self._steps, self._done = steps, 0
        self._profile: profile | None = None

    def step(self) -> None:
        """A step begins."""
        if self._steps and self._done == FIRST_STEP:
            devices = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            self._profile = profile(activities=devices)
            self._profile.start()
        if self._profile is not None and self._done == FIRST_STEP + self._steps:
            self.finish()
        self._done += 1

    def finish(self) -> None:
        """Write what was recorded, if anything was and is not written yet; a failure is logged."""
        if self._profile is None:
            return
        seen, self._profile = self._profile, None
        seen.stop()
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = seen.key_averages().table(sort_by=order, row_limit=ROWS)
        name = f"rank-{self._rank:05d}"
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace.json"
            seen.export_chrome_trace(str(trace))
            files = {f"{name}.json.gz": gzip.compress(trace.read_bytes()), f"{name}.txt": table.encode()}
        try:
            for file, content in files.items():
                self._storage.write_bytes(join(self._folder, file), content)
        except DihtError as error:
            logging.warning("the profile is not written, training continues: %s", error)
