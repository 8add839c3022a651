"""The preflight in the status: from the log, from what pods left as they ended, the newest attempt's, in the words of
`diht status`.
"""

from __future__ import annotations

from diht_k8s.api.reports import Cause, NodeResult, Progress
from diht_k8s.api.run import Stage
from diht_k8s.api.status import Preflight
from diht_k8s.cli.status_sentences import details
from diht_k8s.controller.status_builder import redacted_status
from tests.unit.controller.fake import FakeCluster, Process
from tests.unit.controller.stories import settle, status, training

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
