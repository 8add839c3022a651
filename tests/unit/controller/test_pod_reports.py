"""What pods report, in the log and as they end: checkpoints, the folder of the stage, the worst nodes of the preflight.
Nonsense in a log does no harm.
"""

from __future__ import annotations

import pytest

from diht_k8s.api.base import timestamp
from diht_k8s.api.reports import Cause, NodeResult, Progress, SavedCheckpoint
from diht_k8s.api.run import Stage
from diht_k8s.api.status import LastCheckpoint, Preflight
from diht_k8s.cli.status_sentences import details
from diht_k8s.controller.status_builder import redacted_status
from tests.unit.controller.documents import NOW
from tests.unit.controller.fake import FakeCluster, Process
from tests.unit.controller.stories import settle, status, training

URI = "s3://corpus/run/train/checkpoints/step-000000020"
AT = timestamp(NOW - 30)


def saved(step: int | None, time: float | None = NOW - 30, uri: str = URI) -> str:
    checkpoint = None if step is None else SavedCheckpoint(step=step, uri=uri, time=None if time is None else int(time))
    return Progress(stage=Stage.TRAIN, step="steps", done=30, total=100, checkpoint=checkpoint).line()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([saved(20)], LastCheckpoint(step=20, time=AT, uri=URI)),
        ([saved(None)], None),
        ([saved(20, time=None)], LastCheckpoint(step=20, uri=URI)),
        ([saved(20), saved(20, time=None)], LastCheckpoint(step=20, time=AT, uri=URI)),
        ([saved(20), saved(None)], LastCheckpoint(step=20, time=AT, uri=URI)),
        ([saved(20), saved(40, uri="s3://b/40")], LastCheckpoint(step=40, time=AT, uri="s3://b/40")),
        (
            [saved(-5, 1e18, "s3://b/\x1b[31m" + "x" * 2000)],
            LastCheckpoint(step=0, time="9999-12-31T23:59:59Z", uri="s3://b/" + "x" * 1078 + "..."),
        ),
    ],
    ids=["named", "none yet", "of an older program", "the same of an older program", "kept", "newer", "nonsense"],
)
def test_last_checkpoint_is_what_the_training_logged_last(lines: list[str], expected: LastCheckpoint | None) -> None:
    cluster, process, clock = training()
    for text in lines:
        cluster.logs["r-train-1-0"] = text
        process.reconcile()
        clock.now += 11
    assert status(cluster).last_checkpoint == expected


@pytest.mark.parametrize("code", [0, 143])
def test_checkpoint_of_the_end_is_read_though_the_program_has_ended(code: int) -> None:
    cluster, process, _ = training()
    process.reconcile()
    cluster.logs["r-train-1-0"] = saved(57)
    cluster.end("r-train-1", code, message=Cause(exit_code=code, reason="StopRequested", message="m").encoded())
    settle(process)
    found = status(cluster).last_checkpoint
    assert found is not None
    assert found.step == 57


BELOW = "s3://corpus/run/train/0123456789abcdef"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (BELOW, BELOW),
        ("s3://elsewhere/train/0123456789abcdef", None),
        (f"{BELOW}\n", None),
        (BELOW + "0" * 2000, None),
        (None, None),
    ],
    ids=["below the output", "elsewhere", "with a line break", "too long", "an older program"],
)
def test_folder_is_what_the_programs_said_as_they_ended(said: str | None, shown: str | None) -> None:
    cluster, process, _ = training()
    process.reconcile()
    cause = Cause(exit_code=0, reason="Completed", message="", output=said)
    cluster.end("r-train-1", 0, message=cause.encoded())
    settle(process)
    assert [stage.output_uri for stage in status(cluster).stages if stage.name == "train"] == [shown]


WORST = [
    NodeResult(node="gpu-7", pod="r-train-1-3", gpus=8, exchange_gb_per_second=9.0, problem="the slowest (9 GB/s)"),
    NodeResult(node="gpu-2", pod="r-train-1-1", gpus=8, output_seconds=0.25),
]
OTHERS = [NodeResult(node=f"gpu-{index}", pod=f"r-train-1-{index}", output_seconds=0.1) for index in range(4, 7)]
MISSING = NodeResult(node="node-1", pod="r-train-2-1", problem="pod r-train-2-1 sees 7 GPUs where it asked for 8")


def line(nodes: list[NodeResult]) -> str:
    return Progress(stage=Stage.TRAIN, step="steps", done=30, total=100, preflight=nodes).line()


def cause(nodes: list[NodeResult]) -> str:
    return Cause(exit_code=75, reason="RetryableError", message="m", preflight=nodes).encoded()


def found(cluster: FakeCluster) -> Preflight | None:
    return next(stage for stage in status(cluster).stages if stage.name == "train").preflight


def told(cluster: FakeCluster) -> tuple[int, list[str]]:
    preflight = found(cluster)
    return (0, []) if preflight is None else (preflight.attempt, [node.node for node in preflight.nodes])


def test_worst_nodes_in_the_log_are_in_the_status_and_why_says_so_on_one_line() -> None:
    cluster, process, clock = training()
    assert found(cluster) is None
    cluster.logs["r-train-1-0"] = line(WORST)
    process.reconcile()
    assert told(cluster) == (1, ["gpu-7", "gpu-2"])
    [said] = [text for text in details(status(cluster)) if "preflight" in text]
    assert said == (
        "train: worst nodes in the preflight of attempt 1: gpu-7 (pod r-train-1-3): the slowest (9 GB/s); "
        "gpu-2 (pod r-train-1-1): gpus 8, output_seconds 0.25"
    )
    cluster.logs["r-train-1-0"] = line([])  # as in the next round of the same pods
    clock.now += 11
    process.reconcile()
    process = Process(cluster, clock)
    settle(process, 2)
    assert told(cluster) == (1, ["gpu-7", "gpu-2"]), "kept by another operator as well"


def test_nodes_that_only_termination_messages_name_are_in_the_status_of_the_attempt_that_failed() -> None:
    cluster, process, clock = training()
    process.reconcile()
    cluster.end("r-train-1", 75, message=cause([*OTHERS, *WORST]))
    settle(process)
    assert told(cluster) == (1, ["gpu-7", "gpu-2", "gpu-4", "gpu-5", "gpu-6"])
    clock.now += 60
    settle(process)
    cluster.run_pods("r-train-2")
    settle(process)
    assert told(cluster)[0] == 1, "until the next attempt has told"
    cluster.end("r-train-2", 75, message=cause([MISSING]))
    settle(process)
    assert told(cluster) == (2, ["node-1"])
    left = {name: pod for name, pod in cluster.pods.items() if name.startswith("r-train-1-")}
    assert left, "the pods of the attempt before are still there"
    cluster.pods = left
    settle(process)
    assert told(cluster) == (2, ["node-1"])


def test_pods_that_are_removed_one_by_one_take_no_node_along() -> None:
    cluster, process, clock = training()
    process.reconcile()
    cluster.end("r-train-1", 75, message=cause(WORST))
    settle(process)
    for name in ("r-train-1-0", "r-train-1-1"):
        cluster.pods[name]["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = cause(WORST[1:])
    process = Process(cluster, clock)
    settle(process)
    assert told(cluster) == (1, ["gpu-7", "gpu-2"])


def test_nonsense_of_a_program_is_cut_to_what_a_status_holds() -> None:
    cluster, process, _ = training()
    strange = NodeResult(
        node="n" * 300, pod="p\x1b[31m" + "q" * 99, gpus=-(10**400), output_seconds=float("nan"), problem="a\nb" * 300
    )
    cluster.logs["r-train-1-0"] = line([strange])
    process.reconcile()
    preflight = found(cluster)
    assert preflight is not None
    node = preflight.nodes[0]
    assert (len(node.node), len(node.pod), len(node.problem)) == (253, 63, 256)
    assert (node.node + node.pod + node.problem).isprintable()
    assert {figure.name: figure.value for figure in node.figures} == {"gpus": "-1e+18", "output_seconds": "0"}


def test_literal_values_of_the_run_are_redacted() -> None:
    cluster, process, _ = training()
    cluster.logs["r-train-1-0"] = line([NodeResult(node="n", problem="cannot write with hunter22")])
    process.reconcile()
    [stage] = redacted_status(status(cluster), ("hunter22",)).stages
    assert stage.preflight is not None
    assert "hunter22" not in stage.preflight.nodes[0].problem
    assert stage.preflight.nodes[0].problem.startswith("cannot write with")
