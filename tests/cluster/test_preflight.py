"""The preflight of real gangs: each node's result in the output, the worst in the status, and the node that is at fault
by its name.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.cluster.operators import condition, one_slot_each, programs, stages, why
from tests.cluster.tools import wait_until
from tests.cluster.trainings import STEPS, Trainings

pytestmark = [pytest.mark.cluster, pytest.mark.exclusive, pytest.mark.slow, pytest.mark.timeout(900)]
NODES, SHOWN = 6, 5
PAIRS = 6 * NODES
RATE = "40mbit"
"""Of the slow pod, whose peers reach some 10 times as much on busy cores."""
LEAST = 0.01
"""GB/s, where RATE is 0.005."""
NEVER_AGAIN = {"maxRestarts": 0}


def report(trainings: Trainings, name: str) -> dict[str, Any]:
    return json.loads(trainings.read(f"{trainings.stage_folder(name)}/preflight.json"))


def shown(trainings: Trainings, name: str) -> dict[str, Any] | None:
    """What the status has of the preflight."""
    return stages(trainings.place.runs.status(name)).get("train", {}).get("preflight")


def failed(trainings: Trainings, name: str) -> str:
    """The first line of its preflight in `diht status`, once its only attempt has failed."""
    runs = trainings.place.runs
    status = runs.wait_for(name, "Failed", timeout_s=300)
    assert condition(status, "Failed")["reason"] == "RestartsExhausted"
    [line] = [line for line in why(runs, name).splitlines() if "in the preflight of attempt 1" in line]
    return line.partition("attempt 1: ")[2]


def slow_down(host: str) -> None:
    """Limit what a pod sends, as soon as it runs: its ranks meet seconds later."""
    program = wait_until(lambda: next(programs(host), 0), f"pod {host}")
    limit = ["dev", "eth0", "root", "tbf", "rate", RATE, "burst", "64kb", "latency", "400ms"]
    subprocess.run(["nsenter", "--net", "--target", str(program), "tc", "qdisc", "add", *limit], check=True)


def test_output_has_the_result_of_each_node_and_the_status_the_five_worst(trainings: Trainings) -> None:
    runs, name = trainings.place.runs, "many"
    trainings.start(name, nodes=NODES, train={"batchSize": PAIRS, "samples": 100 * STEPS * PAIRS})
    found = wait_until(lambda: shown(trainings, name), "the preflight in the status", 400)
    written = report(trainings, name)
    assert [node["pod"] for node in written["nodes"]] == [f"{name}-train-1-{index}" for index in range(NODES)]
    assert {node["node"] for node in written["nodes"]} == {"node-0", "node-1"}
    assert all(node["shared_memory_mib"] and not node["problem"] for node in written["nodes"])
    assert written["bus_bandwidth_gb_per_second"] > 0
    worst = sorted(written["nodes"], key=lambda node: -node["output_seconds"])[:SHOWN]
    assert [(node["node"], node["pod"]) for node in found["nodes"]] == [(node["node"], node["pod"]) for node in worst]
    names = [f"{node['node']} (pod {node['pod']}): shared_memory_mib " for node in worst]
    said = next(line for line in why(runs, name).splitlines() if "worst nodes in the preflight of attempt 1" in line)
    assert [each in said for each in names] == [True] * SHOWN
    runs.kubectl("delete", "dihtrun", name, "-n", runs.namespace)


def test_pod_with_a_slow_network_is_named_with_its_node(trainings: Trainings) -> None:
    name, slow = "slow", 2
    train = {"batchSize": PAIRS, "minBusBandwidth": LEAST}
    trainings.start(name, nodes=3, train=train, policy=NEVER_AGAIN)
    slow_down(f"{name}-train-1-{slow}")
    said, written = failed(trainings, name), report(trainings, name)["nodes"]
    place = f"{written[slow]['node']} (pod {name}-train-1-{slow})"
    assert said.startswith(f"{place}: node {place} is the slowest (")
    assert [bool(node["problem"]) for node in written] == [False, False, True]
    assert min(written, key=lambda node: node["exchange_gb_per_second"]) == written[slow]


def test_node_without_the_gpu_that_it_offers_is_named_before_any_rank_starts(trainings: Trainings) -> None:
    name, gpu = "blind", "nvidia.com/gpu"
    with one_slot_each(trainings.place.kubectl, gpu):
        trainings.start(name, nodes=1, policy=NEVER_AGAIN, resources={gpu: 1})
        said = failed(trainings, name)
    [node] = (shown(trainings, name) or {})["nodes"]
    assert said.startswith(
        f"{node['node']} (pod {name}-train-1-0): pod {name}-train-1-0 sees 0 GPUs where it asked for 1"
    )
    assert trainings.names(name, "epochs") == []
