"""Training metrics: one JSON line a logged step in `metrics.jsonl`, also as TensorBoard events; restarts lose none.

Metrics never end a training: what cannot be written is logged, counted, and written with a later line.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import DihtError, StopRequested
from diht_k8s.api.layout import Layout, join
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.tracking import Tracking

FIRST_PAUSE_S: Final = 2.0
MAX_PAUSE_S: Final = 300.0
"""Bounds of the pause after failed writes of metrics (our choice)."""


class Metrics:
    """Lines of one run, kept in memory (300 bytes each) and written whole: object stores have no append."""

    def __init__(
        self,
        storage: Storage,
        layout: Layout,
        *,
        step: int,
        tracking: Tracking | None = None,
        fence: Callable[[], object] = lambda: None,
    ) -> None:
        """Resume after `step`: drop later lines, which an interrupted attempt wrote after its last checkpoint.

        `tracking` gets each line too. `fence` raises where another attempt writes these metrics.
        """
        self._fence = fence
        self._storage, self._layout, self._tracking = storage, layout, tracking or Tracking({})
        self._try_again_at, self._pause_s = 0.0, FIRST_PAUSE_S
        self._failed = 0
        self.lines: list[dict[str, Any]] = []
        if step and storage.exists(layout.metrics):
            lines = [json.loads(line) for line in storage.read_text(layout.metrics).splitlines()]
            self.lines = [line for line in lines if line["step"] <= step]

    def add(self, line: dict[str, float]) -> None:
        """Add a line; numbers are rounded to 6 digits, what is not finite becomes null."""
        self.lines.append({key: _rounded(value) for key, value in line.items()})
        named = {f"train/{key}": value for key, value in self.lines[-1].items() if key not in ("step", "time")}
        self._tracking.log(named, int(line["step"]))

    @property
    def failed(self) -> int:
        """Writes of this attempt that failed: of the lines, of TensorBoard's events, to trackers."""
        return self._failed + self._tracking.failed

    def finish(self) -> None:
        """Let the trackers send the rest."""
        self._tracking.finish()

    def summary(self) -> dict[str, Any]:
        """First and last loss, most memory."""
        return {
            "loss": {"first": self.lines[0]["loss"], "last": self.lines[-1]["loss"]},
            "peak_memory_mib": max(line["peak_memory_mib"] for line in self.lines),
        }

    def write(self) -> None:
        """Write all lines.

        Raises:
            StopRequested: another attempt writes them by now.
        """
        self._fence()
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        self._storage.write_bytes(self._layout.metrics, text.encode())

    def try_write(self) -> None:
        """Write all lines; after a failure not before a pause that doubles, since a slow refusal holds up all ranks.

        Raises:
            StopRequested: another attempt writes them by now.
        """
        if time.monotonic() < self._try_again_at:
            return
        try:
            self.write()
        except StopRequested:
            raise
        except DihtError as error:
            self._count("metrics.jsonl", error)
            self._try_again_at = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
        else:
            self._pause_s = FIRST_PAUSE_S

    def try_write_tensorboard(self) -> None:
        """Write TensorBoard's events; a failure is logged and counted."""
        try:
            self._write_tensorboard()
        except (DihtError, OSError) as error:
            self._count("TensorBoard's events", error)

    def _count(self, what: str, error: Exception) -> None:
        self._failed += 1
        logging.warning("%s not written (%d failures so far), training continues: %s", what, self.failed, error)

    def _write_tensorboard(self) -> None:
        """Write all lines as one TensorBoard event file."""
        from torch.utils.tensorboard import SummaryWriter

        with tempfile.TemporaryDirectory() as folder:
            with SummaryWriter(folder) as writer:
                for line in self.lines:
                    for name, value in line.items():
                        if name not in ("step", "time") and value is not None:
                            writer.add_scalar(f"train/{name}", value, line["samples"], walltime=line["time"])
            data = next(Path(folder).iterdir()).read_bytes()
        self._storage.write_bytes(join(self._layout.tensorboard, "events.out.tfevents.0.diht"), data)


def _rounded(value: float) -> float | int | None:
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
