"""Clip scores of earlier runs, and models that do not work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diht_k8s.api.errors import DataError, DihtError, UserError
from diht_k8s.data.shards.storage import Storage
from diht_k8s.outputs.takedown import purge
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.stages.filter.clip_score import ClipScorer
from tests.recipe.filter.clip_scores import CAPTIONS, WEIGHTS, change, image_of, rule, scores_of
from tests.recipe.filter.shards import (
    config_of,
    filter_with,
    pair,
    rows_of,
    run_of,
    tar_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_min_score_is_part_of_the_stage_but_not_of_the_scores(tmp_path: Path, shards: str, model: str) -> None:
    runs = [run_of(tmp_path / "out", shards, rule(model, low)) for low in (0.1, 0.2)]
    assert config_of(runs[0]) != config_of(runs[1])
    copied = shutil.copytree(model, tmp_path / "copied")
    headers = []
    for name, source, low in (("a", model, 0.1), ("b", str(copied), -1)):
        filter_with(run_of(tmp_path / name, shards, rule(source, low)))
        table = pq.read_schema(tmp_path / name / "runs/latest/filter/scores/web-0.parquet")
        headers.append(json.loads((table.metadata or {})[b"diht"])["clip_model"])
    assert headers[0] == headers[1]
    assert headers[0].startswith("open_clip-")


REUSED = {
    "the same model": ({}, 0),
    "no clip score": (None, 14),
    "other weights": ({"seed": 1}, 14),
    "captions of a stricter run": ({"minActions": 1}, 2),
}


@pytest.mark.parametrize("case", list(REUSED))
def test_scores_from_another_run_are_reused_where_the_same_model_gave_them(
    tmp_path: Path, shards: str, model: str, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    earlier, images = REUSED[case]
    rules = {} if earlier is None else rule(model)
    if earlier and "seed" in earlier:
        change(shutil.copytree(model, tmp_path / "other"))
        rules = rule(f"{tmp_path}/other")
    elif earlier:
        rules = {**rules, **earlier}
    filter_with(run_of(tmp_path / "earlier", shards, rules))
    sizes, score = list[int](), ClipScorer.scores

    def counted(scorer: ClipScorer, given: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        sizes.append(len(given))
        return score(scorer, given, captions)

    monkeypatch.setattr(ClipScorer, "scores", counted)
    filter_with(
        run_of(tmp_path / "out", shards, {**rule(model), "scoresFrom": f"{tmp_path}/earlier/runs/latest/filter"})
    )
    assert sum(sizes) == images
    filter_with(run_of(tmp_path / "fresh", shards, rule(model)))
    assert scores_of(tmp_path / "out") == pytest.approx(scores_of(tmp_path / "fresh"), abs=1e-5)


def test_run_without_the_rule_keeps_the_scores_of_the_earlier_one(tmp_path: Path, shards: str, model: str) -> None:
    filter_with(run_of(tmp_path / "scored", shards, rule(model, 0.0)))
    committed = filter_with(run_of(tmp_path / "out", shards, {"scoresFrom": f"{tmp_path}/scored/runs/latest/filter"}))
    assert committed.summary["counts"]["kept"] == 14
    assert scores_of(tmp_path / "out") == scores_of(tmp_path / "scored")


def test_repeats_and_takedowns_keep_the_scores(tmp_path: Path, shards: str, model: str) -> None:
    run = run_of(tmp_path / "out", shards, {**rule(model), "duplicates": "Exact"})
    repeats = [*pair("2-0", CAPTIONS[0], image_of(0, 0), uid="twice"), *pair("2-2", CAPTIONS[2], uid="gone")]
    (tmp_path / "in" / "2.tar").write_bytes(tar_of(repeats))
    filter_with(run)
    (tmp_path / "list.txt").write_text("gone\n")
    purge(run, Storage(), str(tmp_path / "list.txt"), StopFlag())
    twice, gone = rows_of(tmp_path / "out", "web-2")
    assert (twice.uid, twice.reason, gone.uid, gone.reason) == ("twice", "duplicate", "", "exclude")
    assert twice.clip_score == pytest.approx(scores_of(tmp_path / "out")["0-0"], abs=1e-6)
    assert gone.clip_score is None


class Pickled:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code of a weights file ran",))


def broken(folder: Path, case: str) -> dict[str, Any]:
    """The rule of a run whose model does not work."""
    if case == "missing":
        return rule(f"{folder}/nothing")
    if case == "name of open_clip":
        return rule("ViT-B-32")
    if case == "no model":
        (folder / "clip" / "open_clip_config.json").unlink()
    if case == "wrong architecture":
        return rule(f"{folder}/clip/{WEIGHTS}", architecture="RN50")
    if case == "unknown architecture":
        return rule(f"{folder}/clip/{WEIGHTS}", architecture="ViT-B-33")
    if case == "program":
        torch.save({"state_dict": Pickled()}, folder / "weights.pt")
        return rule(f"{folder}/weights.pt")
    if case == "damaged":
        (folder / "clip" / WEIGHTS).write_bytes(b"12345678")
    return rule(f"{folder}/clip")


@pytest.mark.parametrize(
    ("case", "error", "says"),
    [
        ("missing", UserError, r"clipScore\.model: .*nothing does not exist: give a folder with open_clip_config"),
        ("name of open_clip", UserError, r"clipScore\.model: ViT-B-32 does not exist"),
        ("no model", UserError, r"clipScore: .*clip is not a model: give a folder with"),
        (
            "wrong architecture",
            DataError,
            r"clipScore: .*safetensors does not fit its architecture: text pos_embed width changed",
        ),
        ("unknown architecture", UserError, r"clipScore: ViT-B-33 .*did you mean ViT-B-32\?"),
        ("program", UserError, r"clipScore: .*weights\.pt is refused: .*code from a file is never run"),
        ("damaged", DataError, r"clipScore: .*safetensors is damaged"),
    ],
)
def test_model_that_does_not_work_ends_the_stage_before_the_first_caption_and_image(
    tmp_path: Path,
    shards: str,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: str,
    error: type[DihtError],
    says: str,
) -> None:
    run = run_of(tmp_path / "out", shards, broken(tmp_path, case))
    monkeypatch.setattr("diht_k8s.stages.filter.rules.decode", None)
    monkeypatch.setattr("diht_k8s.stages.filter.captions.parser.CaptionParser.parse", None)
    with pytest.raises(error, match=says):
        filter_with(run)
    assert "code of a weights file ran" not in capsys.readouterr().out
    assert not list((tmp_path / "out").rglob("web-*"))


def test_scores_that_are_not_finite_end_the_stage(tmp_path: Path, shards: str, model: str) -> None:
    weights = load_file(f"{model}/{WEIGHTS}")
    weights["visual.proj"].fill_(float("nan"))
    save_file(weights, f"{model}/{WEIGHTS}")
    with pytest.raises(DataError, match=r"clipScore: .*clip gives scores that are not finite: check its weights"):
        filter_with(run_of(tmp_path / "out", shards, rule(model)))
