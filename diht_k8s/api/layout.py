"""The places of all files below `spec.data.output`. Pure string work: URIs in, URIs out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from diht_k8s.api.run import Stage

MARKER: Final = "COMMITTED.json"
"""The last file written into a complete folder, of a stage or of a checkpoint."""
OBJECTS: Final = "objects"
"""Folder of a stage that holds its lists of what it has written."""


def join(base: str, *parts: str) -> str:
    """Join a folder and names with one slash between them."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


@dataclass(frozen=True)
class Layout:
    """The output folder of a run."""

    output: str
    """`spec.data.output`, a URI or path."""

    @property
    def run_document(self) -> str:
        """The resolved run document."""
        return join(self.output, "run.json")

    @property
    def index(self) -> str:
        """The index of shards that no filter of this run has read or written."""
        return join(self.output, "index")

    def filter_index(self, shards: Literal["raw", "kept"]) -> str:
        """The index that the filter makes on its way, of the shards that it reads or writes."""
        return join(self.stage(Stage.FILTER), "index", shards)

    def stage(self, stage: Stage) -> str:
        """The folder of a stage."""
        return join(self.output, stage.value)

    def committed(self, stage: Stage) -> str:
        """The marker that a stage writes last."""
        return join(self.stage(stage), MARKER)

    def started(self, stage: Stage, number: int = 1) -> str:
        """The configuration under which a stage began; the files beside it may be incomplete.

        Another configuration that takes over a folder without output adds the next number; the highest one counts.
        """
        return join(self.stage(stage), "STARTED.json" if number == 1 else f"STARTED-{number}.json")

    def objects(self, stage: Stage) -> str:
        """The folder of the lists of what a stage has written."""
        return join(self.stage(stage), OBJECTS)

    def scores(self, shard: str) -> str:
        """The filter's scores of one input shard."""
        return join(self.stage(Stage.FILTER), "scores", f"{shard}.parquet")

    def kept(self, shard: str) -> str:
        """The kept pairs of one input shard."""
        return join(self.stage(Stage.FILTER), "kept", f"{shard}.tar")

    def keep_list(self, shard: str) -> str:
        """Which pairs of one input shard are kept, in place of copies (`filter.output: KeepList`)."""
        return join(self.stage(Stage.FILTER), "kept", f"{shard}.parquet")

    def fingerprints(self, shard: str) -> str:
        """Fingerprints of the images of the kept pairs of one input shard."""
        return join(self.stage(Stage.FILTER), "fingerprints", f"{shard}.parquet")

    @property
    def duplicates(self) -> str:
        """Where the repeated images of the pool are searched."""
        return join(self.stage(Stage.FILTER), "duplicates")

    def repeats(self, config_sha256: str) -> str:
        """Which images of the kept pairs repeat an earlier one, found under one configuration."""
        return join(self.duplicates, config_sha256[:16], "repeats.parquet")

    def report(self, stage: Stage, suffix: str = "json") -> str:
        """`report.json` or `report.html` of a stage."""
        return join(self.stage(stage), f"report.{suffix}")

    @property
    def vocabulary(self) -> str:
        """The concept classes."""
        return join(self.stage(Stage.LABEL), "vocabulary.json")

    @property
    def teacher_heads(self) -> str:
        """The teacher's linear heads."""
        return join(self.stage(Stage.LABEL), "teacher_heads.safetensors")

    def features(self, shard: str) -> str:
        """The teacher's features of one kept shard, rows in its order."""
        return join(self.stage(Stage.LABEL), "features", f"{shard}.safetensors")

    def labels(self, shard: str) -> str:
        """Soft labels of one kept shard, rows in its order."""
        return join(self.stage(Stage.LABEL), "labels", f"{shard}.parquet")

    @property
    def checkpoints(self) -> str:
        """Training checkpoints, `step-N/` each."""
        return join(self.stage(Stage.TRAIN), "checkpoints")

    @property
    def preflight(self) -> str:
        """What the newest attempt's preflight found on each node."""
        return join(self.stage(Stage.TRAIN), "preflight.json")

    @property
    def metrics(self) -> str:
        """Training metrics, one JSON line each."""
        return join(self.stage(Stage.TRAIN), "metrics.jsonl")

    @property
    def tensorboard(self) -> str:
        """TensorBoard's event files."""
        return join(self.stage(Stage.TRAIN), "tensorboard")

    @property
    def model(self) -> str:
        """The exported model that open_clip loads."""
        return join(self.stage(Stage.TRAIN), "model")
