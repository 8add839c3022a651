"""The held-out loss of batches of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diht_k8s.api.errors import DataError
from diht_k8s.api.train import Train
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train import validation
from diht_k8s.stages.train.model.student import Features
from diht_k8s.stages.train.validation import HeldOutPairs, HeldOutValidation
from tests.folders import flat
from tests.recipe.train.small_run import make_data

PAIRS = 40


class Engine(torch.nn.Module):
    """Features that need no model; remembers how many pairs passed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[int] = []

    def forward(self, images_BCHW: Tensor, tokens_BT: Tensor, max_logit_scale: float) -> Features:
        self.passed.append(len(images_BCHW))
        image_BD = torch.nn.functional.normalize(images_BCHW.flatten(1)[:, :16], dim=1)
        return Features(image_BD, image_BD, torch.tensor(10.0), None, None)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("held-out")
    make_data(folder, (PAIRS,))
    return flat(f"{folder}/made").kept("drawn-0")


def validation_of(uri: str, batch_size: int, limit: int | str = 0) -> HeldOutValidation:
    pairs = HeldOutPairs(Storage(), [uri], batch_size, 8, 32, 12, 0, 1, limit)
    return HeldOutValidation(pairs, Train(samples=1, model="ViT-B-32", batch_size=batch_size))


def measured(uri: str, batch_size: int, engine: Any) -> dict[str, float]:
    return validation_of(uri, batch_size).measure(engine, torch.device("cpu"), None)


def test_held_out_shard_when_damaged_then_used_up_to_the_damage_within_the_limit(uri: str, tmp_path: Path) -> None:
    content = Path(uri).read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(content[: len(content) // 2])
    held = validation_of(str(cut), 8, 1)
    for _ in range(2):
        held.measure(Engine(), torch.device("cpu"), None)
    (damage,) = held.damaged.values()
    assert 8 <= damage.salvaged < PAIRS
    with pytest.raises(DataError, match=r"cut\.tar is damaged after .* raise spec\.data\.maxBadShards"):
        measured(str(cut), 8, Engine())


@pytest.mark.parametrize(("batch_size", "passed"), [(16, 16), (24, 24), (40, 40)])
def test_loss_when_a_batch_is_larger_than_the_limit_of_pairs_then_of_one_batch(
    uri: str, batch_size: int, passed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "MAX_PAIRS", 20)
    engine = Engine()
    found = measured(uri, batch_size, engine)
    assert sum(engine.passed) == passed
    assert found["validation_image_to_text_top1"] == pytest.approx(1.0)


def test_loss_when_the_shards_hold_less_than_a_batch_then_refused(uri: str) -> None:
    with pytest.raises(DataError, match="fewer usable pairs"):
        measured(uri, PAIRS + 1, Engine())
