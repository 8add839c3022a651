"""`diht parse --why` tells which rules changed a tree, and each rule does so on a caption that the rules were made for;
`benchmarks/run captions --rules` switches them off.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from benchmarks._caption_rules import RuleBench, joint_effect, switched_off
from diht_k8s.cli.captions import parse_command
from diht_k8s.stages.filter import CaptionParser
from diht_k8s.stages.filter.captions.explain import CorrectionRule, Explanation, explain, rules

FOLDER = Path(__file__).parent / "captions"
DEVELOPMENT = ("dev", "dev2", "dev3", "dev4", "heldout2")


def development_captions() -> list[str]:
    """The captions for tuning: annotated ones, and some that show rules which those never meet."""
    annotated = [
        json.loads(line)["caption"]
        for name in DEVELOPMENT
        for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [*annotated, *(FOLDER / "rules.txt").read_text(encoding="utf-8").splitlines()]


@cache
def explained() -> Sequence[Explanation]:
    return explain(development_captions())


def test_every_rule_fires_on_a_development_caption() -> None:
    fired = {step.rule for why in explained() for step in why.steps}
    assert {rule.name for rule in rules()} - fired == set()


def test_every_change_of_a_tree_is_of_a_rule_and_follows_the_one_before() -> None:
    for why in explained():
        trees = [why.before, *(step.after for step in why.steps)]
        assert [step.before for step in why.steps] == trees[:-1]
        assert trees[-1] == why.after
        assert all(step.rule and step.words and step.changed() for step in why.steps)


def test_explained_graphs_are_those_of_the_parser_and_the_hook_is_gone() -> None:
    assert [why.graph for why in explained()] == CaptionParser(cached=0).parse(development_captions())
    assert sys.getprofile() is None


def test_command_shows_the_tree_the_rule_in_words_and_the_graph(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_command(["Bib shorts in black"], why=True) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("as parsed:\n  bib ")
    assert "the last word of a compound looks like a past tense" in shown
    assert "shorts VBZ ROOT  ->  shorts NN ROOT" in shown
    assert "[corrections.join_compound]" in shown
    assert "bib shorts [black]" in shown


def test_command_gives_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_command(["Bib shorts in black"], as_json=True, why=True) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert [step["rule"] for step in found["why"]["steps"]] == ["corrections.join_compound"]
    assert found["why"]["after"][1] == {"text": "shorts", "tag": "NN", "dep": "ROOT", "head": ""}


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
