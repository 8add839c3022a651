"""Runs share an evaluation: its files hold nothing of a run, and each run has a page of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.hashing import run_sha256
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli.stage_folders import stage_folders
from diht_k8s.data.shards.storage import Storage
from diht_k8s.report.overview import duration
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.stages.evaluate import class_texts
from diht_k8s.stages.evaluate.stage import identify
from tests.folders import planted
from tests.recipe.evaluate.small_run import MADE, document, evaluate, report

GOODPUT = json.dumps([{"stage": "train", "wall_seconds": 7200, "text": "99.0 % productive"}])


def named(folder: Path, name: str, **spec: Any) -> DihtRun:
    run = document(folder, {"fewShot": None}, **spec)
    return run.model_copy(update={"metadata": run.metadata.model_copy(update={"name": name})})


def own(run: DihtRun, file: str) -> str:
    return Path(run.spec.data.output, "runs", run.metadata.name, run_sha256(run.spec)[:16], file).read_text()


def shared(folder: Path) -> dict[str, bytes]:
    """The files of all evaluations, but the marker and the claims, which say who made them, and when."""
    files = [file for file in sorted((folder / "out/evaluate").rglob("*")) if file.is_file()]
    return {
        file.name: file.read_bytes() for file in files if file.name != "COMMITTED.json" and file.parent.name != "claims"
    }


def test_evaluation_has_the_same_bytes_whatever_run_computes_it(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(named(fresh, "one"))
    first = shared(fresh)
    shutil.rmtree(fresh / "out/evaluate")
    monkeypatch.setenv("DIHT_GOODPUT", GOODPUT)
    placed = {"label": {"workers": 3}, "pods": {"labels": {"team": "okapi"}}, "suspend": False}
    evaluate(named(fresh, "zebra", **placed))
    second = shared(fresh)
    assert {name for name in first if first[name] != second[name]} == set()
    assert {"report.json", "report.html", "README.md"} <= set(first)
    assert not any(word in content for content in first.values() for word in (b"zebra", b"okapi", b"99.0 % prod"))


def test_run_has_a_page_with_its_name_time_and_document_beside_the_shared_results(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIHT_GOODPUT", GOODPUT)
    run = named(fresh, "one", pods={"labels": {"team": "okapi"}})
    committed = evaluate(run)
    assert committed is not None
    page, found = own(run, "report.html"), json.loads(own(run, "report.json"))
    for part in (
        "<title>one: DiHT run report</title>",
        "<h1>one</h1>",
        "99.0 % productive",
        "team: okapi",
        "Caption to image",
        f"this report, {duration(committed.summary['wall_seconds'])}</span>",
        '<th scope="row">evaluate</th><td class="num">48</td><td '
        f'class="num">{duration(committed.summary["wall_seconds"])}</td>',
    ):
        assert part in page, part
    assert [row["stage"] for row in found["cost"]] == ["filter", "label", "train", "evaluate"]
    results = f"evaluate/{committed.config_sha256[:16]}"
    assert f"<code>{results}</code>" in page
    assert (found["run"]["name"], found["run"]["folders"]["evaluate"]) == ("one", results)
    assert found["config"]["spec"]["data"]["sources"][0]["name"] == "drawn"
    assert found["document"]["spec"]["pods"] == {"labels": {"team": "okapi"}}


def test_run_whose_evaluation_another_computed_gets_its_page_and_keeps_its_time(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, another = named(fresh, "one"), named(fresh, "another")
    monkeypatch.setenv("DIHT_GOODPUT", GOODPUT)
    evaluate(one)
    before = shared(fresh)
    monkeypatch.delenv("DIHT_GOODPUT")
    evaluate(another)
    evaluate(one)
    assert shared(fresh) == before
    assert "<h1>another</h1>" in own(another, "report.html")
    assert "99.0 % productive" not in own(another, "report.html")
    assert "99.0 % productive" in own(one, "report.html")


def test_command_that_finds_the_evaluation_cached_writes_the_page(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone: dict[str, Any] = {"filter": None, "label": None, "train": None}
    model = {"model": f"{fresh}/out/train/{'0' * 16}/model", "fewShot": None}
    runs = [document(fresh, model, **alone), document(fresh, model, **alone)]
    runs[1] = runs[1].model_copy(update={"metadata": runs[1].metadata.model_copy(update={"name": "another"})})
    evaluate(runs[0])
    (found,) = stage_folders(runs[1])
    assert (found.stage, found.cached) == (Stage.EVALUATE, True)
    assert "<h1>another</h1>" in own(runs[1], "report.html")


@pytest.mark.parametrize("stages", [True, False], ids=["beside its stages", "alone"])
def test_model_from_elsewhere_is_shown_without_the_runs_stages(fresh: Path, stages: bool) -> None:
    alone: dict[str, Any] = {} if stages else {"filter": None, "label": None, "train": None}
    run = document(fresh, {"model": f"{fresh}/out/train/{'0' * 16}/model", "fewShot": None}, **alone)
    evaluate(run)
    found = report(fresh)
    assert found["run"]["stages"] == ["evaluate"]
    assert found["filter"] == {"state": "absent"}
    assert (len(shared(fresh)), found["config_sha256"]) == (9, digest_of(run))


def digest_of(run: DihtRun) -> str:
    from diht_k8s.api.hashing import sha256_of, stage_config

    planted(run, *(stage for stage in MADE if stage in run.spec.stages))
    storage = Storage()
    found = identify(run, storage, run_layout(run, storage))
    alone = run.spec.model_copy(update={"filter": None, "label": None, "train": None})
    return sha256_of(stage_config(alone, Stage.EVALUATE, *found))


LINES = {"en_classnames.json": ["cat", "dog"], "en_zeroshot_classification_templates.json": ["a {c}."]}


@pytest.mark.parametrize(
    ("name", "fields", "decides"),
    [
        ("pets", {}, {"class names", "templates"}),
        ("pets", {"templates": ["{}"]}, {"class names"}),
        ("pets", {"classNames": "names.txt"}, {"templates"}),
        ("pets", {"type": "Retrieval"}, set()),
        ("imagenet1k", {}, set()),  # open_clip is always there
    ],
)
def test_texts_of_an_installed_package_decide_the_evaluation_that_uses_them(
    name: str, fields: dict[str, Any], decides: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = {"name": name, "type": "Classification", "shards": [f"{tmp_path}/test/0.tar"], **fields}
    alone: dict[str, Any] = {"filter": None, "label": None, "train": None}
    run = document(tmp_path, {"benchmarks": [benchmark], "model": "ViT-B-32"}, **alone)

    def inputs() -> dict[str, str]:
        storage = Storage()
        return dict(identify(run, storage, run_layout(run, storage))[0])

    monkeypatch.setattr(class_texts, "_read", lambda file: {})
    before = inputs()
    monkeypatch.setattr(class_texts, "_read", lambda file: {"pets": LINES[file], "imagenet1k": LINES[file]})
    after = inputs()
    given = {f"{name} class names"} if "classNames" in fields else set()
    assert before.keys() & {f"{name} class names", f"{name} templates"} == given
    assert after.keys() - before.keys() == {f"{name} {what}" for what in decides}
    assert before.items() <= after.items()
    monkeypatch.setattr(class_texts, "_read", lambda file: {"pets": [*LINES[file], "another {c}"]})
    assert (inputs() != after) is bool(decides)
