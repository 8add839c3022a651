"""The stage evaluate with its input, model and output on each object store gives the figures it gives from disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.files import model_identity
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.runtime.stage import run_stage
from diht_k8s.stages.evaluate import stage as program
from diht_k8s.stages.evaluate.catalogue import catalogue
from diht_k8s.stages.evaluate.catalogue.discovery import benchmark_of, find_benchmark
from tests.recipe.evaluate.layouts import lay_out
from tests.recipe.evaluate.small_run import export_model
from tests.s3.server import S3

pytestmark = pytest.mark.s3
ENTRIES = ("cifar10", "mscoco_captions")


def evaluation(root: str, storage: Storage, rules: list[dict[str, Any]]) -> dict[str, Any]:
    """`report.json` of the benchmarks that lie below a root, as clip-benchmark lays them out."""
    found = [find_benchmark(catalogue("diht29").entry(name), f"{root}/wds", storage) for name in ENTRIES]
    assert [(item.shards, item.whole) for item in found] == [(2, False), (2, True)]  # six class names of cifar10's ten
    benchmarks = [benchmark_of(item, storage).model_dump(by_alias=True) for item in found]
    spec = {
        "storage": rules,
        "data": {"sources": [{"name": "none", "shards": [f"{root}/none.tar"]}], "output": f"{root}/out"},
        "evaluate": {"model": f"{root}/model", "benchmarks": benchmarks},
    }
    run = DihtRun.model_validate(
        {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "far"}, "spec": spec}
    )
    assert run_stage(program, run, Stage.EVALUATE) is not None
    return json.loads(storage.read_bytes(run_layout(run, storage).report(Stage.EVALUATE)))


def test_evaluation_when_all_lies_on_a_store_has_the_figures_from_disk(store: S3, tmp_path: Path) -> None:
    for name in ENTRIES:
        lay_out(tmp_path / "wds", catalogue("diht29").entry(name))
    (tmp_path / "wds" / "cifar10" / "classnames.txt").write_text("\n".join(f"thing {n}" for n in range(6)))
    export_model(tmp_path / "model")
    here = evaluation(str(tmp_path), Storage(), [])
    far_root, rules = f"{store.base}/evaluated", [store.rule]
    storage = Storage(DihtRun.model_validate(_only_storage(rules)).spec.storage)
    for path in sorted(path for path in tmp_path.rglob("*") if path.is_file() and "out" not in path.parts):
        storage.write_bytes(f"{far_root}/{path.relative_to(tmp_path)}", path.read_bytes())
    far = evaluation(far_root, storage, rules)
    for mine, theirs in zip(here["benchmarks"], far["benchmarks"], strict=True):
        for found in (mine, theirs):
            for place in ("notes", "class_names_from", "templates_from"):  # they name where something lies or does not
                found.pop(place, None)
        assert mine == theirs
    before = model_identity(f"{far_root}/model", storage)
    storage.write_bytes(f"{far_root}/model/open_clip_config.json", b"{}")
    assert model_identity(f"{far_root}/model", storage) != before


def _only_storage(rules: list[dict[str, Any]]) -> dict[str, Any]:
    data = {"sources": [{"name": "none", "shards": ["none.tar"]}], "output": "out"}
    spec = {"storage": rules, "data": data, "filter": {}}
    return {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "far"}, "spec": spec}
