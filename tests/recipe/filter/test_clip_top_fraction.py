"""`keepShare`: the stage keeps the pairs with the highest clip scores of the whole input, whoever works and stops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models import loading
from diht_k8s.outputs.takedown import purge
from diht_k8s.runtime.inputs import kept_shards
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.runtime.signals import StopFlag
from tests.recipe.filter.clip_scores import CAPTIONS, image_of, reasons_of, reference, scored
from tests.recipe.filter.shards import files_of, filter_with, pair, report_of, rows_of, run_of, tar_of

pytestmark = pytest.mark.usefixtures("one_thread")


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
