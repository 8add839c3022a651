from __future__ import annotations

import json

import pytest

from diht_k8s.api.filter import Filter
from diht_k8s.data.shards.samples import Sample
from diht_k8s.stages.filter.scores import Row
from diht_k8s.stages.filter.summary import MAX_EXAMPLES, Summary, report


def row(number: int, reason: str = "", *, complexity: int = 1, actions: int = 0, matched: bool | None = None) -> Row:
    parsed = not reason.startswith("bad") and reason != "exclude"
    return Row(
        shard="s",
        index=str(number),
        uid=f"uid-{number}",
        caption_sha256="",
        objects=["dog"] if parsed else [],
        attributes=[("dog", "small")] if parsed else [],
        complexity=complexity,
        num_actions=actions,
        kept=not reason,
        reason=reason,
        parser_version="p" if parsed else "",
        matched=matched,
    )


def sample(painted: object = None) -> Sample:
    meta = {} if painted is None else {"painted": painted}
    return Sample("k", {}, "u", "a small dog", meta)


def summary_of(*rows: Row, painted: object = None) -> Summary:
    summary = Summary()
    for item in rows:
        summary.add(item, sample(painted), filtered=True, min_characters=5)
    return summary


ROWS = (
    row(1, matched=False),
    row(2, "complexity", complexity=0),
    row(3, "bad:picture_empty"),
    row(4, "text", complexity=2, actions=1, matched=True),
    row(5, "exclude"),
    row(6, "action", complexity=3),
)


def test_every_sample_is_counted_by_reason() -> None:
    summary = summary_of(*ROWS)
    assert summary.accounted == summary.input
    assert summary.counts() == {
        "input": 6,
        "kept": 1,
        "bad": {"picture_empty": 1},
        "dropped": {"action": 1, "complexity": 1, "exclude": 1, "text": 1},
    }


def test_sums_of_parts_equal_the_whole_in_any_grouping() -> None:
    parts = [summary_of(*ROWS[:2]), summary_of(*ROWS[2:3]), summary_of(*ROWS[3:])]
    total = Summary()
    for part in parts:
        total.merge(Summary.from_json(json.loads(json.dumps(part.to_json()))))
    assert total.to_json() == summary_of(*ROWS).to_json()


def test_examples_are_a_bounded_draw_independent_of_order() -> None:
    rows = [row(number) for number in range(50)]
    forward, backward = summary_of(*rows), summary_of(*reversed(rows))
    assert len(forward.examples["kept"]) == MAX_EXAMPLES
    assert forward.examples == backward.examples


def test_excluding_later_gives_the_counts_of_excluding_before() -> None:
    left, gone = [row(number, matched=False) for number in range(8)], [row(9, complexity=2, matched=False)]
    summary = summary_of(*left, *gone)
    summary.exclude(summary_of(*gone), {"uid-9"})
    assert summary.accounted == summary.input
    assert summary.to_json() == summary_of(*left, row(9, "exclude")).to_json()


def test_funnel_ends_at_what_was_kept() -> None:
    document = report(summary_of(*ROWS), Filter(), {})
    assert [(step["step"], step["samples"]) for step in document["funnel"]] == [
        *(
            ("input", 6),
            ("readable", 5),
            ("exclude", 4),
            ("language", 4),
            ("complexity", 3),
            ("action", 2),
            ("text", 1),
        ),
    ]


def test_table_of_thresholds_gives_text_only_where_every_image_was_read() -> None:
    table = {
        (line["minComplexity"], line["minActions"]): (line["complexity"], line["action"], line["text"])
        for line in report(summary_of(*ROWS), Filter(), {})["table"]
    }
    assert table[1, 0] == (3, 3, None)  # row 6 was dropped before its image was read
    assert table[1, 1] == (3, 1, 0)


@pytest.mark.parametrize("reason", ["language", "objects"])
def test_table_of_thresholds_leaves_out_what_an_earlier_rule_dropped(reason: str) -> None:
    assert summary_of(row(1, reason), row(2)).cells == summary_of(row(2)).cells


@pytest.mark.parametrize(
    ("painted", "matched", "key"),
    [
        ({"text": "SMALL"}, True, "painted_found"),
        ({"text": "SMALL"}, False, "painted_missed"),
        ({"text": "A DOG"}, False, "short_missed"),
        ({"text": "A DOG"}, True, "short_found"),
        ({"text": "WILD"}, False, "short_missed"),
        (False, True, "clean_dropped"),
        (False, False, "clean_passed"),
    ],
)
def test_painted_words_score_the_text_spotter(painted: object, matched: bool, key: str) -> None:
    assert summary_of(row(1, matched=matched), painted=painted).painted == {key: 1}


def test_recall_and_precision_come_from_painted_words() -> None:
    summary = Summary()
    for painted, matched in [({"text": "small"}, True)] * 3 + [({"text": "small"}, False)] + [(False, True)]:  # type: ignore[list-item]
        summary.add(row(1, matched=matched), sample(painted), filtered=True, min_characters=5)
    spotting = report(summary, Filter(), {})["text_spotting"]
    assert (spotting["recall"], spotting["precision"]) == (0.75, 0.75)
