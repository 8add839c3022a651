"""`status` of a run, which the operator writes for people, kubectl and itself. Counters live here and nowhere else.

No floats (they would not survive every client), no phase (conditions say more), below 10 KB (`bounded`): a thousand
runs are listed often. The operator writes it through the status subresource only, and not when nothing changed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from diht_k8s.api.base import Keyed, Model
from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.reports import MAX_PROBLEM, WORST_NODES
from diht_k8s.api.run import Stage
from diht_k8s.api.times import KnownTime, Time

MAX_STATUS_BYTES: Final = 10_000
MAX_ATTEMPTS: Final = 5
REASON_SCHEMA: Final[dict[str, Any]] = {"type": "string", "maxLength": 63, "pattern": "^[A-Z][A-Za-z]*$"}
"""No enum in the CRD: an operator that is newer than the CRD must still be able to write its status."""

ShortText = Annotated[str, StringConstraints(max_length=63)]
"""A name of Kubernetes or of ours."""
Line = Annotated[str, StringConstraints(max_length=1024)]
Decimal = Annotated[
    str, StringConstraints(max_length=32, pattern=r"^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$|^(nan|-?inf)$")
]
"""A number as text, since status holds no floats."""
MAX_COUNT: Final = 2**31 - 1
"""The largest attempt, number of restarts or of pods that a status holds."""
MAX_POSITION: Final = 2**62


def _at_most(most: int) -> BeforeValidator:
    """Keeps a number within what a status holds: somebody else may have set what it was counted on from."""
    return BeforeValidator(lambda value: min(max(value, 0), most) if type(value) is int else value)


Small = Annotated[int, Field(ge=0, le=MAX_COUNT), _at_most(MAX_COUNT)]
Large = Annotated[int, Field(ge=0, le=MAX_POSITION), _at_most(MAX_POSITION)]
Code = Annotated[int, Field(ge=0, le=255), _at_most(255)]
"""An exit code."""


class StageState(StrEnum):
    """The state of a stage."""

    PENDING = "Pending"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    STOPPED = "Stopped"
    COMPLETE = "Complete"
    CACHED = "Cached"
    FAILED = "Failed"


class StatusModel(Model):
    """Base of the models below, read leniently: a newer operator may have written them."""

    model_config = ConfigDict(extra="ignore", strict=False)


class Condition(StatusModel):
    """One condition, as Kubernetes defines it."""

    type: ConditionType
    """type of the condition: Accepted, Progressing, Complete or Failed."""
    status: Literal["True", "False", "Unknown"]
    """status of the condition."""
    reason: Annotated[Reason, WithJsonSchema(REASON_SCHEMA)]
    """reason for programs, from a closed list."""
    message: Line = ""
    """message for people, one line."""
    last_transition_time: KnownTime
    """lastTransitionTime is when status last changed."""
    observed_generation: Large = 0
    """observedGeneration is the metadata.generation that the condition was set for."""


class JobReference(StatusModel):
    """The Job of an attempt."""

    kind: ShortText
    """kind of the object: Job, or Volcano's."""
    name: ShortText
    """name of the object."""


class FailureCause(StatusModel):
    """Why the newest failed attempt ended."""

    pod: ShortText = ""
    """pod that failed first; empty if the attempt ended without one."""
    container: ShortText = ""
    """container in that pod."""
    node: Annotated[str, StringConstraints(max_length=253)] = ""
    """node that it ran on."""
    exit_code: Code | None = None
    """exitCode of the program; unset if the pod was gone before."""
    reason: ShortText = ""
    """reason by the program or Kubernetes, for example UserError, OOMKilled, Evicted."""
    message: Line = ""
    """message of the program, one line."""
    log_tail: Annotated[list[Annotated[str, StringConstraints(max_length=256)]], Field(max_length=20)] = []
    """logTail is the end of its log."""


class WorkStatus(StatusModel):
    """Work of a stage that no later attempt repeats."""

    position: Large = 0
    """position committed: optimiser steps of a training, shards of other stages."""
    seconds: Small = 0
    """seconds of productive time up to it, over all attempts."""
    failed_position: Large = 0
    """failedPosition is the furthest position at which the program failed."""


class FailedRounds(StatusModel):
    """Rounds that failed on one node."""

    node: Annotated[str, StringConstraints(max_length=253)]
    """node of the pod whose rank failed."""
    rounds: Small = 0
    """rounds that failed there, not by the program's fault."""


class RestartsInPlace(StatusModel):
    """Restarts of a training's processes in their living pods."""

    total: Small = 0
    """total over all attempts."""
    attempt: Small = 0
    """attempt is the number of the newest one that had any."""
    restarts: Small = 0
    """restarts in that attempt."""
    exit_code: Code | None = None
    """exitCode that caused the newest restart."""
    message: Line = ""
    """message of that program, one line."""
    pod: ShortText = ""
    """pod that it ran in."""
    node: Annotated[str, StringConstraints(max_length=253)] = ""
    """node of that pod."""
    nodes: Annotated[list[FailedRounds], Keyed("node"), Field(max_length=4)] = []
    """nodes on which rounds failed."""


class Goodput(StatusModel):
    """Wall time by category; the seconds sum to it."""

    wall_seconds: Small = 0
    """wallSeconds from the first attempt to the end, or to the last progress report."""
    productive_percent: Decimal | None = None
    """productivePercent of the wall time, the goodput."""
    productive_seconds: Small = 0
    """productiveSeconds of work that counts."""
    lost_seconds: Small = 0
    """lostSeconds of work that was redone, because no checkpoint held it."""
    queued_seconds: Small = 0
    """queuedSeconds before admission."""
    scheduling_seconds: Small = 0
    """schedulingSeconds from admission to a node."""
    starting_seconds: Small = 0
    """startingSeconds from a node to the first step."""
    checkpointing_seconds: Small = 0
    """checkpointingSeconds in which training waited for checkpoints."""
    validating_seconds: Small = 0
    """validatingSeconds of the held-out loss."""
    waiting_for_data_seconds: Small = 0
    """waitingForDataSeconds in which training waited for batches."""
    recovering_seconds: Small = 0
    """recoveringSeconds from a failed attempt's last report to the next attempt."""
    suspended_seconds: Small = 0
    """suspendedSeconds, or over before a retry."""
    other_seconds: Small = 0
    """otherSeconds between stages and at an attempt's end."""
    waiting_for_run_seconds: Small = 0
    """waitingForRunSeconds in which another run computed the same training."""
    missing_nodes_seconds: Small = 0
    """missingNodesSeconds of an elastic training: its time times the share of nodes missing."""


class StartUp(StatusModel):
    """One part of the newest start's time."""

    name: ShortText
    """name of the part: pod, imports, rendezvous, checkpoint, firstBatch."""
    seconds: Decimal
    """seconds as decimal text."""


class StageGoodput(Goodput):
    """The wall time of one stage by category."""

    start_up: Annotated[list[StartUp], Keyed("name"), Field(max_length=8)] = []
    """startUp is the newest start's time by parts."""
    until: Time = None
    """until is the time up to which seconds count."""
    ledger: Annotated[str, StringConstraints(max_length=800)] = ""
    """ledger is the operator's own account, from which it continues."""


class Metric(StatusModel):
    """A figure that was measured."""

    name: ShortText
    """name of the figure, for example loss."""
    value: Decimal
    """value as decimal text."""


class NodePreflight(StatusModel):
    """The preflight of a training on one node."""

    node: Annotated[str, StringConstraints(max_length=253)] = ""
    """node that was checked."""
    pod: ShortText = ""
    """pod of the training on it."""
    problem: Annotated[str, StringConstraints(max_length=MAX_PROBLEM)] = ""
    """problem in one line; empty if none."""
    figures: Annotated[list[Metric], Keyed("name"), Field(max_length=8)] = []
    """figures that were measured, for example output_seconds."""


class Preflight(StatusModel):
    """The worst nodes in the newest preflight of a training."""

    attempt: Small = 0
    """attempt that it belongs to."""
    nodes: Annotated[list[NodePreflight], Field(max_length=WORST_NODES)] = []
    """nodes, the worst first; train/preflight.json has all."""


class StageStatus(StatusModel):
    """The state of one stage (label has three entries: vocabulary, heads, predict)."""

    name: ShortText
    """name: filter, label, label-vocabulary, label-heads, label-predict, train, evaluate."""
    stage: Stage
    """stage of the spec."""
    state: StageState
    """state of the stage; once it is not Pending, its part of the spec cannot change."""
    attempt: Small = 0
    """attempt is the newest attempt's number, 0 before the first."""
    restarts: Small = 0
    """restarts of any cause."""
    restarts_count_towards_max: Small = 0
    """restartsCountTowardsMax is the number of restarts after the program's own faults, less those given back
    (failurePolicy.healSeconds)."""
    infrastructure_restarts_count_towards_max: Small | None = None
    """infrastructureRestartsCountTowardsMax is the same for failurePolicy.maxInfrastructureRestarts; unset if it is
    the difference of the two above."""
    healed_until_seconds: Small = 0
    """healedUntilSeconds is the productive time up to which restarts were given back."""
    infrastructure_healed_until_seconds: Small = 0
    """infrastructureHealedUntilSeconds is the same for infrastructure restarts."""
    restarts_in_place: RestartsInPlace | None = None
    """restartsInPlace; they count towards failurePolicy.maxRestarts and are not in restarts."""
    work: WorkStatus | None = None
    """work that is committed; restarts are given back for it."""
    out_of_memory: Small = 0
    """outOfMemory is the number of kills for memory, less those given back; the second one fails the run."""
    not_before: Time = None
    """notBefore is when the next attempt starts."""
    backend: Literal["Job", "Volcano"] | None = None
    """backend of the stage's attempts."""
    nodes: Annotated[int, Field(ge=0, le=4096)] | None = None
    """nodes with which an elastic training (train.minNodes) runs or goes on."""
    wished_nodes: Annotated[int, Field(ge=0, le=4096)] | None = None
    """wishedNodes is train.numNodes, which each attempt asks for first."""
    quota_nodes: Annotated[int, Field(ge=0, le=4096)] | None = None
    """quotaNodes that the queue granted an elastic training (pods.queueing: PerRun)."""
    min_count: Annotated[int, Field(ge=1, le=4096)] | None = None
    """minCount to which an elastic training's PodGroup was lowered; unset once pods have nodes."""
    resized_time: Time = None
    """resizedTime at which an elastic training was resized in its living pods."""
    workload: JobReference | None = None
    """workload of the newest attempt."""
    avoid_nodes: Annotated[list[Annotated[str, StringConstraints(max_length=253)]], Field(max_length=16)] = []
    """avoidNodes are nodes on which two attempts or rounds failed; the next attempt prefers others."""
    start_time: Time = None
    """startTime of the first attempt."""
    completion_time: Time = None
    """completionTime is when the stage ended."""
    output_uri: Annotated[str, StringConstraints(max_length=1056)] | None = None
    """outputUri is the folder with the stage's committed output."""
    cause: FailureCause | None = None
    """cause of the newest failure."""
    goodput: StageGoodput | None = None
    """goodput of the stage."""
    preflight: Preflight | None = None
    """preflight of the newest training attempt that reported one."""


class AttemptStatus(StatusModel):
    """One of the last attempts, newest last."""

    stage: ShortText
    """stage is the name of the entry in stages."""
    number: Small
    """number of the attempt, from 1."""
    start_time: Time = None
    """startTime of the attempt."""
    completion_time: Time = None
    """completionTime of the attempt; unset while it runs."""
    exit_code: Code | None = None
    """exitCode of the program that failed first."""
    reason: ShortText = ""
    """reason of the end: Complete, or as in cause."""
    uid: ShortText = ""
    """uid of the attempt's Job."""
    node: Annotated[str, StringConstraints(max_length=253)] = ""
    """node of the pod that failed first, if the node may be to blame."""
    counted: bool = False
    """counted says whether it counted towards failurePolicy.maxRestarts."""


class ProgressStatus(StatusModel):
    """The progress of the current stage."""

    stage: ShortText
    """stage is the current entry of stages, or the last one."""
    step: ShortText = ""
    """step names the current part of the stage, for example captions, teacher, epoch 3."""
    done: Large = 0
    """done counts units, over all workers."""
    total: Large = 0
    """total of units; 0 while unknown."""
    unit: ShortText = "samples"
    """unit of done and total."""
    percentage: Annotated[int, Field(ge=0, le=100)] = 0
    """percentage of the stage that is done, rounded down."""
    samples_per_second: Decimal | None = None
    """samplesPerSecond as decimal text."""
    estimated_remaining_seconds: Large | None = None
    """estimatedRemainingSeconds until the stage ends; unset while unknown."""
    last_updated_time: Time = None
    """lastUpdatedTime is when the program reported it."""
    metrics: Annotated[list[Metric], Keyed("name"), Field(max_length=16)] = []
    """metrics are the newest figures."""


class PodCounts(StatusModel):
    """Pods of the newest attempt."""

    desired: Small = 0
    """desired number."""
    active: Small = 0
    """active: created and not ended."""
    ready: Small = 0
    """ready: running and ready."""
    failed: Small = 0
    """failed: ended with an error."""


class RunningTime(StatusModel):
    """Running time of attempts, which spec.activeDeadlineSeconds limits."""

    seconds: Large = 0
    """seconds of ended intervals, from admission to end."""
    until: Time = None
    """until is the time up to which seconds counts."""
    since: Time = None
    """since is the start of the running attempt, which seconds does not include; unset while none runs."""


class LastCheckpoint(StatusModel):
    """The checkpoint from which training would resume."""

    step: Large
    """step that it was taken at."""
    time: Time = None
    """time of the commit, where known."""
    uri: Annotated[str, StringConstraints(max_length=1088)]
    """uri of the checkpoint's folder."""


class Queue(StatusModel):
    """The queue of the newest attempt."""

    name: Annotated[str, StringConstraints(max_length=253)]
    """name of the queue."""
    reason: Line = ""
    """reason why it waits, in the queue's words; empty once admitted."""


class Status(StatusModel):
    """The status of a run, as the operator reports it."""

    observed_generation: Large = 0
    """observedGeneration is the metadata.generation that this status was made from."""
    conditions: Annotated[list[Condition], Keyed("type"), Field(max_length=8)] = []
    """conditions: Accepted, Progressing, Complete, Failed."""
    start_time: Time = None
    """startTime of the first attempt."""
    completion_time: Time = None
    """completionTime is when the run ended; spec.ttlSecondsAfterFinished counts from it."""
    running_time: RunningTime | None = None
    """runningTime of all attempts."""
    restarts: Small = 0
    """restarts of all stages, of any cause."""
    progress: ProgressStatus | None = None
    """progress of the current stage."""
    pods: PodCounts | None = None
    """pods of the current attempt."""
    queue: Queue | None = None
    """queue of the current attempt."""
    last_checkpoint: LastCheckpoint | None = None
    """lastCheckpoint is the newest committed one."""
    stages: Annotated[list[StageStatus], Keyed("name"), Field(max_length=8)] = []
    """stages in order."""
    attempts: Annotated[list[AttemptStatus], Field(max_length=MAX_ATTEMPTS)] = []
    """attempts: the last five of all stages, newest last."""
    goodput: Goodput | None = None
    """goodput of all stages together."""


def wire(status: Status) -> dict[str, Any]:
    """The status as it goes to the API server: set fields only, so that equal statuses are equal documents."""
    return status.model_dump(mode="json", by_alias=True, exclude_defaults=True)
