"""The preflight's all-reduce over gloo: what it measures, and whom it names where the fabric is too slow."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.stages.train.bandwidth import MIB, SIZES, rounds_of, slowest_node
from tests.ports import free_port
from tests.recipe.train import fork_server
from tests.recipe.train.bandwidth_rank import DELAY_S
from tests.recipe.train.small_run import environment

PROGRAM = "tests.recipe.train.bandwidth_rank"
MODULES = (PROGRAM,)
NOT_TO_BE_REACHED = 1e5


def measured(folder: Path, nodes: list[str], *, minimum: float = 0.0, slow: int = -1) -> tuple[list[Any], str]:
    """What each rank found (a number, or its error), and what rank 0 printed."""
    port = str(free_port())
    ranks = []
    for rank in range(len(nodes)):
        variables = {"RANK": str(rank), "WORLD_SIZE": str(len(nodes)), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        with (folder / f"{rank}.log").open("w") as log:
            arguments, preset = (str(folder), str(minimum), str(slow), *nodes), environment(**variables)
            ranks.append(fork_server.start(PROGRAM, *arguments, variables=preset, modules=MODULES, stdout=log))
    assert [rank.wait(250) for rank in ranks] == [0] * len(ranks)
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(len(nodes))]
    return found, (folder / "0.log").read_text()


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


def test_sizes_are_reported_in_whole_mib() -> None:
    assert all(size % MIB == 0 for size in SIZES)
