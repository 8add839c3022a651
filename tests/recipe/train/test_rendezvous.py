"""The meeting of a gang over gloo: its preflight and whom that names where the fabric is slow, time-outs, and flags."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d
from torch.distributed.device_mesh import init_device_mesh

from diht_k8s.api.reports import ROUNDS_VARIABLE, NodeResult, PreflightReport, Rounds
from diht_k8s.api.train import Train
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.hangs.heartbeat import FOLDER_VARIABLE
from diht_k8s.runtime.hangs.watchdog import HangLimits, Watchdog
from diht_k8s.runtime.preflight import RESULT_VARIABLE
from diht_k8s.stages.train.collectives import exchange_flags, init_process_groups
from diht_k8s.stages.train.rendezvous import (
    SIZES,
    FabricReport,
    SlowFabricError,
    check_bandwidth,
    init_distributed,
    rounds_of,
    slowest_node,
)
from tests.folders import flat
from tests.recipe.train.small_run import VIT, document, gang

PROGRAM = "tests.recipe.train.test_rendezvous"
NOT_TO_BE_REACHED = 1e5
DELAY_S = 0.2
EXCHANGE_DELAY_S = 1.0
"""so much more than an exchange takes on a busy machine that no other pair looks slow, too."""
SLOW = 2
"""The rank, and the node, that is slow."""
OUTPUT_SECONDS = (0.1, 0.3, 0.2)
"""of each node."""
PLACES = ((0, 0), (1, 0), (2, 0), (2, 1))
"""Node of each rank, and its place there."""
TIMEOUT_S = 77
pytestmark = pytest.mark.timeout(600)  # for machines that do other things, too


def tell(folder: str, found: Any) -> None:
    """What a rank has found."""
    Path(folder, f"{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def told(folder: Path, world: int) -> list[Any]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


def held_up(call: Callable[..., Any], seconds: float = DELAY_S) -> Callable[..., Any]:
    def slow(*arguments: Any, **named: Any) -> Any:
        time.sleep(seconds)
        return call(*arguments, **named)

    return slow


def bandwidth(folder: str, minimum: str, slow: str, *nodes: str) -> None:
    """A measurement in which one rank (-1: none) is held up before each exchange."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo")
    if rank == int(slow):
        dist.all_reduce = held_up(dist.all_reduce)
        dist.batch_isend_irecv = held_up(dist.batch_isend_irecv, EXCHANGE_DELAY_S)
    try:
        found: Any = check_bandwidth(rank, world, torch.device("cpu"), float(minimum) or None, node=nodes[rank])
    except SlowFabricError as error:
        found = {"says": str(error), "node": error.culprit.node, "exchanges": dict(error.culprit.exchanges)}
    tell(folder, found)


def measured(folder: Path, nodes: list[str], *, minimum: float = 0.0, slow: int = -1) -> tuple[list[Any], str]:
    """What each rank found (a number, or its error), and what rank 0 printed."""
    gang(f"{PROGRAM}:bandwidth", folder, len(nodes), str(minimum), str(slow), *nodes)
    return told(folder, len(nodes)), (folder / "0.log").read_text()


def test_all_ranks_know_the_same_bandwidth_and_a_slow_rank_lowers_it(tmp_path: Path) -> None:
    found, said = measured(tmp_path, ["a", "b"], slow=1)
    assert found[0] == found[1] > 0
    # two ranks: the factor of bus bandwidth is 1; each all-reduce waits at least for the slow rank
    assert found[0] <= SIZES[-1] / DELAY_S / 1e9
    assert re.search(
        r"^train: all-reduce over 2 ranks: bus bandwidth in GB/s [\d.e-]+ at 1 MiB, [\d.e-]+ at 8 MiB$", said, re.M
    )


@pytest.mark.parametrize(
    ("nodes", "slow", "words", "culprit", "compared"),
    [
        (
            ["a", "b"],
            1,
            "which of two is slow cannot be told (node a and node b): see the network between them",
            "",
            [],
        ),
        (["a", "a"], 0, "which of two is slow cannot be told (node a)", "", []),
        (["a", "b", "c"], 2, "node c is the slowest (", "c", ["a", "b", "c"]),
        (["a", "a", "a"], 1, "rank 1 on node a is the slowest (", "a", ["a"]),
    ],
)
def test_fabric_below_the_minimum_ends_the_gang_and_names_the_slowest_node_where_it_can_be_told(
    nodes: list[str], slow: int, words: str, culprit: str, compared: list[str], tmp_path: Path
) -> None:
    found, _ = measured(tmp_path, nodes, minimum=NOT_TO_BE_REACHED, slow=slow)
    assert all(each == found[0] for each in found)
    assert "train.minBusBandwidth asks for 100000: " in found[0]["says"]
    assert words in found[0]["says"]
    assert found[0]["says"].endswith("; the gang starts again")
    assert found[0]["node"] == culprit
    exchanges = found[0]["exchanges"]
    assert sorted(exchanges) == compared
    assert not exchanges or min(exchanges, key=exchanges.__getitem__) == culprit


@pytest.mark.parametrize(
    ("best", "words"),
    [
        (
            {"node a": 40.0, "node b": 9.0, "node c": 42.0},
            "node b is the slowest (9 GB/s with its best neighbour, the others 41)",
        ),
        (
            {"node a": 40.0, "node b": 38.0, "node c": 42.0},
            "no node is slower than the others (pairs exchange 38 to 42 GB/s)",
        ),
        ({"node a": 40.0, "node b": 27.0, "node c": 40.0}, "node b is the slowest (27 GB/s"),
        ({"node a": 40.0, "node b": 30.0, "node c": 40.0}, "no node is slower than the others"),
    ],
)
def test_node_is_called_slow_only_if_it_clearly_is(best: dict[str, float], words: str) -> None:
    assert slowest_node(best).startswith(words)


@pytest.mark.parametrize("number", [3, 4, 5, 8, 129])
def test_every_node_exchanges_with_both_neighbours_and_with_one_at_a_time(number: int) -> None:
    rounds = rounds_of(number)
    assert len(rounds) == 2 + number % 2
    for pairs in rounds:
        busy = [node for pair in pairs for node in pair]
        assert len(busy) == len(set(busy))
    assert sorted(sorted(pair) for pairs in rounds for pair in pairs) == sorted(
        sorted((i, (i + 1) % number)) for i in range(number)
    )


def preflights(place: str) -> None:
    """The preflight four times.

    First the fabric shall be faster than it is, with the slow rank held up before each exchange, and writes with it;
    then any speed will do; then the output cannot be written; then it is the second round of the same pods.
    """
    folder = Path(place)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    def preflight(name: str, minimum: float | None = None) -> FabricReport:
        settings = document(folder, minBusBandwidth=minimum).spec.train
        assert settings is not None
        return init_distributed(settings, storage, flat(folder / name), rank=rank, world=world)

    found: dict[str, Any] = {}
    storage, write = Storage(), Storage.write_bytes
    all_reduce, exchange = dist.all_reduce, dist.batch_isend_irecv
    if rank == SLOW:
        dist.all_reduce, dist.batch_isend_irecv = held_up(all_reduce), held_up(exchange, EXCHANGE_DELAY_S)
    Storage.write_bytes = held_up(write)
    try:
        preflight("slow", NOT_TO_BE_REACHED)
    except SlowFabricError as error:
        found["error"] = str(error)
        found["written first"] = (folder / "slow" / "train" / "preflight.json").is_file()
    dist.all_reduce, dist.batch_isend_irecv, Storage.write_bytes = all_reduce, exchange, write
    del os.environ[FOLDER_VARIABLE]
    well = preflight("well")
    found["well"] = [well.bus_bandwidth, [node.node for node in well.worst]]
    (folder / "unwritten").write_text("a file where the output's folder should be")
    found["unwritten"] = [node.node for node in preflight("unwritten").worst]
    os.environ[ROUNDS_VARIABLE] = Rounds(round=2).model_dump_json()
    found["second round"] = preflight("second") == FabricReport()
    tell(place, found)


@dataclass(frozen=True)
class PreflightRun:
    folder: Path
    ranks: list[dict[str, Any]]

    def report(self, name: str) -> PreflightReport:
        return PreflightReport.model_validate_json((self.folder / name / "train" / "preflight.json").read_bytes())


@pytest.fixture(scope="module")
def preflight(tmp_path_factory: pytest.TempPathFactory) -> PreflightRun:
    """Three nodes, the slow one with two ranks."""
    folder = tmp_path_factory.mktemp("preflight")

    def own(rank: int) -> dict[str, str]:
        node, local = PLACES[rank]
        watched = folder / f"watch-{node}"
        watched.mkdir(exist_ok=True)
        checked = NodeResult(node=f"gpu-{node}", pod=f"p-{node}", output_seconds=OUTPUT_SECONDS[node])
        place = {RESULT_VARIABLE: checked.model_dump_json(), FOLDER_VARIABLE: str(watched)}
        return {"LOCAL_RANK": str(local), **place}

    gang(f"{PROGRAM}:preflights", folder, len(PLACES), own=own, seconds=500)
    return PreflightRun(folder, told(folder, len(PLACES)))


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


def seconds(group: dist.ProcessGroup) -> float:
    options: Any = group._get_backend(distributed_c10d._get_pg_default_device(group)).options
    return options._timeout.total_seconds()


def timeouts(folder: str) -> None:
    """The time-outs of groups as a training makes them, and of later ones."""
    from diht_k8s.stages.train import engine
    from diht_k8s.stages.train.model.student import Student

    rank = int(os.environ["RANK"])
    init_process_groups(TIMEOUT_S)
    for stage in range(4):
        train = Train(samples=8, batch_size=8, zero_stage=stage, precision="fp32")
        engine.Engine(train, Student(VIT), rank=rank, world=2)
    of_training = len(distributed_c10d._world.pg_map)
    init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicas", "shards"))
    dist.new_group([0, 1])
    found = [seconds(group) for group in distributed_c10d._world.pg_map]
    nccl = distributed_c10d._get_default_timeout(dist.Backend("nccl")).total_seconds()
    tell(folder, [of_training, found, nccl])


def test_timeout_when_set_then_groups_of_deepspeed_of_meshes_and_later_ones_have_it(tmp_path: Path) -> None:
    gang(f"{PROGRAM}:timeouts", tmp_path, 2)
    for of_training, found, nccl in told(tmp_path, 2):
        assert of_training >= 2, "DeepSpeed makes a group of its own"
        assert len(found) >= of_training + 2
        assert {*found, nccl} == {TIMEOUT_S}


def flags(folder: str) -> None:
    """Two exchanges of three ranks."""
    dist.init_process_group("gloo")
    place = {"rank": dist.get_rank(), "world": dist.get_world_size()}
    rank = place["rank"]
    each = [
        exchange_flags(rank == 1, rank == 2, rank == 0, 0.5 + rank, 10**9 + rank, **place),
        exchange_flags(False, False, False, 0.0, 0, **place),
    ]
    tell(folder, [[*vars(found.wait()).values()] for found in each])


def test_flags_of_any_rank_are_all_ranks_flags_and_bad_samples_add_up(tmp_path: Path) -> None:
    gang(f"{PROGRAM}:flags", tmp_path, 3)
    expected = [[True, True, True, [0.5, 1.5, 2.5], 3 * 10**9 + 3], [False, False, False, [0.0, 0.0, 0.0], 0]]
    assert told(tmp_path, 3) == [expected] * 3
