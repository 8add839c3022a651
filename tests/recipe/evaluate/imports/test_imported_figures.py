"""Small originals, imported and evaluated, have the figures of clip-benchmark: by its builder, or on our shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.judge import environment, timed
from diht_k8s.cli.main import main
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.evaluate import class_texts
from diht_k8s.stages.evaluate.catalogue.discovery import benchmark_of, candidate_folders, find_unlisted
from tests.recipe.evaluate.imports import originals
from tests.recipe.evaluate.small_run import evaluate_alone, measured

BUILT = ("cifar10", "mnist", "gtsrb", "food101", "pets", "eurosat")
"""clip-benchmark reads these originals by its own builder; with the captions below."""
CAPTIONED = {"coco": "mscoco_captions", "flickr": "flickr30k"}
SHARDED = ("image_folder", "svhn", "caltech101", "parquet", "arrow")
SHARDED_CAPTIONS = ("karpathy", "parquet_captions")
"""clip-benchmark has no builder for these: it reads our shards. WinoGAViL, Winoground and questions it cannot score."""
CLOSE = 1e-6


def clip_benchmarks_figures(model: Path, output: Path, roots: str, task: str, names: list[str]) -> dict[str, Any]:
    output.mkdir(exist_ok=True)
    script = Path(__file__).with_name("reference_builder.py")
    found, _, _ = timed([str(environment()), str(script), str(model), str(output), roots, task, *names])
    assert found.returncode == 0, found.stderr[-2000:]
    slugs = [name.removeprefix("wds/").replace("/", "_") for name in names]
    return {
        name: json.loads((output / f"{slug}.json").read_text())["metrics"]
        for name, slug in zip(names, slugs, strict=True)
    }


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Every original imported and evaluated with clip-benchmark's decoding, class names and templates."""
    originals.trust_files(monkeypatch)
    package = environment().parent.parent / "lib"
    (tmp_path / "site").mkdir()
    (tmp_path / "site/clip_benchmark").symlink_to(next(package.glob("python3*/site-packages/clip_benchmark")))
    monkeypatch.syspath_prepend(tmp_path / "site")
    class_texts._read.cache_clear()
    (tmp_path / "prompt.txt").write_text("a photo of a {c}.\n{c}\n")
    for name in (*BUILT, *CAPTIONED, *SHARDED, *SHARDED_CAPTIONS):
        build = getattr(originals, name)
        source, output = build(tmp_path / "in" / CAPTIONED.get(name, name)), f"{tmp_path}/out/our_{name}"
        options = [
            *originals.options_of(build),
            *(["--templates", f"{tmp_path}/prompt.txt"] if name in SHARDED else []),
        ]
        assert main(["benchmarks", "import", str(source), output, "--shard-size", "10", *options]) == 0
    class_texts._read.cache_clear()
    storage, root = Storage(), f"{tmp_path}/out"
    parts = [benchmark_of(each, storage) for each in find_unlisted(root, storage, candidate_folders(root, storage), ())]
    benchmarks = [part.model_dump(by_alias=True, mode="json") for part in parts]
    results = measured(evaluate_alone(tmp_path, benchmarks, output="run", decode="Reference"))
    return {result["name"].removeprefix("our_"): result for result in results}


def same_classification(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours["top1"] == pytest.approx(theirs["acc1"], abs=CLOSE), ours["name"]
    assert ours["balanced"] == pytest.approx(theirs["mean_per_class_recall"], abs=CLOSE)
    if ours["top5"] is not None and len(ours["classes"]) > 5:
        assert ours["top5"] == pytest.approx(theirs["acc5"], abs=CLOSE)


def same_retrieval(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for k in ("1", "5", "10"):
        assert ours["text_to_image"]["recall"][k] == pytest.approx(theirs[f"image_retrieval_recall@{k}"], abs=CLOSE)
        assert ours["image_to_text"]["recall"][k] == pytest.approx(theirs[f"text_retrieval_recall@{k}"], abs=CLOSE)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_figures_when_originals_are_imported_equal_clip_benchmarks(tmp_path: Path, evaluated: dict[str, Any]) -> None:
    model, output = tmp_path / "model", tmp_path / "theirs"
    originals, shards = f"{tmp_path}/in/{{dataset}}", f"{tmp_path}/out/our_{{dataset}}"
    built = clip_benchmarks_figures(model, output, originals, "zeroshot_classification", list(BUILT))
    for name in BUILT:
        same_classification(evaluated[name], built[name])
    captioned = clip_benchmarks_figures(model, output, originals, "zeroshot_retrieval", list(CAPTIONED.values()))
    for name, theirs in CAPTIONED.items():
        same_retrieval(evaluated[name], captioned[theirs])
    names = [f"wds/{name}" for name in SHARDED]
    read = clip_benchmarks_figures(model, output, shards, "zeroshot_classification", names)
    for name in SHARDED:
        same_classification(evaluated[name], read[f"wds/{name}"])
    names = [f"wds/{name}" for name in SHARDED_CAPTIONS]
    read = clip_benchmarks_figures(model, output, shards, "zeroshot_retrieval", names)
    for name in SHARDED_CAPTIONS:
        same_retrieval(evaluated[name], read[f"wds/{name}"])
