"""Stages of the resolution: which step sees images of which side, and towers that take images smaller than their
positions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from open_clip.model import resize_pos_embed
from torch import Tensor

from diht_k8s.api.errors import UserError
from diht_k8s.api.train import Train
from diht_k8s.stages.train.data.batch import Batch
from diht_k8s.stages.train.data.collate import ImageSizes
from diht_k8s.stages.train.flops import MfuMeter, StepWork
from diht_k8s.stages.train.model.configurations import model_configuration
from diht_k8s.stages.train.model.student import Student, resampled, take_sizes

VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 48, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1},
}
RESNET = {**VIT, "vision_cfg": {"image_size": 96, "layers": [1, 1, 1, 1], "width": 8}}
TIMM = {
    **VIT,
    "vision_cfg": {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32},
}
STAGES = [{"imageSize": 16, "samples": 100}, {"imageSize": 32, "samples": 50}, {"imageSize": 48, "samples": 250}]


def settings(stages: list[dict[str, int]] | None = None, **train: Any) -> Train:
    stages = STAGES if stages is None else stages
    total = sum(stage["samples"] for stage in stages) or 400
    return Train.model_validate({"modelConfig": VIT, "samples": total, "batchSize": 8, "stages": stages, **train})


@pytest.mark.parametrize(
    ("seen", "side"), [(0, 16), (99, 16), (100, 32), (149, 32), (150, 48), (399, 48), (400, 48), (10**9, 48)]
)
def test_a_step_belongs_to_the_stage_in_which_it_begins(seen: int, side: int) -> None:
    assert ImageSizes.of(settings(), 48).at(seen) == side


@pytest.mark.parametrize(("stages", "size"), [([], 48), ([{"imageSize": 32, "samples": 400}], 32)])
def test_without_stages_or_with_one_the_side_is_the_models(stages: list[dict[str, int]], size: int) -> None:
    train = settings(stages, **({} if stages else {"imageSize": 48}))
    assert model_configuration(train)["vision_cfg"]["image_size"] == size
    assert ImageSizes.of(train, size) == ImageSizes(size)


def test_the_model_is_that_of_the_last_stage() -> None:
    model = Student(
        model_configuration(settings(modelConfig={**VIT, "vision_cfg": {**VIT["vision_cfg"], "image_size": 8}}))
    )
    assert model.image_size == 48


@pytest.mark.parametrize(("side", "new_side"), [(6, 2), (6, 5), (3, 6)])
def test_positions_are_resampled_as_open_clip_resamples_weights(side: int, new_side: int) -> None:
    positions = torch.randn(1 + side * side, 32)
    clip = SimpleNamespace(visual=SimpleNamespace(grid_size=(new_side, new_side)))
    state = {"visual.positional_embedding": positions}
    resize_pos_embed(state, clip)
    torch.testing.assert_close(resampled(positions, side, new_side), state["visual.positional_embedding"])


def smaller(model: Student, config: dict[str, Any], side: int) -> Student:
    """The model for smaller images, with the same weights and its positions resampled."""
    other = Student({**config, "vision_cfg": {**config["vision_cfg"], "image_size": side}})
    state, own = dict(model.state_dict()), other.state_dict()
    for name in state:
        if state[name].shape != own[name].shape:
            grids = [round((len(each) - 1) ** 0.5) for each in (state[name], own[name])]
            state[name] = resampled(state[name], *grids)
    other.load_state_dict(state)
    return other


@pytest.mark.parametrize(("config", "side"), [(VIT, 16), (VIT, 32), (RESNET, 32), (RESNET, 64)], ids=str)
def test_a_tower_sees_small_images_as_one_made_for_them_and_learns_its_positions(
    config: dict[str, Any], side: int
) -> None:
    torch.manual_seed(0)
    model = Student(config)
    images, whole = torch.randn(3, 3, side, side), torch.randn(3, 3, model.image_size, model.image_size)
    before = model.encode_image(whole)
    keys = list(model.state_dict())
    expected = smaller(model, config, side).encode_image(images)
    take_sizes(model.image_tower, [side, model.image_size])
    found = model.encode_image(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.square().sum().backward()
    positions: Any = [p for name, p in model.named_parameters() if "visual" in name and "positional_embedding" in name]
    assert positions[0].grad.abs().sum() > 0
    model.train(False)
    assert list(model.state_dict()) == keys
    if config is VIT:
        torch.testing.assert_close(model.encode_image(whole), before, rtol=0, atol=0)


def failing(*_: Any) -> Tensor:
    raise RuntimeError("out of memory")


def test_a_pass_that_fails_leaves_the_positions_as_they_were() -> None:
    model = Student(VIT)
    take_sizes(model.image_tower, [16, 48])
    visual: Any = model.clip.visual
    visual.transformer.forward = failing
    with pytest.raises(RuntimeError, match="out of memory"):
        model.encode_image(torch.zeros(1, 3, 16, 16))
    assert visual.positional_embedding is dict(visual.named_parameters())["positional_embedding"]


@pytest.mark.parametrize(
    ("config", "sizes", "says"),
    [
        (TIMM, [16, 32], "needs an image tower of open_clip's own"),
        (VIT, [4, 48], "4 pixels are smaller than a patch of 8"),
        (RESNET, [16, 96], "smaller than a patch of 32"),
    ],
    ids=["timm", "vit", "resnet"],
)
def test_towers_and_sizes_that_do_not_go_are_refused(config: dict[str, Any], sizes: list[int], says: str) -> None:
    with pytest.raises(UserError, match=says):
        take_sizes(Student(config).image_tower, sizes)


def test_operations_of_a_small_image_are_those_of_a_model_for_it() -> None:
    work = StepWork(settings(), num_objects=5, num_attributes=5)
    for side in (16, 32, 48):
        alone = StepWork(settings([], imageSize=side), num_objects=5, num_attributes=5)
        found, expected = work.of_pair(16, image_side=side).parts, alone.of_pair(16).parts
        assert found["image tower"] == pytest.approx(
            expected["image tower"], rel=0.02
        )  # the resampling is a product, too
        assert {**found, "image tower": 0} == {**expected, "image tower": 0}


def test_mean_operations_weigh_each_stage_by_its_samples() -> None:
    work = StepWork(settings(), num_objects=0, num_attributes=0)
    total = sum(work.of_pair(16, image_side=stage["imageSize"]).model * stage["samples"] for stage in STAGES)
    assert work.of_mean_pair(16).model == pytest.approx(total / 400, abs=3)
    plain = StepWork(settings([]), num_objects=0, num_attributes=0)
    assert plain.of_mean_pair(16) == plain.of_pair(16)


@pytest.mark.parametrize("side", [16, 48])
def test_utilisation_counts_the_images_of_the_step(side: int) -> None:
    work = StepWork(settings(), num_objects=0, num_attributes=0)
    tokens_BT = torch.zeros(2, 16, dtype=torch.long)
    tokens_BT[:, 15] = 99
    batch = Batch(torch.zeros(2, side, side, 3, dtype=torch.uint8), tokens_BT, torch.zeros(2), None, [], {})
    meter = MfuMeter(work, 1e12, batch_size=8, world=4, micro_batch=2)
    assert meter.operations(batch) == 8 * work.of_pair(16, image_side=side).model
