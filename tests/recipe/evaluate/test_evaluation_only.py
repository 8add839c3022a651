"""A run that only evaluates: no training pairs are asked for, the page has no empty section, progress has a total."""

from __future__ import annotations

import gzip
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.numpy import load_file

from diht_k8s.api.reports import parse_progress
from diht_k8s.api.run import Stage
from diht_k8s.cli.display import speed
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.runtime.stage import run_stage
from diht_k8s.stages.evaluate import stage as program
from tests.recipe.evaluate.small_run import COLOURS, Pair, document, evaluate_alone, export_model, pairs


@pytest.fixture
def page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[str, dict[str, Any], str]:
    """The page, the report and the progress lines of a run without sources."""
    monkeypatch.setenv("DIHT_PROGRESS_SECONDS", "0")
    write_samples(Storage(), f"{tmp_path}/heldout/0.tar", pairs(40, 9000))
    (tmp_path / "heldout" / "names.txt").write_text("".join(f"{colour}\n" for colour in COLOURS))
    export_model(tmp_path / "model")
    run = document(
        tmp_path,
        {"model": f"{tmp_path}/model"},
        data={"output": f"{tmp_path}/out"},
        filter=None,
        label=None,
        train=None,
    )
    run_stage(program, run, Stage.EVALUATE)
    folder = tmp_path / "out" / "runs/latest/evaluate"
    report = json.loads((folder / "report.json").read_text())
    return (folder / "report.html").read_text(), report, capsys.readouterr().out


def test_page_when_only_evaluated_has_no_section_of_other_stages(page: tuple[str, dict[str, Any], str]) -> None:
    text, report, _ = page
    assert re.findall(r'<section id="([a-z-]+)"', text) == ["queries", "notes", "evaluation", "cards", "configuration"]
    assert not re.search(r'href="#(filter|concepts|training)"', text)
    assert "not in this report" not in text
    assert not any(empty in text for empty in ("Data card", "Process-hours", "No other stage"))
    assert set(report["missing"]) == {"filter", "label", "train"}
    assert report["model"]["source"].endswith("/model")
    assert not any("stage" in note for note in report["notes"])
    assert any("no training pairs" in note for note in report["notes"])


def test_progress_when_images_are_encoded_has_a_total_an_eta_and_samples_a_second(
    page: tuple[str, dict[str, Any], str],
) -> None:
    lines = [found for line in page[2].splitlines() if (found := parse_progress(line)) and found.step == "images"]
    assert (lines[-1].done, lines[-1].total) == (40, 40)
    assert all(line.total >= line.done for line in lines)
    assert lines[-1].eta_seconds == 0
    assert lines[-1].per_second > 0
    assert re.fullmatch(r"[\d,.]+/s, 0 s left", speed(lines[-1])), "what `diht run` and `diht watch` show"


def test_progress_within_a_packed_shard_leaves_out_the_total_until_one_has_shown_how_well_it_packs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIHT_PROGRESS_SECONDS", "0")
    for number in range(2):
        plain = f"{tmp_path}/{number}.tar"
        write_samples(Storage(), plain, pairs(80, 9000 + 100 * number))
        packed = tmp_path / "heldout" / f"{number}.tar.gz"
        packed.parent.mkdir(exist_ok=True)
        packed.write_bytes(gzip.compress(Path(plain).read_bytes()))
    shards = [f"{tmp_path}/heldout/{{0..1}}.tar.gz"]
    evaluate_alone(tmp_path, [{"name": "pairs", "type": "Retrieval", "shards": shards}])
    lines = [found for line in capsys.readouterr().out.splitlines() if (found := parse_progress(line))]
    images = [(line.done, line.total) for line in lines if line.step == "images" and line.done]
    assert images[0] == (64, 0)
    assert sorted({done for done, _ in images}) == [64, 80, 144, 160]
    assert {total for done, total in images if done >= 144} <= set(range(150, 171))
    assert images[-1] == (160, 160)
    assert [(line.done, line.total) for line in lines if line.step == "report"] == [(0, 1), (1, 1)]
    assert [(line.done, line.total) for line in lines if line.step == "load the model"] == [(0, 0)]


def transparent_pairs() -> list[Pair]:
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return [(f"{row:05d}", {"png": buffer.getvalue(), "txt": f"caption {row}".encode()}) for row in range(4)]


def test_decode_when_reference_is_asked_for_gives_other_features_and_says_so(tmp_path: Path) -> None:
    write_samples(Storage(), f"{tmp_path}/heldout/0.tar", transparent_pairs())
    benchmark = {"name": "pairs", "type": "Retrieval", "shards": [f"{tmp_path}/heldout/0.tar"]}
    features: dict[str, bytes] = {}
    for decode in ("Ours", "Reference"):
        folder = evaluate_alone(tmp_path, [benchmark], output=decode, decode=decode)
        report = json.loads((folder / "report.json").read_text())
        assert report["benchmarks"][0]["decode"] == decode
        assert any("without orientation" in note for note in report["notes"]) is (decode == "Reference")
        features[decode] = load_file(folder / "features" / "00000.safetensors")["features"].tobytes()
    assert features["Ours"] != features["Reference"]


def test_splits_when_one_is_chosen_then_the_other_is_neither_read_nor_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_samples(Storage(), f"{tmp_path}/heldout/0.tar", pairs(40, 9000))
    sent: list[dict[str, float]] = []
    tracker = SimpleNamespace(log=lambda figures, step=None: sent.append(figures), finish=lambda: None)
    monkeypatch.setattr(program, "start_tracking", lambda *_: tracker)
    benchmarks = [
        {"name": "tuning", "type": "Retrieval", "split": "Development", "shards": [f"{tmp_path}/heldout/0.tar"]},
        {"name": "final", "type": "Retrieval", "split": "HeldOut", "shards": [f"{tmp_path}/missing/*.tar"]},
    ]
    folder = evaluate_alone(tmp_path, benchmarks, split="Development")
    found = json.loads((folder / "report.json").read_text())
    assert [(each["name"], each["split"]) for each in found["benchmarks"]] == [("tuning", "Development")]
    assert "tuning: retrieval, development split" in (folder / "report.html").read_text()
    assert not any("held-out" in note.lower() for note in found["notes"])
    (result,) = ModelCard.load(folder / "README.md").data.eval_results[::2]
    assert (result.dataset_name, result.dataset_split) == ("tuning", "development")
    assert [set(figures) for figures in sent] == [
        {"evaluate/tuning/caption to image, R@1", "evaluate/tuning/image to caption, R@1"}
    ]
