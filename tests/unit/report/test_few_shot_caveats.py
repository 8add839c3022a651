"""What is said of the few-shot probe comes from its draws."""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.report.caveats import few_shot_caveats, few_shot_verdicts

SCATTER = (0.01, -0.012, 0.004, -0.006, 0.008)


def draws(**gains: float) -> list[dict[str, Any]]:
    """Five draws for each number of shots; the probe is better than scratch by a gain that scatters."""
    return [
        {"shots": int(name.removeprefix("at_")), "scratch": 0.3 + scatter, "probe": 0.3 + 2 * scatter + gain}
        for name, gain in gains.items()
        for scatter in SCATTER
    ]


def benchmark(**gains: float) -> dict[str, Any]:
    points = [{"draws": 5, "zero_shot": {"mean": 0.23}}]
    return {"name": "pets", "chance": 0.1, "few_shot": {"draws": draws(**gains), "points": points}}


def test_verdicts_when_the_probe_wins_ties_and_loses_then_say_which() -> None:
    found = few_shot_verdicts(draws(at_1=0.05, at_2=0.0, at_8=-0.05))
    assert found == {1: "better", 2: "not clearly different", 8: "worse"}


def test_verdict_of_three_draws_needs_more_than_one_sign() -> None:
    found = [{"shots": 1, "scratch": 0.3, "probe": 0.3 + gain} for gain in (0.005, 0.01, 0.015)]
    assert few_shot_verdicts(found) == {1: "not clearly different"}, "Student's t of two degrees is 3.5, below 4.3"


@pytest.mark.parametrize(
    ("gains", "part", "weak"),
    [
        ({"at_1": 0.05, "at_2": 0.05}, "is above it at 1 and 2 shots per class (paired over 5 draws)", False),
        (
            {"at_1": 0.05, "at_4": -0.05, "at_8": -0.05},
            "above it at 1 shots per class, below it at 4 and 8 shots",
            True,
        ),
        ({"at_1": 0.0}, "not clearly different from it at 1 shots", False),
    ],
)
def test_note_when_written_then_follows_the_figures(gains: dict[str, float], part: str, weak: bool) -> None:
    (note,) = few_shot_caveats(benchmark(**gains))
    assert part in note
    assert "right for 23.0\N{NO-BREAK SPACE}% where guessing gives 10.0\N{NO-BREAK SPACE}%" in note
    assert ("weak prior" in note) is weak


def test_note_when_draws_are_too_few_or_absent_then_none() -> None:
    assert few_shot_caveats({"name": "pets"}) == []
    few = benchmark(at_1=0.05)
    few["few_shot"]["draws"] = few["few_shot"]["draws"][:2]
    assert few_shot_caveats(few) == []
