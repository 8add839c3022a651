"""The places of all files below `spec.data.output`. Pure string work: URIs in, URIs out.

What a stage makes lies under the digest of everything that decides it, so nothing is ever replaced, and runs that have
a stage in common share it:

    OUTPUT/STAGE/DIGEST/              output of a stage; DIGEST begins its `config_sha256`
    OUTPUT/runs/NAME/DIGEST/          a run: its document, logs, page, and a pointer to the folder of each of its stages
    OUTPUT/index/DIGEST/              where the samples of some shards begin, which no filter has found on its way
    OUTPUT/features/DIGEST/           image features of a locked tower, for all trainings on it
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Final, Literal

from diht_k8s.api.errors import UserError
from diht_k8s.api.run import Stage

MARKER: Final = "COMMITTED.json"
"""The last file written into a complete folder, of a stage, a checkpoint or an import."""
STARTED: Final = "STARTED.json"
"""The first file written into the folder of a stage or an import: what decides its content, and what it reads."""
DIGITS: Final = 16
"""Digits of a digest that name a folder; the markers have all of them."""
LEASE: Final = "lease.json"
"""In the folder of a training: which gang works on it."""
ABOUT_FEATURES: Final = "features.json"
FEATURE_FILES: Final = ("claims/*.json", "*.safetensors", ABOUT_FEATURES)
"""What trainings write into a folder of features, in the order in which it goes."""
STAGE_FILES: Final[Mapping[Stage, tuple[str, ...]]] = {
    Stage.FILTER: (
        MARKER,
        "PURGE.json",
        "report.json",
        "summaries/*.json",
        "scores/*.parquet",
        "uids.npy",
        "uid_index.npy",
        "clip_share.json",
        "kept/*.tar",
        "kept/*.parquet",
        "survivors/*.parquet",
        "fingerprints/*.parquet",
        "duplicates/*.parquet",
        "duplicates/*/*.parquet",
        "duplicates/*/*.bin",
        "index/*/shards.table",
        "index/*/parts/[0-9]*",
        "claims/*.json",
        STARTED,
    ),
    Stage.LABEL: (
        MARKER,
        "report.json",
        "labels/*.parquet",
        "features/*.safetensors",
        "teacher_heads.safetensors",
        "heads.json",
        "heads/*.state",
        "heads/*.safetensors",
        "vocabulary.json",
        "embeddings/*.safetensors",
        "claims/*.json",
        STARTED,
    ),
    Stage.TRAIN: (
        MARKER,
        "result.json",
        f"checkpoints/step-*/{MARKER}",
        "checkpoints/step-*/state-*.safetensors",
        "model/open_clip_config.json",
        "model/open_clip_model.safetensors",
        "model/README.md",
        "concept_heads.safetensors",
        "metrics.jsonl",
        "tensorboard/events.out.tfevents.*",
        "profile/rank-*",
        "not_finite-*.json",
        "preflight.json",
        "preflight-*",
        "commits/[0-9]*",
        "epochs/[0-9]*",
        "claims/*.json",
        LEASE,
        STARTED,
    ),
    Stage.EVALUATE: (
        MARKER,
        "report.json",
        "report.html",
        "README.md",
        "benchmarks/*.json",
        "benchmarks/*.parquet",
        "features/*.safetensors",
        "claims/*.json",
        STARTED,
    ),
}
"""What a stage writes into its folder: patterns, of which `*` matches no slash. Everything else there is a person's.
Files go in this order (`outputs.prune`): first those that say that others are complete, last the one that says whose
the folder is."""
RUN_FILES: Final = (
    *(stage.value for stage in Stage),
    *(f"{stage.value}.json" for stage in Stage),
    "report.html",
    "report.json",
    "logs*/*/cause-*.json",
    "logs*/*/*/SUCCESS",
    "logs*/*/*/*/*/*.log",
    "logs*/lock",
    "run.json",
)
"""What is ours in the folder of a run, in the order in which it goes: links, pointers, page, logs, the document."""


def join(base: str, *parts: str) -> str:
    """Join a folder and names with one slash between them."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def pattern_of(path: str, patterns: Sequence[str]) -> int | None:
    """Which of some patterns a path relative to a folder matches first; None for a file that is not ours."""
    parts = path.split("/")
    for number, pattern in enumerate(patterns):
        wanted = pattern.split("/")
        if len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted)):
            return number
    return None


def refuse_old_layout(output: str, names: Callable[[str], Collection[str]]) -> None:
    """Refuse an output of the first layout, in which a stage wrote into `OUTPUT/STAGE` itself.

    Args:
        output: URI or path.
        names: of the files directly in a folder.

    Raises:
        UserError: it is one.
    """
    for stage in Stage:
        if not {STARTED, MARKER}.isdisjoint(names(join(output, stage.value))):
            raise UserError(
                f"{output} has the layout of an earlier version ({stage.value}/ without a folder for each "
                "configuration): "
                "choose another data.output, or move the old files away, and run the stages again"
            )


@dataclass(frozen=True)
class Layout:
    """An output folder, as one run sees it."""

    output: str
    """`spec.data.output`, a URI or path."""
    folders: Mapping[Stage, str] = field(default_factory=dict[Stage, str])
    """folder of each stage that is known: of those that have begun in a run."""

    def at(self, stage: Stage, config_sha256: str) -> Layout:
        """With the folder of a stage under its configuration."""
        return self.with_folder(stage, join(self.output, stage.value, config_sha256[:DIGITS]))

    def with_folder(self, stage: Stage, folder: str) -> Layout:
        """With the folder of a stage."""
        return replace(self, folders={**self.folders, stage: folder})

    def relative(self, stage: Stage) -> str:
        """The folder of a stage, relative to the output."""
        return self.stage(stage).removeprefix(self.output.rstrip("/") + "/")

    def run(self, name: str, digest: str) -> str:
        """The folder of a run."""
        return join(self.output, "runs", name, digest[:DIGITS])

    @property
    def indexes(self) -> str:
        """Indexes of shards that no filter has indexed, each in the folder of its digest."""
        return join(self.output, "index")

    def index(self, digest: str) -> str:
        """The index of the shards whose names and versions have this digest."""
        return join(self.indexes, digest[:DIGITS])

    @property
    def feature_sets(self) -> str:
        """Image features of locked towers, each set in the folder of its digest."""
        return join(self.output, "features")

    def feature_set(self, digest: str) -> str:
        """The image features under the tower and view with this digest."""
        return join(self.feature_sets, digest[:DIGITS])

    @property
    def takedowns(self) -> str:
        """Lists of pairs that were taken down, `000001` and so on: no filter of this output keeps them."""
        return join(self.output, "takedowns")

    def filter_index(self, shards: Literal["raw", "kept"]) -> str:
        """The index that the filter makes on its way, of the shards that it reads or writes."""
        return join(self.stage(Stage.FILTER), "index", shards)

    def stage(self, stage: Stage) -> str:
        """The folder of a stage.

        Raises:
            UserError: the stage has not begun.
        """
        if stage not in self.folders:
            raise UserError(
                f"the stage {stage.value} of this run has not begun in {self.output}: run the stage {stage.value} first"
            )
        return self.folders[stage]

    def committed(self, stage: Stage) -> str:
        """The marker that a stage writes last."""
        return join(self.stage(stage), MARKER)

    def started(self, stage: Stage) -> str:
        """The configuration under which a stage began; the files beside it may be incomplete."""
        return join(self.stage(stage), STARTED)

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

    @property
    def repeats(self) -> str:
        """Which images of the kept pairs repeat an earlier one."""
        return join(self.duplicates, "repeats.parquet")

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

    def embeddings(self, shard: str) -> str:
        """The teacher's embeddings of one kept shard's images and captions, rows in its order."""
        return join(self.stage(Stage.LABEL), "embeddings", f"{shard}.safetensors")

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
