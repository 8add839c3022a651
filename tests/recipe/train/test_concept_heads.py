"""The concept heads' input before the projection: right for every kind of image tower, and the tower itself is as
ever."""

from __future__ import annotations

import copy
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from diht_k8s.api.errors import UserError
from diht_k8s.stages.train.model.student import Student

TEXT = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 2, "width": 48, "patch_size": 16, "head_width": 16}
TOWERS: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "vit-norm-after-pool": {**VIT, "pool_type": "avg", "final_ln_after_pool": True},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
    "timm": {"image_size": 32, "timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"},
    "timm-map": {"image_size": 64, "timm_model_name": "test_convnext", "timm_pool": "rot_attn", "timm_proj": "linear"},
}
TOKENS = open_clip.tokenizer.SimpleTokenizer(context_length=8)(["a", "b c"])


def student(tower: str, heads_input: str = "Tower") -> Student:
    torch.manual_seed(0)
    config = {"embed_dim": 16, "vision_cfg": copy.deepcopy(TOWERS[tower]), "text_cfg": TEXT}
    return Student(config, num_objects=7, num_attributes=3, heads_input=heads_input).eval()


def projected(visual: Any, features_BW: Tensor) -> Tensor:
    """What the tower makes of the features."""
    if isinstance(getattr(visual, "proj", None), nn.Parameter):
        return features_BW @ visual.proj
    return visual.head(features_BW)


@pytest.mark.parametrize("tower", ["vit", "vit-norm-after-pool", "timm"])
def test_tower_features_when_projected_then_give_the_embedding(tower: str) -> None:
    model = student(tower)
    images = torch.randn(2, 3, 32, 32)
    model.object_head = nn.Identity()  # type: ignore[assignment]  # shows its input
    with torch.no_grad():
        seen_BW = model(images, TOKENS, 100.0).object_logits_BC
        torch.testing.assert_close(projected(model.clip.visual, seen_BW), model.clip.encode_image(images))


@pytest.mark.parametrize(("tower", "last", "side"), [("resnet", "layer4", 32), ("timm-map", "trunk", 64)])
def test_tower_features_when_of_feature_maps_then_the_mean_of_the_last_one(tower: str, last: str, side: int) -> None:
    model = student(tower)
    images, maps = torch.randn(2, 3, 64, 64)[:, :, :side, :side], list[Tensor]()
    model.object_head = nn.Identity()  # type: ignore[assignment]  # shows its input
    visual: Any = model.clip.visual
    visual.get_submodule(last).register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    with torch.no_grad():
        seen_BW = model(images, TOKENS, 100.0).object_logits_BC
    assert maps[0].ndim == 4
    torch.testing.assert_close(seen_BW, maps[0].mean(dim=(2, 3)))


@pytest.mark.parametrize("tower", TOWERS)
def test_tower_input_when_chosen_then_the_embedding_is_the_same_and_gradients_pass_by_the_projection(
    tower: str,
) -> None:
    side = TOWERS[tower]["image_size"]
    usual, other, images = student(tower, "Embedding"), student(tower), torch.randn(2, 3, side, side)
    assert [*usual.clip.state_dict()] == [*other.clip.state_dict()]
    found, expected = other(images, TOKENS, 100.0), usual(images, TOKENS, 100.0)
    torch.testing.assert_close(found.image_BD, expected.image_BD, rtol=0, atol=0)
    found.object_logits_BC.sum().backward()
    visual: Any = other.clip.visual
    projection = {"resnet": "attnpool.c_proj.weight", "timm": "head.proj.weight", "timm-map": "head.proj.weight"}.get(
        tower, "proj"
    )
    reached = {name for name, parameter in visual.named_parameters() if parameter.grad is not None}
    assert projection not in reached
    assert {"conv1.weight", "trunk.patch_embed.proj.weight", "trunk.stem.0.weight"} & reached


def test_tower_input_when_the_model_is_copied_then_each_copy_sees_its_own_images() -> None:
    model, images = student("vit"), torch.randn(2, 3, 32, 32)
    other = copy.deepcopy(model)
    with torch.no_grad():
        visual: Any = other.clip.visual
        visual.ln_post.bias += 1
        logits, different = (each(images, TOKENS, 100.0).object_logits_BC for each in (model, other))
    assert not torch.allclose(logits, different)


def test_tower_input_when_the_tower_has_no_projection_then_says_what_to_take() -> None:
    config = {"embed_dim": 16, "vision_cfg": {**TOWERS["timm"], "timm_proj": "none"}, "text_cfg": TEXT}
    with pytest.raises(UserError, match=r"headsInput Tower: this image tower \(TimmModel\) .* set Embedding"):
        Student(config, num_objects=7, heads_input="Tower")
