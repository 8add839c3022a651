from __future__ import annotations

import pytest
import torch

from diht_k8s.recipe.train.engine import Stopwatch
from diht_k8s.recipe.train.health import MfuMeter, Spikes, peak_flops, slowest


def losses(*, level: float = 4.0, noise: float = 0.05, number: int = 100) -> list[float]:
    return [level + noise * (-1) ** index for index in range(number)]


@pytest.mark.parametrize(
    ("before", "loss", "spike"),
    [
        (losses(), 4.2, False),
        (losses(), 4.9, True),
        (losses(), 3.0, False),
        (losses(noise=1e-6), 4.1, False),
        (losses(noise=1e-6), 4.3, True),
        (losses(number=99), 40.0, False),
    ],
    ids=["usual", "jump", "fall", "flat, small", "flat, jump", "too early"],
)
def test_spikes_when_a_loss_comes_then_only_jumps_count(before: list[float], loss: float, spike: bool) -> None:
    spikes = Spikes()
    assert [spikes.add(value) for value in before] == [None] * len(before)
    assert (spikes.add(loss) is not None) is spike
    assert spikes.count == int(spike)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [([1.0], (0, 1.0)), ([1.0, 3.0], (1, 3.0)), ([2.0, 2.0, 2.0, 5.0], (3, 2.5)), ([0.0, 0.0], (0, 1.0))],
)
def test_slowest_when_ranks_took_their_time_then_the_one_that_others_waited_for(
    seconds: list[float], expected: tuple[int, float]
) -> None:
    assert slowest(seconds) == expected


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("Some card", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla T4", 65),
        ("NVIDIA A10G", 70),
    ],
)
def test_peak_when_the_card_is_known_then_its_data_sheets(name: str, tera: float | None) -> None:
    assert peak_flops(name) == (None if tera is None else tera * 1e12)


def test_stopwatch_when_on_a_gpu_then_its_milliseconds_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mark:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            pass

        def elapsed_time(self, other: Mark) -> float:
            assert other is not self
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Mark)
    watch = Stopwatch(torch.device("cuda"))
    watch.start()
    watch.stop()
    assert watch.seconds() == 0.25


def test_operations_when_vit_b_32_then_open_clips_own_count() -> None:
    import open_clip

    config = open_clip.get_model_config("ViT-B-32")
    assert config is not None
    utilisation = MfuMeter(config, 1e12)
    tokens = torch.zeros(2, 77, dtype=torch.long)
    tokens[:, 76] = 49407
    forward = utilisation.operations(tokens) / (3 * 2)
    assert forward == pytest.approx(14.78e9, rel=1e-3)  # its docs/model_profile.csv
    tokens[:, 76], tokens[:, 15] = 0, 49407
    assert utilisation.operations(tokens) / 6 < 0.72 * forward
    assert utilisation.percent(3e11, 1.0) == pytest.approx(30)
