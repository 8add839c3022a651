"""A real training over gloo whose nodes go and come: three launchers, of which one is lost, one is drained, and both
come back."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from tests.recipe.train.attempts import BATCH, STEPS, undisturbed_training
from tests.recipe.train.launchers import Launchers, start, write_run
from tests.recipe.train.small_run import make_data

pytestmark = pytest.mark.timeout(900)  # for machines that do other things, too


def losses(folder: Path) -> list[tuple[int, float]]:
    text = (folder / "out/runs/latest/train/metrics.jsonl").read_text()
    return [(line["step"], line["loss"]) for line in map(json.loads, text.splitlines()) if "loss" in line]


def resumed(gang: Launchers) -> list[int]:
    return [int(found) for found in re.findall(r"train: resuming after step (\d+)", "".join(gang.lines))]


def newest_step(gang: Launchers) -> int:
    return gang.times[-1][1].done // BATCH


def test_training_goes_on_with_the_nodes_that_are_there_and_learns_the_same(tmp_path: Path) -> None:
    make_data(tmp_path)
    write_run(tmp_path, numNodes=3)
    gang = start(tmp_path, forked=True, nodes=3, elastic=True)
    try:
        assert gang.at_step(13), gang.errors(0)
        rank = gang.rank(0)
        gang.lose(1)
        rank.wait(60)  # the next round misses a launcher
        time.sleep(2)
        assert gang.processes[0].poll() is None, gang.errors(0)
        gang.decide(1)
        assert gang.at_step(18, round_=3), gang.errors(0)
        assert resumed(gang)[0] >= 5, "from its last checkpoint; that of step 10 may have been on its way"
        gang.replace(1)
        gang.decide()
        assert gang.at_step(1, round_=4), gang.errors(0)
        grown = [line for _, line in gang.times if line.rounds and line.rounds.round == 3][-1].done // BATCH
        assert resumed(gang)[1] >= grown, "what the two have done is saved before the third joins"
        assert gang.at_step(resumed(gang)[1] + 5, round_=4)
        gang.processes[2].terminate()  # as a drain does
        assert gang.processes[2].wait() == 143, gang.errors(2)
        drained = newest_step(gang)
        gang.replace(2)
        assert gang.at_step(1, round_=6), gang.errors(0)
        assert resumed(gang)[2] >= drained
        codes = gang.end()
    finally:
        for process in gang.processes:
            process.kill()
    assert codes == [0, 0, 0], gang.errors(0)
    last = gang.times[-1][1].rounds
    assert last is not None
    assert (last.round, last.uncounted) == (6, 5), "no round counts as a restart"
    said = re.findall(r"round (\d+) begins in place on (\d of \d) nodes", gang.errors(0))
    assert said == [("3", "2 of 3"), ("4", "3 of 3"), ("6", "3 of 3")]
    found, expected = losses(tmp_path), undisturbed_training()["losses"]
    steps = [step for step, _ in found]
    assert steps == sorted(set(steps)), "each step counts once"
    assert (steps[-1], len(expected)) == (STEPS, STEPS)
    assert dict(found) == pytest.approx({step: expected[step - 1][0] for step in steps}, abs=1e-4)
