"""Reports of programs: progress lines on stdout, the commit marker, the cause of a failure.

A program may report nonsense. Each number is brought here, as it is read, into the range that the status and the
arithmetic of the operator have room for; nothing behind this module bounds it again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from diht_k8s.api.run import Stage

PROGRESS_PREFIX: Final = '{"diht":"progress"'
MAX_LINE_BYTES: Final = 4096
GOODPUT_VARIABLE: Final = "DIHT_GOODPUT"
"""In the environment of the evaluation, for its page: a list of `{"stage", "wall_seconds", "text"}` as JSON."""
ROUNDS_VARIABLE: Final = "DIHT_ROUNDS"
"""In the environment of ranks: the rounds of their attempt, as JSON."""
WORST_NODES: Final = 5
"""Nodes of a preflight that progress lines, causes and the status name."""
MAX_PROBLEM: Final = 256
"""Characters of a node's problem."""
COMMITTED: Final = "Committed"
"""Reason of a program's end at which its stage is committed, by whomever."""
KEPT_MESSAGE: Final = 1024
"""Characters of a message that the status has room for."""


MOST_STEPS: Final = 2**61
MOST_SECONDS: Final = 2**31 - 1
MOST_ROUNDS: Final = 2**20
LATEST: Final = 253_402_300_799
"""The last second that a date has."""
MAX_FIGURE: Final = 10**18


def _within(least: int, most: int) -> AfterValidator:
    """Brings a number into a range; infinite ones and NaN count as 0."""

    def within(value: Any) -> Any:
        known = value if isinstance(value, int) or math.isfinite(value) else 0.0
        return min(max(known, least), most)

    return AfterValidator(within)


Position = Annotated[int, _within(0, MOST_STEPS)]
"""Steps, shards, samples."""
Seconds = Annotated[float, _within(0, MOST_SECONDS)]
WholeSeconds = Annotated[int, _within(0, MOST_SECONDS)]
Date = Annotated[int, _within(0, LATEST)]
"""Seconds since the epoch."""
Figure = Annotated[float, _within(-MAX_FIGURE, MAX_FIGURE)]
WholeFigure = Annotated[int, _within(-MAX_FIGURE, MAX_FIGURE)]
Code = Annotated[int, _within(0, 255)]
"""An exit code."""
Rank = Annotated[int, _within(-1, MOST_SECONDS)]


class Record(BaseModel):
    """Base of the records below: unknown keys of newer programs are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, ser_json_inf_nan="strings")  # a loss may be NaN


class SavedCheckpoint(Record):
    """The newest checkpoint that is committed: where training would resume."""

    step: Position
    uri: str
    time: Date | None = None
    """of the commit; None where an earlier program committed it."""
    seconds: WholeSeconds | None = None
    """time spent training up to it, over all attempts; None from older programs."""


class Rounds(Record):
    """The rounds of an attempt whose ranks were restarted in place, up to the line or message that names them."""

    round: Annotated[int, _within(1, MOST_ROUNDS)]
    """number of the newest one, from 1."""
    uncounted: Annotated[int, _within(0, MOST_ROUNDS)] = 0
    """rounds after the first that no failure of a program began: nodes went or came."""
    exit_code: Code | None = None
    """of the round before, as of the newest restart are the next three."""
    message: str = ""
    node: Rank | None = None
    """rank of the node that failed."""
    host: str = ""
    """name of its pod or machine."""
    step: Position | None = None
    """furthest step at which a round failed, from 1; None if unknown."""


class TimeSpent(Record):
    """The time of an attempt's program by category since it began, over all rounds, in seconds.

    `starting` to `missing_nodes` add up to its age.
    """

    starting: Seconds = 0.0
    steps: Seconds = 0.0
    data: Seconds = 0.0
    """waiting for it."""
    checkpoints: Seconds = 0.0
    """standing still for them."""
    validation: Seconds = 0.0
    recovering: Seconds = 0.0
    """from the last step of a round to the start of the next."""
    other: Seconds = 0.0
    missing_nodes: Seconds = 0.0
    """of an elastic gang that goes on in place: its time by the share of its nodes that it did without."""
    lost: Seconds = 0.0
    """of the steps: later rounds have redone them."""
    resumed: Seconds | None = None
    """seconds of steps behind the position at which the attempt began, over all attempts; None where nobody counts."""
    path: Seconds | None = None
    """the same at its present position."""
    kept: Seconds | None = None
    """the same at its newest committed checkpoint."""
    start_up: dict[str, Seconds] = {}
    """parts of the newest round's `starting`."""


class NodeResult(Record):
    """The preflight's result on one node; None where it measured nothing."""

    node: str = ""
    """name of the Kubernetes node, or of the machine."""
    pod: str = ""
    """host name: the pod's name, with `hostNetwork` the node's, else the machine's."""
    gpus: WholeFigure | None = None
    """that torch sees."""
    shared_memory_mib: WholeFigure | None = None
    """size of `/dev/shm`."""
    output_seconds: Figure | None = None
    """to write, read back and remove a small file in the output."""
    exchange_gb_per_second: Figure | None = None
    """with its best neighbour, in each direction; where the fabric is slower than `train.minBusBandwidth`."""
    problem: str = ""
    """one line; empty if there is none."""

    @property
    def label(self) -> str:
        """Its name for a person; no two pods have the same."""
        return node_label(self.node, self.pod)

    @property
    def figures(self) -> dict[str, float]:
        """What was measured, by name."""
        return self.model_dump(exclude={"node", "pod", "problem"}, exclude_none=True)


def node_label(node: str, pod: str) -> str:
    """The name of a node for a person, with its pod's where that is another one."""
    return node if pod in ("", node) else f"{node} (pod {pod})"


def worst(results: Iterable[NodeResult], number: int = WORST_NODES) -> list[NodeResult]:
    """The worst nodes, the worst first: with a problem, then by the slowest exchange, then by the slowest output."""

    def order(result: NodeResult) -> tuple[bool, float, float]:
        exchange = result.exchange_gb_per_second
        return not result.problem, float("inf") if exchange is None else exchange, -(result.output_seconds or 0.0)

    return sorted(results, key=order)[:number]


class PreflightReport(Record):
    """`train/preflight.json`: the preflight of the newest attempt whose ranks have all joined."""

    schema_version: int
    time: int
    """seconds since the epoch."""
    bus_bandwidth_gb_per_second: float | None
    """of an all-reduce over all ranks; None for one rank."""
    nodes: list[NodeResult]
    """all of them, in the order of their ranks."""


class CommittedShards(Record):
    """Shards of a stage that are committed: another attempt need not repeat them."""

    count: Position
    """of the whole stage."""
    seconds: WholeSeconds
    """time that one worker has spent on its part of them, over all attempts."""


class Progress(Record):
    """One line of progress of one stage; everything counts the whole stage, not one worker."""

    stage: Stage
    step: str
    """what is being done, for example `captions`, `teacher`, `epoch 3`."""
    done: Position
    total: Position
    """0 while unknown."""
    unit: str = "samples"
    per_second: Figure = 0.0
    eta_seconds: WholeSeconds | None = None
    metrics: dict[str, float] = {}
    worker: Rank = 0
    checkpoint: SavedCheckpoint | None = None
    """of a training, once there is one."""
    rounds: Rounds | None = None
    """of a training that restarts in place."""
    shards: CommittedShards | None = None
    """of a stage whose workers share shards, once some are committed."""
    time_spent: TimeSpent | None = None
    preflight: list[NodeResult] = []
    """the worst nodes of a training, in the round whose preflight it was."""

    def line(self) -> str:
        """The line as printed on stdout; one that would be too long to be read leaves the preflight out."""
        text = PROGRESS_PREFIX + "," + self.model_dump_json(exclude_defaults=False)[1:]
        if self.preflight and len(text) > MAX_LINE_BYTES:
            return self.model_copy(update={"preflight": []}).line()
        return text


def parse_progress(line: str) -> Progress | None:
    """A progress line, or None for any other line (also broken JSON, overlong lines)."""
    if len(line) > MAX_LINE_BYTES or not line.startswith(PROGRESS_PREFIX):
        return None
    try:
        return Progress.model_validate_json(line)
    except ValidationError:
        return None


class Artefact(Record):
    """A file that a stage wrote, relative to the stage's folder."""

    path: str
    size: int
    sha256: str


class Committed(Record):
    """`COMMITTED.json`: this stage's output is complete. Written last."""

    schema_version: int
    stage: Stage
    config_sha256: str
    config: dict[str, Any]
    """what `config_sha256` covers (see api.hashing)."""
    inputs: dict[str, str]
    artefacts: list[Artefact]
    output_sha256: str
    """SHA-256 over the artefacts."""
    identity: str
    """`output_sha256` when the stage first ended, which takedowns do not change: labels belong to it."""
    revision: int = 0
    """takedowns that changed the output since."""
    summary: dict[str, Any] = {}
    """a few figures for people and for the next stage (counts of samples, seconds)."""


class Cause(Record):
    """How a program ended: the pod's termination message, and where it failed what `diht run` prints."""

    exit_code: Code
    reason: str
    message: str
    worker: Rank = 0
    output: str | None = None
    """folder of the stage, where it ended well."""
    step: Position | None = None
    """of a training: the step at which it failed, from 1."""
    checkpoint: SavedCheckpoint | None = None
    """of a training: the newest one, since the log that names it may be lost."""
    rounds: Rounds | None = None
    """of a training that restarts in place."""
    time_spent: TimeSpent | None = None
    """of a training, up to its last step."""
    preflight: list[NodeResult] = []
    """of a training: its worst nodes, or this pod's own where it ended before the ranks had met."""

    def encoded(self) -> str:
        """At most 4 KiB of JSON, as Kubernetes limits termination messages; the message is worth more than the
        preflight.
        """
        if self.preflight and len(self._json(self.message[:KEPT_MESSAGE]).encode()) > MAX_LINE_BYTES:
            return self.model_copy(update={"preflight": []}).encoded()
        if self.checkpoint is not None and len(self._json("").encode()) > MAX_LINE_BYTES:
            return self.model_copy(update={"checkpoint": None}).encoded()  # an address of kilobytes
        message = self.message
        while len(text := self._json(message).encode()) > MAX_LINE_BYTES:
            message = message[: max(0, len(message) - (len(text) - MAX_LINE_BYTES) - 3)] + "..."
        return text.decode()

    def _json(self, message: str) -> str:
        left_out = None if self.preflight else {"preflight"}
        return json.dumps({**self.model_dump(exclude_none=True, exclude=left_out), "message": message})
