"""`diht parse --why`: which rules changed a tree; and each rule does so on a caption that the rules were made for."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from diht_k8s.cli.captions import parse_command
from diht_k8s.stages.filter import CaptionParser
from diht_k8s.stages.filter.captions.explain import Explanation, explain, rules

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
