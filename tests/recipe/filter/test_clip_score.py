"""The rule on clip scores, by small models with random weights: as open_clip gives them, in later runs, models that do
not work, and `keepShare`, which keeps the pairs with the highest scores of the whole input.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from diht_k8s.api.errors import DataError, DihtError, UserError
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models import loading
from diht_k8s.outputs.takedown import purge
from diht_k8s.runtime.inputs import kept_shards
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.stages.filter.clip_score import ClipScorer
from tests.recipe.evaluate.small_run import CONFIG, export_model
from tests.recipe.filter.clip_scores import (
    CAPTIONS,
    RESNET,
    SHARDS,
    WEIGHTS,
    between,
    change,
    image_of,
    reasons_of,
    reference,
    rule,
    scored,
    scores_of,
)
from tests.recipe.filter.shards import (
    config_of,
    files_of,
    filter_with,
    kept_keys,
    pair,
    report_of,
    rows_of,
    run_of,
    tar_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "config", [CONFIG, RESNET, {**CONFIG, "custom_text": True}], ids=["vit", "resnet", "other class"]
)
def test_scores_are_those_of_open_clip_pair_by_pair(tmp_path: Path, shards: str, config: dict[str, Any]) -> None:
    export_model(tmp_path / "clip", config)
    filter_with(run_of(tmp_path / "out", shards, rule(f"{tmp_path}/clip")))
    expected, found = reference(f"{tmp_path}/clip"), scores_of(tmp_path / "out")
    assert {key for key, score in found.items() if score is None} == {"0-1", "1-1"}
    assert {key: found[key] for key in scored(found)} == pytest.approx(
        {key: expected[key] for key in scored(found)}, abs=1e-5
    )
    assert len({round(score, 4) for score in found.values() if score is not None}) > 7, "the model tells pairs apart"


def test_pairs_below_min_score_are_dropped_and_counted_by_a_reason_of_their_own(
    tmp_path: Path, shards: str, model: str
) -> None:
    expected = reference(model)
    low = between([expected[key] for key in scored(expected)], 6)
    committed = filter_with(run_of(tmp_path / "out", shards, rule(model, low)))
    gone = {key for key in scored(expected) if expected[key] < low}
    assert committed.summary["counts"] == {
        "input": 16,
        "kept": 8,
        "bad": {},
        "dropped": {"clip_score": 6, "complexity": 2},
    }
    assert {key for key, reason in reasons_of(tmp_path / "out").items() if reason == "clip_score"} == gone
    kept = [key for shard in SHARDS for key in kept_keys(tmp_path / "out", shard)]
    assert set(kept) == set(scored(expected)) - gone
    report = report_of(tmp_path / "out")
    steps = {step["step"]: (step["dropped"], step["samples"]) for step in report["funnel"]}
    assert steps["clip_score"] == (6, 8)
    assert list(steps).index("action") < list(steps).index("clip_score") < list(steps).index("text")
    assert len(report["examples"]["clip_score"]) == 6


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


def broken(folder: Path, case: str) -> dict[str, Any]:
    """The rule of a run whose model does not work."""
    if case == "missing":
        return rule(f"{folder}/nothing")
    if case == "no model":
        (folder / "clip" / "open_clip_config.json").unlink()
    if case == "wrong architecture":
        return rule(f"{folder}/clip/{WEIGHTS}", architecture="RN50")
    if case == "damaged":
        (folder / "clip" / WEIGHTS).write_bytes(b"12345678")
    return rule(f"{folder}/clip")


@pytest.mark.parametrize(
    ("case", "error", "says"),
    [
        ("missing", UserError, r"clipScore\.model: .*nothing does not exist: give a folder with open_clip_config"),
        ("no model", UserError, r"clipScore: .*clip is not a model: give a folder with"),
        (
            "wrong architecture",
            DataError,
            r"clipScore: .*safetensors does not fit its architecture: text pos_embed width changed",
        ),
        ("damaged", DataError, r"clipScore: .*safetensors is damaged"),
    ],
)
def test_model_that_does_not_work_ends_the_stage_before_the_first_caption_and_image(
    tmp_path: Path,
    shards: str,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    error: type[DihtError],
    says: str,
) -> None:
    run = run_of(tmp_path / "out", shards, broken(tmp_path, case))
    monkeypatch.setattr("diht_k8s.stages.filter.rules.decode", None)
    monkeypatch.setattr("diht_k8s.stages.filter.captions.parser.CaptionParser.parse", None)
    with pytest.raises(error, match=says):
        filter_with(run)
    assert not list((tmp_path / "out").rglob("web-*"))


def test_scores_that_are_not_finite_end_the_stage(tmp_path: Path, shards: str, model: str) -> None:
    weights = load_file(f"{model}/{WEIGHTS}")
    weights["visual.proj"].fill_(float("nan"))
    save_file(weights, f"{model}/{WEIGHTS}")
    with pytest.raises(DataError, match=r"clipScore: .*clip gives scores that are not finite: check its weights"):
        filter_with(run_of(tmp_path / "out", shards, rule(model)))


def share(model: str, keep: float, **more: object) -> dict[str, object]:
    return {"clipScore": {"model": model, "keepShare": keep}, **more}


def best(scores: dict[str, float], count: int) -> set[str]:
    return set(sorted(scored(scores), key=lambda key: -scores[key])[:count])


@pytest.mark.parametrize("output", ["Shards", "KeepList"])
def test_best_share_of_the_whole_input_is_kept_and_the_rest_counted(
    tmp_path: Path, shards: str, model: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, expected = run_of(tmp_path / "out", shards, share(model, 0.45, output=output)), reference(model)
    committed = filter_with(run)
    counts = {"input": 16, "kept": 7, "bad": {}, "dropped": {"clip_share": 7, "complexity": 2}}
    assert committed.summary["counts"] == counts
    closing = json.loads([line for line in capsys.readouterr().out.splitlines() if '"progress"' in line][-1])
    assert (closing["done"], closing["total"], closing["metrics"]["kept_percent"]) == (16, 16, 100 * 7 / 16)
    read = [
        sample.key
        for shard in kept_shards(run.spec, Storage(), run_layout(run, Storage()))
        for sample in read_pairs(Storage(), shard)
    ]
    assert set(read) == best(expected, 7)
    assert {key for key, reason in reasons_of(tmp_path / "out").items() if not reason} == set(read)
    report = report_of(tmp_path / "out")
    assert report["funnel"][-1] == {"step": "clip_share", "samples": 7, "dropped": 7}
    assert report["clip_share"] == {"pairs": 14, "kept": 7, "score": pytest.approx(min(expected[k] for k in read))}
    assert len(report["examples"]["clip_share"]) == 7


def test_share_is_of_what_all_other_rules_keep(tmp_path: Path, shards: str, model: str) -> None:
    repeats = [member for number in (0, 2) for member in pair(f"2-{number}", CAPTIONS[number], image_of(0, number))]
    (tmp_path / "in" / "2.tar").write_bytes(tar_of(repeats))
    committed = filter_with(run_of(tmp_path / "out", shards, share(model, 0.5, duplicates="Exact")))
    assert committed.summary["counts"]["dropped"] == {"clip_share": 7, "complexity": 2, "duplicate": 2}
    assert [row.reason for row in rows_of(tmp_path / "out", "web-2")] == ["duplicate", "duplicate"]


@pytest.mark.parametrize("keep", [0.2, 0.9])
def test_another_share_uses_the_scores(
    tmp_path: Path, shards: str, model: str, monkeypatch: pytest.MonkeyPatch, keep: float
) -> None:
    filter_with(run_of(tmp_path / "fresh", shards, share(model, keep)))
    filter_with(run_of(tmp_path / "out", shards, share(model, 0.5)))
    monkeypatch.setattr(loading, "load_model", None)
    filter_with(run_of(tmp_path / "out", shards, share(model, keep)))
    assert files_of(tmp_path / "out") == files_of(tmp_path / "fresh")


def test_takedown_leaves_the_cut_where_it_is(tmp_path: Path, shards: str, model: str) -> None:
    run = run_of(tmp_path / "out", shards, share(model, 0.5))
    filter_with(run)
    kept = {row.uid: row.index for shard in ("web-0", "web-1") for row in rows_of(tmp_path / "out", shard) if row.kept}
    gone = next(iter(kept))
    (tmp_path / "list.txt").write_text(f"{gone}\n")
    purge(run, Storage(), str(tmp_path / "list.txt"), StopFlag())
    left = {key for key, reason in reasons_of(tmp_path / "out").items() if not reason}
    assert left == {index for uid, index in kept.items() if uid != gone}
    report = (tmp_path / "out/runs/latest/filter/report.json").read_text()
    assert gone not in report
    assert json.loads(report)["clip_share"]["kept"] == 7
