"""Released DiHT checkpoints: they load, give what a forward pass written from their description gives."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional

from diht_k8s.api.errors import DataError
from diht_k8s.models.features import encode_texts
from diht_k8s.models.loading import load_model
from tests.recipe.evaluate.small_run import encode_images

TEXTS = ["a red disc", "two dogs that run", "x " * 200]
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


SIZES = {
    "diht_vitb32_224px": (512, 768, 12, 32, 224, 512),
    "diht_vitb16_224px": (512, 768, 12, 16, 224, 512),
    "diht_vitl14_224px": (768, 1024, 24, 14, 224, 768),
    "diht_vitl14_336px": (768, 1024, 24, 14, 336, 768),
}
"""Embedding, image width, image layers, patch, pixels and text width of the four released models."""


def config_of(name: str) -> dict[str, Any]:
    """A released model in open_clip's words; its text tower always has 12 layers, 77 tokens and 49,408 words."""
    embed, width, depth, patch, pixels, text_width = SIZES[name]
    vision = {"width": width, "layers": depth, "patch_size": patch, "image_size": pixels, "head_width": 64}
    heads = {"width": text_width, "heads": text_width // 64, "layers": 12}
    text = {"context_length": 77, "vocab_size": 49408, **heads}
    return {"embed_dim": embed, "quick_gelu": False, "vision_cfg": vision, "text_cfg": text}


def shapes_of(name: str, layers: int | None) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a released file, written from its description and not from a model."""
    embed, width, depth, patch, pixels, text_width = SIZES[name]

    def block(prefix: str, size: int) -> dict[str, tuple[int, ...]]:
        return {
            f"{prefix}.attn.in_proj_weight": (3 * size, size),
            f"{prefix}.attn.in_proj_bias": (3 * size,),
            f"{prefix}.attn.out_proj.weight": (size, size),
            f"{prefix}.attn.out_proj.bias": (size,),
            f"{prefix}.ln_1.weight": (size,),
            f"{prefix}.ln_1.bias": (size,),
            f"{prefix}.mlp.c_fc.weight": (4 * size, size),
            f"{prefix}.mlp.c_fc.bias": (4 * size,),
            f"{prefix}.mlp.c_proj.weight": (size, 4 * size),
            f"{prefix}.mlp.c_proj.bias": (size,),
            f"{prefix}.ln_2.weight": (size,),
            f"{prefix}.ln_2.bias": (size,),
        }

    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (77, text_width),
        "text_projection": (text_width, embed),
        "logit_scale": (),
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((pixels // patch) ** 2 + 1, width),
        "visual.proj": (width, embed),
        "visual.conv1.weight": (width, 3, patch, patch),
        "token_embedding.weight": (49408, text_width),
    }
    for prefix, size in (("visual.ln_pre", width), ("visual.ln_post", width), ("ln_final", text_width)):
        shapes |= {f"{prefix}.weight": (size,), f"{prefix}.bias": (size,)}
    for number in range(layers or depth):
        shapes |= block(f"visual.transformer.resblocks.{number}", width)
    for number in range(layers or 12):
        shapes |= block(f"transformer.resblocks.{number}", text_width)
    return shapes


def released(folder: Path, name: str, layers: int | None = 1) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file in the released layout with random weights; few layers unless told otherwise."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        key: 1.0 + 0.1 * torch.randn(shape, generator=generator)
        if ".ln_" in f".{key}" and key.endswith("weight")
        else torch.randn(shape, generator=generator) * (0.02 if len(shape) < 2 else shape[-1] ** -0.5)
        for key, shape in shapes_of(name, layers).items()
    }
    weights["logit_scale"] = torch.tensor(math.log(60.0))
    path = folder / "new.ckpt"
    torch.save(weights, path)
    return path.rename(folder / f"{name}_{hashlib.sha256(path.read_bytes()).hexdigest()}.ckpt"), weights


def norm(x: torch.Tensor, w: dict[str, torch.Tensor], prefix: str) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{prefix}.weight"] + w[f"{prefix}.bias"]
    )


def blocks(x: torch.Tensor, w: dict[str, torch.Tensor], prefix: str, *, causal: bool) -> torch.Tensor:
    """Pre-norm transformer blocks with heads of 64 and exact GELU; x is [B, L, D]."""
    batch, length, size = x.shape
    number = 0
    while f"{prefix}.{number}.ln_1.weight" in w:
        p = f"{prefix}.{number}"
        mixed = norm(x, w, f"{p}.ln_1") @ w[f"{p}.attn.in_proj_weight"].T + w[f"{p}.attn.in_proj_bias"]
        q, k, v = (part.reshape(batch, length, size // 64, 64).transpose(1, 2) for part in mixed.chunk(3, dim=-1))
        scores = q @ k.transpose(-1, -2) / 8
        if causal:
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
        seen = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, size)
        x = x + seen @ w[f"{p}.attn.out_proj.weight"].T + w[f"{p}.attn.out_proj.bias"]
        inner = norm(x, w, f"{p}.ln_2") @ w[f"{p}.mlp.c_fc.weight"].T + w[f"{p}.mlp.c_fc.bias"]
        gelu = 0.5 * inner * (1 + torch.erf(inner / math.sqrt(2)))
        x = x + gelu @ w[f"{p}.mlp.c_proj.weight"].T + w[f"{p}.mlp.c_proj.bias"]
        number += 1
    return x


def image_features(image: Image.Image, w: dict[str, torch.Tensor], patch: int) -> np.ndarray:
    """Of an image that has the model's size already."""
    pixels = (torch.from_numpy(np.array(image)).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    side = image.width // patch
    cells = pixels.reshape(side, patch, side, patch, 3).permute(0, 2, 4, 1, 3).reshape(side * side, -1)
    tokens = cells @ w["visual.conv1.weight"].reshape(len(w["visual.class_embedding"]), -1).T
    x = torch.cat([w["visual.class_embedding"][None], tokens]) + w["visual.positional_embedding"]
    x = blocks(norm(x, w, "visual.ln_pre")[None], w, "visual.transformer.resblocks", causal=False)
    return functional.normalize(norm(x[:, 0], w, "visual.ln_post") @ w["visual.proj"], dim=-1).numpy()


def text_features(texts: list[str], w: dict[str, torch.Tensor]) -> np.ndarray:
    """CLIP's words between start and end, cut to 77 with the end last; the feature stands at the highest id, the
    end.
    """
    words = [[49406, *open_clip.SimpleTokenizer().encode(text)[:75], 49407] for text in texts]
    tokens = torch.tensor([[*row, *[0] * (77 - len(row))] for row in words])
    x = w["token_embedding.weight"][tokens] + w["positional_embedding"]
    x = norm(blocks(x, w, "transformer.resblocks", causal=True), w, "ln_final")
    return functional.normalize(x[torch.arange(len(texts)), tokens.argmax(1)] @ w["text_projection"], dim=-1).numpy()


def agrees(path: Path, name: str, w: dict[str, torch.Tensor]) -> None:
    config = config_of(name)["vision_cfg"]
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (config["image_size"], config["image_size"], 3), dtype=np.uint8))
    loaded = load_model(str(path))
    with torch.inference_mode():
        expected_image, expected_text = image_features(image, w, config["patch_size"]), text_features(TEXTS, w)
    assert np.abs(encode_images(loaded, [image]) - expected_image).max() <= 1e-5
    assert np.abs(encode_texts(loaded, TEXTS) - expected_text).max() <= 1e-5
    assert loaded.logit_scale == pytest.approx(60.0, rel=1e-6)


@pytest.mark.parametrize("name", list(SIZES))
def test_load_when_checkpoint_has_the_released_layout_agrees_with_its_description(tmp_path: Path, name: str) -> None:
    path, weights = released(tmp_path, name)
    agrees(path, name, weights)


@pytest.mark.slow
def test_load_when_released_layout_has_full_size_agrees_and_is_the_named_architecture(tmp_path: Path) -> None:
    path, weights = released(tmp_path, "diht_vitb32_224px", layers=None)
    agrees(path, "diht_vitb32_224px", weights)
    assert load_model(str(path)).config == config_of("diht_vitb32_224px")


def test_load_when_content_is_not_what_the_name_promises_refuses(tmp_path: Path) -> None:
    path, _ = released(tmp_path, "diht_vitb32_224px")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="not the one in its name"):
        load_model(str(path))
