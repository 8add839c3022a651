"""`status` of a run: what the operator writes for people, kubectl and itself. Counters live here and nowhere else.

No floats (they would not survive every client), no phase (conditions say more), below 10 KB (`bounded`): a thousand
runs are listed often. The operator writes it through the status subresource only, and not when nothing changed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, StringConstraints, WithJsonSchema

from diht_k8s.api.base import Keyed, Model
from diht_k8s.api.documents import canonical_json
from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.run import Stage
from diht_k8s.api.times import KnownTime, Time

MAX_STATUS_BYTES: Final = 10_000
MAX_ATTEMPTS: Final = 5
REASON_SCHEMA: Final[dict[str, Any]] = {"type": "string", "maxLength": 63, "pattern": "^[A-Z][A-Za-z]*$"}
"""No enum in the CRD: an operator that is newer than the CRD must still be able to write its status."""

Word = Annotated[str, StringConstraints(max_length=63)]
"""A name of Kubernetes or of ours."""
Line = Annotated[str, StringConstraints(max_length=1024)]
Decimal = Annotated[
    str, StringConstraints(max_length=32, pattern=r"^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$|^(nan|-?inf)$")
]
"""A number as text, since status holds no floats."""
MAX_COUNT: Final = 2**31 - 1
"""The largest attempt, number of restarts or of pods that a status holds."""
Small = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Large = Annotated[int, Field(ge=0, le=2**62)]


class StageState(StrEnum):
    """Where a stage stands."""

    PENDING = "Pending"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    STOPPED = "Stopped"
    COMPLETE = "Complete"
    CACHED = "Cached"
    FAILED = "Failed"


class Written(Model):
    """Base of the models below: read back leniently, since a newer operator may have written them."""

    model_config = ConfigDict(extra="ignore", strict=False)


class Condition(Written):
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
    """observedGeneration is metadata.generation that the condition speaks of."""


class Workload(Written):
    """The object that carries an attempt."""

    kind: Word
    """kind of the object: Job, or Volcano's."""
    name: Word
    """name of the object."""


class FailureCause(Written):
    """Why the newest bad attempt ended: the first pod that failed."""

    pod: Word = ""
    """pod that failed first; empty when the attempt ended without one."""
    container: Word = ""
    """container in that pod."""
    node: Annotated[str, StringConstraints(max_length=253)] = ""
    """node that it ran on."""
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    """exitCode of the program; unset when the pod went without one."""
    reason: Word = ""
    """reason as the program or Kubernetes gives it, for example UserError, OOMKilled, Evicted."""
    message: Line = ""
    """message of the program, one line."""
    log_tail: Annotated[list[Annotated[str, StringConstraints(max_length=256)]], Field(max_length=20)] = []
    """logTail is the end of its log; cut first when the status grows too large."""


class CommittedWork(Written):
    """Work of a stage that no later attempt repeats."""

    position: Large = 0
    """position that is committed: optimiser steps of a training, shards of the other stages."""
    seconds: Small = 0
    """seconds of productive time up to it, over all attempts."""
    failed_position: Large = 0
    """failedPosition is the furthest one at which the program failed: no restart is given back before it is
    committed."""


class RestartsInPlace(Written):
    """Restarts of a training's processes in their living pods (failurePolicy.restart: InPlace)."""

    total: Small = 0
    """total over all attempts."""
    attempt: Small = 0
    """attempt is the number of the newest one that had any."""
    restarts: Small = 0
    """restarts in that attempt: its rounds less one."""
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    """exitCode of the program that caused the newest restart."""
    message: Line = ""
    """message of that program, one line."""
    pod: Word = ""
    """pod that it ran in."""
    node: Annotated[str, StringConstraints(max_length=253)] = ""
    """node of that pod."""


class StageStatus(Written):
    """What is remembered of one stage (label is three: vocabulary, heads, predict)."""

    name: Word
    """name of the entry: filter, label, label-vocabulary, label-heads, label-predict, train, evaluate."""
    stage: Stage
    """stage of the spec that the entry belongs to."""
    state: StageState
    """state of the stage; from the first that is not Pending on, its part of the spec is fixed."""
    attempt: Small = 0
    """attempt is the number of the newest attempt, 0 before the first; it never goes back."""
    restarts: Small = 0
    """restarts of any cause."""
    restarts_count_towards_max: Small = 0
    """restartsCountTowardsMax is the number of restarts after faults of the program itself that committed work has not
    given back (failurePolicy.maxRestarts, healSeconds)."""
    infrastructure_restarts_count_towards_max: Small | None = None
    """infrastructureRestartsCountTowardsMax is the same for failurePolicy.maxInfrastructureRestarts; unset by older
    operators, where it is the difference of the two above."""
    healed_until_seconds: Small = 0
    """healedUntilSeconds is the productive time up to which restarts were given back."""
    infrastructure_healed_until_seconds: Small = 0
    """infrastructureHealedUntilSeconds is the same for infrastructure restarts."""
    restarts_in_place: RestartsInPlace | None = None
    """restartsInPlace of the stage's attempts; they count towards failurePolicy.maxRestarts, and are not in restarts."""
    work: CommittedWork | None = None
    """work that is committed, as reported; what restarts are given back for."""
    out_of_memory: Small = 0
    """outOfMemory is the number of attempts that were killed for memory and not given back; the second ends the run."""
    not_before: Time = None
    """notBefore is when the next attempt starts."""
    backend: Literal["Job", "Volcano"] | None = None
    """backend that the stage's attempts run on; chosen once."""
    workload: Workload | None = None
    """workload of the newest attempt."""
    avoid_nodes: Annotated[list[Annotated[str, StringConstraints(max_length=253)]], Field(max_length=16)] = []
    """avoidNodes are nodes that the next attempt keeps away from where others can take it, since two attempts failed
    there."""
    start_time: Time = None
    """startTime of the first attempt."""
    completion_time: Time = None
    """completionTime is when the stage ended."""
    output_uri: Annotated[str, StringConstraints(max_length=1040)] | None = None
    """outputUri is the folder with the stage's committed output."""
    cause: FailureCause | None = None
    """cause of the newest failure."""


class AttemptStatus(Written):
    """One of the last attempts, newest last."""

    stage: Word
    """stage is the name of the entry in stages."""
    number: Small
    """number of the attempt, from 1."""
    start_time: Time = None
    """startTime of the attempt."""
    completion_time: Time = None
    """completionTime of the attempt; unset while it runs."""
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    """exitCode of the program that failed first."""
    reason: Word = ""
    """reason of the end: Complete, or as in cause."""
    uid: Word = ""
    """uid of the attempt's Job, by which pods that have lost it are found."""
    node: Annotated[str, StringConstraints(max_length=253)] = ""
    """node of the pod that failed first, where the node may be to blame."""
    counted: bool = False
    """counted says whether it counted towards failurePolicy.maxRestarts."""


class Metric(Written):
    """A figure of the running stage."""

    name: Word
    """name of the figure, for example loss."""
    value: Decimal
    """value as decimal text."""


class ProgressStatus(Written):
    """How far the current stage is."""

    stage: Word
    """stage is the name of the current entry in stages; the last one when the run has ended."""
    step: Word = ""
    """step is what is being done, for example captions, teacher, epoch 3."""
    done: Large = 0
    """done counts units, over all workers."""
    total: Large = 0
    """total of units; 0 while unknown."""
    unit: Word = "samples"
    """unit of done and total."""
    percentage: Annotated[int, Field(ge=0, le=100)] = 0
    """percentage of the stage that is done, rounded down."""
    samples_per_second: Decimal | None = None
    """samplesPerSecond as decimal text."""
    estimated_remaining_seconds: Large | None = None
    """estimatedRemainingSeconds until the stage ends; unset while unknown."""
    last_updated_time: Time = None
    """lastUpdatedTime is when the program said so."""
    metrics: Annotated[list[Metric], Keyed("name"), Field(max_length=16)] = []
    """metrics are the newest figures."""


class PodCounts(Written):
    """Pods of the newest attempt."""

    desired: Small = 0
    """desired number."""
    active: Small = 0
    """active: created and not ended."""
    ready: Small = 0
    """ready: running and ready."""
    failed: Small = 0
    """failed: ended badly."""


class RunningTime(Written):
    """How long attempts have run: spec.activeDeadlineSeconds is compared with it."""

    seconds: Large = 0
    """seconds of all intervals that have ended, from admission to end; queues, waits and suspension do not count."""
    until: Time = None
    """until when seconds counts."""
    since: Time = None
    """since when an attempt runs that seconds does not include; unset while none runs."""


class LastCheckpoint(Written):
    """Where training would resume."""

    step: Large
    """step that it was taken at."""
    time: Time = None
    """time of the commit; unset where it was committed before the run was applied."""
    uri: Annotated[str, StringConstraints(max_length=1088)]
    """uri of the checkpoint's folder."""


class Queue(Written):
    """The queue that the newest attempt waits in or was admitted by."""

    name: Annotated[str, StringConstraints(max_length=253)]
    """name of the queue."""
    reason: Line = ""
    """reason why it waits, in the queue's own words; empty once admitted."""


class Status(Written):
    """What the operator reports of a run."""

    observed_generation: Large = 0
    """observedGeneration is metadata.generation that this status speaks of."""
    conditions: Annotated[list[Condition], Keyed("type"), Field(max_length=8)] = []
    """conditions: Accepted, Progressing, Complete, Failed."""
    start_time: Time = None
    """startTime of the first attempt."""
    completion_time: Time = None
    """completionTime is when the run ended; spec.ttlSecondsAfterFinished counts from it."""
    running_time: RunningTime | None = None
    """runningTime of all attempts; unset by older operators, which counted from startTime."""
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


def wire(status: Status) -> dict[str, Any]:
    """The status as it goes to the API server: set fields only, so that equal statuses are equal documents."""
    return status.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def bounded(status: Status, max_bytes: int = MAX_STATUS_BYTES) -> Status:
    """The status cut to its maximum size: first the log tails, oldest stage first, then the messages."""
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
    cuts = (_without_metrics, _with_few_avoided_nodes, _with_short_messages, _without_outputs, _with_the_newest)
    for cut in (*cuts, _without_queue_and_checkpoint):
        if _size(status) <= max_bytes:
            return status
        status = cut(status)
    return status


def _without_metrics(status: Status) -> Status:
    progress = status.progress.model_copy(update={"metrics": []}) if status.progress is not None else None
    queue = status.queue.model_copy(update={"reason": status.queue.reason[:128]}) if status.queue is not None else None
    return status.model_copy(update={"progress": progress, "queue": queue})


def _with_few_avoided_nodes(status: Status) -> Status:
    """And without the text of restarts in place, which is in the events."""
    stages: list[StageStatus] = []
    for stage in status.stages:
        in_place = stage.restarts_in_place
        counts = in_place and in_place.model_copy(update={"message": "", "pod": "", "node": ""})
        update = {"avoid_nodes": stage.avoid_nodes[-1:], "restarts_in_place": counts}
        stages.append(stage.model_copy(update=update))
    return status.model_copy(update={"stages": stages})


def _with_short_messages(status: Status) -> Status:
    conditions = [one.model_copy(update={"message": one.message[:48]}) for one in status.conditions]
    for index, stage in enumerate(status.stages):
        if stage.cause is not None:
            status = _changed_cause(status, index, message=stage.cause.message[:32])
    return status.model_copy(update={"conditions": conditions})


def _without_outputs(status: Status) -> Status:
    """The folder of a stage follows from data.output; the nodes of attempts and causes are in the events."""
    for index in range(len(status.stages)):
        status = _changed_cause(status, index, node="")
    stages = [stage.model_copy(update={"output_uri": None, "avoid_nodes": []}) for stage in status.stages]
    attempts = [attempt.model_copy(update={"node": ""}) for attempt in status.attempts]
    return status.model_copy(update={"stages": stages, "attempts": attempts})


def _with_the_newest(status: Status) -> Status:
    """The last cause and the last attempt alone: `diht why` needs no other."""
    last = max((index for index, stage in enumerate(status.stages) if stage.cause is not None), default=0)
    none = {"cause": None}
    stages = [each if index == last else each.model_copy(update=none) for index, each in enumerate(status.stages)]
    return status.model_copy(update={"stages": stages, "attempts": status.attempts[-1:]})


def _without_queue_and_checkpoint(status: Status) -> Status:
    """Kueue and storage know them."""
    return status.model_copy(update={"queue": None, "last_checkpoint": None})


def _size(status: Status) -> int:
    return len(canonical_json(wire(status)).encode())


def _changed_cause(status: Status, index: int, **update: object) -> Status:
    stage = status.stages[index]
    if stage.cause is None:
        return status
    stages = list(status.stages)
    stages[index] = stage.model_copy(update={"cause": stage.cause.model_copy(update=update)})
    return status.model_copy(update={"stages": stages})
