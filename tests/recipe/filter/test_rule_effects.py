"""`benchmarks/run captions --rules`: graphs from copied trees are the parser's, and a rule that is off changes some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks._caption_rules import RuleBench, joint_effect, switched_off
from diht_k8s.stages.filter import CaptionParser
from diht_k8s.stages.filter.captions.explain import CorrectionRule, rules

CAPTIONS = ("Owl Themed Word Cards", "a car parked in front of a house", "two small dogs")
BY_NAME = {rule.name: rule for rule in rules()}
TITLES = BY_NAME["titles.correct_past_participle"]


@pytest.fixture(scope="module")
def bench() -> RuleBench:
    return RuleBench(CAPTIONS, [(True, False), (True, True), (True, False)])


def test_graphs_with_all_rules_are_those_of_the_parser(bench: RuleBench) -> None:
    assert bench.graphs == CaptionParser(cached=0).parse(CAPTIONS)
    assert bench.right == 3


@pytest.mark.parametrize(
    ("off", "graphs", "verdicts", "right"),
    [
        ([], [], [], 3),
        ([TITLES], [0], [0], 2),
        ([BY_NAME["corrections.join_prepositions"]], [1], [], 3),
        ([TITLES, BY_NAME["corrections.join_prepositions"]], [0, 1], [0], 2),
    ],
)
def test_effect_of_rules_that_are_off(
    bench: RuleBench, off: list[CorrectionRule], graphs: list[int], verdicts: list[int], right: int
) -> None:
    effect, _ = bench.without(off)
    assert (effect.graphs, effect.verdicts, effect.right) == (graphs, verdicts, right)


def test_rules_are_on_again_after_an_error() -> None:
    code = TITLES.function.__code__
    with pytest.raises(ZeroDivisionError), switched_off([TITLES]):
        _ = 1 / (TITLES.function.__code__ is code)
    assert TITLES.function.__code__ is code


def test_changed_captions_are_written_with_both_graphs(bench: RuleBench, tmp_path: Path) -> None:
    lines = list(joint_effect(bench, [TITLES], str(tmp_path / "changed.jsonl")))
    (changed,) = map(json.loads, (tmp_path / "changed.jsonl").read_text(encoding="utf-8").splitlines())
    assert lines[1].split()[:3] == ["1", "1", "2"]
    assert (changed["caption"], changed["verdict_changed"]) == (CAPTIONS[0], True)
    assert "actions 0" in changed["with"]
    assert "actions 1" in changed["without"]
