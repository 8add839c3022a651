"""The weights between a training's start and its end that find most held-out pairs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from diht_k8s.stages.train.interpolation import best_between, hits_of, start_state
from diht_k8s.stages.train.model.student import Student
from tests.recipe.train.small_run import VIT

CAPTIONS = [f"caption {number}" for number in range(12)]


class HeldOut:
    """Images that lie where the text tower of some weights has their captions."""

    def __init__(self, right: Student) -> None:
        self.image_ND = self._texts(right)
        self.images_read = 0

    def _texts(self, model: Student) -> Tensor:
        from open_clip.tokenizer import SimpleTokenizer

        tokens = SimpleTokenizer(context_length=VIT["text_cfg"]["context_length"])(CAPTIONS)
        with torch.no_grad():
            return torch.nn.functional.normalize(model.eval().encode_text(tokens), dim=-1)

    def image_embeddings(self, model: Student, device: torch.device) -> Tensor:
        self.images_read += 1
        return self.image_ND

    def text_embeddings(self, model: Student, device: torch.device) -> tuple[Tensor, list[str]]:
        return self._texts(model), CAPTIONS


def student(seed: int) -> Student:
    torch.manual_seed(seed)
    return Student(VIT)


def end_of(model: Student) -> dict[str, Tensor]:
    buffers = {f"buffer|{name}": value for name, value in model.named_buffers()}
    return dict(model.named_parameters()) | buffers | {"adam_step": torch.tensor(3.0)}


@pytest.mark.parametrize(("right", "share"), [("start", 0), ("end", 1)])
def test_share_when_start_or_end_finds_most_then_its_weights_bit_for_bit(right: str, share: float) -> None:
    models = {"start": student(1), "end": student(2)}
    held_out: Any = HeldOut(models[right])
    start, end = start_state(models["start"]), end_of(models["end"])
    found = best_between(start, end, [0, 0.5, 1], student(3), held_out, torch.device("cpu"))
    assert found.share == share
    assert found.recalls[share] == 100
    assert found.recalls[1 - share] < 90
    gain = found.summary()["gain"]
    assert gain["value"] == round(found.recalls[share] - found.recalls[0], 1)
    assert gain["interval"] == [0, 0] if share == 0 else gain["interval"][0] < gain["value"] < gain["interval"][1]
    for name, value in models[right].named_parameters():
        torch.testing.assert_close(found.state[name], value, rtol=0, atol=0)
    assert found.state.keys() == end.keys()


def test_images_when_their_tower_has_not_moved_then_encoded_once() -> None:
    first, last = student(1), student(1)
    held_out: Any = HeldOut(first)
    found = best_between(start_state(first), end_of(last), [0, 0.5, 1], student(3), held_out, torch.device("cpu"))
    assert held_out.images_read == 1
    assert found.share == 1  # of equals the one nearest to the end
    last.clip.visual.proj.data += 1  # type: ignore[operator]
    best_between(start_state(first), end_of(last), [0, 0.5, 1], student(3), held_out, torch.device("cpu"))
    assert held_out.images_read == 4


@pytest.mark.parametrize(("steps", "recall"), [(0, 1), (2, 1), (3, 0)])
def test_recall_when_embeddings_lie_on_a_circle_then_what_is_within_five_places_is_found(
    steps: int, recall: float
) -> None:
    angles_N = torch.arange(12) * torch.pi / 6
    text_ND = torch.stack([angles_N.cos(), angles_N.sin()], dim=1)
    image_ND = text_ND.roll(steps, dims=0)  # two steps to both sides are nearer than three
    assert hits_of(image_ND, text_ND, CAPTIONS).tolist() == [recall] * 12
    assert hits_of(image_ND, text_ND, ["same"] * 12).mean() == 1
