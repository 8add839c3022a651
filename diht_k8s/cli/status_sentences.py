"""The status of a cluster's run in sentences: `diht status`, `list` and `watch` print them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from diht_k8s.api.errors import ComputedElsewhere
from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.reports import node_label
from diht_k8s.api.status import Preflight, StageState, StageStatus, Status
from diht_k8s.cli.display import duration, run_sentence
from diht_k8s.controller.avoided_nodes import NODE_FAULTS
from diht_k8s.controller.observe import DISRUPTIONS
from diht_k8s.controller.saved_status import condition, is_true
from diht_k8s.controller.status_builder import RESIZED
from diht_k8s.controller.status_text import one_line, plain

NODES_LOST: Final = NODE_FAULTS | frozenset(DISRUPTIONS)
"""Reasons of failures by which a gang loses a node."""


def sentence(name: str, status: Status) -> str:
    """What a run does, or why it does not, in one sentence."""
    accepted, progressing = condition(status, ConditionType.ACCEPTED), condition(status, ConditionType.PROGRESSING)
    if progressing is None:
        return (
            f"{name} has no status yet: if that stays so, no operator serves its namespace, or spec.managedBy "
            f"names another controller"
        )
    if accepted is not None and accepted.status == "False":
        return f"{name} is not taken on ({accepted.reason}): {accepted.message}"
    if is_true(status, ConditionType.COMPLETE):
        return run_sentence(name, "complete", since=str(status.completion_time))
    failed = condition(status, ConditionType.FAILED)
    if failed is not None and failed.status == "True":
        return run_sentence(name, "failed", reason=failed.reason, says=failed.message)
    if progressing.reason is Reason.RUNNING:
        return run_sentence(name, "running", says=f"{progressing.message}{_pace(status)}")
    return run_sentence(name, "waiting", reason=progressing.reason, says=progressing.message)


def _pace(status: Status) -> str:
    progress = status.progress
    if progress is None or not progress.total:
        return ""
    left = progress.estimated_remaining_seconds
    return f", {progress.percentage} % of {progress.step}" + (
        f", about {duration(left)} left" if left is not None else ""
    )


def event_sentence(event: Mapping[str, Any]) -> str:
    """What an event says; anybody may write one about a run, and leave fields out."""
    return f"{plain(event.get('reason') or '')}: {one_line(event.get('message') or '')}"


def details(status: Status) -> list[str]:
    """Lines that explain the sentence: the newest cause, its node, the last lines of the program."""
    stage = next((stage for stage in reversed(status.stages) if _has_failed(stage)), None)
    rounds = [line for each in status.stages for line in on_fewer_nodes(each, status)]
    rounds += [line for each in status.stages for line in _in_place(each)]
    rounds += [avoids(each) for each in status.stages if each.avoid_nodes and each.cause is None]
    rounds += [_preflight(each.name, each.preflight) for each in status.stages if each.preflight is not None]
    if stage is None or stage.cause is None or stage.state in (StageState.COMPLETE, StageState.CACHED):
        return [*rounds, *_checkpoint(status)] if not is_true(status, ConditionType.COMPLETE) else []
    cause = stage.cause
    where = f"pod {cause.pod} on node {cause.node}" if cause.pod else "no pod"
    code = f", exit code {cause.exit_code}" if cause.exit_code is not None else ""
    lines = [f"last failure of {stage.name}: {cause.reason}{code} ({where}): {cause.message}", _restarts(stage)]
    if stage.avoid_nodes:
        lines.append(avoids(stage))
    return [*lines, *rounds, *_checkpoint(status), *(f"| {line}" for line in cause.log_tail[-5:])]


def _has_failed(stage: StageStatus) -> bool:
    """Whether an attempt failed; one that gave way to another run did not."""
    return stage.cause is not None and stage.cause.reason != ComputedElsewhere.__name__


def _restarts(stage: StageStatus) -> str:
    counted = stage.restarts_count_towards_max
    return f"restarts: {stage.restarts}, {counted} of them count towards failurePolicy.maxRestarts"


def avoids(stage: StageStatus) -> str:
    """The nodes that the next attempt of a stage avoids, and why."""
    nodes = ", ".join(stage.avoid_nodes)
    return f"{stage.name}: the next attempt prefers other nodes than {nodes}: two attempts or rounds failed there"


def on_fewer_nodes(stage: StageStatus, status: Status) -> list[str]:
    """On how many of the nodes that it wishes for an elastic training is, since when and why; nothing if it has all."""
    if stage.min_count is not None:
        return [
            f"{stage.name}: waits for {stage.nodes} nodes, and goes on with {stage.min_count} or more: not all "
            f"have room"
        ]
    if stage.nodes is None or stage.wished_nodes is None or stage.nodes >= stage.wished_nodes:
        return []
    if stage.resized_time is not None and stage.state is StageState.RUNNING:
        number = f"{stage.nodes} of {stage.wished_nodes} nodes since {stage.resized_time}"
        return [f"{stage.name}: on {number}: the others are lost or find no room; it takes them in as they come"]
    attempts = {each.number: each for each in status.attempts if each.stage == stage.name}
    runs = stage.state is StageState.RUNNING
    newest, ends = attempts.get(stage.attempt), {number: each.reason for number, each in attempts.items()}
    since = f" since {newest.start_time}" if newest is not None and runs else ""
    why, before = "", stage.attempt - runs
    if ends.get(before) == RESIZED:
        while ends.get(before) == RESIZED:
            before -= 1
        after_loss = stage.cause is not None and ends.get(before) == stage.cause.reason in NODES_LOST
        lost = f"{stage.cause.message}, and " if after_loss and stage.cause is not None else ""
        why = f": {lost}no other node had room"
    if runs and stage.quota_nodes is not None and stage.nodes <= stage.quota_nodes < stage.wished_nodes and not why:
        return [
            f"{stage.name}: on {stage.nodes} of {stage.wished_nodes} nodes{since}: its queue has quota for no more "
            f"(one on "
            "train.minNodes nodes grows once there is and that saves time, failurePolicy.elasticEverySeconds)"
        ]
    return [
        f"{stage.name}: on {stage.nodes} of {stage.wished_nodes} nodes{since}{why}; each later attempt asks for all"
    ]


def _in_place(stage: StageStatus) -> list[str]:
    found = stage.restarts_in_place
    if found is None or stage.state in (StageState.COMPLETE, StageState.CACHED):
        return []
    where = f" (pod {found.pod} on node {found.node})" if found.pod else ""
    often = [f"{each.rounds} rounds failed on node {each.node}" for each in found.nodes if each.rounds > 1]
    return [
        (
            f"{stage.name}: attempt {found.attempt} is in round {found.restarts + 1}, restarted in place{where}: "
            f"{found.message}; "
        )
        + "; ".join([*often, f"{found.total} restarts in place in all attempts"])
    ]


def _preflight(stage: str, found: Preflight) -> str:
    """The worst nodes that the preflight found, on one line."""
    nodes: list[str] = []
    for each in found.nodes:
        figures = ", ".join(f"{figure.name} {figure.value}" for figure in each.figures)
        nodes.append(f"{node_label(each.node, each.pod)}: {each.problem or figures or 'nothing measured'}")
    return f"{stage}: worst nodes in the preflight of attempt {found.attempt}: {'; '.join(nodes)}"


def _checkpoint(status: Status) -> list[str]:
    saved = status.last_checkpoint
    if saved is None:
        return []
    when = f", committed {saved.time}" if saved.time is not None else ""
    return [f"last checkpoint: step {saved.step}{when} ({saved.uri})"]
