"""A committed filter output made of coloured shapes, small enough that the whole label stage takes seconds."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import timm
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.api.reports import Committed
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.parquet import write_table
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.runtime.commit import artefact, commit
from diht_k8s.runtime.stage import run_stage
from diht_k8s.stages.label import stage
from tests.folders import planted

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "bar")
SIDE = 32
TEACHER = "test_resnet.r160_in1k"
PAIR = pa.struct([("object", pa.string()), ("attribute", pa.string())])
EDGE = pa.struct([("subject", pa.string()), ("action", pa.string()), ("object", pa.string())])


Make = Callable[..., Any]
"""The fixture `make_kept`."""


def label(run: DihtRun, **options: Any) -> Committed | None:
    """The stage, in this process."""
    return run_stage(stage, run, Stage.LABEL, **options)


@dataclass
class Pair:
    """One kept pair."""

    uid: str
    objects: list[str]
    attributes: list[str]
    image: bytes
    group: str | None = None
    author: str | None = None
    """an object of the caption that stands after "by"."""
    unparsed: str = ""
    """words of the caption that its parser makes nothing of."""


def picture(colour: str, shape: str, shift: int) -> bytes:
    image = Image.new("RGB", (SIDE, SIDE), "white")
    draw, box = ImageDraw.Draw(image), (6 + shift, 4, 24 + shift, 22)
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    else:
        draw.rectangle(box if shape == "square" else (0, 10 + shift, SIDE, 14 + shift), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pairs_of(shard: int, count: int) -> list[Pair]:
    found = []
    for number in range(count):
        colour, shape = COLOURS[number % len(COLOURS)], SHAPES[(number // 2) % len(SHAPES)]
        found.append(Pair(f"{shard}-{number}", [shape], [colour], picture(colour, shape, (number + shard) % 6)))
    return found


@dataclass
class Kept:
    """What the filter left, on disk, and the run that labels it."""

    folder: Path
    shards: list[list[Pair]]
    label: dict[str, Any] = field(default_factory=dict)
    rules: dict[str, Any] = field(default_factory=dict)

    def run(self, **label: Any) -> DihtRun:
        document = {
            "apiVersion": "diht.dev/v1alpha1",
            "kind": "DihtRun",
            "metadata": {"name": "label-test"},
            "spec": {
                "data": {"sources": [{"name": "shapes", "shards": ["raw/*.tar"]}], "output": str(self.folder)},
                "filter": {"minActions": 0, **self.rules},
                "label": {**self.label, **label},
            },
        }
        run = DihtRun.model_validate(document)
        planted(run, Stage.FILTER, latest=False)
        return run

    def write(self) -> Kept:
        storage, layout = Storage(), planted(self.run(), Stage.FILTER)
        shards = []
        for number, pairs in enumerate(self.shards):
            name = f"shapes-{number:02}"
            write_samples(storage, layout.kept(name), [(pair.uid, _members(pair)) for pair in pairs])
            write_table(storage, layout.scores(name), _scores(pairs), {"schema_version": SCHEMA_VERSION})
            shards.append({"name": name, "source": "shapes", "input": len(pairs) + 1, "kept": len(pairs)})
        artefacts = [artefact(storage, layout, Stage.FILTER, f"kept/{shard['name']}.tar") for shard in shards]
        commit(storage, layout, Stage.FILTER, {"inputs": {}}, artefacts, {"shards": shards})
        return self


def _members(pair: Pair) -> dict[str, bytes]:
    meta = {"uid": pair.uid, "caption": f"a {' '.join(pair.attributes)} {' '.join(pair.objects)}{pair.unparsed}"}
    if pair.group is not None:
        meta["group"] = pair.group
    return {"png": pair.image, "json": json.dumps(meta).encode()}


def _scores(pairs: list[Pair]) -> pa.Table:
    """the columns that label reads, with a row that the filter dropped at the front."""
    return pa.table(
        {
            "uid": ["dropped", *(pair.uid for pair in pairs)],
            "kept": [False, *(True for _ in pairs)],
            "objects": pa.array([["junk"], *(_objects(pair) for pair in pairs)], pa.list_(pa.string())),
            "attributes": pa.array(
                [[], *([{"object": "x", "attribute": name} for name in pair.attributes] for pair in pairs)],
                pa.list_(PAIR),
            ),
            "relations": pa.array([[], *(_edges(pair) for pair in pairs)], pa.list_(EDGE)),
        }
    )


def _objects(pair: Pair) -> list[str]:
    return pair.objects if pair.author is None else [*pair.objects, pair.author]


def _edges(pair: Pair) -> list[dict[str, str | None]]:
    """Who drew it, and that it lies on nothing that is named."""
    drawn = [] if pair.author is None else [{"subject": None, "action": "draw by", "object": pair.author}]
    return [*drawn, {"subject": "x", "action": "lie on", "object": None}]


@pytest.fixture(scope="session")
def teacher_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of a tiny untrained network: its features tell colours and bars apart."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in timm.create_model(TEACHER).state_dict().items()}, path)
    return str(path)


@pytest.fixture
def make_kept(tmp_path: Path, teacher_weights: str, one_thread: None) -> Callable[..., Kept]:
    """Shards of coloured shapes with the filter's commit; not yet written, so that a test can spoil them."""

    def make(*, shards: int = 3, pairs: int = 40, name: str = "run") -> Kept:
        label = {
            "teacher": {"model": f"timm/{TEACHER}", "weights": teacher_weights, "imageSize": SIDE},
            "heads": {"epochs": 3, "lr": 0.01, "batchSize": 32},
            "topK": 3,
        }
        return Kept(tmp_path / name, [pairs_of(number, pairs) for number in range(shards)], label)

    return make
