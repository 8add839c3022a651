"""The hand-annotated captions obey their own guidelines (`tests/recipe/filter/captions/GUIDELINES.md`).

The tests check the schema of the files, that every name occurs in its caption in order, that complexity and
num_actions follow from the graph, that no caption is in two files, and the counts. Messages contain ids only, so a
failure does not show a held-out caption to those who tune the rules.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

CAPTIONS = Path(__file__).parents[3] / "recipe" / "filter" / "captions"
FILES = ("dev", "heldout", "dev3", "heldout2", "heldout3", "dev4", "heldout5")
FIELDS = ("id", "caption", "style", "objects", "attributes", "relations", "actions", "complexity", "num_actions")
IRREGULAR = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "foot": "feet",
    "ox": "oxen",
    "goose": "geese",
    "tooth": "teeth",
    "fisherman": "fishermen",
}


def load(name: str) -> list[dict[str, Any]]:
    """The annotations of one file."""
    return [json.loads(line) for line in (CAPTIONS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def words(text: str) -> list[str]:
    """Lower-case tokens; a possessive ending is cut off, a full stop stays with a short form ("dr.")."""
    plain = html.unescape(text).lower().replace("\u2019", "'")
    return [re.sub(r"'s?$", "", w) for w in re.findall(r"dr\.|[\w][\w'-]*", plain)]


def inflections(lemma: str) -> set[str]:
    """The surface forms that a noun's lemma may have in a caption."""
    plurals = {lemma + "s", lemma + "es", lemma[:-1] + "ies", lemma[:-1] + "ves", lemma[:-2] + "ves"}
    return {lemma, IRREGULAR.get(lemma, lemma)} | plurals


def bare(name: str) -> str:
    """The lemma of a mention: "dog#2" is a dog."""
    return name.split("#")[0]


def misplaced_objects(row: dict[str, Any]) -> list[str]:
    """Objects whose words do not occur in the caption after the object before them."""
    tokens, start, missing = words(row["caption"]), 0, []
    for name in row["objects"]:
        *modifiers, head = words(bare(name))
        at = start
        try:
            for modifier in modifiers:
                at = tokens.index(modifier, at) + 1
            at = next(i for i in range(at, len(tokens)) if tokens[i] in inflections(head))
        except (ValueError, StopIteration):
            missing.append(name)
            continue
        start = at + 1
    return missing


def complexity_of(row: dict[str, Any]) -> int:
    """The largest number of attributes and relation triples of one object."""
    triples = {tuple(triple) for triple in row["relations"]}
    degrees = [
        sum(owner == name for owner, _ in row["attributes"]) + sum(name in (s, o) for s, _, o in triples)
        for name in row["objects"]
    ]
    return max(degrees, default=0)


def is_action_of(predicate: str, action: str) -> bool:
    """Whether a predicate is the verb alone or the verb with a preposition."""
    return predicate == action or predicate.startswith(action + " ")


@pytest.mark.parametrize("name", FILES)
def test_annotations_obey_the_guidelines(name: str) -> None:
    for number, row in enumerate(load(name), start=1):
        assert (tuple(row), row["id"]) == (FIELDS, f"{name}-{number:03d}"), row["id"]
        assert row["caption"] == row["caption"].strip() != "", row["id"]
        assert all(len(pair) == 2 for pair in row["attributes"]), row["id"]
        assert all(len(triple) == 3 and triple[1] for triple in row["relations"]), row["id"]
        predicates = [predicate for _, predicate, _ in row["relations"]]
        names = [*row["objects"], *row["actions"], *predicates]
        assert all(n == n.lower().strip() != "" for n in names), row["id"]
        for listed in (row["objects"], map(tuple, row["attributes"]), map(tuple, row["relations"])):
            assert max(Counter(listed).values(), default=1) == 1, row["id"]
        ends = {end for s, _, o in row["relations"] for end in (s, o)} - {None}
        assert ends | {owner for owner, _ in row["attributes"]} <= set(row["objects"]), row["id"]
        assert misplaced_objects(row) == [], row["id"]
        said = set(words(row["caption"]))
        assert all(set(words(attribute)) <= said for _, attribute in row["attributes"]), row["id"]
        assert row["complexity"] == complexity_of(row), row["id"]
        assert row["num_actions"] == len(row["actions"]), row["id"]
        assert all(any(is_action_of(p, action) for p in predicates) for action in row["actions"]), row["id"]


@pytest.mark.parametrize("name", FILES)
def test_null_when_used_then_the_action_has_no_other_triple_with_that_object(name: str) -> None:
    for row in load(name):
        for subject, predicate, obj in row["relations"]:
            if subject is not None and obj is not None:
                continue
            known = subject or obj
            assert predicate in row["actions"], row["id"]
            same = [1 for s, p, o in row["relations"] if is_action_of(p, predicate) and known in (s, o)]
            assert len(same) == 1, row["id"]


def test_no_caption_is_annotated_twice() -> None:
    keys = [" ".join(words(row["caption"])) or row["caption"] for name in (*FILES, "dev2") for row in load(name)]
    assert [key for key, count in Counter(keys).items() if count > 1] == []
