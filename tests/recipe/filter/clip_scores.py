"""Pairs and small models for the tests of the clip score, and open_clip's own scores."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.recipe.evaluate.small_run import CONFIG
from tests.recipe.filter.shards import drawn, pair, rows_of, tar_of

WEIGHTS = "open_clip_model.safetensors"
RESNET = {**CONFIG, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}}
CAPTIONS = [
    "a small dog chasing a red ball",
    "server",
    "a man riding a brown horse on the beach",
    "a red car near a tall tree",
    "two girls share an umbrella",
    "a small dog chasing a red ball",
    "an old woman reading a book in the garden",
    "a black cat sleeping on a blue sofa",
]
COLOURS = ["red", "green", "blue", "gold", "black", "white", "pink", "grey"]
SIZES = [(96, 64), (64, 96), (40, 40), (200, 50)]
SHARDS = ("web-0", "web-1")


def image_of(shard: int, number: int) -> bytes:
    return drawn(f"{shard}{number}", size=SIZES[number % 4], colour=COLOURS[(number + 3 * shard) % 8])


def write_scored(folder: Path) -> str:
    """Two shards of eight pairs whose second one has too simple a caption; returns the pattern that matches them."""
    folder.mkdir()
    for shard in range(2):
        members = [
            member
            for number, caption in enumerate(CAPTIONS)
            for member in pair(f"{shard}-{number}", caption, image_of(shard, number))
        ]
        (folder / f"{shard}.tar").write_bytes(tar_of(members))
    return f"{folder}/*.tar"


def reference(model: str) -> dict[str, float]:
    """Score of each pair by open_clip alone, one pair at a time; by key."""
    made: Any = open_clip.create_model_from_pretrained(f"local-dir:{model}")
    network, preprocess = made
    tokenize, found = open_clip.get_tokenizer(f"local-dir:{model}"), dict[str, float]()
    with torch.inference_mode():
        for shard in range(2):
            for number, caption in enumerate(CAPTIONS):
                image = Image.open(io.BytesIO(image_of(shard, number))).convert("RGB")
                image_D = network.eval().encode_image(preprocess(image)[None], normalize=True)[0]
                text_D = network.encode_text(tokenize([caption]), normalize=True)[0]
                found[f"{shard}-{number}"] = float(image_D @ text_D)
    return found


def scores_of(output: Path) -> dict[str, float | None]:
    return {row.index: row.clip_score for shard in SHARDS for row in rows_of(output, shard)}


def reasons_of(output: Path) -> dict[str, str]:
    return {row.index: row.reason for shard in SHARDS for row in rows_of(output, shard)}


def rule(model: str, min_score: float = -1, **more: Any) -> dict[str, Any]:
    return {"clipScore": {"model": model, "minScore": min_score, **more}}


def between(scores: Iterable[float], dropped: int) -> float:
    """A threshold halfway between two scores, below which `dropped` of them lie."""
    low, high = sorted(scores)[dropped - 1 : dropped + 1]
    return (low + high) / 2


def scored(keys: Iterable[str]) -> list[str]:
    """The keys whose captions pass, so that their images are scored."""
    return [key for key in keys if not key.endswith("-1")]


def change(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    torch.manual_seed(7)
    weights["visual.proj"] = torch.randn_like(weights["visual.proj"])
    save_file(weights, folder / WEIGHTS)
