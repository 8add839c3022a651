"""Training metrics: one JSON line a logged step in `metrics.jsonl`, also as TensorBoard events; restarts lose none."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diht_k8s.api.layout import Layout, join
from diht_k8s.recipe.shards.storage import Storage


class Metrics:
    """Lines of one run, kept in memory (300 bytes each) and written whole: object stores have no append."""

    def __init__(
        self,
        storage: Storage,
        layout: Layout,
        *,
        step: int,
        tracker: Any = None,
        fence: Callable[[], object] = lambda: None,
    ) -> None:
        """Resume after `step`: drop later lines, which an interrupted attempt wrote after its last checkpoint.

        `tracker` is a Weights & Biases run that gets each line too, or None. `fence` raises where another attempt
        writes these metrics.
        """
        self._fence = fence
        self._storage, self._layout, self._tracker = storage, layout, tracker
        self.lines: list[dict[str, Any]] = []
        if step and storage.exists(layout.metrics):
            lines = [json.loads(line) for line in storage.read_text(layout.metrics).splitlines()]
            self.lines = [line for line in lines if line["step"] <= step]

    def add(self, line: dict[str, float]) -> None:
        """Add a line; numbers are rounded to 6 digits, what is not finite becomes null."""
        self.lines.append({key: _rounded(value) for key, value in line.items()})
        if self._tracker is not None:
            named = {f"train/{key}": value for key, value in self.lines[-1].items() if key not in ("step", "time")}
            self._tracker.log(named, step=line["step"])

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

    def write_tensorboard(self) -> None:
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
