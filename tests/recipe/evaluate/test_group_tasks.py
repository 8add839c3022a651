"""PairMatching, CaptionChoice and Association from shards to report, page and comparison."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.errors import DataError
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.report.per_image import read_per_image
from diht_k8s.runtime.stage import run_stage
from diht_k8s.stages.evaluate import group_tasks
from diht_k8s.stages.evaluate import stage as program
from diht_k8s.stages.evaluate.benchmark_images import BenchmarkImage, Cue
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.soundness import TextEncoder
from tests.recipe.evaluate.small_run import COLOURS, draw, export_model


def encode_letters(texts: Sequence[str]) -> np.ndarray:
    """A text is the vector of its last letter: a, b, c, d."""
    return np.eye(4, dtype=np.float32)[["abcd".index(text[-1]) for text in texts]]


LETTERS = TextEncoder(encode_letters, "letters", 1.0, 4)


def images(items: list[dict[str, Any]], letters: str) -> EncodedImages:
    """Images that look like a letter."""
    made = [
        BenchmarkImage("0.tar", str(row), f"u{row}", item.pop("captions", ()), None, **item)
        for row, item in enumerate(items)
    ]
    return EncodedImages(made, np.eye(4, dtype=np.float32)[["abcd".index(letter) for letter in letters]])


def test_task_of_pairs_when_a_group_lacks_an_image_leaves_it_out() -> None:
    items = [{"captions": (text,), "group": group} for text, group in (("a", "1"), ("b", "1"), ("c", "2"), ("d", "2"))]
    lonely = {"captions": ("a",), "group": "3"}
    three = [{"captions": (text,), "group": "4"} for text in "abc"]
    silent = [{"captions": (text,), "group": "5", "lacks_first": text == "b"} for text in "ab"] + [{"group": "6"}] * 2
    silent += [{"captions": (text,) * bool(text), "group": "7"} for text in ("a", "b", "")] + [{"captions": ("a",)}]
    found = group_tasks.match_pairs(
        images([*items, lonely, *three, *map(dict, silent)], "abdcaabcabababca"), ["{}"], LETTERS, [0]
    )
    assert {each["name"]: each["value"] for each in found.figures["scores"]} == {
        "text score": 0.5,
        "image score": 0.5,
        "group score": 0.5,
    }
    assert (found.figures["groups_scored"], found.figures["left_out"], found.figures["pictures"]) == (2, 5, 4)
    assert found.figures["without_group"] == 1
    assert found.per_image.uids == ["1", "2"]
    assert [item.uid for item in found.images] == ["u0", "u1", "u2", "u3"]
    assert found.per_image.figures["group score"][0].tolist() == [1.0, 0.0]


def test_task_of_choices_when_an_image_stands_twice_makes_it_one_group() -> None:
    items = [
        {"captions": ("a", "b"), "digest": "same"},
        {"captions": ("c", "a"), "digest": "same"},
        {"captions": ("b", "c", "b"), "digest": "other"},
        {"captions": ("b",), "digest": "no wrong caption"},
        {"captions": ("c", "a"), "digest": "no right caption", "lacks_first": True},
        {"captions": ("a", "b"), "digest": "easier without one", "unusable_captions": {"caption_not_utf8": 1}},
    ]
    found = group_tasks.choose_captions(images(items, "aabbca"), ["{}"], LETTERS, [0])
    assert found.figures["scores"][0]["value"] == pytest.approx(1 / 3)
    assert found.figures["scores"][0]["chance"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3)
    assert (found.figures["questions"], found.figures["groups_scored"], found.figures["left_out"]) == (3, 2, 3)
    hits, weights = found.per_image.figures["accuracy"]
    assert (hits.tolist(), weights.tolist()) == ([1.0, 0.0], [2.0, 1.0])
    assert [item.uid for item in found.images] == ["u0", "u1", "u2"]


def test_task_of_cues_when_images_serve_several_counts_each_cue_once() -> None:
    def cue(group: str, text: str, associated: bool, candidates: int = 3) -> Cue:
        return Cue(group, text, associated, candidates)

    items = [
        {"cues": (cue("1", "a", True), cue("2", "b", True))},
        {"cues": (cue("1", "a", False), cue("2", "b", False))},
        {"cues": (cue("1", "a", False), cue("2", "b", False), cue("3", "d", True, 9))},
        {"cues": (cue("4", "d", True, 3), cue("5", "d", True, 2))},
        {"cues": (cue("4", "d", False, 3), cue("5", "d", True, 2), cue("6", "d", True, 2))},
        {"cues": (cue("6", "d", False, 2),), "unusable_cues": ("6", "7", "")},
        {"unusable_cues": ("7",)},
        {},
    ]
    found = group_tasks.associate(images(items, "abcddaaa"), ["{A} {}"], LETTERS, [0])
    assert found.figures["scores"] == [
        {
            "name": "Jaccard",
            "value": 0.5,
            "interval": found.figures["scores"][0]["interval"],
            "chance": pytest.approx(1 / 3),
            "groups": 2,
        }
    ]
    assert (found.figures["groups_scored"], found.figures["left_out"], found.figures["pictures"]) == (2, 5, 3)
    assert (found.figures["unusable_cues"], found.figures["without_group"]) == (4, 1)
    assert [item.uid for item in found.images] == ["u0", "u1", "u2"]


@pytest.mark.parametrize(
    ("cues", "left_out"),
    [
        ([("1", "a", True), ("1", "b", False), ("1", "b", False)], 1),  # two questions under one name
        ([("1", "a", True), ("1", "a", False)], 1),  # one image is missing
        ([("1", "a", True), ("1", "a", False), ("1", "a", False), ("1", "a", False)], 1),  # one too many
        ([("1", "a", True), ("1", "a", False), ("1", "a", False)], 0),
    ],
)
def test_task_of_cues_counts_groups_that_are_not_one_whole_question(
    cues: list[tuple[str, str, bool]], left_out: int
) -> None:
    whole = [{"cues": (Cue("0", "a", place == 0, 2),)} for place in range(2)]
    items = [*whole, *({"cues": (Cue(group, text, associated, 3),)} for group, text, associated in cues)]
    found = group_tasks.associate(images(items, "ab" + "c" * len(cues)), ["{}"], LETTERS, [0])
    assert (found.figures["left_out"], found.figures["groups_scored"]) == (left_out, 2 - left_out)


def test_task_of_cues_does_not_count_an_image_that_is_listed_twice() -> None:
    twice = (Cue("1", "a", False, 3), Cue("1", "a", False, 3))
    items = [{"cues": (Cue("0", "a", place == 0, 2),)} for place in range(2)]
    items += [{"cues": (Cue("1", "a", True, 3),)}, {"cues": twice}]
    found = group_tasks.associate(images(items, "abcd"), ["{}"], LETTERS, [0])
    assert (found.figures["left_out"], found.figures["groups_scored"]) == (1, 1)


def test_task_of_cues_when_none_is_usable_says_how_many() -> None:
    with pytest.raises(DataError, match=r"no cue has its candidate images \(2 have no text, or an `associated` that"):
        group_tasks.associate(images([{"unusable_cues": ("1", "")}], "a"), ["{}"], LETTERS, [0])


def test_task_of_cues_when_sizes_differ_gives_each_size_its_own_figure() -> None:
    items: list[dict[str, Any]] = []
    for group in range(60):
        size, right = (5, True) if group < 30 else (10, False)
        for place in range(size):
            items.append({"cues": (Cue(str(group), "a", place == (0 if right else 1), size),)})
    letters = "".join("a" + "b" * (size - 1) for size in [5] * 30 + [10] * 30)
    found = group_tasks.associate(images(items, letters), ["{}"], LETTERS, [0])
    values = {each["name"]: (each["value"], each["groups"]) for each in found.figures["scores"]}
    assert values == {
        "Jaccard": (0.5, 60),
        "Jaccard of 5 to 6 candidates": (1.0, 30),
        "Jaccard of 10 to 12 candidates": (0.0, 30),
    }
    assert [each["chance"] for each in found.figures["scores"]] == pytest.approx([0.15, 0.2, 0.1])


def test_cue_has_its_article_in_the_prompt() -> None:
    asked: list[str] = []

    def encode(texts: Sequence[str]) -> np.ndarray:
        asked.extend(texts)
        return np.eye(4, dtype=np.float32)[[0] * len(texts)]

    items = [{"cues": (Cue("1", "owl", right, 2),)} for right in (True, False)]
    group_tasks.associate(images(items, "ab"), ["{A} {}"], TextEncoder(encode, "letters", 1.0, 4), [0])
    assert asked == ["An owl"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (group_tasks.match_pairs, "no group has two images"),
        (group_tasks.choose_captions, "a right caption and a wrong one"),
        (group_tasks.associate, "no cue has its candidate images"),
    ],
)
def test_task_when_the_shards_hold_something_else_says_what_is_missing(task: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        task(images([{"captions": ("a",)}], "a"), ["{}"], LETTERS, [0])


@pytest.mark.parametrize(("cue", "article"), [("owl", "An"), ("Owl", "An"), ("wolf", "A"), ("hour", "A")])
def test_article_is_datacomps(cue: str, article: str) -> None:
    assert group_tasks.article_of(cue) == article


def shards(folder: Path) -> list[dict[str, Any]]:
    """A benchmark of each type."""
    kinds: dict[str, list[dict[str, Any]]] = {
        "MultiLabel": [
            {"classes": sorted({row % 4, row * 3 % 4}), "ignored_classes": [4] * (row == 7)} for row in range(20)
        ],
        "PairMatching": [{"group": row // 2, "caption": f"a {COLOURS[row % 6]} disc {row % 2}"} for row in range(12)],
        "CaptionChoice": [
            {"captions": [f"{COLOURS[row % 6]} disc" * (row > 0), f"{COLOURS[-1 - row % 6]} box", "a box"]}
            for row in range(12)
        ],
        "Association": [
            {"cues": [{"group": row // 6, "cue": "red thing", "associated": row % 6 < 2, "candidates": 6}]}
            for row in range(12)
        ],
    }
    benchmarks: list[dict[str, Any]] = []
    for kind, metas in kinds.items():
        samples = [
            (f"{row:04d}", {"png": draw(COLOURS[row % 6], "disc", row), "json": json.dumps(meta).encode()})
            for row, meta in enumerate(metas)
        ]
        write_samples(Storage(), f"{folder}/{kind}/0.tar", samples)
        (folder / kind / "classnames.txt").write_text("".join(f"{colour}\n" for colour in COLOURS))
        benchmarks.append({"name": kind.lower(), "type": kind, "shards": [f"{folder}/{kind}/0.tar"]})
    return benchmarks


def test_stage_when_groups_are_evaluated_writes_scores_page_and_card(tmp_path: Path) -> None:
    export_model(tmp_path / "model")
    benchmarks = shards(tmp_path)
    spec = {
        "data": {"output": f"{tmp_path}/one"},
        "evaluate": {"model": f"{tmp_path}/model", "benchmarks": benchmarks},
    }
    document = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "one"}, "spec": spec}
    run_stage(program, load(json.dumps(document), name="run.yaml"), Stage.EVALUATE)
    results = json.loads((tmp_path / "one/runs/latest/evaluate/report.json").read_text())["benchmarks"]
    assert [[each["name"] for each in result["scores"]] for result in results] == [
        ["11-point mAP", "all-point mAP"],
        ["text score", "image score", "group score"],
        ["accuracy"],
        ["Jaccard"],
    ]
    assert (results[2]["questions"], results[2]["left_out"]) == (11, 1)
    assert results[3]["templates_from"] == "DataComp's prompt"
    for number, result in enumerate(results):
        kept = read_per_image(Storage(), f"{tmp_path}/one/runs/latest/evaluate/benchmarks/{number:03d}.parquet")
        assert kept is not None
        for each in result["scores"] if result["type"] != "MultiLabel" else []:
            hits, weights = kept.figures[each["name"]]
            assert hits.sum() / weights.sum() == pytest.approx(each["value"])
            assert each["interval"][0] <= each["value"] <= each["interval"][1]
    page = (tmp_path / "one/runs/latest/evaluate/report.html").read_text()
    for part in (
        "text score",
        "group score",
        "Jaccard",
        "11-point mAP",
        "Average precision of each class",
        "Equal similarities are no success",
        "On pairmatching, the text",
    ):
        assert part in page
    card = (tmp_path / "one/runs/latest/evaluate/README.md").read_text()
    assert "mean_average_precision_11_points" in card
    assert "| multilabel |" in card
