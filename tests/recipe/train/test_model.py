from __future__ import annotations

import copy
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from diht_k8s.api.errors import UserError
from diht_k8s.api.train import Train
from diht_k8s.stages.train.data.normalisation import normalised
from diht_k8s.stages.train.model.configurations import model_configuration
from diht_k8s.stages.train.model.student import Student
from diht_k8s.stages.train.optimizer import parameter_groups
from tests.recipe.train.small_run import RESNET, VIT, Table

TOKENIZER = open_clip.tokenizer.SimpleTokenizer(context_length=12)
CAPTIONS = {
    "short": ["a cat"],
    "mixed": ["a red house with a garden", "cat"],
    "longer than the context": ["one two three four five six seven eight nine ten eleven twelve"],
    "tokens with number 0": ["wow !@# x", "hey!;) you"],
}


def with_text(**text: Any) -> dict[str, Any]:
    return {**VIT, "text_cfg": {**VIT["text_cfg"], **text}}


TEXTS = {"CLIP": VIT, "last place": with_text(pool_type="last"), "no causal mask": with_text(no_causal_mask=True)}


def student(config: dict[str, Any] = VIT, **heads: int) -> Student:
    torch.manual_seed(0)
    return Student(config, **heads).eval()


@pytest.mark.parametrize("captions", CAPTIONS.values(), ids=CAPTIONS)
@pytest.mark.parametrize("config", TEXTS.values(), ids=TEXTS)
def test_text_when_encoded_then_as_open_clip_encodes_it(config: dict[str, Any], captions: list[str]) -> None:
    model, tokens = student(config), TOKENIZER(captions)
    with torch.no_grad():
        torch.testing.assert_close(model.encode_text(tokens), model.clip.encode_text(tokens), rtol=0, atol=1e-6)


def test_text_when_trained_then_attention_is_told_the_causal_mask_in_place_of_a_matrix_and_gives_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens, usual, calls = TOKENIZER(CAPTIONS["mixed"]), nn.functional.scaled_dot_product_attention, []

    def attention(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, *rest: Any, **more: Any
    ) -> Any:
        calls.append((mask is None, rest[1] if len(rest) > 1 else more.get("is_causal")))
        return usual(query, key, value, mask, *rest, **more)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", attention)
    found = []
    for told in (True, False):
        model = student().train()
        if not told:
            for module in model.modules():
                module._forward_pre_hooks.clear()
        text_BD = model.encode_text(tokens)
        found.append([text_BD, *torch.autograd.grad(text_BD.square().sum(), list(model.clip.transformer.parameters()))])
    assert calls == [(True, True), (False, False)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet"])
def test_features_when_images_come_in_bf16_then_the_same_bits_as_autocast_rounds_them_to(
    config: dict[str, Any],
) -> None:
    pixels_BHWC = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wide, narrow = (
            student(config).clip.encode_image(normalised(pixels_BHWC, t)) for t in (torch.float32, torch.bfloat16)
        )
    assert torch.equal(wide, narrow)


def test_features_when_computed_then_unit_length_with_logits_of_both_heads() -> None:
    features = student(num_objects=7, num_attributes=3)(torch.randn(2, 3, 32, 32), TOKENIZER(["a", "b c"]), 100.0)
    torch.testing.assert_close(features.image_BD.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(features.text_BD.norm(dim=1), torch.ones(2))
    assert features.object_logits_BC.shape == (2, 7)
    assert features.attribute_logits_BC.shape == (2, 3)
    assert features.logit_scale.shape == ()


def test_groups_when_made_then_each_parameter_once_and_no_decay_on_gains_biases_and_scale() -> None:
    model = student(num_objects=7, num_attributes=3)
    groups = {
        g["name"]: g for g in parameter_groups(model, weight_decay=0.2, head_lr_scale=10, head_weight_decay_scale=0.01)
    }
    assert {name: (g["weight_decay"], g["lr_scale"]) for name, g in groups.items()} == {
        "towers": (0.2, 1.0),
        "towers, no decay": (0.0, 1.0),
        "heads": (pytest.approx(0.002), 10),
        "heads, no decay": (0.0, 10),
    }
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {name: [names[id(parameter)] for parameter in group["params"]] for name, group in groups.items()}
    assert sorted(name for group in found.values() for name in group) == sorted(names.values())
    assert "clip.logit_scale" in found["towers, no decay"]
    assert all(name.endswith(("weight", "embedding", "projection", "proj")) for name in found["towers"])
    assert found["heads"] == ["object_head.weight", "attribute_head.weight"]


TIMM = {
    **VIT,
    "vision_cfg": {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64},
}
TOWERS = {"ViT": VIT, "ResNet": RESNET, "timm": TIMM}


@pytest.mark.parametrize("name", TOWERS)
def test_locked_tower_is_no_part_of_the_student_and_keeps_its_statistics_in_training_mode(name: str) -> None:
    model, tokens = student(TOWERS[name]), TOKENIZER(["a", "b c"])
    images = torch.randn(2, 3, model.image_size, model.image_size, generator=torch.Generator().manual_seed(0))
    whole = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        expected = model(images, tokens, 100.0).image_BD
    model.train()
    model.lock_image_tower()
    model.train()
    features = model(images, tokens, 100.0)
    (features.logit_scale * features.image_BD @ features.text_BD.T).diag().sum().backward()
    assert torch.equal(features.image_BD, expected)
    assert model.locked is not None
    assert not model.locked.state().keys() & model.state_dict().keys()
    after = model.state_dict() | model.locked.state()
    assert {key: torch.equal(value, whole[key]) for key, value in after.items()} == dict.fromkeys(whole, True)
    trained = {key for key, _ in model.named_parameters()}
    assert {key for key in trained if key.startswith("clip.visual")} == (
        {"clip.visual.head.proj.weight"} if name == "timm" else set()
    )
    assert all(parameter.grad is not None for parameter in model.parameters())
    grouped = parameter_groups(model, weight_decay=0.2, head_lr_scale=10, head_weight_decay_scale=0.01)
    assert sum(len(group["params"]) for group in grouped) == len(trained)


def test_digest_of_a_locked_tower_changes_with_a_weight_and_with_a_statistic() -> None:
    found = set()
    for key in (None, "layer1.0.conv1.weight", "bn1.running_var"):
        model = student(RESNET)
        if key is not None:
            model.clip.visual.state_dict()[key].view(-1)[0] += 1e-3
        model.lock_image_tower()
        assert model.locked is not None
        found.add(model.locked.sha256)
    assert len(found) == 3


def test_configuration_when_named_then_exact_gelu_and_the_runs_own_settings() -> None:
    config = model_configuration(Train(model="ViT-B-32-quickgelu", samples=1, image_size=96, patch_dropout=0.5))
    assert config["quick_gelu"] is False
    assert config["vision_cfg"]["image_size"] == 96
    assert config["vision_cfg"]["patch_dropout"] == 0.5
    assert "patch_dropout" not in open_clip.get_model_config("ViT-B-32-quickgelu")["vision_cfg"]


TEXT = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VISION = {"image_size": 32, "layers": 2, "width": 48, "patch_size": 16, "head_width": 16}
VISIONS: Table = {
    "vit": VISION,
    "vit-norm-after-pool": {**VISION, "pool_type": "avg", "final_ln_after_pool": True},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
    "timm": {"image_size": 32, "timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"},
    "timm-map": {"image_size": 64, "timm_model_name": "test_convnext", "timm_pool": "rot_attn", "timm_proj": "linear"},
}
TOKENS = open_clip.tokenizer.SimpleTokenizer(context_length=8)(["a", "b c"])


def with_concepts(tower: str, heads_input: str = "Tower") -> Student:
    torch.manual_seed(0)
    config = {"embed_dim": 16, "vision_cfg": copy.deepcopy(VISIONS[tower]), "text_cfg": TEXT}
    return Student(config, num_objects=7, num_attributes=3, heads_input=heads_input).eval()


def projected(visual: Any, features_BW: Tensor) -> Tensor:
    """What the tower makes of the features."""
    if isinstance(getattr(visual, "proj", None), nn.Parameter):
        return features_BW @ visual.proj
    return visual.head(features_BW)


@pytest.mark.parametrize("tower", ["vit", "vit-norm-after-pool", "timm"])
def test_tower_features_when_projected_then_give_the_embedding(tower: str) -> None:
    model = with_concepts(tower)
    images = torch.randn(2, 3, 32, 32)
    model.object_head = nn.Identity()  # type: ignore[assignment]  # shows its input
    with torch.no_grad():
        seen_BW = model(images, TOKENS, 100.0).object_logits_BC
        torch.testing.assert_close(projected(model.clip.visual, seen_BW), model.clip.encode_image(images))


@pytest.mark.parametrize(("tower", "last", "side"), [("resnet", "layer4", 32), ("timm-map", "trunk", 64)])
def test_tower_features_when_of_feature_maps_then_the_mean_of_the_last_one(tower: str, last: str, side: int) -> None:
    model = with_concepts(tower)
    images, maps = torch.randn(2, 3, 64, 64)[:, :, :side, :side], list[Tensor]()
    model.object_head = nn.Identity()  # type: ignore[assignment]  # shows its input
    visual: Any = model.clip.visual
    visual.get_submodule(last).register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    with torch.no_grad():
        seen_BW = model(images, TOKENS, 100.0).object_logits_BC
    assert maps[0].ndim == 4
    torch.testing.assert_close(seen_BW, maps[0].mean(dim=(2, 3)))


@pytest.mark.parametrize("tower", VISIONS)
def test_tower_input_when_chosen_then_the_embedding_is_the_same_and_gradients_pass_by_the_projection(
    tower: str,
) -> None:
    side = VISIONS[tower]["image_size"]
    usual, other, images = with_concepts(tower, "Embedding"), with_concepts(tower), torch.randn(2, 3, side, side)
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
    model, images = with_concepts("vit"), torch.randn(2, 3, 32, 32)
    other = copy.deepcopy(model)
    with torch.no_grad():
        visual: Any = other.clip.visual
        visual.ln_post.bias += 1
        logits, different = (each(images, TOKENS, 100.0).object_logits_BC for each in (model, other))
    assert not torch.allclose(logits, different)


def test_tower_input_when_the_tower_has_no_projection_then_says_what_to_take() -> None:
    config = {"embed_dim": 16, "vision_cfg": {**VISIONS["timm"], "timm_proj": "none"}, "text_cfg": TEXT}
    with pytest.raises(UserError, match=r"headsInput Tower: this image tower \(TimmModel\) .* set Embedding"):
        Student(config, num_objects=7, heads_input="Tower")
