"""torch.profiler over a few steps of each rank (`train.profileSteps`): a Perfetto trace and a table of the costliest operations."""

from __future__ import annotations

import gzip
import logging
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from diht_k8s.api.errors import DihtError
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage

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
