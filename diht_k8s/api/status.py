"""`status` of a run, which the operator writes for people, kubectl and itself. Counters live here and nowhere else.

No floats (they would not survive every client), no phase (conditions say more), below 10 KB (`bounded`): a thousand
runs are listed often. The operator writes it through the status subresource only, and not when nothing changed.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from diht_k8s.api.base import Keyed, KnownTime, Model, Time
from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.reports import MAX_PROBLEM, WORST_NODES
from diht_k8s.api.run import Stage

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
    """type of the condition."""
    status: Literal["True", "False", "Unknown"]
    """status of the condition."""
    reason: Annotated[Reason, WithJsonSchema(REASON_SCHEMA)]
    """reason for programs, from a closed list."""
    message: Line = ""
    """message for people."""
    last_transition_time: KnownTime
    """lastTransitionTime: when status last changed."""
    observed_generation: Large = 0
    """observedGeneration: the metadata.generation that it was set for."""


class JobReference(StatusModel):
    """The Job of an attempt."""

    kind: ShortText
    """kind is Job."""
    name: ShortText
    """name of the object."""


class FailureCause(StatusModel):
    """Why the newest failed attempt ended."""

    pod: ShortText = ""
    """pod that failed first; empty without one."""
    container: ShortText = ""
    """container in that pod."""
    node: Annotated[str, StringConstraints(max_length=253)] = ""
    """node that it ran on."""
    exit_code: Code | None = None
    """exitCode; unset if the pod was gone before."""
    reason: ShortText = ""
    """reason by program or Kubernetes, such as UserError, OOMKilled, Evicted."""
    message: Line = ""
    """message of the program."""
    log_tail: Annotated[list[Annotated[str, StringConstraints(max_length=256)]], Field(max_length=20)] = []
    """logTail: the end of its log."""


class WorkStatus(StatusModel):
    """Work of a stage that no later attempt repeats."""

    position: Large = 0
    """position committed: optimiser steps of a training, shards of others."""
    seconds: Small = 0
    """seconds of productive time up to it."""
    failed_position: Large = 0
    """failedPosition: the furthest one at which the program failed."""


class FailedRounds(StatusModel):
    """Rounds that failed on one node."""

    node: Annotated[str, StringConstraints(max_length=253)]
    """node of the rank that failed."""
    rounds: Small = 0
    """rounds that failed there, not by the program's fault."""


class RestartsInPlace(StatusModel):
    """Restarts of processes in living pods."""

    total: Small = 0
    """total of all attempts."""
    attempt: Small = 0
    """attempt: the newest one that had any."""
    restarts: Small = 0
    """restarts in that attempt."""
    exit_code: Code | None = None
    """exitCode that caused the newest restart."""
    message: Line = ""
    """message of the program that failed."""
    pod: ShortText = ""
    """pod that it ran in."""
    node: Annotated[str, StringConstraints(max_length=253)] = ""
    """node of that pod."""
    nodes: Annotated[list[FailedRounds], Keyed("node"), Field(max_length=4)] = []
    """nodes on which rounds failed."""


class Goodput(StatusModel):
    """Wall time by category; the seconds sum to it."""

    wall_seconds: Small = 0
    """wallSeconds from the first attempt to the end or the last progress report."""
    productive_percent: Decimal | None = None
    """productivePercent of the wall time, the goodput."""
    productive_seconds: Small = 0
    """productiveSeconds of work that counts."""
    lost_seconds: Small = 0
    """lostSeconds of work redone."""
    queued_seconds: Small = 0
    """queuedSeconds before admission."""
    scheduling_seconds: Small = 0
    """schedulingSeconds from admission to a node."""
    starting_seconds: Small = 0
    """startingSeconds from a node to the first step."""
    checkpointing_seconds: Small = 0
    """checkpointingSeconds of waiting for checkpoints."""
    validating_seconds: Small = 0
    """validatingSeconds of the held-out loss."""
    waiting_for_data_seconds: Small = 0
    """waitingForDataSeconds of waiting for batches."""
    recovering_seconds: Small = 0
    """recoveringSeconds from a failed attempt's last report to the next attempt."""
    suspended_seconds: Small = 0
    """suspendedSeconds of the run, and those from its end to a retry."""
    other_seconds: Small = 0
    """otherSeconds between stages and at an attempt's end."""
    waiting_for_run_seconds: Small = 0
    """waitingForRunSeconds while another run computes the same training."""
    missing_nodes_seconds: Small = 0
    """missingNodesSeconds of an elastic training: time times the share of nodes missing."""


class StartUp(StatusModel):
    """One part of the newest start."""

    name: ShortText
    """name: pod, imports, rendezvous, checkpoint, firstBatch."""
    seconds: Decimal
    """seconds as text."""


class StageGoodput(Goodput):
    """The wall time of one stage by category."""

    start_up: Annotated[list[StartUp], Keyed("name"), Field(max_length=8)] = []
    """startUp: the newest start by parts."""
    until: Time = None
    """until: the seconds count up to it."""
    ledger: Annotated[str, StringConstraints(max_length=800)] = ""
    """ledger: the operator's own account."""


class Metric(StatusModel):
    """A figure."""

    name: ShortText
    """name of the figure, such as loss."""
    value: Decimal
    """value as text."""


class NodePreflight(StatusModel):
    """One node."""

    node: Annotated[str, StringConstraints(max_length=253)] = ""
    """node checked."""
    pod: ShortText = ""
    """pod on it."""
    problem: Annotated[str, StringConstraints(max_length=MAX_PROBLEM)] = ""
    """problem; empty if none."""
    figures: Annotated[list[Metric], Keyed("name"), Field(max_length=8)] = []
    """figures, such as output_seconds."""


class Preflight(StatusModel):
    """The worst nodes of the newest preflight."""

    attempt: Small = 0
    """attempt that it is of."""
    nodes: Annotated[list[NodePreflight], Field(max_length=WORST_NODES)] = []
    """nodes, worst first; train/preflight.json has all."""


class StageStatus(StatusModel):
    """One stage; label has three entries."""

    name: ShortText
    """name: filter, label, label-vocabulary, label-heads, label-predict, train, evaluate."""
    stage: Stage
    """stage of the spec."""
    state: StageState
    """state of the stage."""
    attempt: Small = 0
    """attempt: the newest one's number; 0 before the first."""
    restarts: Small = 0
    """restarts of any cause."""
    restarts_count_towards_max: Small = 0
    """restartsCountTowardsMax: restarts after the program's own faults, less those given back."""
    infrastructure_restarts_count_towards_max: Small | None = None
    """infrastructureRestartsCountTowardsMax: infrastructure restarts, less those given back; unset if it is restarts
    less restartsCountTowardsMax."""
    healed_until_seconds: Small = 0
    """healedUntilSeconds: the productive time up to which restarts were given back."""
    infrastructure_healed_until_seconds: Small = 0
    """infrastructureHealedUntilSeconds: healedUntilSeconds of infrastructure restarts."""
    restarts_in_place: RestartsInPlace | None = None
    """restartsInPlace, which count towards failurePolicy.maxRestarts and are not in restarts."""
    work: WorkStatus | None = None
    """work committed."""
    out_of_memory: Small = 0
    """outOfMemory: kills for memory, less those given back; the second fails the run."""
    not_before: Time = None
    """notBefore: when the next attempt starts."""
    backend: Literal["Job"] | None = None
    """backend of its attempts."""
    nodes: Annotated[int, Field(ge=0, le=4096)] | None = None
    """nodes of an elastic training (train.minNodes)."""
    wished_nodes: Annotated[int, Field(ge=0, le=4096)] | None = None
    """wishedNodes: train.numNodes."""
    quota_nodes: Annotated[int, Field(ge=0, le=4096)] | None = None
    """quotaNodes that the queue granted an elastic training."""
    min_count: Annotated[int, Field(ge=1, le=4096)] | None = None
    """minCount of an elastic training's PodGroup until pods have nodes."""
    resized_time: Time = None
    """resizedTime: when an elastic training was last resized in its living pods."""
    workload: JobReference | None = None
    """workload of the newest attempt."""
    avoid_nodes: Annotated[list[Annotated[str, StringConstraints(max_length=253)]], Field(max_length=16)] = []
    """avoidNodes: two attempts or rounds failed there; the next attempt prefers others."""
    start_time: Time = None
    """startTime of the first attempt."""
    completion_time: Time = None
    """completionTime of the stage."""
    output_uri: Annotated[str, StringConstraints(max_length=1056)] | None = None
    """outputUri of the committed output."""
    cause: FailureCause | None = None
    """cause of the newest failure."""
    goodput: StageGoodput | None = None
    """goodput of the stage."""
    preflight: Preflight | None = None
    """preflight: the newest that was reported."""


class AttemptStatus(StatusModel):
    """One attempt."""

    stage: ShortText
    """stage: its name in stages."""
    number: Small
    """number of the attempt, from 1."""
    start_time: Time = None
    """startTime of the attempt."""
    completion_time: Time = None
    """completionTime; unset while it runs."""
    exit_code: Code | None = None
    """exitCode of the program that failed first."""
    reason: ShortText = ""
    """reason of the end: Complete, or as in cause."""
    uid: ShortText = ""
    """uid of its Job."""
    node: Annotated[str, StringConstraints(max_length=253)] = ""
    """node of the pod that failed first, if it may be to blame."""
    counted: bool = False
    """counted: it counted towards failurePolicy.maxRestarts."""


class ProgressStatus(StatusModel):
    """The progress of the current stage."""

    stage: ShortText
    """stage: the current entry of stages, or the last one."""
    step: ShortText = ""
    """step of the stage, such as captions, teacher, epoch 3."""
    done: Large = 0
    """done units, over all workers."""
    total: Large = 0
    """total units; 0 while unknown."""
    unit: ShortText = "samples"
    """unit of done and total."""
    percentage: Annotated[int, Field(ge=0, le=100)] = 0
    """percentage done, rounded down."""
    samples_per_second: Decimal | None = None
    """samplesPerSecond as text."""
    estimated_remaining_seconds: Large | None = None
    """estimatedRemainingSeconds of the stage; unset while unknown."""
    last_updated_time: Time = None
    """lastUpdatedTime: when the program reported it."""
    metrics: Annotated[list[Metric], Keyed("name"), Field(max_length=16)] = []
    """metrics: the newest figures."""


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
    """until: seconds count up to it."""
    since: Time = None
    """since: the start of the running attempt, which seconds leave out."""


class LastCheckpoint(StatusModel):
    """Where training would resume."""

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
    """What the operator reports."""

    observed_generation: Large = 0
    """observedGeneration: the metadata.generation that it was made from."""
    conditions: Annotated[list[Condition], Keyed("type"), Field(max_length=8)] = []
    """conditions: Accepted, Progressing, Complete, Failed."""
    start_time: Time = None
    """startTime of the first attempt."""
    completion_time: Time = None
    """completionTime of the run."""
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
    """lastCheckpoint: the newest committed one."""
    stages: Annotated[list[StageStatus], Keyed("name"), Field(max_length=8)] = []
    """stages in order."""
    attempts: Annotated[list[AttemptStatus], Field(max_length=MAX_ATTEMPTS)] = []
    """attempts: the last five, newest last."""
    goodput: Goodput | None = None
    """goodput of all stages together."""


def wire(status: Status) -> dict[str, Any]:
    """The status as it goes to the API server: set fields only, so that equal statuses are equal documents."""
    return status.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def bounded(status: Status, max_bytes: int = MAX_STATUS_BYTES) -> Status:
    """The status cut to its maximum size: first healthy nodes, then the log tails, oldest stage first, then the
    messages.
    """
    if _size(status) > max_bytes:
        status = _without_healthy_nodes(status)
    for index in range(len(status.stages)):
        if _size(status) <= max_bytes:
            return status
        status = _changed_cause(status, index, log_tail=[])
    for index, stage in enumerate(status.stages):
        if _size(status) <= max_bytes:
            return status
        if stage.cause is not None:
            status = _changed_cause(status, index, message=stage.cause.message[:128])
    if _size(status) <= max_bytes:
        return status
    conditions = [one.model_copy(update={"message": one.message[:256]}) for one in status.conditions]
    status = status.model_copy(update={"conditions": conditions})
    cuts = (_without_metrics, _without_preflight, _with_few_avoided_nodes, _with_short_messages)
    cuts = (*cuts, _without_outputs, _with_the_newest, _without_ledgers, _without_goodput_of_stages)
    for cut in (*cuts, _without_queue_and_checkpoint):
        if _size(status) <= max_bytes:
            return status
        status = cut(status)
    return status


def _without_healthy_nodes(status: Status) -> Status:
    """The preflight's report in the output has them."""
    stages: list[StageStatus] = []
    for stage in status.stages:
        bad = [node for node in stage.preflight.nodes if node.problem] if stage.preflight is not None else []
        kept = stage.preflight.model_copy(update={"nodes": bad}) if stage.preflight is not None and bad else None
        stages.append(stage.model_copy(update={"preflight": kept}))
    return status.model_copy(update={"stages": stages})


def _without_preflight(status: Status) -> Status:
    """The cause of the failure says what was wrong."""
    stages = [stage.model_copy(update={"preflight": None}) for stage in status.stages]
    return status.model_copy(update={"stages": stages})


def _without_metrics(status: Status) -> Status:
    progress = status.progress.model_copy(update={"metrics": []}) if status.progress is not None else None
    queue = status.queue.model_copy(update={"reason": status.queue.reason[:128]}) if status.queue is not None else None
    return status.model_copy(update={"progress": progress, "queue": queue})


def _with_few_avoided_nodes(status: Status) -> Status:
    """And without the text of restarts in place, which is in the events."""
    stages: list[StageStatus] = []
    for stage in status.stages:
        in_place = stage.restarts_in_place
        counts = in_place and in_place.model_copy(update={"message": "", "pod": "", "node": "", "nodes": []})
        update = {"avoid_nodes": stage.avoid_nodes[-1:], "restarts_in_place": counts}
        stages.append(stage.model_copy(update=update))
    return status.model_copy(update={"stages": stages})


def _with_short_messages(status: Status) -> Status:
    conditions = [one.model_copy(update={"message": one.message[:40]}) for one in status.conditions]
    for index, stage in enumerate(status.stages):
        if stage.cause is not None:
            status = _changed_cause(status, index, message=stage.cause.message[:32])
    return status.model_copy(update={"conditions": conditions})


def _without_outputs(status: Status) -> Status:
    """The folder of a stage follows from data.output, and the nodes that it has all of from the document; the nodes
    of attempts and causes are in the events.
    """
    for index in range(len(status.stages)):
        status = _changed_cause(status, index, node="")
    none: dict[str, object] = {"output_uri": None, "avoid_nodes": [], "quota_nodes": None, "min_count": None}
    whole: dict[str, object] = {**none, "nodes": None, "wished_nodes": None, "resized_time": None}
    stages = [stage.model_copy(update=whole if stage.nodes == stage.wished_nodes else none) for stage in status.stages]
    attempts = [attempt.model_copy(update={"node": ""}) for attempt in status.attempts]
    return status.model_copy(update={"stages": stages, "attempts": attempts})


def _with_the_newest(status: Status) -> Status:
    """The last cause and the last attempt alone: `diht status` needs no other."""
    last = max((index for index, stage in enumerate(status.stages) if stage.cause is not None), default=0)
    none = {"cause": None}
    stages = [each if index == last else each.model_copy(update=none) for index, each in enumerate(status.stages)]
    return status.model_copy(update={"stages": stages, "attempts": status.attempts[-1:]})


def _without_ledgers(status: Status) -> Status:
    """The operator counts on from the seconds that are shown."""
    return _with_goodput(status, {"ledger": "", "start_up": []})


def _with_goodput(status: Status, update: dict[str, object]) -> Status:
    stages = [
        stage.model_copy(update={"goodput": stage.goodput and stage.goodput.model_copy(update=update)})
        for stage in status.stages
    ]
    return status.model_copy(update={"stages": stages})


def _without_goodput_of_stages(status: Status) -> Status:
    """The share of the run stays."""
    stages, whole = [stage.model_copy(update={"goodput": None}) for stage in status.stages], status.goodput
    share = whole and Goodput(wall_seconds=whole.wall_seconds, productive_percent=whole.productive_percent)
    return status.model_copy(update={"stages": stages, "goodput": share})


def _without_queue_and_checkpoint(status: Status) -> Status:
    """Kueue and storage know them."""
    return status.model_copy(update={"queue": None, "last_checkpoint": None})


def _size(status: Status) -> int:
    return len(json.dumps(wire(status), separators=(",", ":"), ensure_ascii=False).encode())


def _changed_cause(status: Status, index: int, **update: object) -> Status:
    stage = status.stages[index]
    if stage.cause is None:
        return status
    stages = list(status.stages)
    stages[index] = stage.model_copy(update={"cause": stage.cause.model_copy(update=update)})
    return status.model_copy(update={"stages": stages})
