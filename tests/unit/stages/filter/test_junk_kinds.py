from __future__ import annotations

import json
from collections import Counter

import pytest

from diht_k8s.stages.filter.junk_kinds import MAX_KINDS, MAX_NAME, SHOWN_KINDS, JunkKinds, kind_of

RULES = ("language", "complexity", "text")
POOL = (
    *[("", "")] * 60,
    *[("", "complexity")] * 20,
    *[("watermark", "text")] * 6,
    *[("watermark", "")] * 2,
    *[("file name", "complexity")] * 10,
    ("file name", "bad:picture_empty"),
    ("foreign caption", "language"),
    ("foreign caption", ""),
)


def counted(*pairs: tuple[str, str]) -> JunkKinds:
    kinds = JunkKinds()
    for kind, reason in pairs:
        kinds.add(kind, reason)
    return kinds


def stored(kinds: JunkKinds) -> JunkKinds:
    return JunkKinds.from_json(json.loads(json.dumps(kinds.to_json())))


@pytest.mark.parametrize(
    ("meta", "kind"),
    [
        ({}, ""),
        ({"junk": None}, ""),
        ({"junk": ""}, ""),
        ({"junk": False}, ""),
        ({"junk": float("nan")}, ""),
        ({"junk": True}, "True"),
        ({"junk": "file name"}, "file name"),
        ({"junk": " a\n\tb\x00\u202e c "}, "a b c"),
        ({"junk": "\ud800"}, "not printable"),
        ({"junk": "x" * 1000}, "x" * MAX_NAME),
        ({"junk": ["a"]}, "['a']"),
    ],
)
def test_kind_is_a_short_printable_text(meta: dict[str, object], kind: str) -> None:
    assert kind_of(meta, "junk") == kind


def test_figures_are_shares_of_the_pairs_that_can_be_used() -> None:
    found = counted(*POOL).figures("junk", RULES)
    assert found["wanted"] == {"pairs": 80, "bad": 0, "kept": 60, "dropped": {"complexity": 20}}
    assert [(row["kind"], row["pairs"], row["bad"], row["kept"]) for row in found["kinds"]] == [
        ("file name", 11, 1, 0),
        ("watermark", 8, 0, 2),
        ("foreign caption", 2, 0, 1),
    ]
    assert [(each["rule"], each["dropped"], each["precision"], each["recall"]) for each in found["rules"]] == [
        ("language", 1, 1.0, 0.05),
        ("complexity", 30, 0.3333, 0.5),
        ("text", 6, 1.0, 0.3),
    ]
    assert found["filter"] == {
        "precision": round(17 / 37, 4),
        "recall": 0.85,
        "wanted_kept": 0.75,
        "kept": 0.63,
        "junk_before": 0.2,
        "junk_after": round(3 / 63, 4),
    }


def test_figures_of_a_pool_without_the_field_are_shares_of_nothing() -> None:
    found = counted(("", ""), ("", "text")).figures("junk", RULES)
    assert (found["kinds"], found["other_kinds"], found["filter"]["recall"]) == ([], None, None)
    assert JunkKinds().figures("junk", RULES)["filter"]["junk_before"] is None


def test_sums_of_parts_equal_the_whole_in_any_grouping() -> None:
    total = JunkKinds()
    for part in (POOL[:70], POOL[70:71], POOL[71:]):
        total.merge(stored(counted(*part)))
    assert total.to_json() == counted(*POOL).to_json()


def test_kinds_of_a_hostile_pool_are_bounded_and_no_pair_is_lost() -> None:
    total = JunkKinds()
    for shard in range(5):
        many = [(f"{shard} {number}", "text" if number % 2 else "") for number in range(1000)]
        total.merge(stored(counted(*many, *[("watermark", "text")] * 3, ("", ""))))
    assert len(total.counts) == MAX_KINDS + 1
    assert total.pairs == 5 * 1004
    found = total.figures("junk", RULES)
    assert len(found["kinds"]) == SHOWN_KINDS
    assert found["kinds"][0]["kind"] == "watermark"
    assert found["other_kinds"]["pairs"] == 5000 - SHOWN_KINDS + 1
    assert found["junk"]["pairs"] == 5015


def test_later_rule_and_takedown_move_and_remove_pairs() -> None:
    kinds = counted(("watermark", ""), ("watermark", ""), ("", ""), ("file name", ""))
    kinds.drop("watermark", "duplicate")
    kinds.exclude(counted(("file name", "")))
    assert kinds.to_json()["kinds"] == {"": {"": 1}, "watermark": {"": 1, "duplicate": 1}}


def test_name_of_a_kind_goes_where_no_pair_has_it_any_more() -> None:
    kinds = counted(("somebody's caption", "text"), ("watermark", "text"))
    kinds.name_only({"watermark"})
    assert (set(kinds.counts), kinds.others) == ({"watermark"}, Counter(text=1))
