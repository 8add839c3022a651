"""`diht report`: runs side by side, seeds together, what differs, and what cannot be read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diht_k8s.api.documents import dump, load
from diht_k8s.api.hashing import run_sha256
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli.main import main
from diht_k8s.cli.results import compare
from diht_k8s.data.shards.storage import Storage
from diht_k8s.report.comparison import (
    NOT_PAIRED,
    NOT_TOLD,
    OTHER_VERSION,
    TOO_FEW,
    Run,
    comparison,
    comparison_page,
    comparison_text,
    differences_of,
)
from diht_k8s.report.page import run_report
from diht_k8s.report.per_image import PerImage, per_image_path, read_per_image, write_per_image
from diht_k8s.runtime.run_folder import point, run_folder, write_document
from diht_k8s.stages.evaluate import answer_ranking, classification, group_tasks, retrieval
from diht_k8s.stages.evaluate.benchmark_images import BenchmarkImage, Cue, VisualQuestion
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.results import Measured
from diht_k8s.stages.evaluate.soundness import TextEncoder


def report(name: str, seed: int, recall: float, **train: Any) -> dict[str, Any]:
    """What of report.json the comparison reads."""
    direction = {"recall": {"1": recall}, "interval": {"1": [0.0, 1.0]}, "chance": {"1": 0.01}}
    spec = {"seed": seed, "data": {"sources": [], "output": f"runs/{name}"}, "train": {"samples": 100, **train}}
    return {
        "schema_version": 1,
        "run": {"name": name, "seed": seed},
        "config": {"spec": spec},
        "funnel": [{"step": "input", "samples": 50}, {"step": "text", "samples": 40}],
        "train": {"metrics": [{"loss": 3.0}, {"loss": 2.0 + seed}]},
        "benchmarks": [
            {"name": "pairs", "type": "Retrieval", "text_to_image": direction, "image_to_text": direction},
            {"name": "broken", "type": "Classification", "error": "no image"},
        ],
    }


def test_comparison_when_runs_differ_in_the_seed_only_gives_mean_and_spread() -> None:
    found = comparison([report("a", 0, 0.1), report("b", 0, 0.5, beta=1), report("a2", 1, 0.3)])
    assert [(c["name"], c["runs"], c["seeds"]) for c in found["columns"]] == [("a, a2", 2, "0, 1"), ("b", 1, "0")]
    row = next(row for row in found["rows"] if row["figure"] == "caption to image, R@1")
    assert row["cells"][0] == {"mean": pytest.approx(0.2), "deviation": pytest.approx(0.1414, abs=1e-4), "runs": 2}
    assert (row["cells"][1]["mean"], row["cells"][1]["deviation"], row["cells"][1]["runs"]) == (0.5, None, 1)
    assert found["fields"] == [{"field": "train.beta", "values": ["(default)", "1"]}]
    assert [row["cells"][0]["mean"] for row in found["rows"] if row["figure"] == "last loss"] == [2.5]


@pytest.mark.parametrize(
    ("runs", "seeds"),
    [
        ([(0, "old"), (0, "new")], ["0", "0"]),
        ([(0, "old"), (1, "old"), (0, "new"), (1, "new")], ["0, 1", "0, 1"]),
        ([(0, "old"), (1, "new")], ["0, 1"]),  # inputs hold the training, which each seed has of its own
        ([(0, "old"), (0, "old")], ["0, 0"]),
    ],
)
def test_comparison_when_a_seed_returns_with_other_inputs_opens_a_column(
    runs: list[tuple[int, str]], seeds: list[str]
) -> None:
    reports = [report("a", seed, 0.1) | {"inputs": {"train": f"{data} {seed}"}} for seed, data in runs]
    found = comparison(reports)
    assert [column["seeds"] for column in found["columns"]] == seeds
    assert len({column["name"] for column in found["columns"]}) == len(seeds)


@pytest.mark.parametrize(
    ("changes", "field", "values"),
    [
        ([{"inputs": {"pairs 0": "x"}}, {"inputs": {"pairs 0": "y"}}], "content of pairs 0", 2),
        ([{"stage_version": 7}, {"stage_version": 8}], "version of evaluate", 2),
        ([{"inputs": {"pairs": "x", "train": "1"}}, {"inputs": {"pairs": "y", "train": "2"}}], None, 1),
    ],
)
def test_comparison_when_seeds_were_asked_about_other_files_is_no_spread_of_seeds(
    changes: list[dict[str, Any]], field: str | None, values: int
) -> None:
    found = comparison([report("a", seed, 0.1 + seed) | change for seed, change in enumerate(changes)])
    assert len(found["columns"]) == values
    assert [each["field"] for each in found["fields"]] == ([] if field is None else [field])
    assert all(len(set(each["values"])) == 2 for each in found["fields"])
    assert ("Only the seed." in comparison_page(found)) is (field is None)


def test_page_names_splits_shows_curves_and_leaves_cells_of_missing_benchmarks_empty() -> None:
    reports = [report(f"a{beta}", 0, 0.1, beta=beta) for beta in range(1, 11)]
    reports[0]["benchmarks"][0]["split"] = "Development"
    reports[1]["benchmarks"][0]["name"] = "more"
    for number, each in enumerate(reports):
        each["train"]["metrics"][1] |= {"validation_loss": 2.5, "samples": 100 + number}
    found = comparison(reports)
    cells = {row["name"]: [cell["mean"] for cell in row["cells"][:3]] for row in found["rows"]}
    assert (cells["pairs"], cells["more"]) == ([0.1, None, 0.1], [None, 0.1, None])
    assert [chart["title"] for chart in found["charts"]] == ["Training loss", "Held-out loss"]
    assert (len(found["charts"][0]["names"]), len(found["columns"])) == (8, 10)
    assert "pairs (development split) caption to image, R@1" in comparison_text(found)
    assert "development split" in (page := comparison_page(found))
    assert "Of the first 8 runs." in page


def test_comparison_of_many_columns_corrects_for_all_differences_of_the_page() -> None:
    reports = [report(f"a{beta}", 0, 0.1, beta=beta) for beta in range(20)]
    kept = [images_of(20), *(images_of(26) for _ in reports[1:])]
    rows = comparison(reports, kept)["rows"]
    tested = [cell["difference"] for row in rows for cell in row["cells"][1:] if cell["difference"]]
    assert len(tested) == 38
    assert {each["verdict"] for each in tested} == {"not clearly different"}
    assert all(each["adjusted_p"] == min(1.0, 38 * each["p"]) for each in tested)
    alone = comparison(reports[:2], kept[:2])["rows"]
    assert {cell["difference"]["verdict"] for row in alone for cell in row["cells"][1:] if cell["difference"]} == {
        "better"
    }


def images_of(gained: int, order: int = 1, captions: int = 1) -> dict[str, PerImage]:
    """200 images, of which the first `gained` are right for all of their captions."""
    hits_N, ones_N = captions * (np.arange(200) < gained).astype(float)[::order], np.full(200, float(captions))
    uids = [str(row) for row in range(200)][::order]
    figures = {f"{side}, R@1": (hits_N, ones_N) for side in ("caption to image", "image to caption")}
    return {"pairs": PerImage(uids, ["0.tar"] * 200, [f"caption {uid}" for uid in uids], figures)}


@pytest.mark.parametrize(
    ("gained", "order", "verdict"),
    [(60, -1, "better"), (22, 1, "not clearly different")],
)
def test_comparison_when_both_runs_kept_their_images_decides_by_pairs(gained: int, order: int, verdict: str) -> None:
    reports = [report("a", 0, 0.1), report("b", 0, gained / 200, beta=1)]
    found = comparison(reports, [images_of(20), images_of(gained, order)])
    row = next(row for row in found["rows"] if row["figure"] == "caption to image, R@1")
    difference = row["cells"][1]["difference"]
    assert (difference["value"], difference["verdict"]) == (pytest.approx(gained / 200 - 0.1), verdict)
    assert verdict in comparison_text(found)
    (changed,) = found["changed"][0]
    assert (changed["wins"], changed["losses"]) == (gained - 20, 0)
    assert {item["uid"] for item in changed["wins_shown"]} <= {str(row) for row in range(20, gained)}


def first_of(gained: int, images: int) -> dict[str, PerImage]:
    """The first few of `images_of`."""
    found = images_of(gained)["pairs"]
    figures = {name: (hits_N[:images], asked_N[:images]) for name, (hits_N, asked_N) in found.figures.items()}
    return {"pairs": PerImage(found.uids[:images], found.shards[:images], found.texts[:images], figures)}


def classes(*names: str) -> PerImage:
    """As many images of each class, whose weights tell nothing of it."""
    found = images_of(20)["pairs"]
    return replace(found, texts=list(names) * (200 // len(names)))


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        ([{}, {}], "no images are kept"),
        ([first_of(0, 5), first_of(5, 5)], TOO_FEW),
        ([{"pairs": replace(images_of(20)["pairs"], asked=[str(row) for row in range(200)])}, images_of(60)], NOT_TOLD),
        ([images_of(1), {"pairs": PerImage(["x"], ["0.tar"], ["x"])}], "not the same"),
        ([images_of(20), images_of(60, captions=5)], "not the same"),
        ([{"pairs": classes("cat", "dog")}, {"pairs": classes("dog", "cat")}], "not the same"),
    ],
)
def test_comparison_when_images_cannot_be_paired_says_why(kept: list[dict[str, PerImage]], why: str) -> None:
    reports = [report("a", 0, 0.1), report("b", 0, 0.5, beta=1)]
    assert why in comparison_text(comparison(reports, kept))
    reports[1]["stage_version"] = 8
    assert OTHER_VERSION in comparison_text(comparison(reports, [images_of(20), images_of(100)]))


def choice(*wrong: str) -> Measured:
    """CaptionChoice of 40 images, the same right captions and other wrong ones."""
    return group_tasks.choose_captions(
        asked_about([{"captions": (f"right {row}", *wrong)} for row in range(40)]), ["{}"], TEXTS, [0]
    )


def pairs(second: str) -> Measured:
    """PairMatching of 20 pairs."""
    items = [{"captions": (f"first {row}", second), "group": str(row // 2)} for row in range(40)]
    return group_tasks.match_pairs(asked_about(items), ["{}"], TEXTS, [0])


def captioned(second: str) -> Measured:
    """Retrieval of 40 images with two captions each."""
    return retrieval.retrieve(
        asked_about([{"captions": (f"first {row}", f"{second} {row}")} for row in range(40)]), ["{}"], TEXTS, [0]
    )


def answered(options: int, *, own: bool) -> Measured:
    """AnswerRanking of 40 images with one question each."""
    answers = ("yes", *(f"answer {number}" for number in range(1, options)))
    question = VisualQuestion("is it?", ("yes",), answers if own else ())
    images = asked_about([{"questions": (question,)} for _ in range(40)])
    return answer_ranking.rank_answers(images, () if own else answers, ["{question} {answer}"], TEXTS, [0])


def classified(*names: str) -> Measured:
    """Classification of 40 images of two classes."""
    return classification.classify(
        asked_about([{"label": row % 2} for row in range(40)]), names, ["{}"], TEXTS, None, [0]
    )


def associated(candidates: int, first: int = 0) -> Measured:
    """Association of one cue with one of its candidates."""
    cues = [{"cues": (Cue("1", "run", row == 0, candidates),)} for row in range(candidates)]
    return group_tasks.associate(asked_about(cues, first), ["{}"], TEXTS, [0])


def asked_about(items: list[dict[str, Any]], first: int = 0) -> EncodedImages:
    made = [
        BenchmarkImage("0.tar", f"{row}", f"u{row}", item.pop("captions", ()), item.pop("label", None), **item)
        for row, item in enumerate(items, first)
    ]
    return EncodedImages(made, np.eye(200, dtype=np.float32)[: len(made)])


TEXTS = TextEncoder(lambda texts: np.eye(200, dtype=np.float32)[[len(text) for text in texts]], "lengths", 1.0, 200)


@pytest.mark.parametrize(
    ("kind", "one", "other", "same"),
    [
        pytest.param("CaptionChoice", choice("hard"), choice("easy"), False, id="other wrong captions"),
        pytest.param("Retrieval", captioned("x"), captioned("y"), False, id="other second captions"),
        pytest.param("PairMatching", pairs("x"), pairs("y"), True, id="second captions that pairs do not ask"),
        pytest.param("AnswerRanking", answered(2, own=True), answered(100, own=True), False, id="more candidates"),
        pytest.param(
            "AnswerRanking", answered(2, own=False), answered(100, own=False), False, id="a longer list of answers"
        ),
        pytest.param("Classification", classified("a", "b"), classified("a", "b", "c"), False, id="more classes"),
        pytest.param("Classification", classified("a", "b"), classified("a", "b"), True, id="the same classes"),
        pytest.param("Association", associated(5), associated(12), False, id="more candidates of a cue"),
        pytest.param("Association", associated(5), associated(5, first=7), False, id="other images of a cue"),
    ],
)
def test_runs_are_paired_only_where_all_that_they_were_asked_is_the_same(
    kind: str, one: Measured, other: Measured, same: bool, tmp_path: Path
) -> None:
    sides: list[list[Run]] = []
    for number, measured in enumerate((one, other)):
        write_per_image(Storage(), f"{tmp_path}/{number}.parquet", measured.per_image)
        kept = read_per_image(Storage(), f"{tmp_path}/{number}.parquet")
        assert kept is not None
        sides.append(
            [({"run": {"seed": 0}, "benchmarks": [{"name": "b", "type": kind, **measured.figures}]}, {"b": kept})]
        )
    found = differences_of(*sides).values()
    assert found
    assert [each.get("why") == NOT_PAIRED for each in found] == [not same] * len(found)


def evaluated(output: Path, name: str, recall: float, *, beta: float | None = None, shown: str = "") -> DihtRun:
    """A run with a report of its own, and its results and their images in another folder."""
    loss = {} if beta is None else {"loss": {"beta": beta}}
    benchmark = {"name": "pairs", "type": "Retrieval", "shards": ["b.tar"]}
    train = {"model": "m", "samples": 100, "distillation": {"mode": "Disabled"}, **loss}
    document = {
        "apiVersion": "diht.dev/v1alpha1",
        "kind": "DihtRun",
        "metadata": {"name": name},
        "spec": {
            "data": {"output": str(output), "sources": [{"name": "s", "shards": ["s.tar"]}]},
            "train": train,
            "evaluate": {"benchmarks": [benchmark]},
        },
    }
    run = load(json.dumps(document), name=name)
    storage, layout = Storage(), Layout(str(output)).at(Stage.EVALUATE, run_sha256(run.spec)[::-1])
    write_document(run, storage)
    point(run, storage, layout, Stage.EVALUATE)
    content = run_report(
        run,
        {**report(name, 0, recall), "cost": []},
        layout,
        [],
        {"stage": "evaluate", "samples": 1, "seconds": 1.0, "process_hours": 0.0},
    )
    content["run"]["name"] = shown or name
    storage.write_bytes(f"{run_folder(run)}/report.json", json.dumps(content).encode())
    write_per_image(
        storage, join(layout.stage(Stage.EVALUATE), per_image_path(0)), images_of(int(200 * recall))["pairs"]
    )
    return run


def test_command_when_runs_are_given_prints_a_table_and_writes_an_escaped_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = evaluated(tmp_path / "out", "one", 0.1, shown="<b>one</b>")
    (tmp_path / "one.json").write_text(dump(one))
    shared = report("", 0, 0.25, beta=0.25) | {"run": {"seed": 0}, "config_sha256": "<b>two</b>"}
    Storage().write_bytes(f"{tmp_path}/two/report.json", json.dumps(shared).encode())
    write_per_image(Storage(), f"{tmp_path}/two/{per_image_path(0)}", images_of(50)["pairs"])
    runs = [f"{tmp_path}/one.json", f"{tmp_path}/two/report.json"]
    assert main(["report", *runs, "--output", f"{tmp_path}/c.html"]) == 0
    assert "10.0" in (text := capsys.readouterr().out)
    assert "25.0" in text
    assert "<b>two</b> is better than <b>one</b>: +15.0 points" in text
    page = (tmp_path / "c.html").read_text()
    assert "<b>one" not in page
    assert "&lt;b&gt;one" in page
    assert "<script" not in page
    assert "<code>train.beta</code>" in page
    assert ">0.25</td>" in page
    for part in ("30 images gained", "0 images lost", ">better</b>", "caption 20<", "Training loss"):
        assert part in page


def test_command_when_an_output_is_given_compares_all_its_runs_in_natural_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    runs = (("b10", 0.1, 0.5), ("b9", 0.2, 0.3), ("a", 0.3, 0.4), ("a", 0.4, None), ("a", 0.5, 0.35))
    folders = [run_folder(evaluated(out, name, recall, beta=beta)) for name, recall, beta in runs]
    assert main(["report", str(out), "--output", f"{tmp_path}/c.html", "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    names = ["a", "a (beta 0.35)", "a (beta 0.4)", "b9", "b10"]
    assert [column["name"] for column in compared["columns"]] == names
    first = next(row for row in compared["rows"] if row["name"] == "pairs")
    assert [cell["mean"] for cell in first["cells"]] == [0.4, 0.5, 0.3, 0.2, 0.1]
    assert first["cells"][1]["difference"]["verdict"] == "better", "the images beside the shared results are found"
    given = compare([folders[1], f"{out}/runs/latest", folders[1]], f"{tmp_path}/c.html")
    assert [column["name"] for column in given["columns"]] == ["b9", "a"], "in the order of the command"


def test_compare_when_a_run_is_named_in_several_ways_counts_it_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run = evaluated(out, "a", 0.1)
    (tmp_path / "a.json").write_text(dump(run))
    shutil.copytree(out, tmp_path / "copy")
    shutil.copytree(out, tmp_path / "other")
    for path in (tmp_path / "other").rglob("report.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "inputs": {"train": "of other data"}}))
    compared = compare([str(out), f"{tmp_path}/a.json", str(tmp_path / "copy")], f"{tmp_path}/c.html")
    assert compared["seeds"] == [1]
    says = capsys.readouterr().err.splitlines()
    assert compare([str(out), str(tmp_path / "other")], f"{tmp_path}/c.html")["seeds"] == [1, 1]
    assert ["is named twice" in line for line in says] == [True, False]
    assert "copy/" in says[1]
    assert "is a copy of" in says[1]


def test_compare_when_seeds_of_an_evaluation_alone_measure_one_model_counts_it_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        found = report("a", seed, 0.1) | {"inputs": {"model": "m"}}
        found["run"] = {"name": "a", "seed": seed, "stages": ["evaluate"]}
        Storage().write_bytes(f"{tmp_path}/{seed}/report.json", json.dumps(found).encode())
    compared = compare([f"{tmp_path}/{seed}/report.json" for seed in range(3)], f"{tmp_path}/c.html")
    assert compared["seeds"] == [1]
    assert capsys.readouterr().err.count("it counts once") == 2


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (None, 64, "has no report of the stage evaluate"),
        ("{", 65, "is damaged"),
        ('{"schema_version": 9}', 65, "of version 9"),
        ('{"schema_version": 1}', 64, "is not a report"),
        *(
            (json.dumps(report("a", 1, 0.5) | part), 65, "is damaged")
            for part in ({"config": {"spec": []}}, {"run": {}}, {"funnel": [{}]}, {"train": None}, {"benchmarks": [1]})
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_command_when_a_report_cannot_be_read_says_which(
    tmp_path: Path, content: str | None, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    assert main(["report", str(tmp_path), "--output", f"{tmp_path}/c.html"]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "c.html").exists()
