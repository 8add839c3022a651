"""The sentences of the report say what the figures are, also when they are bad."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from diht_k8s.report.caveats import MANY, benchmark_caveats, caveats, label_caveats, page_caveats
from diht_k8s.report.content import without_images
from diht_k8s.report.formatting import decimal, duration
from diht_k8s.report.overview import explained_reference, explained_references, lede
from diht_k8s.report.sections import (
    benchmark,
    cards,
    filter_rules,
    funnel,
    scores_text,
    steps,
    training_charts,
    training_table,
)


def side(value: float) -> dict[str, Any]:
    return {"recall": {"5": value}, "interval": {"5": [value - 0.03, value + 0.03]}, "chance": {"5": 0.01}}


def content(value: float = 0.27, verdict: str = "better", **changes: Any) -> dict[str, Any]:
    found = {"value": value - 0.2, "interval": [value - 0.23, value - 0.17], "verdict": verdict}
    difference = {"text_to_image": found, "image_to_text": found}
    pixels = {"name": "pixels", "text_to_image": side(0.20), "image_to_text": side(0.20), "difference": difference}
    retrieval = {
        "name": "held-out",
        "type": "Retrieval",
        "pictures": 500,
        "text_to_image": side(value),
        "image_to_text": side(value),
        "references": [pixels],
        "seen": {"pictures": 0, "of": 500, "pairs": 3000},
        "bad": {"picture_empty": 2},
        "notes": [],
    }
    whole = {
        "benchmarks": [retrieval],
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
        (
            {"without_caption": 40, "no_caption": {"caption_empty": 40}},
            "40 of 540 images have no caption and do not count (caption_empty 40).",
        ),
        ({"without_class": 1}, "1 of 501 images have no class and do not count."),
        ({"without_question": 2}, "2 of 502 images have no question and do not count."),
        ({"without_group": 4}, "4 images have no group and do not count."),
        (
            {"unusable_cues": 5},
            "5 entries of `cues` have no text, or an `associated` that is not true or false; their groups do not count.",
        ),
        ({"copies": 3}, "3 samples have the image of another one and count with it."),
        ({"without_class": 0, "without_caption": 0, "copies": 0}, None),
    ],
)
def test_caveats_when_images_lack_what_the_task_asks_about_count_them(
    figures: dict[str, Any], said: str | None
) -> None:
    found = [
        caveat
        for caveat in benchmark_caveats(content()["benchmarks"][0] | figures)
        if "do not count (" in caveat or "have no" in caveat or "of another one" in caveat
    ]
    assert found == ([] if said is None else [f"held-out: {said}"])


@pytest.mark.parametrize(
    ("value", "verdict", "relation"),
    [
        (0.27, "better", "above"),
        (0.27, "not clearly different", "not clearly different from"),
        (0.1, "worse", "below"),
    ],
)
def test_caveats_when_compared_with_raw_pixels_go_by_the_paired_difference(
    value: float, verdict: str, relation: str
) -> None:
    found = [note for note in caveats(content(value, verdict)) if "pixel ridge" in note]
    assert len(found) == 2
    assert all(f"the model is {relation} the pixel ridge" in note for note in found)


@pytest.mark.parametrize(
    "part",
    [
        "trained on 3,000 pairs",
        "not that the recipe helps",
        "does not show whether the filter helps",
        "0 (0.0\N{NO-BREAK SPACE}%) stand byte for byte",
        "2 images could not be read",
        "no label stage",
    ],
)
def test_caveats_when_the_run_is_small_tell_what_it_does_not_show(part: str) -> None:
    assert any(part in note for note in caveats(content()))


def test_caveats_when_a_benchmark_failed_or_the_model_is_random_say_so() -> None:
    failed = {"name": "b", "type": "Retrieval", "error": "no shard"}
    found = caveats(content(benchmarks=[failed], model={"name": "ViT-B-32", "trained": False}))
    assert any("b has no result: no shard" in note for note in found)
    assert any("random weights" in note for note in found)


def test_lede_when_there_are_results_names_chance_beside_them() -> None:
    text = lede(content()).replace("\N{NO-BREAK SPACE}", " ")
    assert "in 27.0 % of cases; chance finds 1.0 %, the pixel ridge 20.0 %." in text
    assert lede(content(benchmarks=[])) == "No benchmark of this run has a result."


def test_lede_and_cards_when_there_are_references_name_the_strongest() -> None:
    body = content()
    weak = body["benchmarks"][0]["references"][0]
    strong = copy.deepcopy(weak) | {"name": "tokens"}
    strong["text_to_image"]["recall"]["5"], strong["difference"]["text_to_image"]["value"] = 0.26, 0.01
    body["benchmarks"][0]["references"] = [weak, strong]
    assert "the BPE ridge 26.0" in lede(body)
    found = cards(body)
    assert any("points to the BPE ridge" in card["note"] for card in found)
    assert [row["name"] for row in found[0]["rows"]][1:3] == ["Pixel ridge", "BPE ridge"]
    (first, *_), text = caveats(body), explained_references(body)
    assert "is above the BPE ridge with 26.0" in first, "the strongest before the weakest"
    assert ", and above the pixel ridge with 20.0" in first
    assert "the pixel ridge from 12 x 12 raw pixels" in text
    assert "; the BPE ridge from BPE tokens and class names" in text
    assert "word ridge" not in text, "not in this report"
    assert explained_reference(body).startswith("BPE ridge: regression from BPE tokens")
    assert explained_reference(content(benchmarks=[])) == ""


@pytest.mark.parametrize(
    ("images", "said"),
    [(29, "in 27.0 % of cases (95 % interval 24 to 30); chance"), (500, "in 27.0 % of cases; chance")],
)
def test_lede_of_few_images_says_how_uncertain_it_is(images: int, said: str) -> None:
    body = content()
    body["benchmarks"][0]["pictures"] = images
    assert said in lede(body).replace("\N{NO-BREAK SPACE}", " ")


def test_cards_when_shown_stand_beside_references_and_chance() -> None:
    found = cards(content())
    assert [row["name"] for row in found[0]["rows"]] == ["This model", "Pixel ridge", "Chance"]
    assert [row["value"] for row in found[0]["rows"]] == pytest.approx([0.9, 2 / 3, 1 / 30])  # 0.30 is the longest
    assert (found[-1]["value"], found[-1]["rows"][0]["value"]) == ("4", 0.4)


def test_lede_and_cards_when_classes_have_no_images_count_those_that_have_some() -> None:
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
    assert {row["name"]: row["text"].replace("\N{NO-BREAK SPACE}", " ") for row in card["rows"]} == {
        "This model": "80.0 %",
        "Commonest class": "50.0 %",
        "Chance": "25.0 %",
    }
    assert benchmark(classes)["commonest"] == 0.5


@pytest.mark.parametrize(("state", "figure"), [("absent", None), ("not committed", "not in this report")])
def test_steps_when_a_stage_is_missing_leave_it_out_or_say_so(state: str, figure: str | None) -> None:
    found = {step["name"]: step for step in steps(content(label={"state": state}))}
    assert found.get("label", {}).get("figure") == figure
    assert found["train"]["seconds"] == "61 s"
    assert found["evaluate"]["figure"] == "1 benchmark"


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "not recorded"), (59.6, "60 s"), (150, "2.5 min"), (9000, "2.5 h")]
)
def test_duration_when_shown_has_a_unit(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("text", "reads \N{LEFT DOUBLE QUOTATION MARK}KUN TOY\N{RIGHT DOUBLE QUOTATION MARK}"),
        ("complexity", "objects: kun; nothing attached"),
        ("action", "objects: kun; no action"),
        ("kept", "objects: kun; actions: run"),
        ("bad:picture_empty", "picture empty"),
    ],
)
def test_scores_text_when_a_pair_is_shown_tells_what_the_filter_saw(reason: str, text: str) -> None:
    assert scores_text({"objects": ["kun"], "actions": ["run"], "texts": ["KUN", "TOY"]}, reason) == text


def test_without_images_when_nested_removes_all_of_them() -> None:
    assert without_images({"a": [{"thumbnails": {"x": "data:"}, "b": 1}], "thumbnails": {}}) == {"a": [{"b": 1}]}


SEEN = {"pictures": 8, "of": 10, "pairs": 72}


def test_caveats_when_images_were_trained_on_give_number_and_share() -> None:
    benchmark = {"name": "x", "type": "Classification", "pictures": 24, "seen": SEEN}
    (note,) = benchmark_caveats(benchmark)
    share = "(80.0\N{NO-BREAK SPACE}%)"
    assert note.startswith(
        f"x: of its 10 different images, 8 {share} stand byte for byte among the first 72 training pairs"
    )
    assert any(f"x {share}" in each for each in page_caveats(content(benchmarks=[benchmark] * (MANY + 1))))


@pytest.mark.parametrize("many", [1, MANY + 1])
@pytest.mark.parametrize(
    ("stages", "seen", "told"), [(["evaluate"], SEEN, 1), (["evaluate"], None, 0), (["train", "evaluate"], SEEN, 0)]
)
def test_caveats_when_the_model_was_made_elsewhere_say_that_its_training_pairs_are_unknown(
    stages: list[str], seen: dict[str, int] | None, told: int, many: int
) -> None:
    benchmarks = [{"name": "x", "type": "Classification", "pictures": 24, "seen": seen}] * many
    found = page_caveats(content(benchmarks=benchmarks, run={"stages": stages}))
    assert sum("made elsewhere" in note for note in found) == told


def test_page_caveats_when_benchmarks_are_many_say_what_concerns_them_all() -> None:
    (one,) = content()["benchmarks"]
    seen = {**one, "name": "leaked", "seen": {"pictures": 125, "of": 500, "pairs": 3000}}
    failed = {"name": "broken", "type": "Retrieval", "error": "its shards are gone"}
    many = content(benchmarks=[*[{**one, "name": f"b{number}"} for number in range(MANY)], seen, failed])
    found = page_caveats(many)
    assert not any("pixel ridge" in note for note in found)
    assert (
        f"the first 3,000 training pairs, of {MANY + 1} that were compared: leaked (25.0\N{NO-BREAK SPACE}%)."
        in " ".join(found)
    )
    assert "The benchmark broken has no result: its shards are gone" in found
    assert page_caveats(content()) == caveats(content())


def test_page_caveats_when_one_of_many_failed_leave_the_others_to_their_folds() -> None:
    (one,) = content()["benchmarks"]
    failed = {"name": "broken", "type": "Retrieval", "error": "its shards are gone"}
    found = page_caveats(content(benchmarks=[*[{**one, "name": f"b{number}"} for number in range(MANY)], failed]))
    assert not any("pixel ridge" in note for note in found)


def test_caveats_when_a_checkpoint_came_without_configuration_say_what_was_assumed() -> None:
    model = {"name": "m", "trained": True, "assumed": "round heads"}
    assert "The model m came without a configuration: round heads are assumed." in caveats(content(model=model))


@pytest.mark.parametrize(
    ("value", "text"), [(None, "\u2013"), (3084.2, "3,084"), (14.32, "14.3"), (1.25e-05, "1.25e-05")]
)
def test_decimal_when_large_is_whole(value: float | None, text: str) -> None:
    assert decimal(value) == text


def test_training_table_when_long_has_means_over_few_intervals() -> None:
    metrics = [{"samples": step, "loss": float(step % 2), "lr": None} for step in range(1, 65)]
    table = training_table({"train": {"metrics": metrics}})
    assert table["names"] == ["samples seen", "total"]
    assert table["rows"][0] == ["4", "0.5"]
    assert (len(table["rows"]), table["rows"][-1][0]) == (16, "64")


def test_training_charts_when_held_out_loss_was_measured_then_stands_beside_the_trainings() -> None:
    metrics = [
        {"samples": step, "loss": 9.0 / step, "contrastive_loss": 4.0 / step}
        | ({"validation_loss": 5.0 / step} if step % 4 == 0 else {})
        for step in range(1, 9)
    ]
    silent = [line | {"object_loss": 0.0, "attribute_loss": 0.0} for line in metrics]
    assert [chart["title"] for chart in training_charts({"train": {"metrics": silent}})] == ["Loss"]
    loss = training_charts({"train": {"metrics": metrics}})[0]
    assert [line["name"] for line in loss["legend"]] == ["total", "contrastive", "contrastive, held-out"]
    assert loss["legend"][2]["last"] == "0.625"
    assert len(re.findall(r"\d,\d", re.findall(r'class="line s2" points="([^"]*)"', loss["chart"])[0])) == 2


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ("Development", "Development split (held-out): settings were chosen on these images"),
        ("HeldOut", "Held-out split (held-out): the run document says that no setting was chosen on these images"),
        (None, None),
    ],
)
def test_caveats_when_a_benchmark_has_a_split_then_say_what_its_images_were_used_for(
    split: str | None, says: str | None
) -> None:
    (one,) = content()["benchmarks"]
    named = content(benchmarks=[{**one, "split": split}])
    assert any(note.startswith(str(says)) for note in caveats(named)) is (says is not None)
    assert any("split" in note for note in caveats(named)) is (says is not None)
    word = {"Development": "500 development images", "HeldOut": "500 held-out images", None: "500 images"}[split]
    assert f"among {word} within" in lede(named)
    assert cards(named)[0]["note"].partition(";")[0] == f"among {word}"


def test_lede_when_both_splits_were_evaluated_then_shows_the_held_out_one() -> None:
    (one,) = content()["benchmarks"]
    both = [{**one, "split": "Development", "pictures": 7}, {**one, "split": "HeldOut", "pictures": 9}]
    assert "among 9 held-out images" in lede(content(benchmarks=both))


def labels(precision: float | None = 0.42) -> dict[str, Any]:
    head = {"top_label_in_caption": {"never_seen": 0.76, "commonest_concept": 0.63}}
    return {"heads": {"objects": head}, "added": {"pictures": 0.12, "precision": precision}}


@pytest.mark.parametrize(("precision", "says"), [(0.42, True), (None, False)], ids=["folds", "no folds"])
def test_caveats_when_labels_add_objects_then_say_how_often_captions_name_them_and_that_nobody_looked(
    precision: float | None, says: bool
) -> None:
    found = " ".join(label_caveats(labels(precision))).replace("\N{NO-BREAK SPACE}", " ")
    assert "For 12.0 % of the images an object is shown that their caption does not name" in found
    assert ("name such an object in 42.0 % of the images" in found) is says
    assert ("nobody has looked" in found) is says


def test_caveats_when_labels_are_judged_then_stand_beside_the_majority_and_do_not_call_them_right() -> None:
    whole = content(label={"state": "committed", "report": labels()})
    found = " ".join(caveats(whole)).replace("\N{NO-BREAK SPACE}", " ")
    assert "a word of the caption for 76.0 % of the images; always naming the commonest would be for 63.0 %" in found
    assert not any("Concept labels" in note for note in page_caveats(whole)), "the page has them in their section"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {},
            "This run keeps a pair when its caption says 1 thing about an object (complexity), names at least 1 action and is not just text in the image (text spotting). Further rules: a caption in English.",
        ),
        (
            {"minObjects": 1, "minComplexity": 0, "minActions": 0, "language": "Any"},
            "This run keeps a pair when its caption names at least 1 object and is not just text in the image (text spotting).",
        ),
        (
            {"minComplexity": 2, "minActions": 0, "textSpotting": {"mode": "ScoreOnly"}, "duplicates": "Near"},
            "This run keeps a pair when its caption says 2 things about an object (complexity). Further rules: a caption in English, no repeated image.",
        ),
        (
            {"minComplexity": 0, "minActions": 0, "textSpotting": {"mode": "Disabled"}, "language": "Any"},
            "This run has no rule of CAT.",
        ),
    ],
)
def test_section_on_the_filter_says_the_rules_of_the_run(given: dict[str, Any], said: str) -> None:
    assert filter_rules(content(config={"spec": {"filter": given}})) == said


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, ["Complexity (C)", "Action (A)", "No painted caption (T)"]),
        ({"minComplexity": 0, "minActions": 0}, ["Complexity (C), off", "Action (A), off", "No painted caption (T)"]),
        ({"textSpotting": {"mode": "Disabled"}}, ["Complexity (C)", "Action (A)", "No painted caption (T), off"]),
        (
            {"textSpotting": {"mode": "ScoreOnly"}},
            ["Complexity (C)", "Action (A)", "No painted caption (T), only scored"],
        ),
    ],
)
def test_funnel_says_which_rules_of_cat_are_off(given: dict[str, Any], names: list[str]) -> None:
    rows = [{"step": step, "samples": 1, "dropped": 0} for step in ("input", "complexity", "action", "text")]
    found = funnel(content(funnel=rows, config={"spec": {"filter": given}}))
    assert [row["name"] for row in found[1:]] == names


def test_section_on_the_filter_says_nothing_of_a_run_without_one() -> None:
    assert filter_rules(content(filter={"state": "absent"})) == ""
