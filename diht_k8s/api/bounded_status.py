"""The status cut to its maximum size, least needed fields first."""

from __future__ import annotations

import json

from diht_k8s.api.status import MAX_STATUS_BYTES, Goodput, StageStatus, Status, wire


def bounded(status: Status, max_bytes: int = MAX_STATUS_BYTES) -> Status:
    """The status cut to its maximum size: first healthy nodes, then the log tails, oldest stage first, then the messages."""
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
    """The folder of a stage follows from data.output, and the nodes that it has all of from the document; the nodes of attempts
    and causes are in the events.
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
