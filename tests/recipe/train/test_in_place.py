"""Restarts in place with real trainings: two launchers over gloo, ranks that are killed and frozen, a launcher that is
lost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from diht_k8s.api.reports import PreflightReport
from tests.recipe.train.attempts import BATCH, FEW_STEPS, STEPS, different_weights, freeze, ranks_of
from tests.recipe.train.forked_stage import STANDBY
from tests.recipe.train.launchers import Launchers, kill, start, write_run
from tests.recipe.train.small_run import make_data

pytestmark = pytest.mark.timeout(900)  # for machines that do other things, too


@dataclass(frozen=True)
class Ended:
    codes: list[int]
    started: list[int]
    """for each node, how many ranks of the second round were not standby processes before."""
    gang: Launchers
    folder: Path


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """One training of two launchers, in which the rank of one is killed."""
    folder = tmp_path_factory.mktemp("in place")
    make_data(folder)
    write_run(folder, samples=FEW_STEPS * BATCH)
    gang = start(folder, forked=True)
    assert gang.at_step(13), gang.errors(0)
    kill(gang.rank(1))
    assert gang.at_step(13, round_=2), gang.errors(0)
    ranks = [ranks_of(launcher.pid) for launcher in gang.processes]
    started = [sum(rank.name() != STANDBY for rank in each) for each in ranks]
    return Ended(gang.end(), started, gang, folder)


def test_training_when_ranks_are_killed_then_it_ends_well_in_the_same_launchers(disturbed: Ended) -> None:
    assert disturbed.codes == [0, 0], disturbed.gang.errors(0) + disturbed.gang.errors(1)
    rounds = [line.rounds for _, line in disturbed.gang.times if line.rounds is not None]
    assert [found.round for found in rounds] == sorted(found.round for found in rounds)
    last = rounds[-1]
    assert (last.round, last.node, last.exit_code) == (2, 1, 1)
    assert last.message == "rank 1 was killed by signal 9: see its log"
    assert "".join(disturbed.gang.lines).count("train: resuming after step") == 1
    epochs = sorted(path.name for path in (disturbed.folder / "out" / "runs/latest/train" / "epochs").iterdir())
    assert epochs == ["000001", "000002"], "each round took a number of its own"
    assert disturbed.started == [0, 0], "standby processes became the ranks"


def test_preflight_is_of_both_nodes_and_told_in_the_first_round_alone(disturbed: Ended) -> None:
    report = PreflightReport.model_validate_json(
        (disturbed.folder / "out/runs/latest/train/preflight.json").read_bytes()
    )
    assert len(report.nodes) == 2
    assert all(node.output_seconds is not None and not node.problem for node in report.nodes)
    told = {(line.rounds.round, len(line.preflight)) for _, line in disturbed.gang.times if line.rounds is not None}
    assert told == {(1, 2), (2, 0)}


def test_weights_when_ranks_were_killed_then_bit_equal_to_undisturbed(disturbed: Ended) -> None:
    assert different_weights(disturbed.folder / "out", FEW_STEPS) == []


@pytest.mark.slow
def test_rank_when_it_hangs_then_the_watchdog_ends_the_round_and_the_next_one_goes_on(tmp_path: Path) -> None:
    make_data(tmp_path)
    write_run(tmp_path)
    gang = start(tmp_path, forked=True, DIHT_WATCHDOG_SECONDS="5", DIHT_WATCHDOG_STEPS="3")
    assert gang.at_step(7), gang.errors(0)
    freeze(gang.rank(1), gang.rank(0))
    assert gang.end() == [0, 0], gang.errors(0)
    rounds = [line.rounds for _, line in gang.times if line.rounds is not None]
    assert rounds[-1].round == 2
    assert "no step for" in rounds[-1].message
    committed = json.loads((tmp_path / "out" / "runs/latest/train" / "COMMITTED.json").read_text())
    assert committed["summary"]["steps"] == STEPS
