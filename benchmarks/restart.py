"""Restarts in place beside recreated gangs, in seconds from the SIGKILL of a rank.

64 launchers with stub ranks, busy: 0.90; while a launcher hangs for a second 1.77, while the store does 1.80. Trainings
of two launchers over gloo, until the next step: 2.7 in place; 11.0 where both start again, without scheduler, image or
pod. On two nodes: `pytest --slow tests/cluster/test_in_place.py -k half`, busy 0.67 to 0.70 of the time.
"""

from __future__ import annotations

import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._arguments import make_parser
from benchmarks._launchers import Launchers, launchers
from tests.recipe.train import launchers as trainings
from tests.recipe.train.small_run import make_data

Act = Callable[[Launchers], None]
KILLED_AT_STEP = 7
LONG: dict[str, Any] = {"samples": 10**6}
"""The fault comes when the standby processes have imported, as it does in all but the first seconds of a training."""


def pause(node: int) -> Act:
    """A launcher stands still for a second."""

    def act(gang: Launchers) -> None:
        gang.signal(node, signal.SIGSTOP)
        time.sleep(1)
        gang.signal(node, signal.SIGCONT)

    return act


CASES: dict[str, Act] = {
    "undisturbed": lambda gang: None,
    "launcher hangs for 1 s": pause(3),
    "store hangs for 1 s": pause(0),
}


def agreement(nodes: int, times: int, act: Act) -> float:
    """Median seconds from the SIGKILL of a rank until all ranks of the next round have begun."""
    found: list[float] = []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder, launchers(nodes, Path(folder)) as gang:
            gang.wait_for_round(1, 300)
            time.sleep(2)
            began = time.monotonic()
            gang.kill_rank(1, nodes - 1)
            act(gang)
            gang.wait_for_round(2, 60)
            found.append(time.monotonic() - began)
    return statistics.median(found)


def end_after_lost_launcher(nodes: int) -> float:
    """Seconds until all launchers have ended where one is killed while it acknowledges."""
    with tempfile.TemporaryDirectory() as folder, launchers(nodes, Path(folder)) as gang:
        gang.wait_for_round(1, 300)
        gang.signal(3, signal.SIGSTOP)
        began = time.monotonic()
        gang.kill_rank(1, nodes - 1)
        time.sleep(0.5)
        gang.signal(3, signal.SIGKILL)
        codes = gang.codes(120)
        assert codes.count(75) == nodes - 1, codes
        return time.monotonic() - began


def in_place(folder: Path) -> float:
    """Seconds from the SIGKILL of a rank to the first step after it, in the same launchers."""
    trainings.write_run(folder, **LONG)
    gang = trainings.start(folder)
    assert gang.at_step(KILLED_AT_STEP), gang.errors(0)
    assert gang.follow(lambda line: trainings.standbys() == 2), gang.errors(0)
    began = time.monotonic()
    trainings.kill(gang.rank(1))
    assert gang.at_step(KILLED_AT_STEP, round_=2), gang.errors(0)
    seconds = time.monotonic() - began
    gang.kill()
    return seconds


def recreated(folder: Path) -> float:
    """The same where both launchers end and are started again."""
    trainings.write_run(folder, restart="Recreate", **LONG)
    gang = trainings.start(folder)
    assert gang.at_step(KILLED_AT_STEP), gang.errors(0)
    began = time.monotonic()
    trainings.kill(gang.rank(1))
    gang.end()
    again = trainings.start(folder)
    assert again.at_step(KILLED_AT_STEP), again.errors(0)
    seconds = time.monotonic() - began
    again.kill()
    return seconds


def training_pairs(pairs: int) -> dict[str, float]:
    """Medians of both, and of the ratio of each pair."""
    found: list[tuple[float, float]] = []
    for number in range(pairs):
        with tempfile.TemporaryDirectory() as name:
            places = [Path(name) / way for way in ("in place", "recreated")]
            for place in places:
                make_data(place)
            pair = in_place(places[0]), recreated(places[1])
        print(f"pair {number + 1}: {pair[0]:.1f} s in place, {pair[1]:.1f} s recreated", file=sys.stderr, flush=True)
        found.append(pair)
    return {
        "in_place_s": round(statistics.median(each[0] for each in found), 1),
        "recreated_s": round(statistics.median(each[1] for each in found), 1),
        "in_place_over_recreated": round(statistics.median(each[0] / each[1] for each in found), 3),
    }


def main() -> int:
    """Measure, and print one line of JSON."""
    parser = make_parser("restart", __doc__)
    parser.add_argument("--launchers", type=int, default=64, help="with stub ranks; 0 leaves them out")
    parser.add_argument("--times", type=int, default=5, help="for each case of the launchers")
    parser.add_argument("--pairs", type=int, default=10, help="of trainings; 0 leaves them out")
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    if arguments.launchers:
        for name, act in CASES.items():
            figures[f"agreed_s, {name}"] = round(agreement(arguments.launchers, arguments.times, act), 2)
            print(f"{name}: {figures[f'agreed_s, {name}']} s", file=sys.stderr, flush=True)
        figures["ended_s, launcher killed"] = round(end_after_lost_launcher(arguments.launchers), 1)
    if arguments.pairs:
        figures |= training_pairs(arguments.pairs)
    print(json.dumps({"benchmark": "restart", "launchers": arguments.launchers, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
