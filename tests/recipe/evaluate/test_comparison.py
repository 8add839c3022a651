"""`diht report`: runs side by side, seeds together, what differs, and what cannot be read."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import Stage
from diht_k8s.cli.main import main
from diht_k8s.recipe.report.comparison import comparison, comparison_page, comparison_text
from diht_k8s.recipe.report.per_image import PerImage, per_image_path, write_per_image
from diht_k8s.recipe.runtime.run_folder import point, write_document
from diht_k8s.recipe.shards.storage import Storage
from tests.folders import planted


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
    assert found["differences"] == [["train.beta: (default) -> 1"]]
    assert [row["cells"][0]["mean"] for row in found["rows"] if row["figure"] == "last loss"] == [2.5]


def test_comparison_when_a_benchmark_is_in_one_run_only_leaves_the_other_cell_empty() -> None:
    other = report("b", 0, 0.5, beta=1)
    other["benchmarks"][0] = copy.deepcopy(other["benchmarks"][0]) | {"name": "more"}
    found = comparison([report("a", 0, 0.1), other])
    cells = {row["name"]: [cell["mean"] for cell in row["cells"]] for row in found["rows"]}
    assert (cells["pairs"], cells["more"]) == ([0.1, None], [None, 0.5])


def test_comparison_when_benchmarks_have_a_split_names_it_on_the_page_and_in_the_table() -> None:
    one = report("a", 0, 0.1)
    one["benchmarks"][0]["split"] = "Development"
    found = comparison([one, report("b", 0, 0.5, beta=1)])
    assert {row["name"]: row["split"] for row in found["rows"]} == {
        "filter": None, "train": None, "pairs": "development",
    }  # fmt: skip
    assert "pairs (development split) caption to image, R@1" in comparison_text(found)
    assert "development split" in comparison_page(found)


def test_comparison_when_runs_logged_at_other_samples_draws_both_curves() -> None:
    one, other = report("a", 0, 0.1), report("b", 0, 0.5, beta=1)
    for number, each in enumerate((one, other)):
        for step, line in enumerate(each["train"]["metrics"]):
            line["samples"] = 100 * step + number
    (chart,) = comparison([one, other])["charts"]
    assert [line["name"] for line in chart["names"]] == ["a", "b"]


def test_comparison_when_runs_have_one_name_numbers_them() -> None:
    found = comparison([report("a", 0, 0.1), report("a", 0, 0.5, beta=1), report("b", 0, 0.5, beta=2)])
    assert [column["name"] for column in found["columns"]] == ["a (1)", "a (2)", "b"]
    (chart,) = found["charts"]
    assert [line["name"] for line in chart["names"]] == ["a (1)", "a (2)", "b"]


def images_of(gained: int, order: int = 1) -> dict[str, PerImage]:
    """200 images, of which the first `gained` are right."""
    hits_N, ones_N = (np.arange(200) < gained).astype(float)[::order], np.ones(200)
    uids = [str(row) for row in range(200)][::order]
    figures = {f"{side}, R@1": (hits_N, ones_N) for side in ("caption to image", "image to caption")}
    return {"pairs": PerImage(uids, ["0.tar"] * 200, [f"caption {uid}" for uid in uids], figures)}


@pytest.mark.parametrize(
    ("gained", "order", "verdict"),
    [(60, 1, "better"), (60, -1, "better"), (22, 1, "not clearly different"), (20, 1, "not clearly different")],
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


@pytest.mark.parametrize(
    ("kept", "why"),
    [([{}, {}], "no images are kept"), ([images_of(1), {"pairs": PerImage(["x"], ["0.tar"], ["x"])}], "not the same")],
)
def test_comparison_when_images_cannot_be_paired_says_why(kept: list[dict[str, PerImage]], why: str) -> None:
    found = comparison([report("a", 0, 0.1), report("b", 0, 0.5, beta=1)], kept)
    assert why in comparison_text(found)
    assert found["changed"] == [[]]


def test_command_when_runs_are_given_prints_a_table_and_writes_an_escaped_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {
        "apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "one"},
        "spec": {"data": {"output": f"{tmp_path}/one"}, "evaluate": {"model": "m", "benchmarks": [
            {"name": "b", "type": "Retrieval", "shards": ["b.tar"]}]}},
    }  # fmt: skip
    (tmp_path / "one.json").write_text(json.dumps(document))
    one = planted(load(json.dumps(document), name="one"), Stage.EVALUATE).stage(Stage.EVALUATE)
    for name, folder, recall in (("one", one, 0.1), ("two", f"{tmp_path}/two", 0.25)):
        content = report(f"<b>{name}</b>", 0, recall, beta=recall)
        Storage().write_bytes(f"{folder}/report.json", json.dumps(content).encode())
        write_per_image(Storage(), f"{folder}/{per_image_path(0)}", images_of(int(200 * recall))["pairs"])
    runs = [f"{tmp_path}/one.json", f"{tmp_path}/two/report.json"]
    assert main(["report", *runs, "--output", f"{tmp_path}/c.html"]) == 0
    assert "10.0" in (text := capsys.readouterr().out)
    assert "25.0" in text
    assert "<b>two</b> is better than <b>one</b>: +15.0 points" in text
    page = (tmp_path / "c.html").read_text()
    assert "<b>one" not in page
    assert "&lt;b&gt;one" in page
    assert "<script" not in page
    assert "train.beta: 0.1 -&gt; 0.25" in page
    for part in ("30 images gained", "0 images lost", ">better</b>", "caption 20<", "Training loss"):
        assert part in page


def test_command_when_an_output_is_given_compares_all_its_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, output = Storage(), f"{tmp_path}/out"
    for name, recall in (("one", 0.1), ("two", 0.25)):
        document = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": name},
                    "spec": {"data": {"output": output}, "evaluate": {"model": name, "benchmarks": [
                        {"name": "b", "type": "Retrieval", "shards": ["b.tar"]}]}}}  # fmt: skip
        run, layout = load(json.dumps(document), name=name), Layout(output).at(Stage.EVALUATE, sha256_of(name))
        storage.write_bytes(layout.report(Stage.EVALUATE), json.dumps(report(name, 0, recall, beta=recall)).encode())
        write_document(run, storage)
        point(run, storage, layout, Stage.EVALUATE)
    assert main(["report", output, "--output", f"{tmp_path}/c.html"]) == 0
    shown = capsys.readouterr().out
    assert all(figure in shown for figure in ("one", "two", "10.0", "25.0"))


EMPTY = {
    "schema_version": 1, "config": {"spec": {}}, "run": {"name": "a", "seed": 1}, "funnel": [], "train": {}, "benchmarks": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (None, 64, "has no report of the stage evaluate"),
        ("{", 65, "is damaged"),
        ("[" * 100_000, 65, "is damaged"),
        ('{"schema_version": 9}', 65, "of version 9"),
        ('{"schema_version": 1}', 64, "is not a report"),
        *(
            (json.dumps(EMPTY | part), 65, "is damaged")
            for part in (
                {"config": 1},
                {"config": {"spec": []}},
                {"run": {}},
                {"funnel": [{}]},
                {"train": None},
                {"benchmarks": [1]},
            )
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
