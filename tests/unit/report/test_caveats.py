"""The sentences of the report say what the figures are, also when they are bad."""

from __future__ import annotations

import re
from typing import Any

import pytest

from diht_k8s.report.caveats import (
    MANY,
    benchmark_caveats,
    caveats,
    few_shot_caveats,
    few_shot_verdicts,
    label_caveats,
    page_caveats,
)
from diht_k8s.report.overview import decimal, duration, explained_reference, lede
from diht_k8s.report.sections import (
    benchmark,
    cards,
    filter_rules,
    funnel,
    learned_from,
    scores_text,
    steps,
    training_charts,
    training_table,
)

SPACE = "\N{NO-BREAK SPACE}"
FAILED = {"name": "broken", "type": "Retrieval", "error": "its shards are gone"}
SEEN = {"pictures": 8, "of": 10, "pairs": 72}


def side(value: float) -> dict[str, Any]:
    return {"recall": {"5": value}, "interval": {"5": [value - 0.03, value + 0.03]}, "chance": {"5": 0.01}}


def retrieval(value: float = 0.27, verdict: str = "better", **changes: Any) -> dict[str, Any]:
    found = {"value": value - 0.2, "interval": [value - 0.23, value - 0.17], "verdict": verdict}
    difference = {"text_to_image": found, "image_to_text": found}
    ridge = {"name": "tokens", "text_to_image": side(0.20), "image_to_text": side(0.20), "difference": difference}
    return {
        "name": "held-out",
        "type": "Retrieval",
        "pictures": 500,
        "text_to_image": side(value),
        "image_to_text": side(value),
        "references": [ridge],
        "seen": {"pictures": 0, "of": 500, "pairs": 3000},
        "bad": {"picture_empty": 2},
        "notes": [],
        **changes,
    }


def content(**changes: Any) -> dict[str, Any]:
    whole = {
        "benchmarks": [retrieval()],
        "filter": {"state": "committed"},
        "label": {"state": "absent"},
        "train": {"state": "committed", "summary": {"pairs": 3000, "samples": 100, "steps": 2}},
        "run": {"stages": ["filter", "train", "evaluate"]},
        "config": {"spec": {"train": {}}},
        "missing": {"label": "This run has no label stage."},
        "model": {"name": "m", "trained": True},
        "funnel": [{"step": "input", "samples": 10, "dropped": 0}, {"step": "text", "samples": 4, "dropped": 6}],
        "cost": [{"stage": "train", "samples": 100, "seconds": 61.0}],
    }
    return whole | changes


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"without_caption": 40, "no_caption": {"caption_empty": 40}}, "40 of 540 images have no caption"),
        ({"without_class": 1}, "1 of 501 images have no class"),
        ({"without_question": 2}, "2 of 502 images have no question"),
        ({"without_group": 4}, "4 images have no group"),
        ({"unusable_cues": 5}, "5 entries of `cues`"),
        ({"copies": 3}, "3 samples have the image of another one"),
        ({"left_out": 6}, "6 incomplete groups"),
        ({"without_class": 0, "without_caption": 0, "copies": 0}, None),
    ],
)
def test_images_that_lack_what_the_task_asks_about_are_counted(figures: dict[str, Any], said: str | None) -> None:
    found = set(benchmark_caveats(retrieval(**figures))) - set(benchmark_caveats(retrieval()))
    assert [str(said) in note for note in found] == ([] if said is None else [True])


@pytest.mark.parametrize(
    ("value", "verdict", "relation"),
    [
        (0.27, "better", "above"),
        (0.27, "not clearly different", "not clearly different from"),
        (0.1, "worse", "below"),
    ],
)
def test_comparison_with_the_reference_goes_by_the_paired_difference(value: float, verdict: str, relation: str) -> None:
    found = caveats(content(benchmarks=[retrieval(value, verdict)]))[:2]
    assert all(f"the model is {relation} the BPE ridge with 20.0" in note for note in found)


def test_run_tells_what_it_does_not_show() -> None:
    model = {"name": "m", "trained": False, "assumed": "round heads"}
    found = caveats(content(model=model, benchmarks=[retrieval(), FAILED]))
    for part in (
        "trained on 3,000 pairs",
        "does not show whether the filter helps",
        f"0 (0.0{SPACE}%) stand byte for byte",
        "2 images could not be read",
        "no label stage",
        "broken has no result: its shards are gone",
        "m has random weights",
        "m came without a configuration: round heads are assumed",
    ):
        assert any(part in note for note in found), part


def test_lede_and_cards_name_reference_and_chance_beside_the_figure() -> None:
    body = content()
    assert f"in 27.0{SPACE}% of cases; chance finds 1.0{SPACE}%, the BPE ridge 20.0{SPACE}%." in lede(body)
    assert explained_reference(body).startswith("BPE ridge: ridge regression")
    found = cards(body)
    assert "points to the BPE ridge" in found[0]["note"]
    assert [row["name"] for row in found[0]["rows"]] == ["This model", "BPE ridge", "Chance"]
    assert [row["value"] for row in found[0]["rows"]] == pytest.approx([0.9, 2 / 3, 1 / 30])  # 0.30 is the longest
    assert (found[-1]["value"], found[-1]["rows"][0]["value"]) == ("4", 0.4)
    few = content(benchmarks=[retrieval(pictures=29, references=[])])
    assert f"(95{SPACE}% interval 24 to 30); chance finds 1.0{SPACE}%." in lede(few)
    assert [row["name"] for row in cards(few)[0]["rows"]] == ["This model", "Chance"]
    assert (explained_reference(few), lede(content(benchmarks=[]))) == ("", "No benchmark of this run has a result.")


def test_classes_without_images_do_not_count_in_lede_and_cards() -> None:
    classes = {
        "name": "held-out",
        "type": "Classification",
        "pictures": 10,
        "classes": list("abcd"),
        "class_pictures": [5, 5, 0, 0],
        "balanced": 0.8,
        "balanced_interval": [0.5, 0.9],
        "chance": 0.25,
        "per_class": [0.9, 0.7, None, None],
    }
    body = content(benchmarks=[classes])
    assert "its mean accuracy over 2 classes is 80.0" in lede(body)
    card = cards(body)[0]
    assert card["note"] == "mean over 2 classes, 10 images"
    assert [row["text"] for row in card["rows"]] == [f"{share}{SPACE}%" for share in ("80.0", "50.0", "25.0")]
    assert benchmark(classes)["commonest"] == 0.5


@pytest.mark.parametrize(("state", "figure"), [("absent", None), ("not committed", "not in this report")])
def test_steps_when_a_stage_is_missing_leave_it_out_or_say_so(state: str, figure: str | None) -> None:
    found = {step["name"]: step for step in steps(content(label={"state": state}))}
    assert found.get("label", {}).get("figure") == figure
    assert found["train"]["seconds"] == "61 s"
    assert found["evaluate"]["figure"] == "1 benchmark"


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (duration(None), "not recorded"),
        (duration(59.6), "60 s"),
        (duration(150), "2.5 min"),
        (duration(9000), "2.5 h"),
        (decimal(None), "\u2013"),
        (decimal(3084.2), "3,084"),
        (decimal(14.32), "14.3"),
        (decimal(1.25e-05), "1.25e-05"),
        *(
            (scores_text({"objects": ["kun"], "actions": ["run"], "texts": ["KUN", "TOY"]}, reason), text)
            for reason, text in (
                ("text", "reads “KUN TOY”"),
                ("complexity", "objects: kun; nothing attached"),
                ("kept", "objects: kun; actions: run"),
                ("bad:picture_empty", "picture empty"),
            )
        ),
    ],
)
def test_value_is_shown_in_few_words(shown: str, text: str) -> None:
    assert shown == text


@pytest.mark.parametrize("many", [1, MANY + 1])
@pytest.mark.parametrize(
    ("stages", "seen", "told"), [(["evaluate"], SEEN, 1), (["evaluate"], None, 0), (["train", "evaluate"], SEEN, 0)]
)
def test_images_that_were_trained_on_are_told_and_whether_the_model_was_made_elsewhere(
    stages: list[str], seen: dict[str, int] | None, told: int, many: int
) -> None:
    benchmarks = [{"name": "x", "type": "Classification", "pictures": 24, "seen": seen}] * many
    found = page_caveats(content(benchmarks=benchmarks, run={"stages": stages}))
    assert sum("made elsewhere" in note for note in found) == told
    assert any("byte for byte" in note and f"80.0{SPACE}%" in note for note in found) is (seen is not None)


def test_page_of_many_benchmarks_says_what_concerns_them_all_and_leaves_the_rest_to_their_folds() -> None:
    seen = retrieval(name="leaked", seen={"pictures": 125, "of": 500, "pairs": 3000})
    many = [*(retrieval(name=f"b{number}") for number in range(MANY)), seen, FAILED]
    found = page_caveats(content(benchmarks=many))
    assert not any("BPE ridge" in note for note in found)
    assert f"of {MANY + 1} that were compared: leaked (25.0{SPACE}%)." in " ".join(found)
    assert "The benchmark broken has no result: its shards are gone" in found
    assert not any("BPE ridge" in note for note in page_caveats(content(benchmarks=[*many[:MANY], FAILED])))
    assert page_caveats(content()) == caveats(content())


def test_training_table_when_long_has_means_over_few_intervals() -> None:
    metrics = [{"samples": step, "loss": float(step % 2), "lr": None} for step in range(1, 65)]
    table = training_table({"train": {"metrics": metrics}})
    assert table["names"] == ["samples seen", "total"]
    assert table["rows"][0] == ["4", "0.5"]
    assert (len(table["rows"]), table["rows"][-1][0]) == (16, "64")


def test_training_charts_when_held_out_loss_was_measured_then_stands_beside_the_trainings() -> None:
    metrics = [
        {"samples": step, "loss": 9.0 / step, "contrastive_loss": 4.0 / step, "object_loss": 0.0}
        | ({"validation_loss": 5.0 / step} if step % 4 == 0 else {})
        for step in range(1, 9)
    ]
    (loss,) = training_charts({"train": {"metrics": metrics}})
    assert [line["name"] for line in loss["legend"]] == ["total", "contrastive", "contrastive, held-out"]
    assert loss["legend"][2]["last"] == "0.625"
    assert len(re.findall(r"\d,\d", re.findall(r'class="line s2" points="([^"]*)"', loss["chart"])[0])) == 2


@pytest.mark.parametrize(
    ("split", "word", "says"),
    [
        ("Development", "500 development images", "Development split (held-out): settings were chosen"),
        ("HeldOut", "500 held-out images", "Held-out split (held-out): the run document says that no setting"),
        (None, "500 images", None),
    ],
)
def test_split_of_a_benchmark_says_what_its_images_were_used_for(
    split: str | None, word: str, says: str | None
) -> None:
    named = content(benchmarks=[retrieval(split=split)])
    assert [note.startswith(says or "") for note in caveats(named) if "split" in note] == [True] * (says is not None)
    assert f"among {word} within" in lede(named)
    assert cards(named)[0]["note"].partition(";")[0] == f"among {word}"
    both = [retrieval(split="Development", pictures=7), retrieval(split="HeldOut", pictures=9)]
    assert "among 9 held-out images" in lede(content(benchmarks=both))


@pytest.mark.parametrize(("precision", "says"), [(0.42, True), (None, False)], ids=["folds", "no folds"])
def test_labels_stand_beside_the_majority_in_their_section_and_nobody_calls_them_right(
    precision: float | None, says: bool
) -> None:
    head = {"top_label_in_caption": {"never_seen": 0.76, "commonest_concept": 0.63}}
    labels = {"heads": {"objects": head}, "added": {"pictures": 0.12, "precision": precision}}
    found = " ".join(label_caveats(labels)).replace(SPACE, " ")
    assert "a word of the caption for 76.0 % of the images; always naming the commonest would be for 63.0 %" in found
    assert "For 12.0 % of the images an object is shown that their caption does not name" in found
    assert ("name such an object in 42.0 % of the images" in found) is says
    whole = content(label={"state": "committed", "report": labels})
    assert set(caveats(whole)) - set(page_caveats(whole)) == set(label_caveats(labels))


@pytest.mark.parametrize(
    ("given", "said", "off"),
    [
        (
            {},
            "its caption says 1 thing about an object (complexity), names at least 1 action and is not just text "
            "in the "
            "image (text spotting). Further rules: a caption in English.",
            ["", "", ""],
        ),
        (
            {"minComplexity": 2, "minActions": 0, "textSpotting": {"mode": "ScoreOnly"}, "duplicates": "Near"},
            "its caption says 2 things about an object (complexity). Further rules: a caption in English, no "
            "repeated image.",
            ["", ", off", ", only scored"],
        ),
        (
            {"minComplexity": 0, "minActions": 0, "textSpotting": {"mode": "Disabled"}, "language": "Any"},
            "This run has no rule of CAT.",
            [", off", ", off", ", off"],
        ),
    ],
)
def test_section_on_the_filter_says_the_rules_of_the_run(given: dict[str, Any], said: str, off: list[str]) -> None:
    rows = [{"step": step, "samples": 1, "dropped": 0} for step in ("input", "complexity", "action", "text")]
    whole = content(funnel=rows, config={"spec": {"filter": given}})
    assert filter_rules(whole).endswith(said)
    names = ["Complexity (C)", "Action (A)", "No painted caption (T)"]
    assert [row["name"] for row in funnel(whole)[1:]] == [name + more for name, more in zip(names, off, strict=True)]
    assert filter_rules(content(filter={"state": "absent"})) == ""


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({}, ["hard negatives", "concept heads"]),
        ({"loss": {"beta": 0.0}, "distillation": {"mode": "Disabled"}}, ["captions"]),
        (
            {"distillation": {"mode": "Disabled", "embeddings": {"weight": 1.0}}},
            ["hard negatives", "a teacher's embeddings"],
        ),
    ],
)
def test_page_names_what_the_training_learned_from(train: dict[str, Any], said: list[str]) -> None:
    assert learned_from({"config": {"spec": {"train": train}}}) == said


def draws(**gains: float) -> list[dict[str, Any]]:
    """Five draws for each number of shots; the probe is better than scratch by a gain that scatters."""
    return [
        {"shots": int(name.removeprefix("at_")), "scratch": 0.3 + scatter, "probe": 0.3 + 2 * scatter + gain}
        for name, gain in gains.items()
        for scatter in (0.01, -0.012, 0.004, -0.006, 0.008)
    ]


def test_few_shot_verdicts_say_whether_the_probe_wins_ties_or_loses() -> None:
    found = few_shot_verdicts(draws(at_1=0.05, at_2=0.0, at_8=-0.05))
    assert found == {1: "better", 2: "not clearly different", 8: "worse"}
    three = [{"shots": 1, "scratch": 0.3, "probe": 0.3 + gain} for gain in (0.005, 0.01, 0.015)]
    assert few_shot_verdicts(three) == {1: "not clearly different"}, "Student's t of two degrees is 3.5, below 4.3"


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
def test_few_shot_note_follows_the_figures(gains: dict[str, float], part: str, weak: bool) -> None:
    found = {"draws": draws(**gains), "points": [{"draws": 5, "zero_shot": {"mean": 0.23}}]}
    pets: dict[str, Any] = {"name": "pets", "chance": 0.1, "few_shot": found}
    (note,) = few_shot_caveats(pets)
    assert part in note
    assert f"right for 23.0{SPACE}% where guessing gives 10.0{SPACE}%" in note
    assert ("weak prior" in note) is weak
    found["draws"] = found["draws"][:2]
    assert few_shot_caveats(pets) == few_shot_caveats({"name": "pets"}) == []
