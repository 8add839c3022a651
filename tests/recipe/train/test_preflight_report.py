"""The preflight's report of each node, by real ranks over gloo, one of them slow."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.reports import NodeResult, PreflightReport
from diht_k8s.runtime.hangs.heartbeat import FOLDER_VARIABLE
from diht_k8s.runtime.hangs.watchdog import HangLimits, Watchdog
from diht_k8s.runtime.preflight import RESULT_VARIABLE
from tests.ports import free_port
from tests.recipe.train import fork_server
from tests.recipe.train.small_run import environment

pytestmark = pytest.mark.timeout(600)  # for machines that do other things, too

PROGRAM = "tests.recipe.train.preflight_rank"
SLOW = 2
OUTPUT_SECONDS = (0.1, 0.3, 0.2)
"""of each node."""
PLACES = ((0, 0), (1, 0), (2, 0), (2, 1))
"""Node of each rank, and its place there."""


@dataclass(frozen=True)
class PreflightRun:
    folder: Path
    ranks: list[dict[str, Any]]

    def report(self, name: str) -> PreflightReport:
        return PreflightReport.model_validate_json((self.folder / name / "train" / "preflight.json").read_bytes())


@pytest.fixture(scope="module")
def preflight(tmp_path_factory: pytest.TempPathFactory) -> PreflightRun:
    """Three nodes, the slow one with two ranks."""
    folder, port, ranks = tmp_path_factory.mktemp("preflight"), str(free_port()), []
    for rank, (node, local) in enumerate(PLACES):
        watched = folder / f"watch-{node}"
        watched.mkdir(exist_ok=True)
        checked = NodeResult(node=f"gpu-{node}", pod=f"p-{node}", output_seconds=OUTPUT_SECONDS[node])
        variables = {
            "RANK": str(rank),
            "WORLD_SIZE": str(len(PLACES)),
            "LOCAL_RANK": str(local),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": port,
            RESULT_VARIABLE: checked.model_dump_json(),
            FOLDER_VARIABLE: str(watched),
        }
        arguments, preset = (str(folder), str(SLOW)), environment(**variables)
        with (folder / f"{rank}.log").open("wb") as log:
            ranks.append(fork_server.start(PROGRAM, *arguments, variables=preset, modules=(PROGRAM,), stderr=log))
    assert [rank.wait(500) for rank in ranks] == [0] * len(ranks), (folder / "0.log").read_text()
    return PreflightRun(folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(len(ranks))])


def test_fabric_below_the_minimum_leaves_a_report_of_all_nodes_in_which_the_slow_one_has_the_problem(
    preflight: PreflightRun,
) -> None:
    report = preflight.report("slow")
    assert [(node.node, node.pod, node.output_seconds) for node in report.nodes] == [
        (f"gpu-{rank}", f"p-{rank}", seconds) for rank, seconds in enumerate(OUTPUT_SECONDS)
    ]
    assert [bool(node.problem) for node in report.nodes] == [False, False, True]
    assert report.nodes[SLOW].problem.startswith("node gpu-2 (pod p-2) is the slowest (")
    exchanges = [node.exchange_gb_per_second for node in report.nodes]
    assert all(exchanges)
    assert min(exchanges, key=lambda speed: speed or 0) == exchanges[SLOW]
    assert report.bus_bandwidth_gb_per_second is not None


def test_every_rank_ends_with_the_same_words_after_the_report_is_written(preflight: PreflightRun) -> None:
    [words] = {rank["error"] for rank in preflight.ranks}
    assert "node gpu-2 (pod p-2) is the slowest (" in words
    assert all(rank["written first"] for rank in preflight.ranks)


@pytest.mark.parametrize("node", range(3))
def test_launcher_of_each_pod_learns_the_worst_nodes_for_the_cause_of_the_failure(
    preflight: PreflightRun, node: int
) -> None:
    details = Watchdog(preflight.folder / f"watch-{node}", HangLimits()).details()
    nodes = [NodeResult.model_validate(each) for each in details["preflight"]]
    assert nodes[0] == preflight.report("slow").nodes[SLOW]
    assert len(nodes) == 3


def test_fabric_that_is_fast_enough_leaves_a_report_without_problems_the_slowest_output_being_worst(
    preflight: PreflightRun,
) -> None:
    report = preflight.report("well")
    assert [(node.problem, node.exchange_gb_per_second) for node in report.nodes] == [("", None)] * 3
    for rank in preflight.ranks:
        bus, names = rank["well"]
        assert names == ["gpu-1", "gpu-2", "gpu-0"]
        assert float(f"{bus:.4g}") == report.bus_bandwidth_gb_per_second


def test_report_that_cannot_be_written_is_logged_and_ends_no_rank(preflight: PreflightRun) -> None:
    assert [rank["unwritten"] for rank in preflight.ranks] == [["gpu-1", "gpu-2", "gpu-0"]] * len(PLACES)
    said = (preflight.folder / "0.log").read_text()
    assert re.search(r"unwritten/train/preflight\.json not written, training continues: cannot write ", said)


def test_second_round_of_the_same_pods_reports_nothing(preflight: PreflightRun) -> None:
    assert [rank["second round"] for rank in preflight.ranks] == [True] * len(PLACES)
    assert not (preflight.folder / "second").exists()
