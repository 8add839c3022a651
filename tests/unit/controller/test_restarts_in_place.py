"""Restarts in place in the status: from the log, from termination messages, kept over restarts of the operator."""

from __future__ import annotations

import pytest

from diht_k8s.api.pods import CONTROL_VARIABLE
from diht_k8s.api.reports import Cause, Progress, Rounds
from diht_k8s.api.run import Stage
from diht_k8s.api.status import RestartsInPlace
from diht_k8s.cli.status_sentences import details
from diht_k8s.controller.saved_status import saved_run_status
from tests.unit.controller.fake import FakeCluster, Process
from tests.unit.controller.stories import Clock, make, settle, status, training


def rounds(number: int) -> Rounds:
    return Rounds(round=number, exit_code=1, message=f"rank 1 was killed in round {number - 1}", node=0, step=35)


def line(number: int) -> str:
    return Progress(stage=Stage.TRAIN, step="steps", done=30, total=100, rounds=rounds(number)).line()


def train(cluster: FakeCluster) -> RestartsInPlace | None:
    return next(stage for stage in status(cluster).stages if stage.name == "train").restarts_in_place


def test_rounds_in_the_log_are_in_the_status_the_events_and_why() -> None:
    cluster, process, clock = training()
    for text in (line(1), line(2), line(2), line(4)):
        cluster.logs["r-train-1-0"] = text
        process.reconcile()
        process.reconcile()  # what was read is planned with
        clock.now += 11
    found = train(cluster)
    assert found is not None
    assert (found.total, found.attempt, found.restarts, found.pod) == (3, 1, 3, "r-train-1-0")
    assert found.message == "rank 1 was killed in round 3"
    entry = next(stage for stage in status(cluster).stages if stage.name == "train")
    assert (entry.restarts, entry.restarts_count_towards_max, entry.attempt) == (0, 3, 1)
    said = [event["message"] for event in cluster.recorded if event["reason"] == "RestartingInPlace"]
    assert said == [
        f"train: round {number} of attempt 1 began: rank 1 was killed in round {number - 1}" for number in (2, 4)
    ]
    [told] = [text for text in details(status(cluster)) if "in round 4" in text]
    assert told.endswith("3 restarts in place in all attempts")
    saved = saved_run_status(status(cluster)).of(Stage.TRAIN)
    assert (saved.total_in_place, saved.in_place.attempt, saved.in_place.restarts) == (3, 1, 3)


def test_rounds_that_only_the_termination_message_names_count_before_the_next_attempt() -> None:
    cluster, process, _ = training()
    process.reconcile()
    cause = Cause(exit_code=75, reason="RetryableError", message="launcher 0 has not answered", rounds=rounds(3))
    cluster.end("r-train-1", 75, message=cause.encoded())
    settle(process)
    entry = next(stage for stage in status(cluster).stages if stage.name == "train")
    assert entry.restarts_in_place is not None
    assert (entry.restarts_in_place.total, entry.restarts_count_towards_max, entry.restarts) == (2, 3, 1)


def test_node_on_which_two_rounds_failed_is_avoided_by_the_next_attempt_and_why_says_so() -> None:
    cluster, process, clock = training()
    for number in (1, 2, 3):
        cluster.logs["r-train-1-0"] = line(number)
        settle(process, 2)
        clock.now += 11
    found = train(cluster)
    assert found is not None
    assert [(each.node, each.rounds) for each in found.nodes] == [("node-0", 2)]
    said = details(status(cluster))
    assert any("; 2 rounds failed on node node-0; " in text for text in said)
    assert "train: the next attempt prefers other nodes than node-0: two attempts or rounds failed there" in said, (
        "told before any attempt has failed"
    )
    process = Process(cluster, clock)
    settle(process, 2)
    assert train(cluster) == found, "another operator counts nothing twice"
    cluster.end("r-train-1", 75, message=Cause(exit_code=75, reason="R", message="m", rounds=rounds(3)).encoded())
    settle(process)
    clock.now += 60
    settle(process)
    pod = cluster.jobs["r-train-2"]["spec"]["template"]["spec"]
    [term] = pod["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["preference"]["matchFields"][0]["values"] == ["node-0"]


def test_round_that_ends_by_a_fault_of_the_program_counts_against_no_node() -> None:
    cluster, process, clock = training()
    for number in (1, 2, 3):
        said = rounds(number).model_copy(update={"exit_code": 64})
        cluster.logs["r-train-1-0"] = Progress(stage=Stage.TRAIN, step="s", done=3, total=9, rounds=said).line()
        settle(process, 2)
        clock.now += 11
    found = train(cluster)
    assert found is not None
    assert (found.total, found.nodes) == (2, [])


def gang(policy: str, nodes: int = 2) -> tuple[FakeCluster, Process, Clock]:
    cluster, clock = make(filter=None, label=None, evaluate=None, failurePolicy={"restart": policy}), Clock()
    cluster.runs["r"]["spec"]["train"] |= {"distillation": {"mode": "Disabled"}, "numNodes": nodes}
    return cluster, Process(cluster, clock), clock


def tokens(cluster: FakeCluster) -> list[str]:
    containers = [job["spec"]["template"]["spec"]["containers"][0] for job in cluster.jobs.values()]
    return [each["value"] for found in containers for each in found["env"] if each["name"] == CONTROL_VARIABLE]


def test_launchers_of_each_attempt_have_a_random_token_of_their_own_in_the_job() -> None:
    cluster, process, clock = gang("InPlace")
    settle(process)
    cluster.end("r-train-1", 70)
    settle(process)
    clock.now += 1000
    settle(process)
    found = tokens(cluster)
    assert [len(each) for each in found] == [64, 64]
    assert len(set(found)) == 2
    said = f"{cluster.runs}{cluster.recorded}"
    assert not any(each in said for each in found)


@pytest.mark.parametrize(("policy", "nodes"), [("Recreate", 2), ("InPlace", 1)])
def test_gang_without_a_control_store_of_several_launchers_has_no_token(policy: str, nodes: int) -> None:
    cluster, process, _ = gang(policy, nodes)
    settle(process)
    assert list(cluster.jobs) == ["r-train-1"]
    assert tokens(cluster) == []
