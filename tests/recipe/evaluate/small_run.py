"""A small run as the other stages leave it, made of drawn images and a tiny random model: what evaluation reads."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from diht_k8s.api.documents import load
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.reports import Committed
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.samples import make_sample
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.models.features import encode_pixels
from diht_k8s.models.loading import LoadedModel
from diht_k8s.runtime.commit import artefact, commit, read_committed
from diht_k8s.runtime.stage import run_stage
from diht_k8s.stages.evaluate import stage as program
from diht_k8s.stages.filter.summary import Summary, junk_table
from tests.folders import planted

COLOURS = ["red", "green", "blue", "gold", "black", "purple"]
SHAPES = ["disc", "box", "bar"]
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}

Pair = tuple[str, dict[str, bytes]]


def draw(colour: str, shape: str, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (48, 48), "white")
    pen = ImageDraw.Draw(image)
    x, y = (int(v) for v in rng.integers(0, 20, 2))
    box = (x, y, x + 24, y + (8 if shape == "bar" else 24))
    (pen.ellipse if shape == "disc" else pen.rectangle)(box, fill=colour)
    image.putpixel((47, 47), (255, seed >> 8 & 255, seed & 255))  # no two images are the same
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pairs(number: int, seed: int, **extra: Any) -> list[Pair]:
    """Images with captions and the colour as class."""
    found: list[Pair] = []
    for index in range(number):
        colour, shape = COLOURS[index % 6], SHAPES[index // 6 % 3]
        caption = f"a {colour} {shape} number {index}"
        meta = {"caption": caption, "uid": f"{seed}-{index}", "cls": index % 6, **extra}
        found.append((f"{index:05d}", {"png": draw(colour, shape, seed + index), "json": json.dumps(meta).encode()}))
    return found


def document(folder: Path, evaluate: dict[str, Any] | None = None, **spec: Any) -> DihtRun:
    """A run document over the shards that `make_run` writes."""
    heldout = [f"{folder}/heldout/0.tar"]
    benchmarks = [
        {"name": "pairs", "type": "Retrieval", "shards": heldout},
        {
            "name": "colours",
            "type": "Classification",
            "shards": heldout,
            "classNames": f"{folder}/heldout/names.txt",
            "templates": ["a {c} thing", "{}"],
        },
    ]
    body: dict[str, Any] = {
        "data": {"sources": [{"name": "drawn", "shards": [f"{folder}/raw/*.tar"]}], "output": f"{folder}/out"},
        "filter": {"minActions": 0},
        "label": {},
        "train": {"modelConfig": CONFIG, "samples": 100, "batchSize": 10, "imageSize": 32},
        "evaluate": {"benchmarks": benchmarks, "fewShot": {"shots": [1, 2], "seeds": 2}, **(evaluate or {})},
        **spec,
    }
    body = {key: value for key, value in body.items() if value is not None}
    run = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "small"}, "spec": body}
    return load(json.dumps(run), name="small.yaml")


def make_data(folder: Path, *, train: int = 90, heldout: int = 24) -> None:
    """Raw and held-out shards, class names."""
    storage = Storage()
    write_samples(storage, f"{folder}/raw/0.tar", pairs(train, 1000))
    write_samples(storage, f"{folder}/heldout/0.tar", pairs(heldout, 9000))
    (folder / "heldout" / "names.txt").write_text("".join(f"{colour}\n" for colour in COLOURS))


def export_model(folder: Path, config: dict[str, Any] | None = None) -> None:
    """A random model in open_clip's folder layout."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    config = config or CONFIG
    torch.manual_seed(0)
    config_of_class = {key: value for key, value in config.items() if key != "custom_text"}
    model = (open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP)(**config_of_class)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )


MADE = (Stage.FILTER, Stage.LABEL, Stage.TRAIN)
"""The stages whose outputs `make_run` writes."""


def encode_images(loaded: LoadedModel, images: Sequence[Image.Image]) -> NDArray[np.float32]:
    """[B, D] unit features of a few images, preprocessed as the model's own configuration says."""
    return encode_pixels(loaded, [loaded.transform(image) for image in images])


def make_run(folder: Path, run: DihtRun) -> None:
    """Data and the outputs of filter, label and train, each committed."""
    make_data(folder)
    storage, layout = Storage(), planted(run, *MADE)
    raw = pairs(90, 1000)
    kept = [pair for number, pair in enumerate(raw) if number % 5]
    write_samples(storage, layout.kept("drawn-0"), kept)
    _write(storage, layout.report(Stage.FILTER), filter_report(raw))
    counts = {"input": 90, "kept": 72, "bad": {}, "dropped": {"complexity": 15, "text": 3}}
    shard = {"name": "drawn-0", "source": "drawn", **counts}
    _commit(storage, layout, Stage.FILTER, {"shards": [shard], "counts": counts}, ["report.json", "kept/drawn-0.tar"])
    _write(storage, layout.report(Stage.LABEL), label_report(kept))
    _commit(storage, layout, Stage.LABEL, {"samples": 72, "labelled": 72}, ["report.json"])
    export_model(Path(layout.model))
    storage.write_bytes(layout.metrics, "".join(json.dumps(line) + "\n" for line in metrics()).encode())
    summary = {
        "samples": 100,
        "steps": 10,
        "seconds": 3.5,
        "wall_seconds": 5.5,
        "samples_per_second": 28.6,
        "pairs": 72,
        "processes": 1,
    }
    _commit(storage, layout, Stage.TRAIN, summary, ["metrics.jsonl", "model/open_clip_model.safetensors"])


def write_teacher_features(run: DihtRun, teacher: Any) -> None:
    """What the label stage keeps of its teacher."""
    from diht_k8s.stages.label.features import extract, write_features

    storage, layout = Storage(), planted(run, *MADE)
    header = {"config_sha256": read_committed(storage, layout, Stage.LABEL).config_sha256}
    shard = Shard("drawn-0", layout.kept("drawn-0"), "drawn")
    found = extract(teacher, read_pairs(storage, shard), shard.uri, lambda images: None)
    write_features(storage, layout.features("drawn-0"), found, header)


def add_teacher_features(run: DihtRun) -> None:
    """The features of the run's own teacher."""
    import torch

    from diht_k8s.stages.label.teacher import load_teacher
    from diht_k8s.stages.label.teacher_weights import weights_uri

    label = run.spec.label
    assert label is not None
    write_teacher_features(run, load_teacher(label.teacher, Storage(), weights_uri(label.teacher), torch.device("cpu")))


def filter_report(raw: list[Pair]) -> dict[str, Any]:
    def examples(rows: range) -> list[dict[str, Any]]:
        samples = [make_sample(*raw[row]) for row in rows]
        return [
            {
                "uid": s.uid,
                "shard": "drawn-0",
                "key": s.key,
                "caption": s.caption,
                "objects": ["disc"],
                "actions": [],
                "texts": ["disc"],
            }
            for s in samples
        ]

    return {
        "funnel": [
            {"step": "input", "samples": 90, "dropped": 0},
            {"step": "complexity", "samples": 75, "dropped": 15},
            {"step": "text", "samples": 72, "dropped": 3},
        ],
        "thresholds": {"minComplexity": 1, "minActions": 0},
        "table": [{"minComplexity": 1, "minActions": 1, "scored": 90, "complexity": 75, "action": 7, "text": None}],
        "text_spotting": {"recall": 0.9, "precision": 1.0},
        "junk": junk_table(Summary(junk=junk()), "junk"),
        "names": {"objects": [["disc", 30]], "attributes": [["red", 15]], "actions": []},
        "examples": {
            "complexity": examples(range(0, 20, 5)),
            "text": examples(range(25, 40, 5)),
            "kept": examples(range(1, 5)),
        },
    }


def junk() -> Counter[tuple[str, str]]:
    """Of the 90 pairs: three with a watermark, five with another image's caption."""
    other = "another image's caption"
    return Counter(
        {
            ("", ""): 69,
            ("", "complexity"): 13,
            ("watermark", "text"): 3,
            (other, ""): 3,
            (other, "complexity"): 2,
        }
    )


def label_report(kept: list[Pair]) -> dict[str, Any]:
    head = {
        "held_out": True,
        "mean_average_precision": 0.31,
        "frequency_baseline": 0.1,
        "top_label_in_caption": {"never_seen": 0.6},
    }
    samples = [make_sample(*pair) for pair in kept[:4]]
    return {
        "teacher": {"model": "timm/tf_efficientnet_lite0"},
        "vocabulary": {"objects": {"classes": 3}, "attributes": {"classes": 6}},
        "heads": {"cross_fit": 5, "objects": head, "attributes": head},
        "added": {
            "measured_on": 10,
            "pictures": 0.4,
            "none": 6,
            "commonest": [["disc", 4, 0.7]],
            "precision": 0.7,
        },
        "examples": [{"uid": s.uid, "shard": "drawn-0", "caption": s.caption, "added": "disc"} for s in samples],
    }


def metrics() -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "samples": step * 10,
            "loss": 5 / step,
            "contrastive_loss": 4 / step,
            "object_loss": 2 / step,
            "attribute_loss": 1 / step,
            "lr": 0.001 * step,
            "logit_scale": 14.3,
            "samples_per_second": 30.0 if step > 1 else None,
            "data_wait_percent": 2.0,
        }
        for step in range(1, 11)
    ]


def _write(storage: Storage, uri: str, document: dict[str, Any]) -> None:
    storage.write_bytes(uri, json.dumps(document).encode())


def _commit(storage: Storage, layout: Layout, stage: Stage, summary: dict[str, Any], paths: list[str]) -> None:
    assert all(storage.exists(join(layout.stage(stage), path)) for path in paths)
    artefacts = [artefact(storage, layout, stage, path) for path in paths]
    commit(storage, layout, stage, {"inputs": {}, "stage": stage.value}, artefacts, summary)


def evaluate(run: DihtRun, **options: Any) -> Committed | None:
    planted(run, *(stage for stage in MADE if stage in run.spec.stages))
    return run_stage(program, run, Stage.EVALUATE, **options)


def evaluate_alone(
    folder: Path,
    benchmarks: Sequence[dict[str, Any]],
    *,
    output: str = "out",
    config: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Evaluate a random model, in FOLDER/model, in a run without other stages and sources; the stage's folder."""
    export_model(folder / "model", config)
    spec = {
        "data": {"output": f"{folder}/{output}"},
        "evaluate": {"model": f"{folder}/model", "benchmarks": benchmarks, **options},
    }
    document = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "alone"}, "spec": spec}
    run_stage(program, load(json.dumps(document), name="run.yaml"), Stage.EVALUATE)
    return folder / output / "runs/latest/evaluate"


def measured(stage: Path) -> list[dict[str, Any]]:
    """The results of the benchmarks in an evaluation's folder."""
    return json.loads((stage / "report.json").read_text())["benchmarks"]


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "runs/latest" / "report.json").read_text())


def results(folder: Path) -> dict[str, Any]:
    """What the evaluation itself wrote, also where it failed."""
    return json.loads((folder / "out" / "runs/latest/evaluate" / "report.json").read_text())


def page(folder: Path) -> str:
    return (folder / "out" / "runs/latest" / "report.html").read_text()


def heldout(folder: Path, *samples: tuple[str, dict[str, bytes]]) -> None:
    write_samples(Storage(), f"{folder}/heldout/0.tar", samples)
